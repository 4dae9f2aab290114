package ca

import (
	"context"
	"crypto"
	"crypto/rand"
	"io"
)

// bounded is a signer whose wait for the device ends with a context. A plain crypto.Signer cannot be interrupted.
type bounded interface {
	SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

func signDigest(ctx context.Context, s crypto.Signer, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if b, ok := s.(bounded); ok {
		return b.SignContext(ctx, digest, opts)
	}
	return s.Sign(rand.Reader, digest, opts)
}

// within lends a context to a signer for one call of a library that has none.
type within struct {
	crypto.Signer
	ctx context.Context // the value lives for one call of x509.CreateRevocationList
}

// Sign implements crypto.Signer.
func (w within) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return signDigest(w.ctx, w.Signer, digest, opts)
}
