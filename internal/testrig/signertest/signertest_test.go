package signertest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"testing"

	"github.com/signet-pki/signet/internal/testrig/signertest"
)

// strict is the smallest signer that keeps the contract: a software key behind the checks.
type strict struct {
	crypto.Signer
	hash   crypto.Hash
	closed bool
}

var errRefused = errors.New("refused")

func (s strict) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if s.closed || opts == nil || opts.HashFunc() != s.hash {
		return nil, errRefused
	}
	if s.hash != 0 && len(digest) != s.hash.Size() {
		return nil, errRefused
	}
	return s.Signer.Sign(rand.Reader, digest, opts)
}

func TestRunAcceptsStrictSigners(t *testing.T) {
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]strict{
		"P-256":   {Signer: p256, hash: crypto.SHA256},
		"P-384":   {Signer: p384, hash: crypto.SHA384},
		"Ed25519": {Signer: ed},
	} {
		t.Run(name, func(t *testing.T) {
			signertest.Run(t, func(*testing.T) crypto.Signer { return s },
				signertest.Closed(func(*testing.T) crypto.Signer { s.closed = true; return s }))
		})
	}
}
