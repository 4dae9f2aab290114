package delegation_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

func TestSpawnAndDecide(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	agent := r.spawn(orch, task)
	records := r.service("records")
	d, err := r.s.Decide(t.Context(), records, delegation.DecisionRequest{
		Chain: agent.certs, ResourceType: "database", ResourceID: "patients", Action: "read",
		Principal: &chain.User{Issuer: "https://idp.example", Subject: "physician-1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if !d.Allow || d.Position == nil {
		t.Fatalf("denied: %v", d.Reasons)
	}
	env := r.log.last(t)
	if env.Type != record.TypeDecision || env.Task != task.ID {
		t.Errorf("the last entry is %s about task %s", env.Type, env.Task)
	}
}

func TestSpawnRefusals(t *testing.T) {
	r := newRig(t)
	orch, other := r.orchestrator("lab"), r.orchestrator("other")
	task := r.task(orch)
	used := newKey(t)
	first := r.request(task, used)
	if _, err := r.s.Spawn(t.Context(), r.auth(orch), first); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		by     identity
		change func(*delegation.SpawnRequest)
		want   string
	}{
		"scope beyond the grant":    {orch, func(q *delegation.SpawnRequest) { q.Scope = scope(t, "database:write:patients") }, "scope_exceeds_parent"},
		"deadline beyond the grant": {orch, func(q *delegation.SpawnRequest) { q.TTL = 2 * time.Hour }, "deadline_exceeds_parent"},
		"too long for an agent":     {orch, func(q *delegation.SpawnRequest) { q.TTL = 30 * time.Minute }, "ttl_exceeds_limit"},
		"too deep":                  {orch, func(q *delegation.SpawnRequest) { q.MaxDepth = 3 }, "depth_exceeded"},
		"another's task":            {other, func(*delegation.SpawnRequest) {}, "task_not_yours"},
		"unknown type":              {orch, func(q *delegation.SpawnRequest) { q.AgentType = "admin" }, "agent_type_not_allowed"},
		"unknown task":              {orch, func(q *delegation.SpawnRequest) { q.TaskID = r.newID() }, "task_not_found"},
		"blank CSR":                 {orch, func(q *delegation.SpawnRequest) { q.CSR = []byte(" ") }, "bad_csr"},
		"broken CSR":                {orch, func(q *delegation.SpawnRequest) { q.CSR = []byte("x") }, "bad_csr"},
		"id used":                   {orch, func(q *delegation.SpawnRequest) { q.SpawnID = first.SpawnID }, "spawn_id_used"},
		"key used":                  {orch, func(q *delegation.SpawnRequest) { q.CSR = first.CSR }, "key_reused"},
		"foreign JWS":               {orch, func(q *delegation.SpawnRequest) { q.Confirmation = "a.b.c" }, "confirmation_invalid"},
		"bad id":                    {orch, func(q *delegation.SpawnRequest) { q.SpawnID = "1" }, "bad_spawn_id"},
	} {
		t.Run(name, func(t *testing.T) {
			issued := r.log.count(record.TypeIssue)
			q := r.request(task, newKey(t))
			tc.change(&q)
			_, err := r.s.Spawn(t.Context(), r.auth(tc.by), q)
			if got := code(t, err); got != tc.want {
				t.Fatalf("code %s, want %s", got, tc.want)
			}
			if r.log.count(record.TypeIssue) != issued {
				t.Error("something was issued")
			}
			if env := r.log.last(t); env.Type != record.TypeDeny || env.Code != tc.want {
				t.Errorf("the last entry is %s %s", env.Type, env.Code)
			}
		})
	}
}

func TestSpawnRetryGivesTheSameCertificate(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	q := r.request(r.task(orch), newKey(t))
	q.Idempotency = delegation.Idempotency{Key: "k", Hash: sha256.Sum256([]byte("body"))}
	var hashes [][32]byte
	for range 3 {
		out, err := r.s.Spawn(t.Context(), r.auth(orch), q)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, chain.TBSHash(r.identity(nil, out.Chain).certs[0]))
	}
	if hashes[0] != hashes[1] || hashes[1] != hashes[2] {
		t.Error("a retry got another certificate")
	}
	agents := 0
	for _, e := range r.log.entries {
		if env, err := record.Check(e.Envelope); err == nil && env.Type == record.TypeIssue && env.Agent == q.SpawnID {
			agents++
		}
	}
	if agents != 1 {
		t.Errorf("%d issuances for one spawn", agents)
	}
	q.Idempotency.Hash[0]++
	if _, err := r.s.Spawn(t.Context(), r.auth(orch), q); code(t, err) != "idempotency_key_reused" {
		t.Errorf("another body under the same key: %v", err)
	}
}

