package workload

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// ErrIdentity is wrapped by every refusal of an identity.
var ErrIdentity = errors.New("workload: invalid identity")

// skew is how far ahead a certificate may begin: clocks differ.
const skew = time.Minute

// Identity is a certificate chain with its key and the roots that its holder trusts, checked: the leaf is for the key and has a
// path to a root. The zero Identity is none.
type Identity struct {
	id       chain.ID
	certs    []*x509.Certificate // leaf first
	key      []byte              // PKCS #8
	roots    []*x509.Certificate
	notAfter time.Time
}

// NewIdentity checks what a process is to be served. now is when it is valid, or soon.
func NewIdentity(cert *tls.Certificate, roots []*x509.Certificate, now time.Time) (Identity, error) {
	certs, err := chain.ParseDER(cert.Certificate, chain.MaxChain)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	signer, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		return Identity{}, fmt.Errorf("%w: there is no private key", ErrIdentity)
	}
	if public, ok := certs[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(signer.Public()) {
		return Identity{}, fmt.Errorf("%w: the certificate is for another key", ErrIdentity)
	}
	key, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return Identity{}, fmt.Errorf("%w: the key cannot be handed on", ErrIdentity) // the cause may tell of its bytes
	}
	id, err := identify(certs, roots, now)
	if err != nil {
		return Identity{}, err
	}
	return Identity{id: id, certs: certs, key: key, roots: slices.Clone(roots), notAfter: certs[0].NotAfter}, nil
}

// identify verifies the chain as a peer will.
func identify(certs, roots []*x509.Certificate, now time.Time) (chain.ID, error) {
	if len(certs[0].URIs) != 1 {
		return chain.ID{}, fmt.Errorf("%w: the certificate has %d URIs; exactly one is expected", ErrIdentity, len(certs[0].URIs))
	}
	named, err := chain.ParseID(certs[0].URIs[0].String())
	if err != nil {
		return chain.ID{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	trust, err := chain.NewTrust(named.TrustDomain(), roots, nil)
	if err != nil {
		return chain.ID{}, fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	id, check := chain.Identify(certs, trust, now, skew)
	if check.Status != chain.Pass {
		return chain.ID{}, fmt.Errorf("%w: %s: %s", ErrIdentity, check.Code, check.Detail)
	}
	return id, nil
}

// ID is whom the certificate names.
func (i Identity) ID() chain.ID { return i.id }

// NotAfter is when the certificate ends.
func (i Identity) NotAfter() time.Time { return i.notAfter }

// sum tells identities apart. It is of what is public, so that it may be shown: the key is the one that the leaf is for.
func (i Identity) sum() [32]byte {
	h := sha256.New()
	for _, part := range [][]*x509.Certificate{i.certs, i.roots} {
		one := sha256.Sum256(join(part))
		h.Write(one[:])
	}
	return [32]byte(h.Sum(nil))
}

// join puts DER one behind the other (SPIFFE Workload API §5.2.1).
func join(certs []*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, c.Raw...)
	}
	return out
}
