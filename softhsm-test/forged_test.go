package softhsmtest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"math/big"
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/devkit"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

// malformedExtensions makes certificates as only the CA can, with the CA's own key and PIN, whose delegation is not DER.
// Everywhere they are refused for that.
func malformedExtensions(t *testing.T, c *cast, dir string, a *agent) {
	module := softhsm.New(t).Module()
	devices := filepath.Join(dir, "devices")
	t.Setenv("SOFTHSM2_CONF", filepath.Join(devices, "softhsm2.conf"))
	token, err := hsm.Open(t.Context(), hsm.Config{
		Module: module, Token: devkit.TokenIssuing, PINFile: devkit.PINFile(devices, devkit.TokenIssuing),
	}, slog.New(slog.DiscardHandler))
	must(t, err)
	ca, err := token.Signer(t.Context(), "pkcs11:token="+devkit.TokenIssuing+";object=agent-ca-1")
	must(t, err)
	made := map[string]*tls.Certificate{}
	for code, change := range map[string]func([]byte) []byte{
		"":                    bytes.Clone, // the forgery itself is good
		chain.CodeDERTrailing: func(b []byte) []byte { return append(bytes.Clone(b), 0) },
		chain.CodeDER:         func(b []byte) []byte { return longLength(t, b) },
	} {
		made[code] = forge(t, ca, a, change)
	}
	must(t, token.Close())
	for code, cert := range made {
		c.judges(cert, a, code)
	}
}

// forge signs the agent's certificate once more, with another serial and another delegation.
func forge(t *testing.T, ca crypto.Signer, a *agent, change func([]byte) []byte) *tls.Certificate {
	t.Helper()
	issuer, err := x509.ParseCertificate(a.cert.Certificate[1])
	must(t, err)
	leaf := a.cert.Leaf
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	must(t, err)
	template := &x509.Certificate{SerialNumber: serial, Subject: leaf.Subject, NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter}
	for _, e := range leaf.Extensions {
		if e.Id.Equal(chain.OID()) {
			e = pkix.Extension{Id: e.Id, Value: change(e.Value)}
		}
		template.ExtraExtensions = append(template.ExtraExtensions, e)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, leaf.PublicKey, ca)
	must(t, err)
	out := &tls.Certificate{Certificate: [][]byte{der, a.cert.Certificate[1]}, PrivateKey: a.cert.PrivateKey}
	out.Leaf, err = x509.ParseCertificate(der)
	must(t, err)
	return out
}

// judges presents a certificate at all doors. code is what its format fails with, "" for nothing.
func (c *cast) judges(cert *tls.Certificate, a *agent, code string) {
	c.t.Helper()
	presented := []string{pemOf("CERTIFICATE", cert.Certificate[0]), a.issued.CertificateChain[1]}
	report, err := c.service.Verify(c.t.Context(), v1.VerifyRequest{CertificateChain: presented})
	must(c.t, err)
	if report.Valid != (code == "") || report.Checks["format"].Code != code || report.Checks["path"].Status != "pass" {
		c.t.Errorf("%s: verify: %+v", code, report)
	}
	d, err := c.service.Evaluate(c.t.Context(), evaluation(a.issued.SPIFFEID, presented))
	must(c.t, err)
	if code == "" {
		return
	}
	if d.Decision || !slices.Contains(d.Context.Reasons, code) || d.Context.AuditID == nil {
		c.t.Errorf("%s: decision: %+v", code, d)
	}
	c.refused(bad{"", 401, "client_certificate_untrusted", func(ctx context.Context) error {
		_, err := c.person(cert).Delegate(ctx, a.id, v1.SpawnRequest{})
		return err
	}})
}
