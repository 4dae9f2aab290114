// Package hospital is a trust domain in memory, for tests of relying services: a root with its CA, agents with their
// delegations, access tokens, and revocations that a test sets. What it makes has the form of an appliance's; the tests in
// softhsm-test hold services against a real one.
//
// It is safe for concurrent use. Its keys are software and live as long as the test.
package hospital

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// What everybody here is called.
const (
	Domain = "hospital.example"
	Origin = "log.hospital.example"
	Task   = "01926f5e-7c00-7abc-8def-0123456789ab"
	Grant  = "01926f5e-7c01-7abc-8def-0123456789ab"
	Parent = "01926f5e-7c02-7abc-8def-0123456789ab"
	Agent  = "01926f5e-7c03-7abc-8def-0123456789ab"

	Orchestrator = "spiffe://" + Domain + "/orchestrator/langgraph"
	ParentID     = "spiffe://" + Domain + "/agent/research/" + Parent
	AgentID      = "spiffe://" + Domain + "/agent/reader/" + Agent
	Records      = "spiffe://" + Domain + "/service/records"
)

// User is the physician for whom the agents act.
func User() chain.User {
	return chain.User{Issuer: "https://idp.hospital.example", Subject: "physician-x"}
}

// Hospital is one trust domain.
type Hospital struct {
	Root, CA, JWT *x509.Certificate
	Feed          *Feed

	caKey, jwtKey *ecdsa.PrivateKey
}

// New makes a trust domain whose root is P-384, as an appliance's.
func New(t testing.TB) *Hospital {
	t.Helper()
	h := &Hospital{Feed: &Feed{at: time.Now()}, caKey: Key(t, elliptic.P256()), jwtKey: Key(t, elliptic.P256())}
	rootKey := Key(t, elliptic.P384())
	root := authority("root", 1)
	h.Root = h.issue(t, root, root, rootKey.Public(), rootKey)
	ca := authority("agents", 0)
	ca.PermittedURIDomains, ca.PermittedDNSDomainsCritical = []string{Domain}, true
	h.CA = h.issue(t, ca, h.Root, h.caKey.Public(), rootKey)
	h.JWT = h.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: Domain}, KeyUsage: x509.KeyUsageDigitalSignature,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 37}}, NotBefore: root.NotBefore, NotAfter: root.NotAfter,
	}, h.Root, h.jwtKey.Public(), rootKey)
	return h
}

// Key makes a key.
func Key(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func authority(name string, pathLen int) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(100 * time.Hour),
	}
}

func (h *Hospital) issue(t testing.TB, template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Agent spawns a sub-agent that lives as long as it says: user, orchestrator, parent, agent. Each change is applied before
// the certificate is signed.
func (h *Hospital) Agent(t testing.TB, life time.Duration, changes ...func(d *chain.Delegation, c *x509.Certificate)) *tls.Certificate {
	t.Helper()
	key := Key(t, elliptic.P256())
	end := time.Now().Add(life).UTC().Truncate(time.Second)
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: Agent}, URIs: []*url.URL{{Scheme: "spiffe", Host: Domain, Path: "/agent/reader/" + Agent}},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-30 * time.Second), NotAfter: end,
	}
	d := delegation(t, key.Public(), end)
	for _, change := range changes {
		change(&d, c)
	}
	if len(d.Hops) > 0 {
		der, err := d.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: chain.OID(), Value: der})
	}
	return h.certificate(h.issue(t, c, h.CA, key.Public(), h.caKey), key)
}

func (h *Hospital) certificate(leaf *x509.Certificate, key crypto.Signer) *tls.Certificate {
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, h.CA.Raw}, PrivateKey: key, Leaf: leaf}
}

