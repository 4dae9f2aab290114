package softhsmtest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/devkit"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

// lineage is a real orchestrator, agent and sub-agent with all that was signed and recorded about them, and the key of the
// CA that issued their certificates, which a forger would need.
type lineage struct {
	c       *cast
	ca      crypto.Signer
	grant   v1.Grant
	task    v1.Task
	parent  *agent
	child   *agent
	d       chain.Delegation
	jws     []string // by hop
	keys    [][]byte // by hop, without the child's
	receipt []byte   // of the child
	parents []byte   // receipt of the parent
	doc     []byte
}

func newLineage(c *cast, ca crypto.Signer) *lineage {
	c.t.Helper()
	l := &lineage{c: c, ca: ca}
	l.grant, l.task = c.task(c.orchestrator)
	hash, err := client.ParentHash(c.orchestrator.cert.Leaf, l.grant.GrantHash)
	must(c.t, err)
	l.parent = l.born("research", 2, c.orchestrator.cert, hash, func(q v1.SpawnRequest) (v1.Spawned, error) {
		return c.orchestrator.Spawn(c.t.Context(), q)
	})
	hash, err = client.ParentHash(l.parent.cert.Leaf, l.grant.GrantHash)
	must(c.t, err)
	l.child = l.born("reader", 1, l.parent.cert, hash, func(q v1.SpawnRequest) (v1.Spawned, error) {
		return c.person(l.parent.cert).Delegate(c.t.Context(), l.parent.id, q)
	})
	l.d, err = chain.Extract(l.child.cert.Leaf)
	must(c.t, err)
	told, err := c.person(l.child.cert).AgentChain(c.t.Context(), l.child.id)
	must(c.t, err)
	for _, h := range told.Delegation.Hops {
		l.jws = append(l.jws, h.Delegation)
	}
	l.keys = [][]byte{spki(c.t, c.orchestrator.cert.Certificate[0]), spki(c.t, l.parent.cert.Certificate[0])}
	l.receipt, err = c.auditor.Receipt(c.t.Context(), l.child.issued.AuditReceipt.Index, true)
	must(c.t, err)
	l.parents, err = c.auditor.Receipt(c.t.Context(), l.parent.issued.AuditReceipt.Index, true)
	must(c.t, err)
	l.doc = c.grantDocument(l.grant.GrantID)
	return l
}

// born is an agent whose delegator signed for it.
func (l *lineage) born(agentType string, depth int, by *tls.Certificate, hash [32]byte, ask func(v1.SpawnRequest) (v1.Spawned, error)) *agent {
	l.c.t.Helper()
	key, csr := newKey(l.c.t)
	q, err := spawnRequest(l.task, csr)
	must(l.c.t, err)
	q.AgentType, q.MaxDepth = agentType, depth
	q.TTL -= int64(60 * (2 - depth)) // a child ends before its parent
	q.Confirmation, err = client.SignSpawn(by, l.c.origin, hash, key.Public(), trustDomain, q, by.Leaf.NotAfter)
	must(l.c.t, err)
	issued, err := ask(q)
	must(l.c.t, err)
	cert, err := client.Certificate(issued.CertificateChain, key)
	must(l.c.t, err)
	return &agent{q.SpawnID, cert, issued}
}

// on is the same lineage in a subtest.
func (l *lineage) on(t testing.TB) *lineage {
	out := *l
	out.c = l.c.on(t)
	return &out
}

// question is one that the genuine sub-agent passes whole.
func (l *lineage) question() question {
	t := l.c.t
	return question{
		certs: []*x509.Certificate{l.child.cert.Leaf, certificate(t, l.child.issued.CertificateChain[1])}, at: time.Now().UTC().Truncate(time.Second),
		scope: []string{patients}, user: &v1.User{Issuer: l.d.Grant.Issuer, Subject: l.d.Grant.Subject}, orchestrator: l.d.Hops[0].ID,
		delegations: slices.Clone(l.jws), keys: slices.Clone(l.keys), grant: l.doc, receipt: l.receipt, staleness: time.Minute, require: chain.CheckNames(),
	}
}

