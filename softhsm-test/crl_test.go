package softhsmtest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// crlLife is the default of revocation.crl_life.
const crlLife = 15 * time.Minute

// crl fetches the service CA's list, as anybody may.
func (c *cast) crl() ([]byte, error) {
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.url+"/crl/service-ca-1.crl", nil)
	must(c.t, err)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS13}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return io.ReadAll(resp.Body)
}

// TestRevokedCertificatesInTheCRL: stock software sees that a service's, an operator's and an orchestrator's certificate is
// revoked, and one that was renewed over it, and never an agent's, which has noRevAvail (RFC 9608).
func TestRevokedCertificatesInTheCRL(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	other := c.join() // is revoked by its name
	name := strings.TrimPrefix(other.cert.Leaf.URIs[0].Path, "/orchestrator/")
	revoked := map[string]*x509.Certificate{
		"service": c.service.cert.Leaf, "operator": c.auditor.cert.Leaf, "orchestrator": c.orchestrator.cert.Leaf, "other": other.cert.Leaf,
		"renewed": c.renewed(c.orchestrator),
	}
	issuer := readCertificate(t, dir, "service-ca-1")
	must(t, c.openssl(issuer, c.service.cert.Leaf, "service", false))
	// The agent's first: whoever sees the others' would see it.
	for _, q := range []v1.RevocationRequest{
		{Kind: "certificate", ID: chain.Serial(a.cert.Leaf)},
		{Kind: "orchestrator", ID: name},
		{Kind: "certificate", ID: chain.Serial(revoked["orchestrator"])},
		{Kind: "certificate", ID: chain.Serial(revoked["operator"])},
		{Kind: "certificate", ID: chain.Serial(revoked["service"])},
	} {
		_, err := c.operator.Revoke(t.Context(), q)
		must(t, err)
	}
	list := c.listed(revoked["service"])
	serials := map[string]bool{}
	for _, e := range list.RevokedCertificateEntries {
		serials[e.SerialNumber.String()] = true
	}
	if serials[a.cert.Leaf.SerialNumber.String()] || len(serials) != len(revoked) {
		t.Errorf("%d are listed, the agent's among them: %v", len(serials), serials[a.cert.Leaf.SerialNumber.String()])
	}
	if life := list.NextUpdate.Sub(list.ThisUpdate); life <= 0 || life > crlLife || time.Now().After(list.NextUpdate) {
		t.Errorf("it lives for %s", life)
	}
	for who, cert := range revoked {
		must(t, c.openssl(issuer, cert, who, true))
	}
	must(t, c.openssl(issuer, c.operator.cert.Leaf, "operator", false))
}

// renewed is a certificate of an orchestrator over its present one.
func (c *cast) renewed(of *person) *x509.Certificate {
	c.t.Helper()
	key, csr := newKey(c.t)
	out, err := of.RenewOrchestrator(c.t.Context(), strings.TrimPrefix(of.cert.Leaf.URIs[0].Path, "/orchestrator/"), csr)
	must(c.t, err)
	cert, err := client.Certificate(out.CertificateChain, key)
	must(c.t, err)
	return cert.Leaf
}

// listed waits for the list with a certificate.
func (c *cast) listed(cert *x509.Certificate) (list *x509.RevocationList) {
	c.t.Helper()
	within(c.t, 30*time.Second, "the CRL", func() error {
		der, err := c.crl()
		if err != nil {
			return err
		}
		if list, err = x509.ParseRevocationList(der); err != nil {
			return err
		}
		for _, e := range list.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(cert.SerialNumber) == 0 {
				return nil
			}
		}
		return fmt.Errorf("%d are listed, not this one", len(list.RevokedCertificateEntries))
	})
	return list
}

// openssl verifies the list, and the certificate under it.
func (c *cast) openssl(issuer, cert *x509.Certificate, who string, revoked bool) error {
	var der []byte
	within(c.t, 30*time.Second, "a CRL", func() (err error) { der, err = c.crl(); return err })
	dir := c.t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must(c.t, os.WriteFile(path("root.pem"), c.rootPEM, 0o600))
	must(c.t, os.WriteFile(path("crl.der"), der, 0o600))
	must(c.t, os.WriteFile(path("leaf.pem"), []byte(pemOf("CERTIFICATE", cert.Raw)), 0o600))
	must(c.t, os.WriteFile(path("issuing.pem"), []byte(pemOf("CERTIFICATE", issuer.Raw)), 0o600))
	if out, code := command(c.t, dir, nil, "openssl", "crl", "-inform", "DER", "-in", "crl.der", "-out", "crl.pem", "-CAfile", "issuing.pem"); code != 0 || !strings.Contains(out, "verify OK") {
		return fmt.Errorf("openssl crl: exit %d: %s", code, out)
	}
	out, code := command(c.t, dir, nil, "openssl", "verify", "-crl_check", "-CAfile", "root.pem", "-untrusted", "issuing.pem", "-CRLfile", "crl.pem", "leaf.pem")
	if (code != 0) != revoked || revoked && !strings.Contains(out, "certificate revoked") {
		return fmt.Errorf("openssl verify of the %s: exit %d: %s", who, code, out)
	}
	return nil
}
