package lint_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/ca/lint"
)

const (
	trustDomain = "hospital.example"
	agentID     = "01890a5d-ac96-774b-bcce-b302099a8057"
)

var (
	delegationOID = asn1.ObjectIdentifier{1, 2, 840, 113556, 1, 8000, 2554, 1}
	start         = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

// bench makes certificates of every kind under one root.
type bench struct {
	t        *testing.T
	keys     map[lint.Kind]*ecdsa.PrivateKey
	issuers  map[lint.Kind]*x509.Certificate
	issuerOf map[lint.Kind]lint.Kind
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, keys: map[lint.Kind]*ecdsa.PrivateKey{}, issuers: map[lint.Kind]*x509.Certificate{}}
	b.issuerOf = map[lint.Kind]lint.Kind{
		lint.Agent: lint.AgentCA, lint.Service: lint.ServiceCA, lint.AgentCA: lint.Root, lint.ServiceCA: lint.Root,
		lint.AuditKey: lint.Root, lint.AttestationKey: lint.Root, lint.JWTKey: lint.Root,
	}
	for _, kind := range []lint.Kind{
		lint.Root, lint.AgentCA, lint.ServiceCA, lint.Agent, lint.Service, lint.AuditKey, lint.AttestationKey, lint.JWTKey,
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		b.keys[kind] = key
		b.issuers[kind] = b.make(kind, nil)
	}
	return b
}

func (b *bench) expect(kind lint.Kind) lint.Expect {
	e := lint.Expect{Kind: kind, TrustDomain: trustDomain}
	if kind == lint.Agent {
		e.DelegationOID = delegationOID
	}
	if kind != lint.Root {
		e.Issuer = b.issuers[b.issuerOf[kind]]
	}
	return e
}

func (b *bench) make(kind lint.Kind, change func(*x509.Certificate)) *x509.Certificate {
	b.t.Helper()
	key := b.keys[kind]
	template := b.template(kind)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		b.t.Fatal(err)
	}
	template.SubjectKeyId = lint.SubjectKeyID(spki)
	if change != nil {
		change(template)
	}
	parent, signer := template, key
	if kind != lint.Root {
		parent, signer = b.issuers[b.issuerOf[kind]], b.keys[b.issuerOf[kind]]
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		b.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		b.t.Fatal(err)
	}
	return cert
}

func uri(text string) []*url.URL {
	u, err := url.Parse(text)
	if err != nil {
		panic(err)
	}
	return []*url.URL{u}
}

func (b *bench) template(kind lint.Kind) *x509.Certificate {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial)
	serial[0] = serial[0]&0x7f | 0x10
	c := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(serial), NotBefore: start, NotAfter: start.Add(100 * time.Hour)}
	if kind == lint.Root || kind == lint.AgentCA || kind == lint.ServiceCA {
		c.Subject.CommonName = "Hospital " + kind.String()
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	} else {
		c.KeyUsage = x509.KeyUsageDigitalSignature
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	switch kind {
	case lint.Root:
		c.MaxPathLen = 1
	case lint.AgentCA:
		c.MaxPathLenZero, c.ExtKeyUsage, c.PermittedURIDomains = true, both, []string{trustDomain}
		c.PermittedDNSDomainsCritical = true
	case lint.ServiceCA:
		c.MaxPathLenZero, c.ExtKeyUsage, c.PermittedURIDomains = true, both, []string{trustDomain}
		c.PermittedDNSDomainsCritical = true
		c.PermittedDNSDomains, c.PermittedIPRanges = []string{"signet.example"}, []*net.IPNet{ipNet("10.0.0.0/8")}
	case lint.Agent:
		c.Subject.CommonName, c.ExtKeyUsage = agentID, both
		c.NotBefore, c.NotAfter = start.Add(time.Hour), start.Add(time.Hour+lint.ShortLived)
		c.URIs = uri("spiffe://hospital.example/agent/research/" + agentID)
		c.ExtraExtensions = []pkix.Extension{delegation(), noRevAvail()}
	case lint.Service:
		c.Subject.CommonName, c.ExtKeyUsage = "records", both
		c.URIs, c.DNSNames = uri("spiffe://hospital.example/service/records"), []string{"records.signet.example"}
		c.IPAddresses = []net.IP{net.IPv4(10, 1, 2, 3)}
		c.CRLDistributionPoints = []string{"http://signet.example/crl/service-ca-1.crl"}
	case lint.AuditKey:
		c.Subject.CommonName, c.UnknownExtKeyUsage = "hospital.example/log", []asn1.ObjectIdentifier{lint.DocumentSigning()}
	case lint.AttestationKey:
		c.Subject.CommonName = "attestation key"
		c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{lint.AttestationPurpose()}
	case lint.JWTKey:
		c.Subject.CommonName, c.UnknownExtKeyUsage = "hospital.example", []asn1.ObjectIdentifier{lint.JWTSigning()}
	case lint.KindUnknown:
	}
	return c
}

