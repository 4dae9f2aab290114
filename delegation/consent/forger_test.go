package consent_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// forger is an OpenID provider that says whatever a test wants.
type forger struct {
	t    *testing.T
	base string
	key  *ecdsa.PrivateKey

	asked    *atomic.Int64 // questions for keys, if somebody counts
	mu       sync.Mutex
	metadata map[string]any
	keys     []jose.JSONWebKey
	answer   func() string // the ID token of the next code
	status   int           // of the token endpoint, if not 200
	form     url.Values    // what the token endpoint got last
}

func newForger(t *testing.T, base string) *forger {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &forger{
		t: t, base: base, key: key,
		keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "k", Use: "sig", Algorithm: "ES256"}},
		metadata: map[string]any{
			"issuer": base + "/idp", "authorization_endpoint": base + "/idp/authorize", "token_endpoint": base + "/idp/token",
			"jwks_uri": base + "/idp/keys", "id_token_signing_alg_values_supported": []string{"none", "HS256", "RS256", "ES256"},
		},
	}
}

func (f *forger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	var v any
	switch r.URL.Path {
	case "/idp/.well-known/openid-configuration":
		v = f.metadata
	case "/idp/keys":
		if f.asked != nil {
			f.asked.Add(1)
		}
		v = jose.JSONWebKeySet{Keys: f.keys}
	case "/idp/token":
		if err := r.ParseForm(); err != nil {
			f.t.Error(err)
		}
		f.form = r.PostForm
		if f.status != 0 {
			w.WriteHeader(f.status)
			v = map[string]string{"error": "invalid_grant"}
			break
		}
		v = map[string]any{"access_token": "a", "token_type": "Bearer", "expires_in": 60, "id_token": f.answer()}
	default:
		w.WriteHeader(http.StatusNotFound)
	}
	b, err := json.Marshal(v)
	if err != nil {
		f.t.Error(err)
	}
	_, _ = w.Write(b) // a client that has read enough hangs up
}

// claims are those of a good token.
func (f *forger) claims(nonce string) map[string]any {
	now := time.Now()
	return map[string]any{
		"iss": f.base + "/idp", "sub": "physician-7f3a", "aud": clientID, "nonce": nonce, "iat": now.Unix(),
		"exp": now.Add(time.Minute).Unix(), "auth_time": now.Unix(), "roles": []string{"analyst"},
	}
}

func segment(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // a test's own map
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// sign makes a compact JWS, whatever its header says.
func (f *forger) sign(header, claims map[string]any) string {
	input := segment(header) + "." + segment(claims)
	sum := sha256.Sum256([]byte(input))
	var sig []byte
	switch header["alg"] {
	case "none":
	case "HS256": // keyed with the public key, as a confused verifier would take it
		der, err := x509.MarshalPKIXPublicKey(&f.key.PublicKey)
		if err != nil {
			f.t.Error(err)
		}
		mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		mac.Write([]byte(input))
		sig = mac.Sum(nil)
	default:
		sig = f.ecdsa(f.key, sum[:])
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func (f *forger) ecdsa(key *ecdsa.PrivateKey, sum []byte) []byte {
	r, s, err := ecdsa.Sign(rand.Reader, key, sum)
	if err != nil {
		f.t.Error(err)
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out
}

// weakRSA signs with a 1024-bit key, which the provider then serves too.
func (f *forger) weakRSA(claims map[string]any) string {
	key, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // weak on purpose
	if err != nil {
		f.t.Error(err)
		return ""
	}
	f.keys = append(f.keys, jose.JSONWebKey{Key: &key.PublicKey, KeyID: "weak", Use: "sig", Algorithm: "RS256"})
	input := segment(map[string]any{"alg": "RS256", "kid": "weak"}) + "." + segment(claims)
	sum := sha256.Sum256([]byte(input))
	sig, err := rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	if err != nil {
		f.t.Error(err)
	}
	return input + "." + base64.RawURLEncoding.EncodeToString(sig)
}
