package client_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

const (
	testDomain = "test.example"
	testOrigin = "log.test.example"
	testTask   = "01890a5d-ac96-774b-bcce-b302099a8001"
	testSpawn  = "01890a5d-ac96-774b-bcce-b302099a8002"
	testParent = "01890a5d-ac96-774b-bcce-b302099a8003"
	grantHash  = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// identity is a self-signed certificate; the client looks at names, keys and extensions, not at its issuer.
func identity(t *testing.T, id string, extensions ...pkix.Extension) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: extensions,
	}
	if id != "" {
		u, err := url.Parse(id)
		if err != nil {
			t.Fatal(err)
		}
		template.URIs = []*url.URL{u}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// delegated is the extension of an agent spawned with this confirmation.
func delegated(t *testing.T, agent string, confirmation *[32]byte) pkix.Extension {
	t.Helper()
	scope, err := chain.ParseScope([]string{"database:read:*"})
	if err != nil {
		t.Fatal(err)
	}
	task, err := chain.ParseUUID(testTask)
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().UTC().Truncate(time.Second).Add(time.Hour)
	d := chain.Delegation{
		TaskID: task,
		Grant: chain.Grant{
			Issuer: "https://idp.test.example", Subject: "u-1", GrantID: task, Consent: chain.OIDCNonce, EvidenceHash: [32]byte{1},
			Scope: scope, NotAfter: end, MaxDepth: 3,
		},
		Hops: []chain.Hop{
			{ID: "spiffe://" + testDomain + "/orchestrator/o", SPKIHash: [32]byte{2}, Scope: scope, NotAfter: end, MaxDepth: 3},
			{ID: agent, SPKIHash: [32]byte{3}, Scope: scope, NotAfter: end, MaxDepth: 2, Confirmation: confirmation},
		},
	}
	der, err := d.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return pkix.Extension{Id: chain.OID(), Value: der}
}

// appliance serves h over TLS, as its roots and URL say.
func appliance(t *testing.T, h http.HandlerFunc) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return srv, roots
}

// connect makes a client of an appliance that answers with h.
func connect(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	srv, roots := appliance(t, h)
	c, err := client.New(client.Config{URL: srv.URL, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func answer(t *testing.T, w http.ResponseWriter, status int, v any) {
	t.Helper()
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		t.Error(err)
	}
}

func spawnRequest() v1.SpawnRequest {
	return v1.SpawnRequest{TaskID: testTask, SpawnID: testSpawn, AgentType: "research", Scope: []string{"database:read:a", "x"}, MaxDepth: 1}
}
