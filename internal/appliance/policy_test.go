package appliance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

// selfSigned is a certificate of a key of its own.
func selfSigned(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// No key of the appliance's own is taken for one of those who write policy.
func TestPolicyKeysAreNotTheAppliances(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, block pem.Block) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certs := map[string]*x509.Certificate{}
	for _, name := range []string{"root", "jwt", "agent-ca", "service-ca", "audit", "ak-cert", "writers"} {
		certs[name] = selfSigned(t, name)
		write(name+".pub", pem.Block{Type: "PUBLIC KEY", Bytes: certs[name].RawSubjectPublicKeyInfo})
		write("pki/"+name+".pem", pem.Block{Type: "CERTIFICATE", Bytes: certs[name].Raw})
	}
	own := trust{root: certs["root"], jwt: certs["jwt"], agents: []*x509.Certificate{certs["agent-ca"]}, services: []*x509.Certificate{certs["service-ca"]}}
	for name := range certs {
		c := Config{Dir: dir, Policy: Policy{Keys: []PolicyKey{{ID: "k", File: name + ".pub"}}}}
		keys, err := c.policyKeys(own)
		if name == "writers" {
			if err != nil || keys.Len() != 1 {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "policy.keys[0]: this is a key of the appliance itself") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, k := range map[string][]PolicyKey{
		"missing": {{ID: "k", File: "nothing.pub"}}, "a certificate": {{ID: "k", File: "pki/writers.pem"}},
		"twice": {{ID: "a", File: "writers.pub"}, {ID: "b", File: "writers.pub"}},
	} {
		c := Config{Dir: dir, Policy: Policy{Keys: k}}
		if _, err := c.policyKeys(own); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// Without keys nothing is read, however well it is signed; the shipped bundle is there all the same.
func TestPoliciesWithoutKeys(t *testing.T) {
	keys, err := opa.NewKeys()
	if err != nil {
		t.Fatal(err)
	}
	p := newPolicies(keys)
	if _, err := p.Open(t.Context(), []byte("x")); err == nil || !strings.Contains(err.Error(), policy.BundlesNotConfigured) {
		t.Errorf("%v", err)
	}
	if d := p.active.Decide(t.Context(), policy.Input{}); d.Allow || d.Digest != "" {
		t.Errorf("%+v", d)
	}
	b, err := p.Default(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.Use(b)
	if d := p.active.Decide(t.Context(), policy.Input{}); d.Digest != b.Bundle().Digest {
		t.Errorf("%+v", d)
	}
	p.Use(nil)
	if d := p.active.Decide(t.Context(), policy.Input{}); d.Digest != "" {
		t.Errorf("%+v", d)
	}
}
