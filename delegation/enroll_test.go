package delegation_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// tokenSpawn asks for an agent without a CSR.
func (r *rig) tokenSpawn(task delegation.Task) delegation.SpawnRequest {
	q := r.request(task, newKey(r.t))
	q.CSR = nil
	return q
}

func (r *rig) token(orch identity, task delegation.Task) delegation.Spawned {
	r.t.Helper()
	out, err := r.s.Spawn(r.t.Context(), r.auth(orch), r.tokenSpawn(task))
	if err != nil {
		r.t.Fatal(err)
	}
	if len(out.Token) != 43 || len(out.Chain) != 0 || !out.TokenExpires.Equal(r.clock.Add(time.Minute)) {
		r.t.Fatalf("%+v", out)
	}
	return out
}

func (r *rig) enroll(q delegation.Spawned, key *ecdsa.PrivateKey) (delegation.Spawned, error) {
	return r.s.Enroll(r.t.Context(), delegation.Enrollment{AgentID: q.AgentID, Token: q.Token, CSR: csr(r.t, key)})
}

func tbsOf(t *testing.T, ders [][]byte) [32]byte {
	t.Helper()
	certs, err := chain.ParseDER(ders, chain.MaxChain)
	if err != nil {
		t.Fatal(err)
	}
	return chain.TBSHash(certs[0])
}

func TestEnroll(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	q := r.tokenSpawn(task)
	first, err := r.s.Spawn(t.Context(), r.auth(orch), q)
	if err != nil {
		t.Fatal(err)
	}
	if env := r.log.last(t); env.Type != record.TypeEnrollment || env.Agent != first.AgentID {
		t.Errorf("the last entry is %s", env.Type)
	}
	again, err := r.s.Spawn(t.Context(), r.auth(orch), q)
	if err != nil || again.Token != first.Token {
		t.Errorf("the retry got %q, %v", again.Token, err)
	}
	for _, e := range r.log.entries {
		if bytes.Contains(append(e.Envelope, e.Payload...), []byte(first.Token)) {
			t.Error("the token is in the log")
		}
	}
	for k, v := range r.log.state {
		if bytes.Contains(v, []byte(first.Token)) {
			t.Errorf("the token is in %s", k)
		}
	}
	key := newKey(t)
	issued, err := r.enroll(first, key)
	if err != nil {
		t.Fatal(err)
	}
	r.clock = r.clock.Add(2 * time.Minute) // the token is over, the certificate is not
	retry, err := r.enroll(first, key)
	if err != nil || tbsOf(t, retry.Chain) != tbsOf(t, issued.Chain) {
		t.Errorf("the same key again: %v", err)
	}
	agent := r.identity(key, issued.Chain)
	d := r.auth(agent)
	if d.ID.AgentID() != first.AgentID || !issued.NotAfter.Equal(first.NotAfter) {
		t.Errorf("%s until %s; %s was promised", d.ID, issued.NotAfter, first.NotAfter)
	}
	r.clock = issued.NotAfter
	if _, err := r.enroll(first, key); code(t, err) != "agent_expired" {
		t.Errorf("after its life: %v", err)
	}
}

func TestEnrollRefusals(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	good := r.token(orch, task)
	withCert := r.spawn(orch, task)
	for name, tc := range map[string]struct {
		q    delegation.Enrollment
		want string
	}{
		"no id":           {delegation.Enrollment{AgentID: "x", Token: good.Token, CSR: csr(t, newKey(t))}, "enrollment_token_unknown"},
		"another's token": {delegation.Enrollment{AgentID: r.token(orch, task).AgentID, Token: good.Token, CSR: csr(t, newKey(t))}, "enrollment_token_unknown"},
		"no such agent":   {delegation.Enrollment{AgentID: r.newID(), Token: good.Token, CSR: csr(t, newKey(t))}, "enrollment_token_unknown"},
		"had a CSR":       {delegation.Enrollment{AgentID: r.auth(withCert).ID.AgentID(), Token: good.Token, CSR: csr(t, newKey(t))}, "enrollment_token_unknown"},
		"no token":        {delegation.Enrollment{AgentID: good.AgentID, CSR: csr(t, newKey(t))}, "enrollment_token_unknown"},
		"no CSR":          {delegation.Enrollment{AgentID: good.AgentID, Token: good.Token}, "bad_csr"},
		"a used key":      {delegation.Enrollment{AgentID: good.AgentID, Token: good.Token, CSR: csr(t, withCert.key)}, "key_reused"},
		"the delegator's": {delegation.Enrollment{AgentID: good.AgentID, Token: good.Token, CSR: csr(t, orch.key)}, "duplicate_hop_key_reused"},
	} {
		t.Run(name, func(t *testing.T) {
			issued := r.log.count(record.TypeIssue)
			if _, err := r.s.Enroll(t.Context(), tc.q); code(t, err) != tc.want {
				t.Errorf("%v; want %s", err, tc.want)
			}
			if r.log.count(record.TypeIssue) != issued {
				t.Error("something was issued")
			}
		})
	}
	r.clock = r.clock.Add(time.Minute)
	if _, err := r.enroll(good, newKey(t)); code(t, err) != "enrollment_token_expired" {
		t.Errorf("late: %v", err)
	}
}

