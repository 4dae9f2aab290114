package delegation_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// link is what an agent signs to change its key.
func (r *rig) link(old identity, next *ecdsa.PrivateKey, change func(*chain.Rekey)) string {
	r.t.Helper()
	d, err := chain.Extract(old.certs[0])
	if err != nil {
		r.t.Fatal(err)
	}
	jkt, err := chain.Thumbprint(next.Public())
	if err != nil {
		r.t.Fatal(err)
	}
	link := chain.Rekey{
		Agent: d.Hops[len(d.Hops)-1].ID, Audience: trustDomain + "/log", TaskID: chain.FormatUUID(d.TaskID),
		IssuedAt: r.clock, Expiry: r.clock.Add(time.Minute), NewKey: jkt,
	}
	change(&link)
	out, err := chain.SignRekey(old.key, link)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

func unchanged(*chain.Rekey) {}

func (r *rig) rekey(old identity, next *ecdsa.PrivateKey) (identity, error) {
	by := r.auth(old)
	out, err := r.s.Rekey(r.t.Context(), by, delegation.RekeyRequest{
		AgentID: by.ID.AgentID(), CSR: csr(r.t, next), Link: r.link(old, next, unchanged),
	})
	if err != nil {
		return identity{}, err
	}
	return r.identity(next, out.Chain), nil
}

// confirmed spawns an agent below by, with by's signature until end.
func (r *rig) confirmed(by identity, task delegation.Task, parent [32]byte, depth int, end time.Time) (identity, string) {
	r.t.Helper()
	key := newKey(r.t)
	q := r.request(task, key)
	q.TTL, q.MaxDepth = 0, depth
	caller := r.auth(by)
	id, err := chain.AgentID(trustDomain, q.AgentType, q.SpawnID)
	if err != nil {
		r.t.Fatal(err)
	}
	jkt, err := chain.Thumbprint(key.Public())
	if err != nil {
		r.t.Fatal(err)
	}
	q.Confirmation, err = chain.SignDelegation(by.key, chain.Claims{
		Issuer: caller.ID.String(), Subject: id.String(), Audience: trustDomain + "/log", JTI: q.SpawnID, TaskID: q.TaskID, Scope: q.Scope,
		IssuedAt: r.clock, Expiry: end, MaxDepth: depth, ParentHash: parent, KeyHash: jkt,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	var out delegation.Spawned
	if caller.ID.Kind() == chain.Orchestrator {
		out, err = r.s.Spawn(r.t.Context(), caller, q)
	} else {
		out, err = r.s.Delegate(r.t.Context(), caller, caller.ID.AgentID(), q)
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return r.identity(key, out.Chain), q.Confirmation
}

func spki(t *testing.T, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// offline verifies a chain with what the appliance shows of it, every hop's delegator included.
func (r *rig) offline(leaf identity, keys [][]byte) chain.Report {
	r.t.Helper()
	by := r.auth(leaf)
	l, err := r.s.AgentChain(r.t.Context(), by, by.ID.AgentID())
	if err != nil {
		r.t.Fatal(err)
	}
	return chain.Verify(chain.Input{
		Chain: leaf.certs, Trust: r.roots, Now: r.clock, Origin: trustDomain + "/log", Delegations: l.Delegations, Keys: keys, Links: l.Links,
		Require: []chain.CheckName{chain.CheckConfirmation},
	})
}

// TestRekey: the agent goes on with another key, past its first certificate but never past what was signed for, and
// children of either key verify offline.
func TestRekey(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	g, err := r.s.Grant(r.auth(orch), task.GrantID)
	if err != nil {
		t.Fatal(err)
	}
	end := r.clock.Add(17 * time.Minute)
	first, jws := r.confirmed(orch, task, g.Hash, 2, end)
	if got := first.certs[0].NotAfter; !got.Equal(r.clock.Add(10 * time.Minute)) {
		t.Fatalf("until %s", got)
	}
	before, _ := r.confirmed(first, task, chain.DelegationHash(jws), 1, end)
	r.clock = r.clock.Add(9 * time.Minute)
	second, err := r.rekey(first, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if got := second.certs[0].NotAfter; !got.Equal(end) {
		t.Errorf("until %s, want %s: what the delegator signed", got, end)
	}
	again, err := r.rekey(first, second.key)
	if err != nil || chain.TBSHash(again.certs[0]) != chain.TBSHash(second.certs[0]) {
		t.Errorf("the retry: %v", err)
	}
	if _, err := r.rekey(first, newKey(t)); code(t, err) != "certificate_superseded" {
		t.Errorf("a fork: %v", err)
	}
	q := r.request(task, newKey(t))
	if _, err := r.s.Delegate(t.Context(), r.auth(first), r.auth(first).ID.AgentID(), q); code(t, err) != "certificate_superseded" {
		t.Errorf("a child of the old key: %v", err)
	}
	if _, err := r.s.IssueToken(t.Context(), r.auth(first), delegation.TokenRequest{}); code(t, err) != "certificate_superseded" {
		t.Errorf("a token for the old key: %v", err)
	}
	after, _ := r.confirmed(second, task, chain.DelegationHash(jws), 1, end)
	for name, tc := range map[string]struct {
		leaf identity
		keys [][]byte
	}{
		"the agent itself": {second, [][]byte{spki(t, orch.key)}},
		"child before":     {before, [][]byte{spki(t, orch.key), spki(t, first.key)}},
		"child after":      {after, [][]byte{spki(t, orch.key), spki(t, second.key)}},
	} {
		if rep := r.offline(tc.leaf, tc.keys); !rep.Valid {
			t.Errorf("%s: %+v", name, rep.Failed())
		}
	}
	third, err := r.rekey(second, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	if rep := r.offline(third, [][]byte{spki(t, orch.key)}); !rep.Valid {
		t.Errorf("twice: %+v", rep.Failed())
	}
	r.clock = end
	if _, err := r.s.Authenticate(third.certs); code(t, err) != "client_certificate_expired" {
		t.Errorf("after what was signed: %v", err)
	}
}

func TestRekeyRefusals(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	agent, other := r.spawn(orch, task), r.spawn(orch, task)
	next := newKey(t)
	id := r.auth(agent).ID.AgentID()
	good := delegation.RekeyRequest{AgentID: id, CSR: csr(t, next), Link: r.link(agent, next, unchanged)}
	for name, tc := range map[string]struct {
		by     identity
		change func(*delegation.RekeyRequest)
		want   string
	}{
		"another agent":    {other, func(*delegation.RekeyRequest) {}, "agent_required"},
		"the orchestrator": {orch, func(*delegation.RekeyRequest) {}, "agent_required"},
		"no link":          {agent, func(q *delegation.RekeyRequest) { q.Link = "" }, "rekey_link_required"},
		"no JWS":           {agent, func(q *delegation.RekeyRequest) { q.Link = "a.b.c" }, "rekey_link_invalid"},
		"by another key":   {agent, func(q *delegation.RekeyRequest) { q.Link = r.link(other, next, unchanged) }, "rekey_link_invalid"},
		"for another key":  {agent, func(q *delegation.RekeyRequest) { q.CSR = csr(t, newKey(t)) }, "rekey_link_mismatch"},
		"for another agent": {agent, func(q *delegation.RekeyRequest) {
			q.Link = r.link(agent, next, func(l *chain.Rekey) { l.Agent = r.auth(other).ID.String() })
		}, "rekey_link_mismatch"},
		"for another log": {agent, func(q *delegation.RekeyRequest) {
			q.Link = r.link(agent, next, func(l *chain.Rekey) { l.Audience = "x" })
		}, "rekey_link_mismatch"},
		"for another task": {agent, func(q *delegation.RekeyRequest) {
			q.Link = r.link(agent, next, func(l *chain.Rekey) { l.TaskID = r.newID() })
		}, "rekey_link_mismatch"},
		"old": {agent, func(q *delegation.RekeyRequest) {
			q.Link = r.link(agent, next, func(l *chain.Rekey) { l.IssuedAt, l.Expiry = r.clock.Add(-9*time.Minute), r.clock.Add(-2*time.Minute) })
		}, "rekey_link_expired"},
		"of tomorrow": {agent, func(q *delegation.RekeyRequest) {
			q.Link = r.link(agent, next, func(l *chain.Rekey) { l.IssuedAt, l.Expiry = r.clock.Add(2*time.Minute), r.clock.Add(3*time.Minute) })
		}, "rekey_link_expired"},
		"for too long": {agent, func(q *delegation.RekeyRequest) {
			q.Link = r.link(agent, next, func(l *chain.Rekey) { l.Expiry = r.clock.Add(time.Hour) })
		}, "rekey_link_expired"},
		"a used key": {agent, func(q *delegation.RekeyRequest) {
			q.CSR, q.Link = csr(t, other.key), r.link(agent, other.key, unchanged)
		}, "key_reused"},
		"broken CSR": {agent, func(q *delegation.RekeyRequest) { q.CSR = []byte("x") }, "bad_csr"},
	} {
		t.Run(name, func(t *testing.T) {
			issued := r.log.count(record.TypeIssue)
			q := good
			tc.change(&q)
			if _, err := r.s.Rekey(t.Context(), r.auth(tc.by), q); code(t, err) != tc.want {
				t.Errorf("%v; want %s", err, tc.want)
			}
			if env := r.log.last(t); env.Type != record.TypeDeny || env.Code != tc.want {
				t.Errorf("the last entry is %s %s", env.Type, env.Code)
			}
			if r.log.count(record.TypeIssue) != issued {
				t.Error("something was issued")
			}
		})
	}
	// Without a signed delegation the lifetime asked for is the end.
	r.clock = r.clock.Add(time.Minute)
	renewed, err := r.rekey(agent, newKey(t))
	if err != nil || !renewed.certs[0].NotAfter.Equal(agent.certs[0].NotAfter) {
		t.Errorf("until %v, %v; want %s", renewed.certs, err, agent.certs[0].NotAfter)
	}
	if _, err := r.s.CompleteTask(t.Context(), r.auth(orch), task.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.Authenticate(renewed.certs); code(t, err) != chain.CodeTaskRevoked {
		t.Errorf("on a completed task: %v", err)
	}
}

// TestRekeyForks: of many re-keys at once from one key to different ones, one succeeds.
func TestRekeyForks(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	agent := r.spawn(orch, r.task(orch))
	by := r.auth(agent)
	var wait sync.WaitGroup
	var mu sync.Mutex
	codes := map[string]int{}
	for range 20 {
		next := newKey(t)
		q := delegation.RekeyRequest{AgentID: by.ID.AgentID(), CSR: csr(t, next), Link: r.link(agent, next, unchanged)}
		wait.Go(func() {
			_, err := r.s.Rekey(t.Context(), by, q)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				codes["ok"]++
				return
			}
			codes[delegation.AsError(err).Code]++
		})
	}
	wait.Wait()
	if codes["ok"] != 1 || codes["certificate_superseded"] != 19 {
		t.Errorf("%v", codes)
	}
}
