package workload_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/workload"
)

func TestRefusedConfigurations(t *testing.T) {
	c := newCluster(t)
	small, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // to be refused
	c.add("small", small, err)
	jwk := func(text string) []byte { return []byte(`{"keys":[` + text + `]}`) }
	private, err := json.Marshal(jose.JSONWebKey{Key: c.keys["p256"], KeyID: "k"})
	if err != nil {
		t.Fatal(err)
	}
	public := strings.TrimSuffix(strings.TrimPrefix(string(c.jwks("p256")), `{"keys":[`), `]}`)
	for name, change := range map[string]func(*workload.Config){
		"no name":                  func(k *workload.Config) { k.Name = "" },
		"no issuer":                func(k *workload.Config) { k.URL = "" },
		"no audience":              func(k *workload.Config) { k.Audience = "" },
		"unbounded life":           func(k *workload.Config) { k.MaxLife = 0 },
		"life of a week":           func(k *workload.Config) { k.MaxLife = 7 * 24 * time.Hour },
		"skew of an hour":          func(k *workload.Config) { k.Skew = time.Hour },
		"symmetric algorithm":      func(k *workload.Config) { k.Algorithms = []string{"HS256"} },
		"none":                     func(k *workload.Config) { k.Algorithms = []string{"none"} },
		"algorithm of no key":      func(k *workload.Config) { k.Keys, k.Algorithms = c.jwks("rsa"), []string{"ES256"} },
		"no keys":                  func(k *workload.Config) { k.Keys = nil },
		"empty set":                func(k *workload.Config) { k.Keys = jwk("") },
		"not JSON":                 func(k *workload.Config) { k.Keys = []byte("{") },
		"two sets":                 func(k *workload.Config) { k.Keys = append(c.jwks("rsa"), c.jwks("p256")...) },
		"keys twice":               func(k *workload.Config) { k.Keys = []byte(`{"keys":[],"keys":[` + public + `]}`) },
		"kid twice":                func(k *workload.Config) { k.Keys = jwk(public + "," + public) },
		"no kid":                   func(k *workload.Config) { k.Keys = jwk(strings.Replace(public, `"kid":"p256",`, "", 1)) },
		"for encryption":           func(k *workload.Config) { k.Keys = jwk(strings.Replace(public, `"sig"`, `"enc"`, 1)) },
		"secret key":               func(k *workload.Config) { k.Keys = jwk(`{"kty":"oct","kid":"k","k":"c2VjcmV0c2VjcmV0c2VjcmV0"}`) },
		"private key":              func(k *workload.Config) { k.Keys = jwk(string(private)) },
		"short RSA key":            func(k *workload.Config) { k.Keys = c.jwks("small") },
		"certificate instead":      func(k *workload.Config) { k.Keys = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE"}) },
		"more keys than are taken": func(k *workload.Config) { k.Keys = jwk(strings.Repeat(public+",", workload.MaxKeys) + public) },
		"a file without end":       func(k *workload.Config) { k.Keys = make([]byte, workload.MaxKeysFile+1) },
	} {
		t.Run(name, func(t *testing.T) {
			config := c.config()
			change(&config)
			if _, err := workload.NewIssuer(config); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	c := newCluster(f)
	i := c.issuer()
	f.Add(c.sign(jose.RS256, "rsa", podClaims()))
	f.Add(c.sign(jose.EdDSA, "ed", map[string]any{"exp": 1}))
	f.Add(raw(`{"alg":"none"}`, []byte(`{}`)) + ".")
	f.Fuzz(func(t *testing.T, token string) {
		got, err := i.Verify(token, now)
		if err != nil {
			code(t, err)
			return
		}
		if got.Subject == "" || got.Hash == [32]byte{} || !now.Before(got.Expires.Add(30*time.Second)) {
			t.Errorf("%q: %+v", token, got)
		}
	})
}

func FuzzKeys(f *testing.F) {
	c := newCluster(f)
	f.Add(c.jwks("rsa", "p256"))
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"))
	config := c.config()
	f.Fuzz(func(t *testing.T, keys []byte) {
		config := config
		config.Keys = keys
		i, err := workload.NewIssuer(config)
		if (i == nil) == (err == nil) {
			t.Errorf("%v, %v", i, err)
		}
	})
}
