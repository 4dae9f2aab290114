package ca_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// openssl runs the real tool: what it accepts and refuses is what peers see.
func openssl(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil && len(out) == 0 {
		t.Fatalf("openssl: %v (apt-get install openssl)", err)
	}
	return string(out), err
}

func writePEM(t *testing.T, dir, name string, der []byte) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func verifyOpenSSL(t *testing.T, r *rig, issuing, leaf []byte) (string, error) {
	t.Helper()
	dir := t.TempDir()
	writePEM(t, dir, "root.pem", r.result.Root.DER)
	writePEM(t, dir, "issuing.pem", issuing)
	writePEM(t, dir, "leaf.pem", leaf)
	return openssl(t, dir, "verify", "-no_check_time", "-x509_strict", "-CAfile", "root.pem", "-untrusted", "issuing.pem", "leaf.pem")
}

func TestOpenSSLAcceptsAgentsAndServices(t *testing.T) {
	r := newRig(t)
	_, agent := issueAgent(t, r.agents(t), r.agentRequest(t))
	if out, err := verifyOpenSSL(t, r, r.result.AgentCAs[0].DER, agent.DER); err != nil {
		t.Errorf("agent: %s", out)
	}
	services := r.services(t)
	for _, cn := range []string{"records", "records.signet.example"} {
		req := r.serviceRequest()
		req.CommonName = cn
		p, err := services.PrepareService(req, start)
		if err != nil {
			t.Fatal(err)
		}
		c, err := services.Issue(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := verifyOpenSSL(t, r, r.result.ServiceCAs[0].DER, c.DER); err != nil {
			t.Errorf("service %s: %s", cn, out)
		}
	}
}

func TestOpenSSLShowsTheProfile(t *testing.T) {
	r := newRig(t)
	_, agent := issueAgent(t, r.agents(t), r.agentRequest(t))
	dir := t.TempDir()
	writePEM(t, dir, "leaf.pem", agent.DER)
	out, err := openssl(t, dir, "x509", "-in", "leaf.pem", "-noout", "-text")
	if err != nil {
		t.Fatal(out)
	}
	text := strings.Join(strings.Fields(out), " ")
	for _, want := range []string{
		"Version: 3", "Subject: CN = " + agentUUID,
		"X509v3 Key Usage: critical Digital Signature X509v3",
		"X509v3 Extended Key Usage: TLS Web Server Authentication, TLS Web Client Authentication X509v3",
		"X509v3 Subject Alternative Name: URI:" + agentID,
		delegationOID().String() + ": 0", "Signature Algorithm: ecdsa-with-SHA256",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	// OpenSSL 3.0 names the extension by number, 3.4 by name.
	if !strings.Contains(text, "2.5.29.56: 0") && !strings.Contains(text, "No Revocation Available") {
		t.Errorf("no noRevAvail in\n%s", out)
	}
	if strings.Count(text, "critical") != 1 {
		t.Errorf("more than the key usage is critical in\n%s", out)
	}
}

// forge signs with the CA's own key what this package would not: the constraints in the CA are what remains then.
func forge(t *testing.T, issuing *x509.Certificate, key *ecdsa.PrivateKey, uri string, dns ...string) []byte {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(99), Subject: pkix.Name{CommonName: "forged"}, NotBefore: start, NotAfter: start.Add(time.Hour),
		URIs: []*url.URL{u}, DNSNames: dns, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, issuing, newKey(t).Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestNameConstraintsHoldInGoAndOpenSSL(t *testing.T) {
	r := newRig(t)
	agentCA, serviceCA := r.result.AgentCAs[0].Leaf, r.result.ServiceCAs[0].Leaf
	for _, c := range []struct {
		name           string
		issuing        *x509.Certificate
		key            *ecdsa.PrivateKey
		uri            string
		dns            []string
		goOK, opensslK bool
	}{
		{name: "agent", issuing: agentCA, key: r.keys["agent-ca-1"], uri: agentID, goOK: true, opensslK: true},
		{name: "agent of another domain", issuing: agentCA, key: r.keys["agent-ca-1"], uri: "spiffe://evil.example/agent/a/b"},
		{name: "service of another domain", issuing: serviceCA, key: r.keys["service-ca-1"], uri: "spiffe://evil.example/service/b"},
		{
			name: "DNS name outside", issuing: serviceCA, key: r.keys["service-ca-1"],
			uri: "spiffe://hospital.example/service/b", dns: []string{"www.example"},
		},
		// Go reads a URI constraint as covering subdomains, against RFC 5280 §4.2.1.10: hence our own exact comparison.
		{
			name: "agent of a subdomain", issuing: agentCA, key: r.keys["agent-ca-1"],
			uri: "spiffe://a.hospital.example/agent/a/b", goOK: true,
		},
		// No DNS constraint can stand in an agent CA (GnuTLS would refuse CN=<uuid>), so stock peers do not refuse this
		// one. Prepare never builds it, lint and Signet's verifier refuse it: docs/decisions/0006-prepare-issue.md.
		{
			name: "agent with a DNS name", issuing: agentCA, key: r.keys["agent-ca-1"], uri: agentID,
			dns: []string{"www.example"}, goOK: true, opensslK: true,
		},
	} {
		der := forge(t, c.issuing, c.key, c.uri, c.dns...)
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		roots, middle := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(r.result.Root.Leaf)
		middle.AddCert(c.issuing)
		_, err = leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: middle, CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if (err == nil) != c.goOK {
			t.Errorf("%s: Go says %v", c.name, err)
		}
		out, err := verifyOpenSSL(t, r, c.issuing.Raw, der)
		if (err == nil) != c.opensslK {
			t.Errorf("%s: openssl says %s", c.name, out)
		}
	}
}

func TestOpenSSLReadsTheCRL(t *testing.T) {
	r := newRig(t)
	der, err := r.services(t).CRL(t.Context(), nil, big.NewInt(5), start, start.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	writePEM(t, dir, "ca.pem", r.result.ServiceCAs[0].DER)
	writePEM(t, dir, "root.pem", r.result.Root.DER)
	if err := os.WriteFile(filepath.Join(dir, "list.crl"), der, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := openssl(t, dir, "crl", "-inform", "DER", "-in", "list.crl", "-noout", "-CAfile", "ca.pem", "-text")
	if err != nil || !strings.Contains(out, "verify OK") || !strings.Contains(strings.Join(strings.Fields(out), " "), "CRL Number: 5") {
		t.Errorf("openssl crl: %s", out)
	}
}
