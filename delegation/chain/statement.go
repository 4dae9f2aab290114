package chain

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"
)

// ErrJWTKey is wrapped by every refusal of a certificate for the JWT key.
var ErrJWTKey = errors.New("not a certificate of the JWT key")

// JWTKey gives the key that statements for relying services are verified with, from its certificate: P-256, by a root, for
// signing JWTs alone (id-kp-jwt, RFC 9509 §3.1). The audit key, which the same root certifies, is not one.
func JWTKey(cert *x509.Certificate, roots *x509.CertPool, now time.Time) (crypto.PublicKey, error) {
	if cert == nil || roots == nil {
		return nil, fmt.Errorf("%w: no certificate or no roots", ErrJWTKey)
	}
	purpose := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 37}
	if len(cert.ExtKeyUsage) != 0 || len(cert.UnknownExtKeyUsage) != 1 || !cert.UnknownExtKeyUsage[0].Equal(purpose) {
		return nil, fmt.Errorf("%w: its purpose is not to sign JWTs alone", ErrJWTKey)
	}
	if cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		return nil, fmt.Errorf("%w: its key usage is not digitalSignature alone", ErrJWTKey)
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%w: its key is not P-256", ErrJWTKey)
	}
	_, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrJWTKey, err)
	}
	return key, nil
}
