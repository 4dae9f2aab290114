// Package ca issues certificates over a crypto.Signer: it builds a to-be-signed certificate in the profile of agents or
// of services, lints it, and later signs exactly those bytes, once.
//
// Issuing takes two steps so that a caller can make a durable record in between. [Issuer.PrepareAgent] and
// [Issuer.PrepareService] touch no key and return a single-use [Prepared]; [Issuer.Issue] is the only use of the key,
// and what it releases was verified against the CA's public key and read back. [Issuer.Resume] turns recorded bytes
// into a Prepared again.
//
// The package stores nothing, logs nothing and does not know who may ask. It refuses whatever package lint finds fault
// with, a life beyond that of the CA or of one above it, and a key that is not P-256, P-384 or Ed25519. An Issuer and a
// Prepared are safe for concurrent use.
package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/signet-pki/signet/ca/lint"
)

// Profile is what an issuer may issue. The zero Profile issues nothing.
type Profile struct {
	// Issues is lint.Agent or lint.Service: one CA never signs both.
	Issues lint.Kind
	// TrustDomain is the SPIFFE trust domain, in lower case.
	TrustDomain string
	// DelegationOID identifies the delegation extension. Required for agents.
	DelegationOID asn1.ObjectIdentifier
	// MaxLifetime bounds NotAfter, counted from the moment of Prepare. Required.
	MaxLifetime time.Duration
	// CRLURL is the CRL pointer of agents that live longer than ten minutes, and of services whose request names none.
	// Empty: no pointer.
	CRLURL string
	// Random is the source of serial numbers; nil is crypto/rand. It must be safe for concurrent use.
	Random io.Reader
}

// Issuer is one issuing CA. It is safe for concurrent use as far as its signer is.
type Issuer struct {
	cert     *x509.Certificate
	key      *ecdsa.PublicKey
	signer   crypto.Signer
	profile  Profile
	linter   *lint.Linter
	hash     crypto.Hash
	fixed    fixedParts
	chain    [][]byte // below the leaf, without the root
	from, to time.Time
	verified bool // the signer verifies what it returns
}

// verifying is a signer that checks each signature against its public key before it returns it.
type verifying interface{ VerifiesSignatures() bool }

// NewIssuer checks that cert is a CA of the profile's kind, that signer holds its key (P-256 or P-384), and that
// parents (its issuer first, the self-signed root last) certify it. It does not look at the clock: Prepare does.
func NewIssuer(cert *x509.Certificate, signer crypto.Signer, parents []*x509.Certificate, cfg Profile) (*Issuer, error) {
	if cert == nil || signer == nil {
		return nil, errors.New("ca: new issuer: certificate or signer missing")
	}
	if cfg.MaxLifetime <= 0 {
		return nil, errors.New("ca: new issuer: MaxLifetime is not positive")
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || lint.SignatureAlgorithm(cert) == x509.UnknownSignatureAlgorithm {
		return nil, fmt.Errorf("ca: new issuer: %w: it is not P-256 or P-384", ErrKey)
	}
	if !key.Equal(signer.Public()) {
		return nil, fmt.Errorf("ca: new issuer: %w: the signer holds another key than the certificate", ErrKey)
	}
	if err := checkParents(cert, parents); err != nil {
		return nil, fmt.Errorf("ca: new issuer: %w", err)
	}
	if err := lintCA(cert, parents[0], cfg); err != nil {
		return nil, fmt.Errorf("ca: new issuer: %w", err)
	}
	return assembleIssuer(cert, key, signer, parents, cfg)
}

func assembleIssuer(cert *x509.Certificate, key *ecdsa.PublicKey, signer crypto.Signer, parents []*x509.Certificate, cfg Profile) (*Issuer, error) {
	linter, err := lint.New(lint.Expect{
		Kind: cfg.Issues, TrustDomain: cfg.TrustDomain, DelegationOID: cfg.DelegationOID, Issuer: cert,
	})
	if err != nil {
		return nil, fmt.Errorf("ca: new issuer: %w", err)
	}
	if cfg.Random == nil {
		cfg.Random = rand.Reader
	}
	i := &Issuer{
		cert: cert, key: key, signer: signer, profile: cfg, linter: linter, hash: crypto.SHA256,
		chain: [][]byte{cert.Raw}, from: cert.NotBefore, to: cert.NotAfter,
	}
	if lint.SignatureAlgorithm(cert) == x509.ECDSAWithSHA384 {
		i.hash = crypto.SHA384
	}
	for n, parent := range parents {
		i.from, i.to = later(i.from, parent.NotBefore), earlier(i.to, parent.NotAfter)
		if n < len(parents)-1 {
			i.chain = append(i.chain, parent.Raw)
		}
	}
	v, ok := signer.(verifying)
	i.verified = ok && v.VerifiesSignatures()
	i.fixed, err = newFixedParts(cert, i.hash, cfg)
	if err != nil {
		return nil, fmt.Errorf("ca: new issuer: %w", err)
	}
	return i, nil
}

// checkParents follows the signatures to a self-signed root.
func checkParents(cert *x509.Certificate, parents []*x509.Certificate) error {
	if len(parents) == 0 {
		return fmt.Errorf("%w: the root is missing", ErrPath)
	}
	child := cert
	for _, parent := range parents {
		if parent == nil || !bytes.Equal(child.RawIssuer, parent.RawSubject) {
			return fmt.Errorf("%w: a certificate's issuer is not the next one's subject", ErrPath)
		}
		if err := child.CheckSignatureFrom(parent); err != nil {
			return fmt.Errorf("%w: %w", ErrPath, err)
		}
		child = parent
	}
	if !bytes.Equal(child.RawIssuer, child.RawSubject) {
		return fmt.Errorf("%w: the last parent is not a root", ErrPath)
	}
	if err := child.CheckSignatureFrom(child); err != nil {
		return fmt.Errorf("%w: root: %w", ErrPath, err)
	}
	return nil
}

func lintCA(cert, parent *x509.Certificate, cfg Profile) error {
	var kind lint.Kind
	switch cfg.Issues {
	case lint.Agent:
		kind = lint.AgentCA
	case lint.Service:
		kind = lint.ServiceCA
	default:
		return fmt.Errorf("%w: Issues is neither agents nor services", ErrKind)
	}
	return findings(lint.Run(cert, lint.Expect{Kind: kind, TrustDomain: cfg.TrustDomain, Issuer: parent}))
}

// Certificate is the issuing CA's own. The caller does not change it.
func (i *Issuer) Certificate() *x509.Certificate { return i.cert }

// Validity is the span within which every certificate of this issuer lies: that of the CA and of all above it.
func (i *Issuer) Validity() (notBefore, notAfter time.Time) { return i.from, i.to }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
