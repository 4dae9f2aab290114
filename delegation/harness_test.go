package delegation_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/ca"
	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/ca/lint"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/workload"
	"github.com/signet-pki/signet/internal/testrig/policyschema"
	"github.com/signet-pki/signet/policy"
)

const trustDomain = "test.signet.example"

// memoryLog is a log with teeth: it checks preconditions at commit as the real one does, and can be told to fail.
type memoryLog struct {
	mu      sync.Mutex
	state   map[string][]byte
	entries []record.Entry
	fail    error
}

func (l *memoryLog) Append(_ context.Context, e record.Entry) (delegation.Position, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return delegation.Position{}, l.fail
	}
	env, err := e.Check()
	if err != nil {
		return delegation.Position{}, err
	}
	if terms, err := record.TermsOf(env); err != nil || !slices.Equal(terms, e.Terms) {
		return delegation.Position{}, fmt.Errorf("terms %v, from the entry alone %v: %w", e.Terms, terms, err)
	}
	for _, m := range e.Mutations {
		if err := l.holds(m); err != nil {
			return delegation.Position{}, fmt.Errorf("precondition on %q: %w", m.Key, err)
		}
	}
	l.apply(e.Mutations)
	l.entries = append(l.entries, e)
	return delegation.Position{Index: uint64(len(l.entries) - 1), LeafHash: record.LeafHash(e.Envelope)}, nil
}

func (l *memoryLog) holds(m record.Mutation) error {
	v, ok := l.state[m.Key]
	switch m.Pre.Op {
	case record.Absent:
		if ok {
			return m.Pre.Err
		}
	case record.Present:
		if !ok {
			return m.Pre.Err
		}
	case record.Equal:
		if !ok || !bytes.Equal(v, m.Pre.Value) {
			return m.Pre.Err
		}
	case record.None:
	}
	return nil
}

func (l *memoryLog) apply(ms []record.Mutation) {
	for _, m := range ms {
		switch {
		case m.CheckOnly:
		case m.Delete:
			delete(l.state, m.Key)
		default:
			l.state[m.Key] = m.Value
		}
	}
}

func (l *memoryLog) Put(_ context.Context, ms []record.Mutation) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail != nil {
		return l.fail
	}
	for _, m := range ms {
		if err := l.holds(m); err != nil {
			return fmt.Errorf("precondition on %q: %w", m.Key, err)
		}
	}
	l.apply(ms)
	return nil
}

func (l *memoryLog) Get(key string) ([]byte, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v, ok := l.state[key]
	return v, ok, nil
}

func (l *memoryLog) Scan(_ context.Context, prefix, after string, limit int, fn func(string, []byte) error) error {
	l.mu.Lock()
	var keys []string
	for k := range l.state {
		if strings.HasPrefix(k, prefix) && k > after {
			keys = append(keys, k)
		}
	}
	sort.Strings(keys)
	values := make([][]byte, 0, len(keys))
	for _, k := range keys {
		values = append(values, l.state[k])
	}
	l.mu.Unlock()
	for i, k := range keys[:min(limit, len(keys))] {
		if err := fn(k, values[i]); err != nil {
			return err
		}
	}
	return nil
}

// last is the newest entry.
func (l *memoryLog) last(t *testing.T) record.Envelope {
	t.Helper()
	l.mu.Lock()
	n := len(l.entries)
	l.mu.Unlock()
	return l.entry(t, uint64(n)-1)
}

func (l *memoryLog) entry(t *testing.T, index uint64) record.Envelope {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if index >= uint64(len(l.entries)) {
		t.Fatalf("the log has no entry %d", index)
	}
	env, err := record.Check(l.entries[index].Envelope)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func (l *memoryLog) count(typ record.Type) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, e := range l.entries {
		if env, err := record.Check(e.Envelope); err == nil && env.Type == typ {
			n++
		}
	}
	return n
}

// softKeys makes the ceremony's keys in memory.
type softKeys map[string]crypto.Signer

func (k softKeys) Generate(_ context.Context, _ ceremony.Role, label string) (crypto.Signer, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	k[label] = key
	return key, "test:" + label, err
}

