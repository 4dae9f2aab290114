package workload

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

// key is one of an issuer's keys with the algorithms that it may be used with: what a token's header says is compared
// with the key, never the key chosen by it.
type key struct {
	public     crypto.PublicKey
	algorithms []jose.SignatureAlgorithm
}

// parseKeys reads a JWK set or PEM, and keeps of each key's algorithms those that are allowed.
func parseKeys(data []byte, allowed []string) (map[string]key, error) {
	if len(data) > MaxKeysFile {
		return nil, fmt.Errorf("more than %d bytes", MaxKeysFile)
	}
	jwks, err := readKeys(bytes.TrimSpace(data))
	if err != nil {
		return nil, err
	}
	if len(jwks) == 0 || len(jwks) > MaxKeys {
		return nil, fmt.Errorf("%d keys; 1 to %d are taken", len(jwks), MaxKeys)
	}
	keys := make(map[string]key, len(jwks))
	for n, j := range jwks {
		k, err := parseKey(j, allowed)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", n, err)
		}
		if _, taken := keys[j.KeyID]; taken {
			return nil, fmt.Errorf("key %d: another key has its kid", n)
		}
		keys[j.KeyID] = k
	}
	return keys, nil
}

func readKeys(data []byte) ([]jose.JSONWebKey, error) {
	if len(data) == 0 || data[0] != '{' {
		return readPEM(data)
	}
	var set struct {
		Keys []jose.JSONWebKey `json:"keys"`
	}
	if err := unmarshal(data, &set); err != nil {
		return nil, fmt.Errorf("not a JWK set: %w", err)
	}
	return set.Keys, nil
}

// readPEM gives each key the kid that Kubernetes gives it: the SHA-256 of its SubjectPublicKeyInfo.
func readPEM(data []byte) ([]jose.JSONWebKey, error) {
	var out []jose.JSONWebKey
	for rest := data; len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "PUBLIC KEY" {
			return nil, errors.New("neither a JWK set nor PEM blocks of type PUBLIC KEY")
		}
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(block.Bytes)
		out = append(out, jose.JSONWebKey{Key: public, KeyID: base64.RawURLEncoding.EncodeToString(sum[:])})
	}
	return out, nil
}

func parseKey(j jose.JSONWebKey, allowed []string) (key, error) {
	switch {
	case j.KeyID == "" || len(j.KeyID) > maxKeyID:
		return key{}, errors.New("no kid, or a long one: tokens name the key that signed them")
	case j.Use != "" && j.Use != "sig":
		return key{}, errors.New("its use is not sig")
	}
	k := key{public: j.Key}
	for _, a := range fitting(j.Key) {
		if (j.Algorithm == "" || j.Algorithm == string(a)) && (len(allowed) == 0 || slices.Contains(allowed, string(a))) {
			k.algorithms = append(k.algorithms, a)
		}
	}
	if len(k.algorithms) == 0 {
		return key{}, errors.New("no allowed algorithm fits it: public keys of RSA from 2048 bits, P-256, P-384 and Ed25519 are taken")
	}
	return k, nil
}

// fitting are the algorithms of a public key; secrets and private keys have none (RFC 7518 §3.3 to §3.5, RFC 8037 §3.1).
func fitting(public crypto.PublicKey) []jose.SignatureAlgorithm {
	switch k := public.(type) {
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits >= 2048 && bits <= 8192 {
			return []jose.SignatureAlgorithm{jose.RS256, jose.PS256}
		}
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []jose.SignatureAlgorithm{jose.ES256}
		case elliptic.P384():
			return []jose.SignatureAlgorithm{jose.ES384}
		}
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}
	}
	return nil
}
