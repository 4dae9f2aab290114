package chain

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	testDomain = "hospital.example"
	testOrigin = "signet.hospital.example/log"
	testIssuer = "https://idp.hospital.example"
	testTask   = "01926f5e-7c00-7abc-8def-0123456789ab"
	testGrant  = "01926f5e-7c01-7abc-8def-0123456789ab"
)

var testNow = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// world is a hospital: a PKI, a user's grant, an orchestrator, and a chain of agents, all of it valid until a test changes it.
type world struct {
	tb           testing.TB
	rootKey, key *ecdsa.PrivateKey
	root, ca     *x509.Certificate
	hopKeys      []*ecdsa.PrivateKey
	doc          GrantDocument
	d            Delegation
	delegations  []string

	template *x509.Certificate // of the leaf
	noExt    bool
	extra    []pkix.Extension
	rawSAN   []byte
	critical bool
	der      []byte // instead of the delegation's own
}

func newKey(tb testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

func must[T any](tb testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

func mustScope(tb testing.TB, tokens ...string) Scope { return must[Scope](tb)(ParseScope(tokens)) }

func agentUUID(i int) string { return fmt.Sprintf("01926f5e-8000-7000-8000-0000000000%02x", i) }

func issueCert(tb testing.TB, template, parent *x509.Certificate, pub crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	tb.Helper()
	der := must[[]byte](tb)(x509.CreateCertificate(rand.Reader, template, parent, pub, signer))
	return must[*x509.Certificate](tb)(x509.ParseCertificate(der))
}

func caTemplate(name string, serial int64, pathLen int) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		MaxPathLen: pathLen, MaxPathLenZero: pathLen == 0, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: testNow.Add(-time.Hour), NotAfter: testNow.Add(100 * time.Hour),
	}
}

// newWorld makes a chain of hops hops (the orchestrator is one of them) below a root on the given curve.
func newWorld(tb testing.TB, hops int, rootCurve elliptic.Curve) *world {
	tb.Helper()
	w := &world{tb: tb, rootKey: newKey(tb, rootCurve), key: newKey(tb, elliptic.P256())}
	rootTemplate := caTemplate("root", 1, 1)
	w.root = issueCert(tb, rootTemplate, rootTemplate, w.rootKey.Public(), w.rootKey)
	w.ca = w.newCA(func(*x509.Certificate) {})
	scopes := []Scope{
		mustScope(tb, "database:read:*", "fhir:read:Observation:*"), mustScope(tb, "database:read:patients", "fhir:read:Observation:*"),
		mustScope(tb, "database:read:patients"),
	}
	for i := range hops {
		k := newKey(tb, elliptic.P256())
		id := must[ID](tb)(NamedID(testDomain, Orchestrator, "langgraph"))
		if i > 0 {
			id = must[ID](tb)(AgentID(testDomain, "research", agentUUID(i)))
		}
		w.hopKeys = append(w.hopKeys, k)
		w.d.Hops = append(w.d.Hops, Hop{
			ID: id.String(), SPKIHash: must[[32]byte](tb)(KeyHash(k.Public())), Scope: scopes[min(i, 2)],
			NotAfter: testNow.Add(time.Hour - time.Duration(i)*time.Minute), MaxDepth: 8 - i,
		})
	}
	w.doc = GrantDocument{
		GrantID: testGrant, Random: sha256.Sum256([]byte("random")), Origin: testOrigin, Issuer: testIssuer, ClientID: "signet-consent",
		Subject: "physician-x", TaskID: testTask, Task: "Cohort study <&> “β-blockers”", Scope: mustScope(tb, "database:read:*", "fhir:read:*"),
		MaxDepth: 8, NotAfter: testNow.Add(2 * time.Hour), AgentTypes: []string{"research", "coding"}, Orchestrator: w.d.Hops[0].ID,
		OrchestratorKey: w.d.Hops[0].SPKIHash,
	}
	w.d.TaskID = must[[16]byte](tb)(ParseUUID(testTask))
	w.d.Grant = must[Grant](tb)(w.doc.Grant(OIDCNonce, sha256.Sum256([]byte("evidence"))))
	w.sign()
	uri := must[*url.URL](tb)(url.Parse(w.last().ID))
	w.template = &x509.Certificate{
		SerialNumber: big.NewInt(0xabcdef), Subject: pkix.Name{CommonName: agentUUID(hops - 1)}, URIs: []*url.URL{uri},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		NotBefore: testNow.Add(-30 * time.Second), NotAfter: w.last().NotAfter, BasicConstraintsValid: true,
	}
	return w
}