func TestConcurrentSpawnsOfOneID(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	by := r.auth(orch)
	task := r.task(orch)
	base := r.request(task, newKey(t))
	var wg sync.WaitGroup
	errs := make([]error, 20)
	for i := range errs {
		q := base
		q.CSR = csr(t, newKey(t))
		wg.Go(func() { _, errs[i] = r.s.Spawn(t.Context(), by, q) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else if c := code(t, err); c != "spawn_id_used" {
			t.Errorf("code %s", c)
		}
	}
	if won != 1 {
		t.Errorf("%d spawns of one id succeeded", won)
	}
}

func TestNothingIsIssuedWithoutRecord(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	by := r.auth(orch)
	agent := r.spawn(orch, task)
	records := r.service("records")
	r.log.fail = errors.New("disk is gone")
	if _, err := r.s.Spawn(t.Context(), by, r.request(task, newKey(t))); code(t, err) != "audit_unavailable" {
		t.Errorf("spawn: %v", err)
	}
	d, err := r.s.Decide(t.Context(), records, delegation.DecisionRequest{Chain: agent.certs, ResourceType: "database", ResourceID: "patients", Action: "read"})
	if err != nil || d.Allow || d.Reasons[0] != "not_recorded" {
		t.Errorf("decision %+v, %v", d, err)
	}
}

func TestFailedSignatureIsRecorded(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	q := r.request(r.task(orch), newKey(t))
	by := r.auth(orch)
	r.certifier.failing = true
	if _, err := r.s.Spawn(t.Context(), by, q); code(t, err) != "signing_failed" {
		t.Fatalf("%v", err)
	}
	if r.log.count(record.TypeIssueFailed) != 1 {
		t.Error("the failed signature has no entry")
	}
	r.certifier.failing = false
	if _, err := r.s.Spawn(t.Context(), by, q); err != nil {
		t.Errorf("a retry after the token came back: %v", err)
	}
}

func TestNotReadyIssuesNothing(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	by := r.auth(orch)
	agent := r.spawn(orch, task)
	records := r.service("records")
	r.ready = errors.New("tpm: gone")
	if _, err := r.s.Spawn(t.Context(), by, r.request(task, newKey(t))); code(t, err) != "not_ready" {
		t.Errorf("spawn: %v", err)
	}
	d, err := r.s.Decide(t.Context(), records, delegation.DecisionRequest{Chain: agent.certs, ResourceType: "database", ResourceID: "patients", Action: "read"})
	if err != nil || d.Allow {
		t.Errorf("decision %+v, %v", d, err)
	}
}

// TestWhatCannotBeSignedIsNotLogged: a signing key with too much to do stops issuing before the entry, and no decision.
func TestWhatCannotBeSignedIsNotLogged(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	by := r.auth(orch)
	agent := r.spawn(orch, task)
	records := r.service("records")
	issued := r.log.count(record.TypeIssue)
	r.signing = errors.New("too many wait")
	q := r.request(task, newKey(t))
	if _, err := r.s.Spawn(t.Context(), by, q); code(t, err) != "signing_unavailable" {
		t.Errorf("spawn: %v", err)
	}
	if n := r.log.count(record.TypeIssue); n != issued {
		t.Errorf("%d entries of certificates that could not be signed", n-issued)
	}
	d, err := r.s.Decide(t.Context(), records, delegation.DecisionRequest{Chain: agent.certs, ResourceType: "database", ResourceID: "patients", Action: "read"})
	if err != nil || !d.Allow {
		t.Errorf("decision %+v, %v", d, err)
	}
	r.signing = nil
	if _, err := r.s.Spawn(t.Context(), by, q); err != nil {
		t.Errorf("the same request again: %v", err)
	}
}

func TestDecisionRefusals(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	agent := r.spawn(orch, r.task(orch))
	revoked := r.task(orch)
	gone := r.spawn(orch, revoked)
	if _, err := r.s.Revoke(t.Context(), r.auth(orch), delegation.RevokeRequest{Kind: chain.RevTask, ID: revoked.ID, Reason: "test"}); err != nil {
		t.Fatal(err)
	}
	records := r.service("records")
	for name, tc := range map[string]struct {
		change func(*delegation.DecisionRequest)
		later  time.Duration
		deny   []string
		want   string
	}{
		"scope": {change: func(q *delegation.DecisionRequest) { q.ResourceID = "billing" }, want: "scope_not_covered"},
		"user": {change: func(q *delegation.DecisionRequest) {
			q.Principal = &chain.User{Issuer: "https://idp.example", Subject: "other"}
		}, want: "principal_mismatch"},
		"deadline":         {change: func(*delegation.DecisionRequest) {}, later: 6 * time.Minute, want: "deadline_passed"},
		"revoked task":     {change: func(q *delegation.DecisionRequest) { q.Chain = gone.certs }, want: "task_revoked"},
		"unknown resource": {change: func(q *delegation.DecisionRequest) { q.ResourceID = "none" }, want: "resource_unknown"},
		"subject":          {change: func(q *delegation.DecisionRequest) { q.SubjectID = "spiffe://x/agent/y/z" }, want: "subject_mismatch"},
		"policy":           {change: func(*delegation.DecisionRequest) {}, deny: []string{"user_not_analyst"}, want: "user_not_analyst"},
	} {
		t.Run(name, func(t *testing.T) {
			q := delegation.DecisionRequest{Chain: agent.certs, ResourceType: "database", ResourceID: "patients", Action: "read"}
			tc.change(&q)
			r.rules.deny = tc.deny
			r.clock = r.clock.Add(tc.later)
			defer func() { r.clock, r.rules.deny = r.clock.Add(-tc.later), nil }()
			d, err := r.s.Decide(t.Context(), records, q)
			if err != nil {
				t.Fatal(err)
			}
			if d.Allow || len(d.Reasons) != 1 || d.Reasons[0] != tc.want {
				t.Fatalf("allow %v for %v, want %s alone", d.Allow, d.Reasons, tc.want)
			}
			if env := r.log.last(t); env.Type != record.TypeDecision {
				t.Errorf("the last entry is %s", env.Type)
			}
		})
	}
}

func TestSubAgents(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	parent := r.spawn(orch, task)
	by := r.auth(parent)
	lineage, err := r.s.AgentChain(t.Context(), by, by.ID.AgentID())
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	q := r.request(task, key)
	q.AgentType, q.MaxDepth, q.TTL = "reader", 0, time.Minute
	sign := func(q delegation.SpawnRequest) string { return r.jws(parent, q, lineage.GrantHash, key) }
	if _, err := r.s.Delegate(t.Context(), by, by.ID.AgentID(), q); code(t, err) != "confirmation_required" {
		t.Errorf("without a signature: %v", err)
	}
	wide := q
	wide.Scope = scope(t, "database:read:*")
	wide.Confirmation = sign(wide)
	if _, err := r.s.Delegate(t.Context(), by, by.ID.AgentID(), wide); code(t, err) != "scope_exceeds_parent" {
		t.Errorf("wider than its parent: %v", err)
	}
	if _, err := r.s.Delegate(t.Context(), r.auth(orch), by.ID.AgentID(), q); code(t, err) != "parent_required" {
		t.Errorf("by the orchestrator: %v", err)
	}
	q.Confirmation = sign(q)
	out, err := r.s.Delegate(t.Context(), by, by.ID.AgentID(), q)
	if err != nil {
		t.Fatal(err)
	}
	sub := r.identity(key, out.Chain)
	d, err := chain.Extract(sub.certs[0])
	if err != nil || len(d.Hops) != 3 || d.Hops[2].Confirmation == nil {
		t.Fatalf("hops %d, %v", len(d.Hops), err)
	}
	if _, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevAgent, ID: by.ID.AgentID()}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.Authenticate(sub.certs); code(t, err) != "agent_revoked" {
		t.Errorf("a sub-agent outlived its parent: %v", err)
	}
}

// jws is the parent's signed delegation of q.
func (r *rig) jws(parent identity, q delegation.SpawnRequest, parentHash [32]byte, child crypto.Signer) string {
	r.t.Helper()
	jkt, err := chain.Thumbprint(child.Public())
	if err != nil {
		r.t.Fatal(err)
	}
	id, err := chain.AgentID(trustDomain, q.AgentType, q.SpawnID)
	if err != nil {
		r.t.Fatal(err)
	}
	out, err := chain.SignDelegation(parent.key, chain.Claims{
		Issuer: parent.certs[0].URIs[0].String(), Subject: id.String(), Audience: trustDomain + "/log", JTI: q.SpawnID, TaskID: q.TaskID,
		Scope: q.Scope, Expiry: r.clock.Add(q.TTL), IssuedAt: r.clock, MaxDepth: q.MaxDepth, ParentHash: parentHash, KeyHash: jkt,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func TestJoinTokenOnce(t *testing.T) {
	r := newRig(t)
	reg, err := r.s.Register(t.Context(), r.operator, chain.Orchestrator, delegation.Registration{Name: "lab"})
	if err != nil {
		t.Fatal(err)
	}
	a := delegation.Attestation{Name: "lab", Method: "join_token", Token: reg.JoinToken, CSR: csr(t, newKey(t))}
	wrong := a
	wrong.Token = "x"
	if _, err := r.s.Attest(t.Context(), wrong); code(t, err) != "join_token_unknown" {
		t.Errorf("wrong token: %v", err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 10)
	keys := make([]*ecdsa.PrivateKey, len(errs))
	for i := range errs {
		q := a
		keys[i] = newKey(t)
		q.CSR = csr(t, keys[i])
		wg.Go(func() { _, errs[i] = r.s.Attest(t.Context(), q) })
	}
	wg.Wait()
	won := 0
	for i, err := range errs {
		if err == nil {
			won++
			a.CSR = csr(t, keys[i])
		} else if c := code(t, err); c != "join_token_used" {
			t.Errorf("code %s", c)
		}
	}
	if won != 1 {
		t.Errorf("a token was redeemed %d times", won)
	}
	if _, err := r.s.Attest(t.Context(), a); code(t, err) != "join_token_used" {
		t.Errorf("a replay with the key that won: %v", err)
	}
	reg, err = r.s.Register(t.Context(), r.operator, chain.Orchestrator, delegation.Registration{Name: "late"})
	if err != nil {
		t.Fatal(err)
	}
	r.clock = r.clock.Add(11 * time.Minute)
	a.Name, a.Token = "late", reg.JoinToken
	if _, err := r.s.Attest(t.Context(), a); code(t, err) != "join_token_expired" {
		t.Errorf("expired token: %v", err)
	}
}

func TestIdempotencyKeysAreBoundToTheirRequest(t *testing.T) {
	r := newRig(t)
	first := delegation.Idempotency{Key: "k", Hash: [32]byte{1}}
	reg := delegation.Registration{Name: "lab", Idempotency: first}
	if _, err := r.s.Register(t.Context(), r.operator, chain.Orchestrator, reg); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.Register(t.Context(), r.operator, chain.Orchestrator, reg); code(t, err) != "already_registered" {
		t.Errorf("the same request again: %v", err)
	}
	reg.Name, reg.Idempotency.Hash = "other", [32]byte{2}
	if _, err := r.s.Register(t.Context(), r.operator, chain.Orchestrator, reg); code(t, err) != "idempotency_key_reused" {
		t.Errorf("another request under the same key: %v", err)
	}
	r.orchestrator("other")
	q := delegation.RevokeRequest{Kind: chain.RevOrchestrator, ID: "lab", Idempotency: delegation.Idempotency{Key: "r", Hash: [32]byte{1}}}
	for range 2 {
		if _, err := r.s.Revoke(t.Context(), r.operator, q); err != nil {
			t.Fatal(err)
		}
	}
	q.ID, q.Idempotency.Hash = "other", [32]byte{2}
	if _, err := r.s.Revoke(t.Context(), r.operator, q); code(t, err) != "idempotency_key_reused" {
		t.Errorf("another revocation under the same key: %v", err)
	}
}

func TestReservedName(t *testing.T) {
	r := newRig(t)
	_, err := r.s.Register(t.Context(), r.operator, chain.Service, delegation.Registration{Name: delegation.ListenerName, CSR: csr(t, newKey(t))})
	if code(t, err) != "name_reserved" {
		t.Errorf("%v", err)
	}
}

func TestNoGrantWithoutProvider(t *testing.T) {
	r := newRig(t)
	by := r.auth(r.orchestrator("lab"))
	r.provider = errors.New("connection refused")
	_, err := r.s.RequestGrant(t.Context(), by, delegation.GrantRequest{
		Purpose: "p", Scope: scope(t, "a:b"), NotAfter: r.clock.Add(time.Hour), MaxDepth: 1, AgentTypes: []string{"research"},
	})
	if code(t, err) != "idp_unavailable" {
		t.Errorf("%v", err)
	}
}

func TestConsentIsSingle(t *testing.T) {
	r := newRig(t)
	by := r.auth(r.orchestrator("lab"))
	g, err := r.s.RequestGrant(t.Context(), by, delegation.GrantRequest{
		Purpose: "p", Scope: scope(t, "a:b"), NotAfter: r.clock.Add(time.Hour), MaxDepth: 1, AgentTypes: []string{"research"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: g.ID}); code(t, err) != "grant_pending" {
		t.Errorf("task before consent: %v", err)
	}
	r.approve(g.ID)
	if err := r.tryApprove(g.ID); code(t, err) != "grant_not_pending" {
		t.Errorf("second consent: %v", err)
	}
	if _, err := r.s.OpenTask(t.Context(), r.auth(r.orchestrator("other")), delegation.TaskRequest{GrantID: g.ID}); code(t, err) != "grant_not_yours" {
		t.Errorf("another orchestrator: %v", err)
	}
	if _, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: g.ID, Scope: scope(t, "a:c")}); code(t, err) != "scope_exceeds_parent" {
		t.Errorf("wider task: %v", err)
	}
	if _, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: g.ID}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: g.ID}); code(t, err) != "grant_used" {
		t.Errorf("second task: %v", err)
	}
}

func TestRevocationsSurviveRestart(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	agent := r.spawn(orch, task)
	if _, err := r.s.CompleteTask(t.Context(), r.auth(orch), task.ID); err != nil {
		t.Fatal(err)
	}
	r.restart()
	if _, err := r.s.Authenticate(agent.certs); code(t, err) != "task_revoked" {
		t.Errorf("an agent of a completed task: %v", err)
	}
	if _, err := r.s.Spawn(t.Context(), r.auth(orch), r.request(task, newKey(t))); code(t, err) != "task_completed" {
		t.Errorf("a spawn under a completed task: %v", err)
	}
	if got := r.s.Revocations(delegation.Cursor{}, 10).Revocations; len(got) != 1 || got[0].ID != task.ID {
		t.Errorf("revocations %+v", got)
	}
}

func TestRecoverReportsOpenIssuances(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	r.spawn(orch, r.task(orch)) // Run is not running: no signature was kept
	open := r.log.count(record.TypeIssueUnknown)
	r.restart()
	if err := r.s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.log.count(record.TypeIssueUnknown) - open; got != 2 {
		t.Errorf("%d issuances reported, want the orchestrator's and the agent's", got)
	}
	if err := r.s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.log.count(record.TypeIssueUnknown) - open; got != 2 {
		t.Error("reported twice")
	}
}

func TestMalformedFloodIsAggregated(t *testing.T) {
	r := newRig(t)
	before := r.log.count(record.TypeMalformed)
	for range 100 {
		r.s.RecordRefusal(t.Context(), delegation.Refusal{Operation: "POST /v1/agents", Code: "bad_json"})
	}
	if got := r.log.count(record.TypeMalformed) - before; got != delegation.DefaultLimits().MalformedBurst {
		t.Errorf("%d entries for a flood", got)
	}
}