// forgery is a certificate as only the holder of the CA's key can make it, in the place of the sub-agent's.
type forgery struct {
	l      *lineage
	d      chain.Delegation
	jws    []string
	ext    func([]byte) []byte // changes the extension's DER; nil removes it
	leaf   x509.Certificate    // template; its extensions but the delegation are taken over
	key    crypto.PublicKey
	issuer *x509.Certificate
	signer crypto.Signer
	crit   bool
}

// forged gives the question about a forgery. Nobody recorded it, so nobody is asked for a record.
func (l *lineage) forged(q *question, change func(f *forgery)) {
	t := l.c.t
	genuine := l.child.cert.Leaf
	f := &forgery{
		l: l, d: clone(l.d), jws: slices.Clone(l.jws), ext: bytes.Clone, key: genuine.PublicKey, issuer: q.certs[1], signer: l.ca,
		leaf: x509.Certificate{Subject: genuine.Subject, NotBefore: genuine.NotBefore, NotAfter: genuine.NotAfter},
	}
	for _, e := range genuine.Extensions {
		if !e.Id.Equal(chain.OID()) {
			f.leaf.ExtraExtensions = append(f.leaf.ExtraExtensions, e)
		}
	}
	change(f)
	if f.ext != nil {
		der, err := f.d.Marshal()
		must(t, err)
		f.leaf.ExtraExtensions = append(f.leaf.ExtraExtensions, pkix.Extension{Id: chain.OID(), Critical: f.crit, Value: f.ext(der)})
	}
	var err error
	f.leaf.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, &f.leaf, f.issuer, f.key, f.signer)
	must(t, err)
	q.certs = []*x509.Certificate{certificate(t, pemOf("CERTIFICATE", der)), f.issuer}
	q.delegations, q.receipt = f.jws, nil
	q.require = slices.DeleteFunc(slices.Clone(q.require), func(n chain.CheckName) bool { return n == chain.CheckLogged })
}

// replace swaps an extension of the certificate.
func (f *forgery) replace(oid []int, value []byte) {
	for i := range f.leaf.ExtraExtensions {
		if f.leaf.ExtraExtensions[i].Id.Equal(oid) {
			f.leaf.ExtraExtensions[i].Value = value
		}
	}
}

// sign has a delegator sign anew for a hop, which names the new statement.
func (f *forgery) sign(hop int, by crypto.Signer, change func(c *chain.Claims)) {
	t := f.l.c.t
	key, err := chain.ParseKey(f.l.keys[hop-1])
	must(t, err)
	claims, err := chain.VerifyDelegation(f.l.jws[hop], key)
	must(t, err)
	change(&claims)
	f.jws[hop], err = chain.SignDelegation(by, claims)
	must(t, err)
	sum := chain.DelegationHash(f.jws[hop])
	f.d.Hops[hop].Confirmation = &sum
}

func signerOf(t testing.TB, cert *tls.Certificate) crypto.Signer {
	t.Helper()
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		t.Fatalf("a %T cannot sign", cert.PrivateKey)
	}
	return key
}

// wrong is one way in which exactly one check fails.
type wrong struct {
	check  chain.CheckName
	code   string
	change func(l *lineage, q *question)
}

func forging(check chain.CheckName, code string, change func(f *forgery)) wrong {
	return wrong{check, code, func(l *lineage, q *question) { l.forged(q, change) }}
}

func parentSigns(f *forgery, change func(c *chain.Claims)) {
	f.sign(2, signerOf(f.l.c.t, f.l.parent.cert), change)
}