// TestTokenDies: what ends a task or an agent ends its token too.
func TestTokenDies(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	for name, tc := range map[string]struct {
		end  func(task delegation.Task, agent string) error
		want string
	}{
		"task completed": {func(task delegation.Task, _ string) error {
			_, err := r.s.CompleteTask(t.Context(), r.auth(orch), task.ID)
			return err
		}, "task_completed"},
		"agent revoked": {func(_ delegation.Task, agent string) error {
			_, err := r.s.Revoke(t.Context(), r.auth(orch), delegation.RevokeRequest{Kind: chain.RevAgent, ID: agent})
			return err
		}, chain.CodeAgentRevoked},
		"grant revoked": {func(task delegation.Task, _ string) error {
			_, err := r.s.Revoke(t.Context(), r.auth(orch), delegation.RevokeRequest{Kind: chain.RevGrant, ID: task.GrantID})
			return err
		}, chain.CodeGrantRevoked},
		"policy": {func(delegation.Task, string) error {
			r.rules.deny = []string{"no"}
			t.Cleanup(func() { r.rules.deny = nil })
			return nil
		}, "policy_denied"},
	} {
		t.Run(name, func(t *testing.T) {
			task := r.task(orch)
			q := r.token(orch, task)
			if err := tc.end(task, q.AgentID); err != nil {
				t.Fatal(err)
			}
			defer func() { r.rules.deny = nil }()
			if _, err := r.enroll(q, newKey(t)); code(t, err) != tc.want {
				t.Errorf("%v; want %s", err, tc.want)
			}
		})
	}
}

// TestStolenToken: of many redemptions with different keys one succeeds, and its agent is revoked with a single alarm.
func TestStolenToken(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	q := r.token(orch, r.task(orch))
	var wait sync.WaitGroup
	var mu sync.Mutex
	var won [][][]byte
	codes := map[string]int{}
	for range 50 {
		key := newKey(t)
		request := csr(t, key)
		wait.Go(func() {
			out, err := r.s.Enroll(t.Context(), delegation.Enrollment{AgentID: q.AgentID, Token: q.Token, CSR: request})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				won = append(won, out.Chain)
				return
			}
			codes[delegation.AsError(err).Code]++
		})
	}
	wait.Wait()
	if len(won) != 1 || codes["enrollment_token_reused"] != 49 {
		t.Fatalf("%d redeemed it; %v", len(won), codes)
	}
	if n := r.log.count(record.TypeAlarm); n != 1 {
		t.Errorf("%d alarms", n)
	}
	certs, err := chain.ParseDER(won[0], chain.MaxChain)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.Authenticate(certs); code(t, err) != chain.CodeAgentRevoked {
		t.Errorf("the winner: %v", err)
	}
	r.restart()
	if _, err := r.s.Authenticate(certs); code(t, err) != chain.CodeAgentRevoked {
		t.Errorf("after a restart: %v", err)
	}
	if _, err := r.enroll(q, newKey(t)); code(t, err) != "enrollment_token_reused" || r.log.count(record.TypeAlarm) != 1 {
		t.Errorf("once more: %v", err)
	}
}

