package evidence

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxToken   = 64 << 10
	minRSABits = 2048 // RFC 7518 §3.3
	maxRSABits = 8192
)

// TokenAlgorithms are the signatures that are accepted on an identity provider's tokens: never none, never a MAC (RFC 8725 §3.1, §3.2).
func TokenAlgorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.PS256, jose.EdDSA}
}

// tokenClaims are the claims that the evidence rests on.
type tokenClaims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience audience `json:"aud"`
	Nonce    string   `json:"nonce"`
	IssuedAt *float64 `json:"iat"`
	Expires  *float64 `json:"exp"`
}

// audience is one string or a list of them.
type audience []string

// UnmarshalJSON implements [json.Unmarshaler].
func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	var many []string
	if err := json.Unmarshal(data, &many); err != nil {
		return err
	}
	*a = many
	return nil
}

// idToken checks signature, user, client and nonce (OIDC Core §2). The token's expiry is not asked: it was fresh when it was logged.
func (p *Parsed) idToken() error {
	c, err := p.claims(p.evidence.IDToken)
	if err != nil {
		return fmt.Errorf("id_token: %w", err)
	}
	sum := sha256.Sum256(p.Document)
	switch {
	case !slices.Contains(c.Audience, p.Grant.ClientID):
		return errors.New("id_token: aud is not the client of the grant")
	case c.Nonce != base64.RawURLEncoding.EncodeToString(sum[:]):
		return errors.New("id_token: nonce is not the SHA-256 of the grant")
	}
	return nil
}

// subjectToken checks that the token was the user's, for this appliance's exchange alone, and valid when it was recorded.
func (p *Parsed) subjectToken(at time.Time) error {
	c, err := p.claims(p.evidence.SubjectToken)
	if err != nil {
		return fmt.Errorf("subject_token: %w", err)
	}
	switch {
	case p.evidence.Audience == p.Grant.ClientID:
		return errors.New("subject_token: the audience is the client of consent")
	case len(c.Audience) != 1 || c.Audience[0] != p.evidence.Audience:
		return errors.New("subject_token: aud is not this appliance's exchange alone")
	case c.IssuedAt == nil || c.Expires == nil:
		return errors.New("subject_token: iat or exp is missing")
	case instant(*c.IssuedAt).After(at.Add(maxSkew)) || instant(*c.Expires).Before(at.Add(-maxSkew)):
		return errors.New("subject_token: not valid when it was recorded")
	}
	return nil
}

// instant reads a NumericDate (RFC 7519 §2). What is beyond any calendar stays in the far past.
func instant(seconds float64) time.Time {
	const farthest = 1 << 40
	if seconds < 0 || seconds > farthest {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}

// claims verifies a token under the evidence's key and compares its user with the grant's.
func (p *Parsed) claims(compact string) (tokenClaims, error) {
	var c tokenClaims
	if len(compact) > maxToken {
		return c, errors.New("too large")
	}
	token, err := jose.ParseSignedCompact(compact, TokenAlgorithms())
	if err != nil {
		return c, err
	}
	if len(p.evidence.JWKS.Keys) != 1 {
		return c, errors.New("jwks: exactly the key that verified the token is expected")
	}
	payload, err := verifyWith(token, p.evidence.JWKS.Keys[0])
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return c, errors.New("its claims are not those of a token")
	}
	if c.Issuer != p.Grant.Issuer || c.Subject != p.Grant.Subject {
		return c, errors.New("iss or sub is not the user of the grant")
	}
	return c, nil
}

// verifyWith uses the key as RFC 8725 §3.1 wants it: for its own algorithm, for signatures, and under its own name.
func verifyWith(token *jose.JSONWebSignature, raw json.RawMessage) ([]byte, error) {
	var key jose.JSONWebKey
	if err := json.Unmarshal(raw, &key); err != nil || !key.Valid() || !key.IsPublic() {
		return nil, errors.New("jwks: not a public key")
	}
	h := token.Signatures[0].Protected
	if h.KeyID != "" && key.KeyID != h.KeyID || key.Algorithm != "" && key.Algorithm != h.Algorithm || key.Use != "" && key.Use != "sig" {
		return nil, errors.New("jwks: the key is another's")
	}
	if k, ok := key.Key.(*rsa.PublicKey); ok && (k.N.BitLen() < minRSABits || k.N.BitLen() > maxRSABits) {
		return nil, errors.New("jwks: RSA key of a refused size")
	}
	payload, err := token.Verify(&key)
	if err != nil {
		return nil, errors.New("the key does not verify its signature")
	}
	return payload, nil
}