// certifier issues with real CAs over software keys; failing makes every signature fail.
type certifier struct {
	agents, services *ca.Issuer
	now              func() time.Time
	failing          bool
}

type prepared struct {
	*ca.Prepared
	issuer *ca.Issuer
}

func (p prepared) Facts() delegation.Facts {
	return delegation.Facts{Serial: p.Serial(), NotBefore: p.NotBefore(), NotAfter: p.NotAfter(), IssuerSPKIHash: chain.SPKIHash(p.issuer.Certificate())}
}

func (c *certifier) Prepare(t delegation.Template) (delegation.Prepared, error) {
	if t.ID.Kind() == chain.Agent {
		p, err := c.agents.PrepareAgent(ca.AgentRequest{SPIFFEID: t.ID.String(), CommonName: t.ID.AgentID(), SPKI: t.SPKI, NotAfter: t.NotAfter, Delegation: t.Delegation}, c.now())
		return prepared{p, c.agents}, err
	}
	p, err := c.services.PrepareService(ca.ServiceRequest{SPIFFEID: t.ID.String(), CommonName: t.ID.Name(), SPKI: t.SPKI, NotAfter: t.NotAfter}, c.now())
	return prepared{p, c.services}, err
}

func (c *certifier) Resume(k chain.Kind, tbs []byte) (delegation.Prepared, error) {
	i := c.services
	if k == chain.Agent {
		i = c.agents
	}
	p, err := i.Resume(tbs)
	return prepared{p, i}, err
}

func (c *certifier) Issue(ctx context.Context, p delegation.Prepared) ([][]byte, error) {
	if c.failing {
		return nil, errors.New("the token is gone")
	}
	own := p.(prepared) //nolint:errcheck,forcetypeassert // made above
	cert, err := own.issuer.Issue(ctx, own.Prepared)
	if err != nil {
		return nil, err
	}
	return cert.Chain, nil
}

func (c *certifier) Limit(chain.Kind) time.Time { return c.now().Add(24 * time.Hour) }

// rules is a policy that a test switches.
type rules struct {
	mu     sync.Mutex
	deny   []string
	seen   policy.Input // the last that it was asked
	schema *policyschema.Schema
	t      *testing.T

	obligations, advice []json.RawMessage
}

func (r *rules) Decide(_ context.Context, in policy.Input) policy.Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = in
	// Whatever the domain asks is as documented.
	if b, err := json.Marshal(in); err != nil {
		r.t.Error(err)
	} else if err := r.schema.Check(b); err != nil {
		r.t.Errorf("policy was asked %s: %v", b, err)
	}
	if len(r.deny) > 0 {
		return policy.Decision{Reasons: r.deny, Digest: "00", Advice: r.advice}
	}
	return policy.Decision{Allow: true, Digest: "00", Obligations: r.obligations, Advice: r.advice}
}

