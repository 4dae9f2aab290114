package consent

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/go-jose/go-jose/v4"
)

const (
	maxKeys    = 64
	minRSABits = 2048 // RFC 7518 §3.3
)

// keySet is the provider's JWKS for one verification. It is fetched anew each time: consents come at the speed of people,
// and a key that was withdrawn must not verify any more. It keeps the key that verified, as served.
type keySet struct {
	provider    *Provider
	url         string
	algs        []string
	used        json.RawMessage
	unavailable error
}

// VerifySignature implements oidc.KeySet.
func (k *keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	accepted := make([]jose.SignatureAlgorithm, len(k.algs))
	for i, a := range k.algs {
		accepted[i] = jose.SignatureAlgorithm(a)
	}
	jws, err := jose.ParseSignedCompact(jwt, accepted)
	if err != nil {
		return nil, fmt.Errorf("consent: parse ID token: %w", err)
	}
	served, err := k.provider.fetchKeys(ctx, k.url)
	if err != nil {
		k.unavailable = err
		return nil, err
	}
	header := jws.Signatures[0].Header
	for _, raw := range served {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) != nil || !usable(key, header) {
			continue // a key of a kind that we do not know is another client's business (RFC 7517 §5)
		}
		if payload, err := jws.Verify(&key); err == nil {
			k.used = raw
			return payload, nil
		}
	}
	return nil, errors.New("consent: no key of the provider verifies the ID token")
}

// usable tells whether the JWK may verify a signature with this header: public, for signatures, and neither its kid nor
// its alg speaks against it.
func usable(key jose.JSONWebKey, h jose.Header) bool {
	if !key.Valid() || !key.IsPublic() || key.Use != "" && key.Use != "sig" {
		return false
	}
	if h.KeyID != "" && key.KeyID != h.KeyID || key.Algorithm != "" && key.Algorithm != h.Algorithm {
		return false
	}
	if pub, ok := key.Key.(*rsa.PublicKey); ok {
		return pub.N.BitLen() >= minRSABits
	}
	return true
}

func (p *Provider) fetchKeys(ctx context.Context, url string) ([]json.RawMessage, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("consent: fetch keys: %w", err)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("consent: fetch keys: %w: %w", ErrProviderUnavailable, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("consent: fetch keys: %w: %w", ErrProviderUnavailable, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("consent: fetch keys: %w: status %d", ErrProviderUnavailable, resp.StatusCode)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("consent: fetch keys: %w: %w", ErrProviderUnavailable, err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("consent: fetch keys: %w: more than %d keys", ErrProviderUnavailable, maxKeys)
	}
	return slices.Clone(set.Keys), nil
}
