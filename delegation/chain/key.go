package chain

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

// algorithm returns the only JWS algorithm for a key (RFC 7518 §3.4, RFC 8037 §3.1), and refuses every other key.
func algorithm(key crypto.PublicKey) (jose.SignatureAlgorithm, crypto.Hash, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if k == nil {
			break
		}
		switch k.Curve {
		case elliptic.P256():
			return jose.ES256, crypto.SHA256, nil
		case elliptic.P384():
			return jose.ES384, crypto.SHA384, nil
		}
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return jose.EdDSA, 0, nil
		}
	}
	return "", 0, fmt.Errorf("%w: %T", ErrKey, key)
}

// CheckKey says whether a public key is P-256, P-384 or Ed25519. RSA is refused whatever its size: its signatures and
// certificates cost several times the bytes and the time, and nothing that Signet issues needs it.
func CheckKey(key crypto.PublicKey) error {
	_, _, err := algorithm(key)
	return err
}

// KeyHash is SHA-256 of a key's SubjectPublicKeyInfo, as a hop names it.
func KeyHash(key crypto.PublicKey) ([32]byte, error) {
	spki, err := marshalKey(key)
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(spki), nil
}

// Thumbprint is the SHA-256 JWK thumbprint (RFC 7638) of a key, as cnf.jkt names it.
func Thumbprint(key crypto.PublicKey) ([32]byte, error) {
	if err := CheckKey(key); err != nil {
		return [32]byte{}, err
	}
	jwk := jose.JSONWebKey{Key: key}
	sum, err := jwk.Thumbprint(crypto.SHA256)
	if err != nil {
		return [32]byte{}, fmt.Errorf("%w: thumbprint: %w", ErrKey, err)
	}
	return [32]byte(sum), nil
}

// KeyID is the kid of a key of statements: its Thumbprint in base64url.
func KeyID(key crypto.PublicKey) (string, error) {
	sum, err := Thumbprint(key)
	if err != nil {
		return "", err
	}
	return encodeBase64(sum[:]), nil
}

func marshalKey(key crypto.PublicKey) ([]byte, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	return spki, nil
}

// ParseKey reads a SubjectPublicKeyInfo in its one canonical DER form.
func ParseKey(spki []byte) (crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKey, err)
	}
	again, err := marshalKey(key)
	if err != nil {
		return nil, err
	}
	// One key, one hash: an alternative encoding would pass for another key.
	if !bytes.Equal(spki, again) {
		return nil, fmt.Errorf("%w: not in canonical form", ErrKey)
	}
	return key, nil
}