func delegation() pkix.Extension {
	return pkix.Extension{Id: delegationOID, Value: []byte{0x30, 0x03, 0x02, 0x01, 0x01}}
}

func noRevAvail() pkix.Extension {
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 56}, Value: []byte{5, 0}}
}

func ipNet(text string) *net.IPNet {
	_, n, err := net.ParseCIDR(text)
	if err != nil {
		panic(err)
	}
	return n
}

func TestGoodCertificatesPass(t *testing.T) {
	b := newBench(t)
	for kind, cert := range b.issuers {
		if found := lint.Run(cert, b.expect(kind)); len(found) > 0 {
			t.Errorf("%s: %v", kind, found)
		}
	}
}

func TestEachRuleFindsWhatItIsFor(t *testing.T) {
	b := newBench(t)
	for _, c := range append(brokenLeaves(), brokenCAs()...) {
		t.Run(c.rule+" "+c.name, func(t *testing.T) {
			cert := b.make(c.kind, c.template)
			if c.parsed != nil {
				c.parsed(cert)
			}
			found := lint.Run(cert, b.expect(c.kind))
			if !slices.ContainsFunc(found, func(f lint.Finding) bool { return f.Rule == c.rule && f.Citation != "" && f.Detail != "" }) {
				t.Errorf("findings %v, want one of %s", found, c.rule)
			}
		})
	}
}

// Each rule's file is named by the citation of this table: a rule without a failing case is a rule that may not work.
func TestEveryRuleHasABrokenCase(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	id := regexp.MustCompile(`id: "([a-z_]+)"`)
	cases := append(brokenLeaves(), brokenCAs()...)
	rules := 0
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "rule_") {
			continue
		}
		source, err := os.ReadFile(e.Name())
		if err != nil {
			t.Fatal(err)
		}
		found := id.FindAllStringSubmatch(string(source), -1)
		if len(found) != 1 {
			t.Errorf("%s holds %d rules, want one", e.Name(), len(found))
			continue
		}
		rules++
		if !slices.ContainsFunc(cases, func(c broken) bool { return c.rule == found[0][1] }) {
			t.Errorf("rule %s has no broken case", found[0][1])
		}
	}
	if rules < 20 {
		t.Errorf("%d rules found", rules)
	}
}

func TestNewRefusesUnusableExpectations(t *testing.T) {
	issuer := &x509.Certificate{}
	for name, e := range map[string]lint.Expect{
		"zero":             {},
		"unknown kind":     {Kind: 99, TrustDomain: trustDomain, Issuer: issuer},
		"no trust domain":  {Kind: lint.Service, Issuer: issuer},
		"trust domain IP":  {Kind: lint.Service, TrustDomain: "10.0.0.1", Issuer: issuer},
		"trust domain A-Z": {Kind: lint.Service, TrustDomain: "Hospital.example", Issuer: issuer},
		"no delegation":    {Kind: lint.Agent, TrustDomain: trustDomain, Issuer: issuer},
		"no issuer":        {Kind: lint.Service, TrustDomain: trustDomain},
		"root with issuer": {Kind: lint.Root, TrustDomain: trustDomain, Issuer: issuer},
	} {
		if _, err := lint.New(e); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if found := lint.Run(&x509.Certificate{}, e); len(found) == 0 {
			t.Errorf("%s: Run finds nothing", name)
		}
	}
	l, err := lint.New(lint.Expect{Kind: lint.Service, TrustDomain: trustDomain, Issuer: issuer})
	if err != nil {
		t.Fatal(err)
	}
	if len(l.Run(nil)) == 0 {
		t.Error("no certificate: nothing found")
	}
}
