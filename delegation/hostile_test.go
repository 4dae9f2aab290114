package delegation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// hookLog lets a test act between a read and a commit, or lose the answer of a commit.
type hookLog struct {
	*memoryLog
	beforeGet    func(key string)
	beforeAppend func(e record.Entry)
	beforePut    func()
	afterAppend  func(e record.Entry) error
}

func (l *hookLog) Get(k string) ([]byte, bool, error) {
	if f := l.beforeGet; f != nil {
		f(k)
	}
	return l.memoryLog.Get(k)
}

func (l *hookLog) Put(ctx context.Context, m []record.Mutation) error {
	if f := l.beforePut; f != nil {
		f()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return l.memoryLog.Put(ctx, m)
}

func (l *hookLog) Append(ctx context.Context, e record.Entry) (delegation.Position, error) {
	if f := l.beforeAppend; f != nil {
		f(e)
	}
	if err := ctx.Err(); err != nil {
		return delegation.Position{}, err
	}
	p, err := l.memoryLog.Append(ctx, e)
	if f := l.afterAppend; err == nil && f != nil {
		if err := f(e); err != nil {
			return delegation.Position{}, err
		}
	}
	return p, err
}

// hooked restarts the service on a log with hooks.
func (r *rig) hooked() *hookLog {
	h := &hookLog{memoryLog: r.log}
	r.start(h)
	return h
}

func typeOf(t *testing.T, e record.Entry) record.Type {
	t.Helper()
	env, err := record.Check(e.Envelope)
	if err != nil {
		t.Fatal(err)
	}
	return env.Type
}

func (r *rig) decide(by delegation.Caller, a identity) delegation.Decision {
	r.t.Helper()
	d, err := r.s.Decide(r.t.Context(), by, delegation.DecisionRequest{Chain: a.certs, ResourceType: "database", ResourceID: "patients", Action: "read"})
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

func (r *rig) revoke(kind chain.RevKind, id string) {
	r.t.Helper()
	if _, err := r.s.Revoke(r.t.Context(), r.operator, delegation.RevokeRequest{Kind: kind, ID: id}); err != nil {
		r.t.Fatal(err)
	}
}

// grantFor asks for a grant of the given length.
func (r *rig) grantFor(by delegation.Caller, d time.Duration) delegation.Grant {
	r.t.Helper()
	g, err := r.s.RequestGrant(r.t.Context(), by, delegation.GrantRequest{
		Purpose: "p", Scope: scope(r.t, "database:read:*"), NotAfter: r.clock.Add(d), MaxDepth: 3, AgentTypes: []string{"research"},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return g
}

// expire deletes a key when its time has come, as the log does, and moves the clock there.
func (r *rig) expire(key string) {
	r.t.Helper()
	var at time.Time
	for _, e := range r.log.entries {
		for _, m := range e.Mutations {
			if m.Key == key {
				at = m.Expires
			}
		}
	}
	r.clock = at.Add(time.Second)
	r.log.apply([]record.Mutation{{Key: key, Delete: true}})
}

func TestRetryAfterRevocationIsRefused(t *testing.T) {
	for kind, id := range map[chain.RevKind]func(delegation.Task) string{
		chain.RevGrant:        func(task delegation.Task) string { return task.GrantID },
		chain.RevUser:         func(delegation.Task) string { return chain.UserID("https://idp.example", "physician-1") },
		chain.RevOrchestrator: func(delegation.Task) string { return "lab" },
	} {
		t.Run(kind.String(), func(t *testing.T) {
			r := newRig(t)
			orch := r.orchestrator("lab")
			by := r.auth(orch)
			task := r.task(orch)
			q := r.request(task, newKey(t))
			r.certifier.failing = true
			if _, err := r.s.Spawn(t.Context(), by, q); code(t, err) != "signing_failed" {
				t.Fatal(err)
			}
			r.certifier.failing = false
			r.revoke(kind, id(task))
			if _, err := r.s.Spawn(t.Context(), by, q); code(t, err) != kind.String()+"_revoked" {
				t.Errorf("the retry: %v", err)
			}
		})
	}
}

// A certificate that is released for the first time by a retry has an entry after the one that says that it failed.
func TestRetryAfterFailureIsRecorded(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	q := r.request(r.task(orch), newKey(t))
	by := r.auth(orch)
	r.certifier.failing = true
	if _, err := r.s.Spawn(t.Context(), by, q); code(t, err) != "signing_failed" {
		t.Fatal(err)
	}
	r.certifier.failing = false
	issued := r.log.count(record.TypeIssue)
	out, err := r.s.Spawn(t.Context(), by, q)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.log.count(record.TypeIssue) - issued; got != 1 {
		t.Errorf("%d entries for the release", got)
	}
	again, err := r.s.Spawn(t.Context(), by, q)
	if err != nil || again.Position != out.Position {
		t.Errorf("a second retry names entry %d, not %d (%v)", again.Position.Index, out.Position.Index, err)
	}
}

// The caller who asked for a revocation may hang up, and the log may not say in time that it wrote it.
func TestRevocationHoldsWhenItsAnswerIsLost(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task, other := r.task(orch), r.task(orch)
	a, b := r.spawn(orch, task), r.spawn(orch, other)
	records := r.service("records")
	h := r.hooked()
	h.afterAppend = func(e record.Entry) error {
		if typeOf(t, e) == record.TypeRevoke {
			return fmt.Errorf("%w: too late", delegation.ErrUnknown)
		}
		return nil
	}
	if _, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevTask, ID: task.ID}); code(t, err) != "outcome_unknown" {
		t.Errorf("%v", err)
	}
	if d := r.decide(records, a); d.Allow || d.Reasons[0] != chain.CodeTaskRevoked {
		t.Errorf("allow %v for %v", d.Allow, d.Reasons)
	}
	h.afterAppend = nil
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	if _, err := r.s.Revoke(gone, r.operator, delegation.RevokeRequest{Kind: chain.RevTask, ID: other.ID}); err != nil {
		t.Errorf("a revocation whose caller is gone: %v", err)
	}
	if d := r.decide(records, b); d.Allow {
		t.Error("the caller hung up, and the task is not revoked")
	}
}

func TestDecisionSeesRevocationAtCommit(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	agent := r.spawn(orch, task)
	records := r.service("records")
	h := r.hooked()
	h.beforeAppend = func(e record.Entry) {
		if typeOf(t, e) == record.TypeDecision {
			h.beforeAppend = nil
			r.revoke(chain.RevTask, task.ID)
		}
	}
	d := r.decide(records, agent)
	if d.Allow || d.Position == nil || d.Reasons[0] != chain.CodeTaskRevoked {
		t.Errorf("decision %+v after the revocation", d)
	}
}

func TestOneOfTwoApprovalsWins(t *testing.T) {
	r := newRig(t)
	by := r.auth(r.orchestrator("lab"))
	g := r.grantFor(by, time.Hour)
	h := r.hooked()
	doc, err := r.s.GrantDocument(g.ID, "https://idp.example", "mallory")
	if err != nil {
		t.Fatal(err)
	}
	h.beforeAppend = func(record.Entry) {
		h.beforeAppend = nil
		r.approve(g.ID)
	}
	err = r.s.Approve(t.Context(), g.ID, delegation.Approval{
		Type: chain.OIDCNonce,
		User: delegation.User{Issuer: "https://idp.example", Subject: "mallory", Roles: []string{"analyst"}}, Document: doc, Evidence: []byte("m"),
	})
	if code(t, err) != "grant_not_pending" {
		t.Errorf("the second approval: %v", err)
	}
	if v, _, _ := r.log.Get("grant/" + g.ID); strings.Contains(string(v), "mallory") {
		t.Error("the second user replaced the first")
	}
}

func TestDeclineLeavesAnActiveGrant(t *testing.T) {
	r := newRig(t)
	by := r.auth(r.orchestrator("lab"))
	g := r.grantFor(by, time.Hour)
	h := r.hooked()
	h.beforePut = func() {
		h.beforePut = nil
		r.approve(g.ID)
	}
	if err := r.s.Decline(t.Context(), physician1, g.ID); code(t, err) != "grant_not_pending" {
		t.Errorf("declined after the approval: %v", err)
	}
	if _, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: g.ID}); err != nil {
		t.Error(err)
	}
}

