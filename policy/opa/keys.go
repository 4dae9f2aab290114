package opa

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"

	"github.com/open-policy-agent/opa/v1/bundle"
)

// Bounds of a pinned key.
const (
	minRSA = 2048
	maxRSA = 8192
	maxPEM = 16 << 10
)

var keyID = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Key is a public key that bundles may be signed with.
type Key struct {
	ID        string
	Public    crypto.PublicKey
	SPKI      []byte
	algorithm string // the one that this key is used with: RFC 8725 §3.1
}

// ParseKey reads a PEM file with one public key: P-256 (ES256), Ed25519 (EdDSA) or RSA of at least 2048 bits (RS256).
func ParseKey(id string, text []byte) (Key, error) {
	if !keyID.MatchString(id) {
		return Key{}, errors.New("opa: key: id is not 1 to 64 of A-Z a-z 0-9 . _ -, beginning with a letter or digit")
	}
	if len(text) > maxPEM {
		return Key{}, errors.New("opa: key: the file is too large")
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" {
		return Key{}, errors.New("opa: key: not a PEM file with a PUBLIC KEY")
	}
	if next, _ := pem.Decode(rest); next != nil {
		return Key{}, errors.New("opa: key: more than one key in the file")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return Key{}, fmt.Errorf("opa: key: %w", err)
	}
	k := Key{ID: id, Public: public, SPKI: block.Bytes}
	k.algorithm, err = algorithmOf(public)
	return k, err
}

func algorithmOf(public crypto.PublicKey) (string, error) {
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		if p.Curve == elliptic.P256() {
			return "ES256", nil
		}
	case ed25519.PublicKey:
		return "EdDSA", nil
	case *rsa.PublicKey:
		if n := p.N.BitLen(); n >= minRSA && n <= maxRSA {
			return "RS256", nil
		}
	}
	return "", errors.New("opa: key: neither P-256 nor Ed25519 nor RSA of 2048 to 8192 bits")
}

// Hash is the lower-case hex SHA-256 of the key's SPKI.
func (k Key) Hash() string {
	sum := sha256.Sum256(k.SPKI)
	return hex.EncodeToString(sum[:])
}

// Keys are the pinned keys. No key verifies nothing.
type Keys struct{ byID map[string]Key }

// NewKeys takes keys with different ids. The same key under two ids is refused: it would be two names of one signer.
func NewKeys(keys ...Key) (*Keys, error) {
	out := &Keys{byID: make(map[string]Key, len(keys))}
	seen := map[string]bool{}
	for _, k := range keys {
		if _, ok := out.byID[k.ID]; ok || seen[k.Hash()] {
			return nil, fmt.Errorf("opa: key %q is there twice", k.ID)
		}
		if k.algorithm == "" {
			return nil, fmt.Errorf("opa: key %q was not parsed", k.ID)
		}
		out.byID[k.ID], seen[k.Hash()] = k, true
	}
	return out, nil
}

// config makes OPA verify with this key alone, and by its one algorithm: neither the header nor the claims are asked.
func (k Key) config() *bundle.VerificationConfig {
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.SPKI})
	keys := map[string]*bundle.KeyConfig{k.ID: {Key: string(text), Algorithm: k.algorithm}}
	return bundle.NewVerificationConfig(keys, k.ID, "", nil)
}

// Len is the number of pinned keys.
func (k *Keys) Len() int { return len(k.byID) }
