package delegation_test

import (
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// limit restarts the appliance with other limits.
func (r *rig) limit(change func(*delegation.Limits)) {
	r.limits = delegation.DefaultLimits()
	change(&r.limits)
	r.restart()
}

func TestTypeLimits(t *testing.T) {
	r := newRig(t)
	none, one := 0, 1
	r.limit(func(l *delegation.Limits) {
		l.AgentTypes = map[string]delegation.TypeLimit{"research": {MaxTTL: 4 * time.Minute, MaxDepth: &one}}
	})
	narrow := r.registered("narrow", delegation.Registration{
		AgentTypes: []string{"research", "reader"},
		TypeLimits: map[string]delegation.TypeLimit{"research": {MaxTTL: 2 * time.Minute}, "reader": {MaxDepth: &none}},
	})
	for name, orch := range map[string]identity{"configured": r.orchestrator("lab"), "registered": narrow} {
		t.Run(name, func(t *testing.T) {
			task := r.task(orch)
			most := 4 * time.Minute
			if name == "registered" {
				most = 2 * time.Minute
			}
			spawn := func(change func(*delegation.SpawnRequest)) (delegation.Spawned, error) {
				q := r.request(task, newKey(t))
				q.TTL, q.MaxDepth = most, 1
				change(&q)
				return r.s.Spawn(t.Context(), r.auth(orch), q)
			}
			if _, err := spawn(func(*delegation.SpawnRequest) {}); err != nil {
				t.Error(err)
			}
			if _, err := spawn(func(q *delegation.SpawnRequest) { q.TTL += time.Second }); code(t, err) != "ttl_exceeds_type_limit" {
				t.Errorf("ttl: %v", err)
			}
			if _, err := spawn(func(q *delegation.SpawnRequest) { q.MaxDepth = 2 }); code(t, err) != "depth_exceeds_type_limit" {
				t.Errorf("depth: %v", err)
			}
			out, err := spawn(func(q *delegation.SpawnRequest) { q.TTL = 0 })
			if err != nil || !out.NotAfter.Equal(r.clock.Add(most)) {
				t.Errorf("as long as allowed: %s %v", out.NotAfter, err)
			}
			_, err = spawn(func(q *delegation.SpawnRequest) { q.AgentType, q.MaxDepth = "reader", 1 })
			if bad := name == "registered"; bad && code(t, err) != "depth_exceeds_type_limit" || !bad && err != nil {
				t.Errorf("reader: %v", err)
			}
		})
	}
}

// registered registers and attests an orchestrator of one's own making.
func (r *rig) registered(name string, q delegation.Registration) identity {
	r.t.Helper()
	q.Name = name
	reg, err := r.s.Register(r.t.Context(), r.operator, chain.Orchestrator, q)
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

func TestBadTypeLimits(t *testing.T) {
	r := newRig(t)
	nine := 9
	for name, tc := range map[string]struct {
		limit delegation.TypeLimit
		of    string
		want  string
	}{
		"of another type": {delegation.TypeLimit{}, "writer", "bad_type_limits"},
		"too long":        {delegation.TypeLimit{MaxTTL: time.Hour}, "research", "bad_ttl"},
		"too deep":        {delegation.TypeLimit{MaxDepth: &nine}, "research", "bad_type_limits"},
	} {
		_, err := r.s.Register(t.Context(), r.operator, chain.Orchestrator, delegation.Registration{
			Name: "x", AgentTypes: []string{"research"}, TypeLimits: map[string]delegation.TypeLimit{tc.of: tc.limit},
		})
		if code(t, err) != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConfirmationRequired(t *testing.T) {
	r := newRig(t)
	strict := r.registered("strict", delegation.Registration{AgentTypes: []string{"research"}, RequireConfirmation: true})
	if _, err := r.s.Spawn(t.Context(), r.auth(strict), r.request(r.task(strict), newKey(t))); code(t, err) != "confirmation_required" {
		t.Errorf("by registration: %v", err)
	}
	r.limit(func(l *delegation.Limits) { l.RequireConfirmation = true })
	lab := r.orchestrator("lab")
	task := r.task(lab)
	if _, err := r.s.Spawn(t.Context(), r.auth(lab), r.tokenSpawn(task)); code(t, err) != "confirmation_required" {
		t.Errorf("by configuration, for a token: %v", err)
	}
	g, err := r.s.Grant(r.auth(lab), task.GrantID)
	if err != nil {
		t.Fatal(err)
	}
	r.confirmed(lab, task, g.Hash, 1, r.clock.Add(time.Minute*20))
}

// TestTaskAgents: concurrent spawns of one task never exceed its limit, refused ones take no place, and a restart
// counts the same.
func TestTaskAgents(t *testing.T) {
	const most = 10
	r := newRig(t)
	r.limit(func(l *delegation.Limits) { l.TaskAgents = most })
	orch := r.orchestrator("lab")
	task := r.task(orch)
	by := r.auth(orch)
	for range most + 2 {
		q := r.request(task, orch.key) // refused after it took a place
		if _, err := r.s.Spawn(t.Context(), by, q); err == nil {
			t.Fatal("the orchestrator's own key was taken")
		}
	}
	used := newKey(t)
	if _, err := r.s.Spawn(t.Context(), by, r.request(task, used)); err != nil {
		t.Fatal(err)
	}
	for range most + 2 {
		if _, err := r.s.Spawn(t.Context(), by, r.request(task, used)); code(t, err) != "key_reused" {
			t.Fatal(err)
		}
	}
	r.restart()
	var wait sync.WaitGroup
	var mu sync.Mutex
	codes := map[string]int{}
	for i := range 40 {
		q := r.request(task, newKey(t))
		if i%2 == 0 {
			q.CSR = nil
		}
		wait.Go(func() {
			_, err := r.s.Spawn(t.Context(), by, q)
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
	if codes["ok"] != most-1 || codes["too_many_agents"] != 41-most {
		t.Errorf("%v", codes)
	}
	r.restart()
	if _, err := r.s.Spawn(t.Context(), by, r.request(task, newKey(t))); code(t, err) != "too_many_agents" {
		t.Errorf("after a restart: %v", err)
	}
	if _, err := r.s.Spawn(t.Context(), by, r.request(r.task(orch), newKey(t))); err != nil {
		t.Errorf("another task: %v", err)
	}
}

// TestSpawnThrice: every request three times at once gives one agent and one certificate.
func TestSpawnThrice(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	by := r.auth(orch)
	before := r.log.count(record.TypeIssue)
	for range 20 {
		q := r.request(task, newKey(t))
		var wait sync.WaitGroup
		got := make([][32]byte, 3)
		for i := range got {
			wait.Go(func() {
				out, err := r.s.Spawn(t.Context(), by, q)
				if err != nil {
					t.Error(err)
					return
				}
				got[i] = tbsOf(t, out.Chain)
			})
		}
		wait.Wait()
		if got[0] != got[1] || got[0] != got[2] {
			t.Error("different certificates")
		}
	}
	if n := r.log.count(record.TypeIssue) - before; n != 20 {
		t.Errorf("%d entries for 20 agents", n)
	}
}

// TestRekeyLimit: an agent changes its key a bounded number of times.
func TestRekeyLimit(t *testing.T) {
	r := newRig(t)
	r.limit(func(l *delegation.Limits) { l.Rekeys = 2 })
	orch := r.orchestrator("lab")
	agent := r.spawn(orch, r.task(orch))
	var err error
	for range 2 {
		if agent, err = r.rekey(agent, newKey(t)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.rekey(agent, newKey(t)); code(t, err) != "too_many_rekeys" {
		t.Errorf("%v", err)
	}
}
