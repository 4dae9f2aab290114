package appliance

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/cryptosigner"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// statements signs with the JWT key. It is safe for concurrent use.
type statements struct {
	key contextSigner
	kid string
}

var _ delegation.Statements = (*statements)(nil)

// contextSigner is a key in a device, which may take its time.
type contextSigner interface {
	crypto.Signer
	SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// newStatements finds the JWT key, and compares it with its certificate: relying services know it by that alone.
func (c *Config) newStatements(ctx context.Context, t trust, keys keyring) (*statements, error) {
	key, err := keys.key(ctx, "jwt")
	if err != nil {
		return nil, fmt.Errorf("pki: JWT key: %w", err)
	}
	return statementsWith(key, t.jwt)
}

func statementsWith(key contextSigner, cert *x509.Certificate) (*statements, error) {
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("pki: JWT key: %w", err)
	}
	if string(public) != string(cert.RawSubjectPublicKeyInfo) {
		return nil, errors.New("pki: the JWT key in the token is not the one that jwt.pem certifies")
	}
	kid, err := chain.KeyID(key.Public())
	if err != nil {
		return nil, fmt.Errorf("pki: JWT key: %w", err)
	}
	return &statements{key: key, kid: kid}, nil
}

// within is the key for one signature, which ends with ctx.
type within struct {
	contextSigner
	ctx context.Context // crypto.Signer has no other way to take one
}

func (w within) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return w.SignContext(w.ctx, digest, opts)
}

// Sign gives the compact JWS (RFC 7515 §3.1), ES256, with the header's typ and kid.
func (s *statements) Sign(ctx context.Context, typ string, claims any) (string, error) {
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("statement: %w", err)
	}
	options := new(jose.SignerOptions).WithType(jose.ContentType(typ)).WithHeader("kid", s.kid)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: cryptosigner.Opaque(within{s.key, ctx})}, options)
	if err != nil {
		return "", fmt.Errorf("statement: %w", err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("statement: sign: %w", err)
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("statement: %w", err)
	}
	if err := s.check(compact); err != nil {
		return "", err
	}
	return compact, nil
}

// check verifies what was signed as a reader would: what the device returned is not taken on trust.
func (s *statements) check(compact string) error {
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	if _, err := jws.Verify(s.key.Public()); err != nil {
		return fmt.Errorf("statement: the signature does not verify: %w", err)
	}
	return nil
}