func wrongIdentities() []wrong {
	return []wrong{
		forging(chain.CheckPath, chain.CodePathUntrusted, func(f *forgery) { f.issuer, f.signer = rogueCA(f.l.c.t, f.issuer) }),
		forging(chain.CheckPath, chain.CodeSANOther, func(f *forgery) {
			uri := f.l.child.cert.Leaf.URIs[0].String()
			body := slices.Concat([]byte{0x86, byte(len(uri))}, []byte(uri), []byte{0x82, 1, 'a'})
			f.replace([]int{2, 5, 29, 17}, append([]byte{0x30, byte(len(body))}, body...))
		}),
		forging(chain.CheckPath, chain.CodeLeafExtKeyUsage, func(f *forgery) { // serverAuth alone
			f.replace([]int{2, 5, 29, 37}, []byte{0x30, 10, 6, 8, 0x2b, 6, 1, 5, 5, 7, 3, 1})
		}),
		forging(chain.CheckFormat, chain.CodeExtensionMissing, func(f *forgery) { f.ext = nil }),
		forging(chain.CheckFormat, chain.CodeExtensionCritical, func(f *forgery) { f.crit = true }),
		forging(chain.CheckFormat, chain.CodeDERTrailing, func(f *forgery) { f.ext = func(b []byte) []byte { return append(b, 0) } }),
		forging(chain.CheckFormat, chain.CodeVersion, func(f *forgery) {
			f.ext = func(b []byte) []byte { return bytes.Replace(b, []byte{2, 1, 1}, []byte{2, 1, 2}, 1) }
		}),
		forging(chain.CheckBinding, chain.CodeBindingID, func(f *forgery) {
			hop := &f.d.Hops[2]
			hop.ID = strings.Replace(hop.ID, "/reader/", "/research/", 1)
			parentSigns(f, func(c *chain.Claims) { c.Subject = hop.ID })
		}),
		forging(chain.CheckBinding, chain.CodeBindingKey, func(f *forgery) {
			key, _ := newKey(f.l.c.t)
			f.key, f.jws = key.Public(), nil // the statements are about another key too
		}),
		{chain.CheckPrincipal, chain.CodePrincipal, func(_ *lineage, q *question) {
			q.user = &v1.User{Issuer: q.user.Issuer, Subject: "somebody-else"}
		}},
		{chain.CheckPrincipal, chain.CodeOrchestratorMismatch, func(_ *lineage, q *question) { q.orchestrator += "-2" }},
	}
}

func wrongRights(t testing.TB) []wrong {
	more := func(s chain.Scope) chain.Scope {
		token, err := chain.ParseToken("database:write:patients")
		must(t, err)
		return append(slices.Clone(s), token)
	}
	return []wrong{
		forging(chain.CheckAttenuation, chain.CodeHopScope, func(f *forgery) {
			f.d.Hops[2].Scope = more(f.d.Hops[2].Scope)
			parentSigns(f, func(c *chain.Claims) { c.Scope = f.d.Hops[2].Scope })
		}),
		forging(chain.CheckDeadline, chain.CodeHopDeadline, func(f *forgery) {
			f.d.Hops[2].NotAfter = f.d.Hops[1].NotAfter.Add(time.Second)
			f.leaf.NotAfter = f.d.Hops[2].NotAfter
			parentSigns(f, func(c *chain.Claims) { c.Expiry = f.d.Hops[2].NotAfter })
		}),
		forging(chain.CheckDeadline, chain.CodeCertificateDeadline, func(f *forgery) { f.leaf.NotAfter = f.leaf.NotAfter.Add(time.Second) }),
		{chain.CheckDeadline, chain.CodeDeadlinePassed, func(_ *lineage, q *question) {
			q.at = q.certs[0].NotAfter
			q.unlimited()
		}},
		{chain.CheckDeadline, chain.CodeNotYetValid, func(_ *lineage, q *question) { q.at = q.certs[0].NotBefore.Add(-time.Second) }},
		forging(chain.CheckDepth, chain.CodeHopDepth, func(f *forgery) {
			f.d.Hops[2].MaxDepth = f.d.Hops[1].MaxDepth
			parentSigns(f, func(c *chain.Claims) { c.MaxDepth = f.d.Hops[1].MaxDepth })
		}),
		forging(chain.CheckDepth, chain.CodeDuplicateKey, func(f *forgery) {
			f.d.Hops[1].SPKIHash = f.d.Hops[2].SPKIHash
			f.jws = nil
		}),
		{chain.CheckScope, chain.CodeScopeNotCovered, func(_ *lineage, q *question) { q.scope = []string{patients, "database:read:billing"} }},
	}
}