// Listener is a certificate for services on loopback, which no test verifies.
func (h *Hospital) Listener(t testing.TB) *tls.Certificate {
	t.Helper()
	key := Key(t, elliptic.P256())
	c := &x509.Certificate{
		Subject: pkix.Name{CommonName: "records"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
	}
	return h.certificate(h.issue(t, c, c, key.Public(), key), key)
}

func delegation(t testing.TB, key crypto.PublicKey, end time.Time) chain.Delegation {
	t.Helper()
	own, err := chain.KeyHash(key)
	if err != nil {
		t.Fatal(err)
	}
	wide, narrow := Scope(t, "database:read:*"), Scope(t, "database:read:patients", "database:read:trials")
	return chain.Delegation{
		TaskID: uuid(t, Task),
		Grant: chain.Grant{
			Issuer: User().Issuer, Subject: User().Subject, GrantID: uuid(t, Grant), Consent: chain.OIDCNonce, EvidenceHash: [32]byte{1},
			Scope: wide, NotAfter: end.Add(2 * time.Hour), MaxDepth: 3,
		},
		Hops: []chain.Hop{
			{ID: Orchestrator, SPKIHash: [32]byte{2}, Scope: wide, NotAfter: end.Add(time.Hour), MaxDepth: 3},
			{ID: ParentID, SPKIHash: [32]byte{3}, Scope: wide, NotAfter: end.Add(time.Minute), MaxDepth: 2},
			{ID: AgentID, SPKIHash: own, Scope: narrow, NotAfter: end, MaxDepth: 0},
		},
	}
}

func uuid(t testing.TB, s string) [16]byte {
	t.Helper()
	u, err := chain.ParseUUID(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Scope parses tokens.
func Scope(t testing.TB, tokens ...string) chain.Scope {
	t.Helper()
	s, err := chain.ParseScope(tokens)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// ID parses a SPIFFE ID.
func ID(t testing.TB, s string) chain.ID {
	t.Helper()
	id, err := chain.ParseID(s)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Config is a Verifier's that trusts the hospital and takes access tokens for the records service.
func (h *Hospital) Config() client.VerifierConfig {
	return client.VerifierConfig{
		TrustDomain: Domain, Roots: []*x509.Certificate{h.Root}, Intermediates: []*x509.Certificate{h.CA}, Revocations: h.Feed,
		MaxStaleness: time.Minute, Tokens: &client.TokenConfig{Issuer: Origin, Audience: Records},
	}
}

// AccessToken is what an appliance would say for the holder of an agent's certificate.
func (h *Hospital) AccessToken(t testing.TB, leaf *x509.Certificate) chain.AccessToken {
	t.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	return chain.AccessToken{
		Issuer: Origin, Audience: ID(t, Records), JTI: "01926f5e-7c04-7abc-8def-0123456789ab", IssuedAt: now, Expiry: now.Add(5 * time.Minute),
		User: User(), Actors: []chain.ID{ID(t, Orchestrator), ID(t, ParentID), ID(t, AgentID)}, Scope: Scope(t, "database:read:patients"),
		TaskID: uuid(t, Task), GrantID: uuid(t, Grant), Serial: chain.Serial(leaf), CertificateHash: sha256.Sum256(leaf.Raw),
	}
}

// Feed is revocations as a test sets them, fresh now unless it says otherwise.
type Feed struct {
	mu      sync.Mutex
	at      time.Time
	fixed   bool
	revoked map[string]bool
}

// Revoked is of chain.Revocations.
func (f *Feed) Revoked(kind chain.RevKind, id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.revoked[fmt.Sprint(kind, " ", id)]
}

// FreshAt is of chain.Revocations.
func (f *Feed) FreshAt() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fixed {
		return f.at
	}
	return time.Now()
}

// Revoke makes a revocation known.
func (f *Feed) Revoke(kind chain.RevKind, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.revoked == nil {
		f.revoked = map[string]bool{}
	}
	f.revoked[fmt.Sprint(kind, " ", id)] = true
}

// Forget takes all of them back.
func (f *Feed) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.revoked = nil
}

// Stop leaves the feed as it was at a time; the zero time lets it go on.
func (f *Feed) Stop(at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.fixed = at, !at.IsZero()
}
