package ca_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/ca"
	"github.com/signet-pki/signet/ca/lint"
)

func issueAgent(t testing.TB, i *ca.Issuer, req ca.AgentRequest) (*ca.Prepared, *ca.Certificate) {
	t.Helper()
	p, err := i.PrepareAgent(req, start)
	if err != nil {
		t.Fatal(err)
	}
	c, err := i.Issue(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return p, c
}

func hasExtension(cert *x509.Certificate, oid ...int) (critical, ok bool) {
	for _, e := range cert.Extensions {
		if e.Id.Equal(oid) {
			return e.Critical, true
		}
	}
	return false, false
}

func TestAgentProfile(t *testing.T) {
	r := newRig(t)
	p, c := issueAgent(t, r.agents(t), r.agentRequest(t))
	leaf := c.Leaf
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != agentID || len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 {
		t.Errorf("names: %v %v", leaf.URIs, leaf.DNSNames)
	}
	if leaf.Subject.CommonName != agentUUID || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 2 {
		t.Errorf("subject %v, usage %v %v", leaf.Subject, leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	if !leaf.NotBefore.Equal(start.Add(-30*time.Second)) || !leaf.NotAfter.Equal(start.Add(5*time.Minute)) {
		t.Errorf("validity %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
	if critical, ok := hasExtension(leaf, delegationOID()...); critical || !ok {
		t.Errorf("delegation: critical %v, present %v", critical, ok)
	}
	if critical, ok := hasExtension(leaf, 2, 5, 29, 56); critical || !ok || len(leaf.CRLDistributionPoints) != 0 {
		t.Errorf("noRevAvail: critical %v, present %v, CRL %v", critical, ok, leaf.CRLDistributionPoints)
	}
	if p.Hash() != sha256.Sum256(leaf.RawTBSCertificate) || !bytes.Equal(p.TBS(), leaf.RawTBSCertificate) {
		t.Error("hash or TBS are not the issued certificate's")
	}
	if !p.NotBefore().Equal(leaf.NotBefore) || !p.NotAfter().Equal(leaf.NotAfter) || p.Serial() != leaf.SerialNumber.Text(16) {
		t.Error("Prepared and certificate disagree")
	}
	if len(c.Chain) != 2 || !bytes.Equal(c.Chain[0], c.DER) || !bytes.Equal(c.Chain[1], r.result.AgentCAs[0].DER) {
		t.Error("the chain is not leaf and issuing CA")
	}
	if err := r.verify(c, r.result.AgentCAs[0].Leaf); err != nil {
		t.Error(err)
	}
}

func TestLongAgentsHaveACRLPointer(t *testing.T) {
	r := newRig(t)
	for life, short := range map[time.Duration]bool{
		10 * time.Minute: true, 10*time.Minute + time.Second: false, time.Hour: false,
	} {
		req := r.agentRequest(t)
		req.NotAfter = start.Add(life)
		_, c := issueAgent(t, r.agents(t), req)
		_, noRevAvail := hasExtension(c.Leaf, 2, 5, 29, 56)
		if noRevAvail != short || (len(c.Leaf.CRLDistributionPoints) == 1) == short {
			t.Errorf("%s: noRevAvail %v, CRL %v", life, noRevAvail, c.Leaf.CRLDistributionPoints)
		}
	}
}

func TestServiceProfile(t *testing.T) {
	r := newRig(t)
	i := r.services(t)
	req := r.serviceRequest()
	req.NotAfter = start.Add(time.Minute) // short, and still no noRevAvail
	p, err := i.PrepareService(req, start)
	if err != nil {
		t.Fatal(err)
	}
	c, err := i.Issue(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := hasExtension(c.Leaf, 2, 5, 29, 56); ok || len(c.Leaf.CRLDistributionPoints) != 1 || c.Leaf.CRLDistributionPoints[0] != req.CRLURL {
		t.Errorf("noRevAvail %v, CRL %v", ok, c.Leaf.CRLDistributionPoints)
	}
	if len(c.Leaf.DNSNames) != 1 || len(c.Leaf.IPAddresses) != 2 || !c.Leaf.IPAddresses[0].Equal(net.IPv4(10, 1, 2, 3)) {
		t.Errorf("names %v %v", c.Leaf.DNSNames, c.Leaf.IPAddresses)
	}
	if err := r.verify(c, r.result.ServiceCAs[0].Leaf); err != nil {
		t.Error(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, spki := range map[string][]byte{"Ed25519": ed25519SPKI(t), "P-384": marshalKey(t, p384.Public())} {
		req.SPKI = spki
		if _, err := i.PrepareService(req, start); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAP384IssuerSignsWithSHA384(t *testing.T) {
	r := newRig(t)
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := *r.result.AgentCAs[0].Leaf
	template.SubjectKeyId = lint.SubjectKeyID(marshalKey(t, key.Public()))
	der, err := x509.CreateCertificate(rand.Reader, &template, r.result.Root.Leaf, key.Public(), r.keys["root"])
	if err != nil {
		t.Fatal(err)
	}
	issuing, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	i, err := ca.NewIssuer(issuing, key, r.roots(), agentProfile())
	if err != nil {
		t.Fatal(err)
	}
	_, c := issueAgent(t, i, r.agentRequest(t))
	if c.Leaf.SignatureAlgorithm != x509.ECDSAWithSHA384 {
		t.Errorf("signed with %v", c.Leaf.SignatureAlgorithm)
	}
	if err := r.verify(c, issuing); err != nil {
		t.Error(err)
	}
	if out, err := verifyOpenSSL(t, r, der, c.DER); err != nil {
		t.Errorf("openssl: %s", out)
	}
}

func TestSerialsAreUniqueAndOfOneShape(t *testing.T) {
	r := newRig(t)
	i := r.agents(t)
	seen := map[string]bool{}
	for range 2000 {
		p, err := i.PrepareAgent(r.agentRequest(t), start)
		if err != nil {
			t.Fatal(err)
		}
		s := p.Serial()
		if len(s) != 32 || s[0] < '1' || s[0] > '7' || s != strings.ToLower(s) || seen[s] {
			t.Fatalf("serial %q", s)
		}
		seen[s] = true
	}
	for name, random := range map[string]io.Reader{"zeros": zeros{}, "ones": ones{}} {
		profile := agentProfile()
		profile.Random = random
		i, err := ca.NewIssuer(r.result.AgentCAs[0].Leaf, r.keys["agent-ca-1"], r.roots(), profile)
		if err != nil {
			t.Fatal(err)
		}
		p, err := i.PrepareAgent(r.agentRequest(t), start)
		if err != nil || len(p.Serial()) != 32 {
			t.Errorf("%s: %v", name, err)
		}
	}
	profile := agentProfile()
	profile.Random = strings.NewReader("short")
	broken, err := ca.NewIssuer(r.result.AgentCAs[0].Leaf, r.keys["agent-ca-1"], r.roots(), profile)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broken.PrepareAgent(r.agentRequest(t), start); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("no randomness: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

type ones struct{}

func (ones) Read(p []byte) (int, error) {
	for n := range p {
		p[n] = 0xff
	}
	return len(p), nil
}

func TestPrepareIsConcurrent(t *testing.T) {
	r := newRig(t)
	i := r.agents(t)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				p, err := i.PrepareAgent(r.agentRequest(t), start)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := i.Issue(t.Context(), p); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestCRL(t *testing.T) {
	r := newRig(t)
	i := r.services(t)
	revoked := []x509.RevocationListEntry{{SerialNumber: big.NewInt(77), RevocationTime: start, ReasonCode: 1}}
	der, err := i.CRL(t.Context(), revoked, big.NewInt(3), start, start.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	if err := list.CheckSignatureFrom(i.Certificate()); err != nil {
		t.Error(err)
	}
	if len(list.RevokedCertificateEntries) != 1 || list.Number.Int64() != 3 || !list.NextUpdate.Equal(start.Add(time.Hour)) {
		t.Errorf("list: %+v", list)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := i.CRL(ended, nil, big.NewInt(3), start, start.Add(time.Hour)); !errors.Is(err, context.Canceled) {
		t.Errorf("ended: %v", err)
	}
	for name, f := range map[string]func() ([]byte, error){
		"no number": func() ([]byte, error) { return i.CRL(t.Context(), nil, nil, start, start.Add(time.Hour)) },
		"no span":   func() ([]byte, error) { return i.CRL(t.Context(), nil, big.NewInt(1), start, start) },
		"expired": func() ([]byte, error) {
			return i.CRL(t.Context(), nil, big.NewInt(1), start.AddDate(2, 0, 0), start.AddDate(2, 0, 1))
		},
	} {
		if _, err := f(); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	spoilt := faulty{Signer: r.keys["agent-ca-1"], spoil: func(s []byte) ([]byte, error) { s[len(s)-1] ^= 1; return s, nil }}
	if der, err := r.agentsBy(t, spoilt).CRL(t.Context(), nil, big.NewInt(1), start, start.Add(time.Hour)); err == nil || der != nil {
		t.Error("a spoilt CRL is released")
	}
}