func wrongRecords() []wrong {
	return []wrong{
		{chain.CheckConfirmation, chain.CodeConfirmationHash, func(_ *lineage, q *question) { q.delegations[2] = q.delegations[1] }},
		{chain.CheckConfirmation, chain.CodeDelegatorKey, func(_ *lineage, q *question) { q.keys[1] = q.keys[0] }},
		{chain.CheckConfirmation, chain.CodeGrantDocument, func(_ *lineage, q *question) { q.grant = append(bytes.Clone(q.grant), ' ') }},
		forging(chain.CheckConfirmation, chain.CodeConfirmationInvalid, func(f *forgery) {
			f.sign(2, signerOf(f.l.c.t, f.l.c.orchestrator.cert), func(*chain.Claims) {})
		}),
		forging(chain.CheckConfirmation, chain.CodeConfirmationTask, func(f *forgery) {
			parentSigns(f, func(c *chain.Claims) { c.TaskID = f.l.grant.GrantID })
		}),
		forging(chain.CheckConfirmation, chain.CodeConfirmationAudience, func(f *forgery) {
			parentSigns(f, func(c *chain.Claims) { c.Audience += "/2" })
		}),
		// The forgery is perfect, and the log does not know it; a receipt of the parent does not help.
		{chain.CheckLogged, chain.CodeNotLogged, func(l *lineage, q *question) {
			l.forged(q, func(*forgery) {})
			q.receipt, q.require = l.parents, chain.CheckNames()
		}},
		{chain.CheckFreshness, chain.CodeRevocationsStale, func(_ *lineage, q *question) { q.at = q.at.Add(90 * time.Second) }},
	}
}

// unlimited takes whatever is known of revocations.
func (q *question) unlimited() {
	q.staleness = 0
	q.require = slices.DeleteFunc(slices.Clone(q.require), func(n chain.CheckName) bool { return n == chain.CheckFreshness })
}

// rogueCA says of itself all that the real one does.
func rogueCA(t testing.TB, like *x509.Certificate) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := *like
	template.PublicKey = key.Public()
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, key.Public(), key)
	must(t, err)
	return certificate(t, pemOf("CERTIFICATE", der)), key
}

// TestEachCheckFailsAlone judges certificates of the appliance's own CA, each wrong in one way, through the library, the API
// and the auditor's command. All three must say the same, and only that.
func TestEachCheckFailsAlone(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	l := newLineage(c, stolenCA(t, dir))
	s := newSurfaces(c, dir, l.question().certs[1], l.receipt)
	if v := s.ask(t, l.question()); !v.valid || len(v.checks) != 12 {
		t.Fatalf("the genuine chain: %+v", v)
	}
	perfect := l.question()
	l.forged(&perfect, func(*forgery) {})
	if v := s.ask(t, perfect); !v.valid {
		t.Fatalf("a forgery with nothing wrong but its record, which nobody asks for: %+v", v)
	}
	seen := map[chain.CheckName]bool{chain.CheckRevocation: true} // below
	for _, w := range slices.Concat(wrongIdentities(), wrongRights(t), wrongRecords()) {
		seen[w.check] = true
		t.Run(string(w.check)+"/"+w.code, func(t *testing.T) {
			l := l.on(t)
			q := l.question()
			w.change(l, &q)
			s.alone(t, q, w.check, w.code)
		})
	}
	for _, n := range chain.CheckNames() {
		if !seen[n] {
			t.Errorf("no row for %s", n)
		}
	}
	t.Run("re-keyed", func(t *testing.T) { rekeyed(t, l.on(t), s) })
	t.Run("unreadable", func(t *testing.T) { unreadable(t, l.on(t), s) })
	t.Run("revocation", func(t *testing.T) { revokedAlone(t, l.on(t), s) })
}

// alone wants one failure and nothing else.
func (s *surfaces) alone(t *testing.T, q question, check chain.CheckName, code string) {
	t.Helper()
	v := s.ask(t, q)
	if want := []string{string(check) + " " + code}; v.valid || !slices.Equal(v.failures(), want) {
		t.Errorf("want %v alone: %+v", want, v)
	}
}

// rekeyed: the sub-agent's next key is confirmed by the link that its first one signed, and by nothing else.
func rekeyed(t *testing.T, l *lineage, s *surfaces) {
	key, csr := newKey(t)
	link, err := client.SignRekey(l.child.cert, l.c.origin, key.Public())
	must(t, err)
	issued, err := l.c.person(l.child.cert).Rekey(t.Context(), l.child.id, link, csr)
	must(t, err)
	cert, err := client.Certificate(issued.CertificateChain, key)
	must(t, err)
	told, err := l.c.person(cert).AgentChain(t.Context(), l.child.id)
	must(t, err)
	q := l.question()
	q.certs[0] = cert.Leaf
	for _, h := range told.Delegation.Hops {
		q.links = append(q.links, append([]v1.Link{}, h.Links...))
	}
	q.receipt, err = l.c.auditor.Receipt(t.Context(), issued.AuditReceipt.Index, true)
	must(t, err)
	if v := s.ask(t, q); !v.valid {
		t.Errorf("%+v", v)
	}
	q.links = nil
	s.alone(t, q, chain.CheckConfirmation, chain.CodeConfirmationChildKey)
}

