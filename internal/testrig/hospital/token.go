package hospital

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/go-jose/go-jose/v4"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// Sign signs an access token's claims as the appliance does.
func (h *Hospital) Sign(t testing.TB, token chain.AccessToken) string {
	t.Helper()
	claims, err := token.Claims()
	if err != nil {
		t.Fatal(err)
	}
	kid, err := chain.KeyID(h.JWT.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return Compact(t, jose.SigningKey{Algorithm: jose.ES256, Key: h.jwtKey}, map[jose.HeaderKey]any{"typ": chain.AccessTokenType, "kid": kid}, claims)
}

// Compact signs anything in any way.
func Compact(t testing.TB, key jose.SigningKey, header map[jose.HeaderKey]any, claims []byte) string {
	t.Helper()
	signer, err := jose.NewSigner(key, &jose.SignerOptions{ExtraHeaders: header})
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(claims)
	if err != nil {
		t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Appliance is a client of what tells services whom to trust: the CAs, and these keys in its key set.
func (h *Hospital) Appliance(t testing.TB, keys ...*x509.Certificate) *client.Client {
	t.Helper()
	set := v1.KeySet{}
	for _, k := range keys {
		set.Keys = append(set.Keys, v1.Key{Use: "sig", X5C: []string{base64.StdEncoding.EncodeToString(k.Raw)}})
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/trust-bundle", func(w http.ResponseWriter, _ *http.Request) {
		_ = pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: h.CA.Raw})
	})
	mux.HandleFunc("GET /v1/jwks", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(set) })
	srv := httptest.NewUnstartedServer(mux)
	own := h.Listener(t)
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*own}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(own.Leaf)
	c, err := client.New(client.Config{URL: srv.URL, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