func (w *world) last() *Hop { return &w.d.Hops[len(w.d.Hops)-1] }

func (w *world) newCA(change func(*x509.Certificate)) *x509.Certificate {
	template := caTemplate("agents", 2, 0)
	template.PermittedURIDomains, template.PermittedDNSDomainsCritical = []string{testDomain}, true
	change(template)
	return issueCert(w.tb, template, w.root, w.key.Public(), w.rootKey)
}

func (w *world) claims(i int) Claims {
	hop := w.d.Hops[i]
	id := must[ID](w.tb)(ParseID(hop.ID))
	c := Claims{
		Issuer: w.d.Hops[i-1].ID, Subject: hop.ID, Audience: testOrigin, JTI: id.AgentID(), TaskID: testTask, Scope: hop.Scope,
		Expiry: hop.NotAfter, IssuedAt: testNow.Add(-time.Minute), MaxDepth: hop.MaxDepth, KeyHash: must[[32]byte](w.tb)(Thumbprint(w.hopKeys[i].Public())),
	}
	if i == 1 {
		c.ParentHash = must[[32]byte](w.tb)(w.doc.Hash())
	} else {
		c.ParentHash = DelegationHash(w.delegations[i-1])
	}
	return c
}

// sign makes every hop's delegation afresh and names it in the certificate.
func (w *world) sign() {
	w.delegations = make([]string, len(w.d.Hops))
	for i := 1; i < len(w.d.Hops); i++ {
		w.setDelegation(i, w.claims(i))
	}
}

func (w *world) setDelegation(i int, c Claims) {
	w.delegations[i] = must[string](w.tb)(SignDelegation(w.hopKeys[i-1], c))
	sum := DelegationHash(w.delegations[i])
	w.d.Hops[i].Confirmation = &sum
}

// rawMarshal writes what Marshal would refuse.
func rawMarshal(tb testing.TB, d Delegation) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Int64(version)
		b.AddASN1OctetString(d.TaskID[:])
		b.AddASN1(asn1.SEQUENCE, d.Grant.add)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			for i := range d.Hops {
				b.AddASN1(asn1.SEQUENCE, d.Hops[i].add)
			}
		})
	})
	return must[[]byte](tb)(b.Bytes())
}

// leaf issues the certificate as the fields now say.
func (w *world) leaf() *x509.Certificate {
	w.tb.Helper()
	template := *w.template
	der := w.der
	if der == nil {
		der = rawMarshal(w.tb, w.d)
	}
	if !w.noExt {
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: OID(), Critical: w.critical, Value: der})
	}
	if w.rawSAN != nil {
		template.URIs = nil
		template.ExtraExtensions = append(template.ExtraExtensions, pkix.Extension{Id: []int{2, 5, 29, 17}, Value: w.rawSAN})
	}
	template.ExtraExtensions = append(template.ExtraExtensions, w.extra...)
	return issueCert(w.tb, &template, w.ca, w.hopKeys[len(w.hopKeys)-1].Public(), w.key)
}

// feed is a revocation state for tests.
type feed struct {
	at      time.Time
	revoked map[string]bool
}

func (f feed) FreshAt() time.Time { return f.at }

func (f feed) Revoked(kind RevKind, id string) bool { return f.revoked[fmt.Sprint(kind, id)] }

func revoked(kind RevKind, id string) feed {
	return feed{at: testNow, revoked: map[string]bool{fmt.Sprint(kind, id): true}}
}

// input is one in which all twelve checks pass, unless the world was changed.
func (w *world) input() Input {
	leaf := w.leaf()
	in := Input{
		Chain: []*x509.Certificate{leaf, w.ca}, Trust: &Trust{TrustDomain: testDomain, Roots: []*x509.Certificate{w.root}}, Now: testNow,
		RequiredScope: mustScope(w.tb, "database:read:patients"), ExpectUser: &User{Issuer: testIssuer, Subject: "physician-x"},
		ExpectOrchestrator: w.d.Hops[0].ID, Origin: testOrigin, Delegations: w.delegations,
		GrantDocument: must[[]byte](w.tb)(w.doc.Canonical()),
		Logged: func(tbs [32]byte) error {
			if tbs != TBSHash(leaf) {
				return fmt.Errorf("another certificate")
			}
			return nil
		},
		Revocation: feed{at: testNow}, MaxStaleness: time.Minute, Require: CheckNames(),
	}
	for _, k := range w.hopKeys[:len(w.hopKeys)-1] {
		in.Keys = append(in.Keys, must[[]byte](w.tb)(x509.MarshalPKIXPublicKey(k.Public())))
	}
	return in
}