// unreadable: an extension that is there twice is no certificate to any of the three (RFC 5280 §4.2).
func unreadable(t *testing.T, l *lineage, s *surfaces) {
	for _, oid := range [][]int{chain.OID(), {2, 5, 29, 17}} {
		template := x509.Certificate{SerialNumber: big.NewInt(7), NotBefore: l.child.cert.Leaf.NotBefore, NotAfter: l.child.cert.Leaf.NotAfter}
		for _, e := range l.child.cert.Leaf.Extensions {
			template.ExtraExtensions = append(template.ExtraExtensions, e)
			if e.Id.Equal(oid) {
				template.ExtraExtensions = append(template.ExtraExtensions, e)
			}
		}
		der, err := x509.CreateCertificate(rand.Reader, &template, s.ca, l.child.cert.Leaf.PublicKey, l.ca)
		must(t, err)
		text := pemOf("CERTIFICATE", der)
		if _, err := chain.ParsePEM([]byte(text), 1); !errors.Is(err, chain.ErrCertificates) {
			t.Errorf("chain: %v", err)
		}
		_, err = l.c.service.Verify(t.Context(), v1.VerifyRequest{CertificateChain: []string{text}})
		if err := refusedWith(err, "bad_certificate"); err != nil {
			t.Errorf("POST /v1/verify: %v", err)
		}
		out, code := command(t, "", nil, program("signet-verify"), "cert", "--root", filepath.Join(s.dir, "root.pem"), s.write("twice.pem", []byte(text)))
		if code != 2 {
			t.Errorf("signet-verify: exit %d: %s", code, out)
		}
	}
}

// revokedAlone revokes ever more, since the broadest has the say.
func revokedAlone(t *testing.T, l *lineage, s *surfaces) {
	name := l.d.Hops[0].ID[strings.LastIndex(l.d.Hops[0].ID, "/")+1:]
	for _, row := range []struct {
		code string
		what v1.RevocationRequest
	}{
		{chain.CodeCertificateRevoked, v1.RevocationRequest{Kind: "certificate", ID: chain.Serial(l.child.cert.Leaf)}},
		{chain.CodeAgentRevoked, v1.RevocationRequest{Kind: "agent", ID: l.child.id}},
		{chain.CodeSubtreeRevoked, v1.RevocationRequest{Kind: "subtree", ID: l.parent.id}},
		{chain.CodeParentRevoked, v1.RevocationRequest{Kind: "agent", ID: l.parent.id}},
		{chain.CodeOrchestratorRevoked, v1.RevocationRequest{Kind: "orchestrator", ID: name}},
		{chain.CodeTaskRevoked, v1.RevocationRequest{Kind: "task", ID: l.task.TaskID}},
		{chain.CodeGrantRevoked, v1.RevocationRequest{Kind: "grant", ID: l.grant.GrantID}},
		{chain.CodeUserRevoked, v1.RevocationRequest{Kind: "user", User: &v1.User{Issuer: l.d.Grant.Issuer, Subject: l.d.Grant.Subject}}},
	} {
		_, err := l.c.operator.Revoke(t.Context(), row.what)
		must(t, err)
		s.alone(t, l.question(), chain.CheckRevocation, row.code)
	}
}

// stolenCA is the agent CA's own key, reached with its PIN.
func stolenCA(t *testing.T, dir string) crypto.Signer {
	t.Helper()
	module := softhsm.New(t).Module()
	devices := filepath.Join(dir, "devices")
	t.Setenv("SOFTHSM2_CONF", filepath.Join(devices, "softhsm2.conf"))
	token, err := hsm.Open(t.Context(), hsm.Config{
		Module: module, Token: devkit.TokenIssuing, PINFile: devkit.PINFile(devices, devkit.TokenIssuing),
	}, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { must(t, token.Close()) })
	ca, err := token.Signer(t.Context(), "pkcs11:token="+devkit.TokenIssuing+";object=agent-ca-1")
	must(t, err)
	return ca
}