func TestRevokedCannotConsent(t *testing.T) {
	for kind, id := range map[chain.RevKind]func(string) string{
		chain.RevGrant:        func(g string) string { return g },
		chain.RevUser:         func(string) string { return chain.UserID("https://idp.example", "physician-1") },
		chain.RevOrchestrator: func(string) string { return "lab" },
	} {
		t.Run(kind.String(), func(t *testing.T) {
			r := newRig(t)
			g := r.grantFor(r.auth(r.orchestrator("lab")), time.Hour)
			r.revoke(kind, id(g.ID))
			if err := r.tryApprove(g.ID); code(t, err) != kind.String()+"_revoked" {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestAGrantHasOneTaskEver(t *testing.T) {
	r := newRig(t)
	by := r.auth(r.orchestrator("lab"))
	g := r.grantFor(by, 20*time.Hour)
	r.approve(g.ID)
	task, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: g.ID, Scope: scope(t, "database:read:patients"), NotAfter: r.clock.Add(time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	r.expire("task/" + task.ID)
	if _, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: g.ID}); err == nil {
		t.Error("the task of a grant was opened a second time, wider and longer")
	}
}

func TestASpawnIDIsUsedOnceInTheLifeOfItsTask(t *testing.T) {
	r := newRig(t)
	by := r.auth(r.orchestrator("lab"))
	g := r.grantFor(by, 20*time.Hour)
	r.approve(g.ID)
	task, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: g.ID})
	if err != nil {
		t.Fatal(err)
	}
	q := r.request(task, newKey(t))
	if _, err := r.s.Spawn(t.Context(), by, q); err != nil {
		t.Fatal(err)
	}
	r.expire("agent/" + q.SpawnID)
	again := r.request(task, newKey(t))
	again.SpawnID = q.SpawnID
	if _, err := r.s.Spawn(t.Context(), by, again); err == nil {
		t.Error("an agent's id was given to a second key")
	}
}

func TestSubAgentsKeepToTheRegistration(t *testing.T) {
	r := newRig(t)
	reg, err := r.s.Register(t.Context(), r.operator, chain.Orchestrator, delegation.Registration{Name: "narrow", AgentTypes: []string{"research"}})
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	out, err := r.s.Attest(t.Context(), delegation.Attestation{Name: "narrow", Method: "join_token", Token: reg.JoinToken, CSR: csr(t, key)})
	if err != nil {
		t.Fatal(err)
	}
	orch := r.identity(key, out.Chain)
	task := r.task(orch) // the grant names research and reader
	parent := r.spawn(orch, task)
	by := r.auth(parent)
	lineage, err := r.s.AgentChain(t.Context(), by, by.ID.AgentID())
	if err != nil {
		t.Fatal(err)
	}
	child := newKey(t)
	q := r.request(task, child)
	q.AgentType, q.MaxDepth, q.TTL = "reader", 0, time.Minute
	q.Confirmation = r.jws(parent, q, lineage.GrantHash, child)
	if _, err := r.s.Delegate(t.Context(), by, by.ID.AgentID(), q); code(t, err) != "agent_type_not_allowed" {
		t.Errorf("a sub-agent of a type that the registration forbids: %v", err)
	}
}

// What is accepted as a revocation is in force, however it was spelled; what names nothing is refused.
func TestRevocationIDs(t *testing.T) {
	for name, tc := range map[string]struct {
		kind chain.RevKind
		id   func(a identity) string
		want string // "" is in force
	}{
		"serial as openssl prints it": {chain.RevCertificate, func(a identity) string { return strings.ToUpper(chain.Serial(a.certs[0])) }, ""},
		"SPIFFE ID of orchestrator":   {chain.RevOrchestrator, func(identity) string { return "spiffe://" + trustDomain + "/orchestrator/lab" }, ""},
		"unknown orchestrator":        {chain.RevOrchestrator, func(identity) string { return "Lab" }, "orchestrator_not_found"},
		"another issuer":              {chain.RevUser, func(identity) string { return chain.UserID("https://idp.example/", "physician-1") }, "unknown_user"},
		"user":                        {chain.RevUser, func(identity) string { return chain.UserID("https://idp.example", "physician-1") }, ""},
		"no serial":                   {chain.RevCertificate, func(identity) string { return "not a serial" }, "bad_serial"},
		"negative serial":             {chain.RevCertificate, func(identity) string { return "-5" }, "bad_serial"},
		"zero serial":                 {chain.RevCertificate, func(identity) string { return "00" }, "bad_serial"},
		"long serial":                 {chain.RevCertificate, func(identity) string { return strings.Repeat("11", 21) }, "bad_serial"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			orch := r.orchestrator("lab")
			agent := r.spawn(orch, r.task(orch))
			records := r.service("records")
			_, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: tc.kind, ID: tc.id(agent)})
			if tc.want != "" {
				if code(t, err) != tc.want {
					t.Errorf("%v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := r.decide(records, agent); d.Allow {
				t.Error("accepted as revoked, and still allowed")
			}
		})
	}
}

// A device that fails in the middle must not cost anybody their name.
func TestIdentitiesRecoverFromAFailedSignature(t *testing.T) {
	r := newRig(t)
	reg, err := r.s.Register(t.Context(), r.operator, chain.Orchestrator, delegation.Registration{Name: "lab", AgentTypes: []string{"research"}})
	if err != nil {
		t.Fatal(err)
	}
	at := delegation.Attestation{Name: "lab", Method: "join_token", Token: reg.JoinToken, CSR: csr(t, newKey(t))}
	q := delegation.Registration{Name: "records", CSR: csr(t, newKey(t))}
	r.certifier.failing = true
	if _, err := r.s.Attest(t.Context(), at); code(t, err) != "signing_failed" {
		t.Fatal(err)
	}
	if _, err := r.s.Register(t.Context(), r.operator, chain.Service, q); code(t, err) != "signing_failed" {
		t.Fatal(err)
	}
	r.certifier.failing = false
	if _, err := r.s.Attest(t.Context(), at); err != nil {
		t.Errorf("the same token and key again: %v", err)
	}
	if _, err := r.s.Register(t.Context(), r.operator, chain.Service, q); code(t, err) != "already_registered" {
		t.Errorf("the same name again: %v", err)
	}
	q.Replace = true
	if _, err := r.s.Register(t.Context(), r.operator, chain.Service, q); err != nil {
		t.Errorf("a replaced registration: %v", err)
	}
	if _, err := r.s.Register(t.Context(), r.operator, chain.Orchestrator, delegation.Registration{Name: "lab", Replace: true}); err != nil {
		t.Errorf("a new join token: %v", err)
	}
	if _, err := r.s.Register(t.Context(), r.operator, chain.Service, delegation.Registration{Name: "nobody", Replace: true, CSR: q.CSR}); code(t, err) != "not_registered" {
		t.Errorf("nothing to replace: %v", err)
	}
}

// A reader of the feed takes up where it stopped, also after a restart and a clock that went back.
func TestFeedKeepsItsOrder(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	tasks := make([]delegation.Task, 8)
	for i := range tasks {
		tasks[i] = r.task(orch)
	}
	var wg sync.WaitGroup
	for _, task := range tasks[:7] {
		wg.Go(func() { r.revoke(chain.RevTask, task.ID) })
	}
	wg.Wait()
	r.clock = r.clock.Add(-time.Second)
	r.revoke(chain.RevTask, tasks[7].ID)
	before := r.s.Revocations(delegation.Cursor{}, 10).Revocations
	r.restart()
	after := r.s.Revocations(delegation.Cursor{}, 10).Revocations
	if len(before) != 8 || len(after) != 8 {
		t.Fatalf("%d and %d revocations", len(before), len(after))
	}
	for i := range before {
		if before[i].ID != after[i].ID || before[i].Seq != uint64(i+1) || after[i].Seq != uint64(i+1) {
			t.Errorf("place %d: %s (%d) became %s (%d)", i, before[i].ID, before[i].Seq, after[i].ID, after[i].Seq)
		}
	}
}

func TestFailedAttestationsDoNotFloodTheLog(t *testing.T) {
	r := newRig(t)
	n := len(r.log.entries)
	var recorded int
	for range 500 {
		_, err := r.s.Attest(t.Context(), delegation.Attestation{Name: "nobody", Method: "join_token", Token: "x"})
		var e *delegation.Error
		if errors.As(err, &e) && e.AuditIndex != nil {
			recorded++
		}
	}
	if got := len(r.log.entries) - n; got != recorded || got > delegation.DefaultLimits().MalformedBurst {
		t.Errorf("%d entries, %d of them named, for 500 requests without an identity", got, recorded)
	}
}

// What a user could be asked for can be recorded: a scope as large as one may be, of characters that are escaped in HTML.
func TestLargestScope(t *testing.T) {
	r := newRig(t)
	tokens := make([]string, chain.MaxTokens)
	for i := range tokens {
		tokens[i] = fmt.Sprintf("database:read:%02d%s", i, strings.Repeat("<", chain.MaxTokenBytes-16))
	}
	g, err := r.s.RequestGrant(t.Context(), r.auth(r.orchestrator("lab")), delegation.GrantRequest{
		Purpose: "p", Scope: scope(t, tokens...), NotAfter: r.clock.Add(time.Hour), MaxDepth: 3, AgentTypes: []string{"research"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.tryApprove(g.ID); err != nil {
		t.Error(err)
	}
}