// confirmToken signs a spawn whose token the caller made.
func (r *rig) confirmToken(by identity, q *delegation.SpawnRequest, parent [32]byte, token string, change func(*chain.Claims)) {
	r.t.Helper()
	hash := sha256.Sum256([]byte(token))
	q.EnrollmentHash = &hash
	id, err := chain.AgentID(trustDomain, q.AgentType, q.SpawnID)
	if err != nil {
		r.t.Fatal(err)
	}
	c := chain.Claims{
		Issuer: r.auth(by).ID.String(), Subject: id.String(), Audience: trustDomain + "/log", JTI: q.SpawnID, TaskID: q.TaskID, Scope: q.Scope,
		IssuedAt: r.clock, Expiry: r.clock.Add(time.Hour), MaxDepth: q.MaxDepth, ParentHash: parent, EnrolHash: &hash,
	}
	change(&c)
	if q.Confirmation, err = chain.SignDelegation(by.key, c); err != nil {
		r.t.Fatal(err)
	}
}

// TestConfirmedToken: a delegator signs over a token that it made itself, and the appliance never sees it before the agent does.
func TestConfirmedToken(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	g, err := r.s.Grant(r.auth(orch), task.GrantID)
	if err != nil {
		t.Fatal(err)
	}
	q := r.tokenSpawn(task)
	r.confirmToken(orch, &q, g.Hash, "a token of 256 random bits", func(*chain.Claims) {})
	out, err := r.s.Spawn(t.Context(), r.auth(orch), q)
	if err != nil || out.Token != "" {
		t.Fatalf("%q %v", out.Token, err)
	}
	r.restart() // the appliance's own secret is new; this token needs none
	if _, err := r.s.Spawn(t.Context(), r.auth(orch), q); err != nil {
		t.Errorf("the retry after a restart: %v", err)
	}
	out.Token = "a token of 256 random bits"
	key := newKey(t)
	issued, err := r.enroll(out, key)
	if err != nil {
		t.Fatal(err)
	}
	agent := r.identity(key, issued.Chain)
	d, err := chain.Extract(agent.certs[0])
	if err != nil || d.Hops[1].Confirmation == nil || *d.Hops[1].Confirmation != chain.DelegationHash(q.Confirmation) {
		t.Errorf("%+v %v", d, err)
	}
	for name, tc := range map[string]struct {
		change func(*delegation.SpawnRequest)
		want   string
	}{
		"another hash": {func(q *delegation.SpawnRequest) { q.EnrollmentHash = &[32]byte{1} }, "confirmation_mismatch"},
		"no hash":      {func(q *delegation.SpawnRequest) { q.EnrollmentHash = nil }, "enrollment_hash_required"},
		"with a CSR":   {func(q *delegation.SpawnRequest) { q.CSR = csr(t, newKey(t)) }, "enrollment_hash_with_csr"},
		"for a CSR":    {func(q *delegation.SpawnRequest) { q.CSR, q.EnrollmentHash = csr(t, newKey(t)), nil }, "confirmation_mismatch"},
	} {
		bad := r.tokenSpawn(task)
		r.confirmToken(orch, &bad, g.Hash, "x", func(*chain.Claims) {})
		tc.change(&bad)
		if _, err := r.s.Spawn(t.Context(), r.auth(orch), bad); code(t, err) != tc.want {
			t.Errorf("%s: %v; want %s", name, err, tc.want)
		}
	}
	// A sub-agent likewise, whose parent enrolled.
	sub := r.tokenSpawn(task)
	sub.MaxDepth = 0
	r.confirmToken(agent, &sub, *d.Hops[1].Confirmation, "another token", func(*chain.Claims) {})
	child, err := r.s.Delegate(t.Context(), r.auth(agent), r.auth(agent).ID.AgentID(), sub)
	if err != nil {
		t.Fatal(err)
	}
	child.Token = "another token"
	if _, err := r.enroll(child, newKey(t)); err != nil {
		t.Error(err)
	}
}

// TestTokenLost: a token that the appliance made cannot be shown again after a restart.
func TestTokenLost(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	q := r.tokenSpawn(r.task(orch))
	out, err := r.s.Spawn(t.Context(), r.auth(orch), q)
	if err != nil {
		t.Fatal(err)
	}
	r.restart()
	if _, err := r.s.Spawn(t.Context(), r.auth(orch), q); code(t, err) != "enrollment_token_lost" {
		t.Errorf("%v", err)
	}
	if _, err := r.enroll(out, newKey(t)); err != nil {
		t.Errorf("but it is good: %v", err)
	}
}