func catalogue(t *testing.T) chain.Catalogue {
	t.Helper()
	c, err := chain.ParseCatalogue([]string{"database:read:patients", "database:read:billing"})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// rig is a Service with everything around it.
type rig struct {
	t          *testing.T
	s          *delegation.Service
	log        *memoryLog
	certifier  *certifier
	statements *statements
	rules      *rules
	ready      error
	signing    error
	provider   error
	limits     delegation.Limits
	proofs     proofs
	clock      time.Time
	skew       atomic.Int64           // nanoseconds
	onClock    atomic.Pointer[func()] // done once, before the clock is read next
	operator   delegation.Caller
	roots      *chain.Trust
	workloads  map[string]*workload.Issuer
	tpm        delegation.TPM
	bundles    delegation.Bundles
	archive    delegation.Archive
	damaged    bool // the test changed the state behind the log's back
}

// now is the clock; what runs beside the test reads it too, so such a test moves skew.
func (r *rig) now() time.Time {
	if f := r.onClock.Swap(nil); f != nil {
		(*f)()
	}
	return r.clock.Add(time.Duration(r.skew.Load()))
}

// identity is a key with its certificate.
type identity struct {
	key   *ecdsa.PrivateKey
	certs []*x509.Certificate
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{
		t: t, log: &memoryLog{state: map[string][]byte{}}, rules: &rules{t: t}, limits: delegation.DefaultLimits(),
		clock: time.Now().UTC().Truncate(time.Second),
	}
	var err error
	if r.rules.schema, err = policyschema.Load(); err != nil {
		t.Fatal(err)
	}
	operatorKey := newKey(t)
	keys := softKeys{}
	result := r.ceremony(keys, operatorKey)
	r.statements = &statements{key: keys["jwt"]}
	r.certifier = &certifier{now: r.now}
	r.certifier.agents = r.issuer(result.AgentCAs[0], keys, result.Root.Leaf, lint.Agent)
	r.certifier.services = r.issuer(result.ServiceCAs[0], keys, result.Root.Leaf, lint.Service)
	first, err := delegation.FirstOperator(result.Operator.Leaf, result.ServiceCAs[0].Leaf, r.clock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.log.Append(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	r.roots, err = chain.NewTrust(trustDomain, []*x509.Certificate{result.Root.Leaf}, []*x509.Certificate{result.AgentCAs[0].Leaf, result.ServiceCAs[0].Leaf})
	if err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.operator = r.auth(identity{operatorKey, []*x509.Certificate{result.Operator.Leaf}})
	t.Cleanup(func() { r.replays() })
	return r
}

func pseudonym(iss, sub string) string {
	s := sha256.Sum256([]byte(iss + sub))
	return hex.EncodeToString(s[:])
}

// restart makes a new Service on the same log.
func (r *rig) restart() { r.start(r.log) }

func (r *rig) start(log delegation.Log) {
	r.t.Helper()
	var err error
	r.s, err = delegation.New(r.t.Context(), delegation.Config{
		Origin: trustDomain + "/log", Trust: r.roots, Log: log, Records: r.log, Archive: r.archive, Certifier: r.certifier, Statements: r.statements, Policy: r.policy(), Bundles: r.bundles,
		Resources: catalogue(r.t),
		Ready:     func() error { return r.ready }, Signing: func() error { return r.signing }, Workloads: r.workloads, TPM: r.tpm,
		Provider:  func(context.Context) error { return r.provider },
		Proofs:    &r.proofs,
		Pseudonym: pseudonym,
		Clients:   map[string]string{"https://idp.example": "consent"}, Limits: r.limits,
		Now: r.now, Rand: rand.Reader, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		r.t.Fatal(err)
	}
}

// policy is what a test switches, or what bundles do.
func (r *rig) policy() delegation.Policy {
	if e, ok := r.bundles.(*engines); ok {
		return &e.active
	}
	return r.rules
}

func (r *rig) ceremony(keys softKeys, operator *ecdsa.PrivateKey) ceremony.Result {
	r.t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(operator.Public())
	if err != nil {
		r.t.Fatal(err)
	}
	plan, err := ceremony.ParsePlan(ceremony.Config{
		TrustDomain: trustDomain, Origin: trustDomain + "/log",
		Root:       ceremony.RootConfig{CommonName: "test root", ValidityDays: 100},
		AgentCAs:   ceremony.SeriesConfig{Count: 1, ValidityDays: 50, OverlapDays: 10},
		ServiceCAs: ceremony.ServiceCAsConfig{SeriesConfig: ceremony.SeriesConfig{Count: 1, ValidityDays: 50, OverlapDays: 40}},
		Operator: ceremony.OperatorConfig{
			Name: "admin", ValidityDays: 30, PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})),
		},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	result, err := ceremony.Run(r.t.Context(), plan, keys, newKey(r.t).Public(), r.clock)
	if err != nil {
		r.t.Fatal(err)
	}
	return result
}

func (r *rig) issuer(c ceremony.Certificate, keys softKeys, root *x509.Certificate, kind lint.Kind) *ca.Issuer {
	r.t.Helper()
	p := ca.Profile{Issues: kind, TrustDomain: trustDomain, MaxLifetime: 40 * 24 * time.Hour}
	if kind == lint.Agent {
		p.DelegationOID = chain.OID()
	}
	i, err := ca.NewIssuer(c.Leaf, keys[c.Name], []*x509.Certificate{root}, p)
	if err != nil {
		r.t.Fatal(err)
	}
	return i
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csr(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func (r *rig) auth(id identity) delegation.Caller {
	r.t.Helper()
	c, err := r.s.Authenticate(id.certs)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) identity(key *ecdsa.PrivateKey, ders [][]byte) identity {
	r.t.Helper()
	certs, err := chain.ParseDER(ders, chain.MaxChain)
	if err != nil {
		r.t.Fatal(err)
	}
	return identity{key, certs}
}

// orchestrator registers and attests one.
func (r *rig) orchestrator(name string) identity {
	r.t.Helper()
	reg, err := r.s.Register(r.t.Context(), r.operator, chain.Orchestrator, delegation.Registration{Name: name, AgentTypes: []string{"research", "reader"}})
	if err != nil {
		r.t.Fatal(err)
	}
	key := newKey(r.t)
	out, err := r.s.Attest(r.t.Context(), delegation.Attestation{Name: name, Method: "join_token", Token: reg.JoinToken, CSR: csr(r.t, key)})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.identity(key, out.Chain)
}

func (r *rig) service(name string) delegation.Caller {
	r.t.Helper()
	key := newKey(r.t)
	reg, err := r.s.Register(r.t.Context(), r.operator, chain.Service, delegation.Registration{Name: name, CSR: csr(r.t, key)})
	if err != nil {
		r.t.Fatal(err)
	}
	return r.auth(r.identity(key, reg.Issued.Chain))
}

func scope(t *testing.T, tokens ...string) chain.Scope {
	t.Helper()
	s, err := chain.ParseScope(tokens)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// task gets a consented grant and opens its task.
func (r *rig) task(orch identity) delegation.Task {
	r.t.Helper()
	by := r.auth(orch)
	g, err := r.s.RequestGrant(r.t.Context(), by, delegation.GrantRequest{
		Purpose: "look into outcomes", Scope: scope(r.t, "database:read:*"), NotAfter: r.clock.Add(time.Hour), MaxDepth: 3,
		AgentTypes: []string{"research", "reader"},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.approve(g.ID)
	task, err := r.s.OpenTask(r.t.Context(), by, delegation.TaskRequest{GrantID: g.ID})
	if err != nil {
		r.t.Fatal(err)
	}
	return task
}

func (r *rig) approve(grantID string) {
	r.t.Helper()
	if err := r.tryApprove(grantID); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) tryApprove(grantID string) error {
	doc, err := r.s.GrantDocument(grantID, "https://idp.example", "physician-1")
	if err != nil {
		return err
	}
	return r.s.Approve(r.t.Context(), grantID, delegation.Approval{
		Type:     chain.OIDCNonce,
		User:     delegation.User{Issuer: "https://idp.example", Subject: "physician-1", Roles: []string{"analyst"}},
		Document: doc, Evidence: []byte("evidence"),
	})
}

func (r *rig) newID() string {
	r.t.Helper()
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		r.t.Fatal(err)
	}
	b[6], b[8] = b[6]&0x0f|0x70, b[8]&0x3f|0x80
	return chain.FormatUUID(b)
}

// request is a spawn that succeeds.
func (r *rig) request(task delegation.Task, key *ecdsa.PrivateKey) delegation.SpawnRequest {
	return delegation.SpawnRequest{
		TaskID: task.ID, SpawnID: r.newID(), AgentType: "research", Scope: scope(r.t, "database:read:patients"),
		TTL: 5 * time.Minute, MaxDepth: 1, CSR: csr(r.t, key),
	}
}

func (r *rig) spawn(orch identity, task delegation.Task) identity {
	r.t.Helper()
	key := newKey(r.t)
	out, err := r.s.Spawn(r.t.Context(), r.auth(orch), r.request(task, key))
	if err != nil {
		r.t.Fatal(err)
	}
	return r.identity(key, out.Chain)
}

// code is the refusal's code.
func code(t *testing.T, err error) string {
	t.Helper()
	var e *delegation.Error
	if !errors.As(err, &e) {
		t.Fatalf("not a refusal: %v", err)
	}
	return e.Code
}
