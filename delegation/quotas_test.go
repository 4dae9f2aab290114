package delegation_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/quota"
)

// quotas restarts the appliance with all quotas unlimited but those of change. Buckets are full again.
func (r *rig) quotas(change func(*quota.Limits)) {
	none := quota.Limit{Unlimited: true}
	q := quota.Limits{Task: none, User: none, Orchestrator: none, Service: none}
	change(&q)
	r.limit(func(l *delegation.Limits) { l.Quotas = q })
}

func unlimited(*quota.Limits) {}

// limited names the quota that refused, "" for any other outcome.
func limited(t *testing.T, err error) quota.Name {
	t.Helper()
	var e *delegation.Error
	if !errors.As(err, &e) || e.Code != "rate_limited" {
		return ""
	}
	var exceeded *quota.Exceeded
	if !errors.As(err, &exceeded) || e.Kind != delegation.Exhausted || e.Detail != fmt.Sprintf("the quota %q is used up", exceeded.Name) {
		t.Fatalf("%+v", e)
	}
	return exceeded.Name
}

// What each operation counts for. What ends something is never refused.
func TestWhatCountsForWhat(t *testing.T) {
	r := newRig(t)
	lab := r.orchestrator("lab")
	records := r.service("records")
	agents := []quota.Name{quota.Task, quota.User, quota.Orchestrator}
	own := []quota.Name{quota.Orchestrator}
	for name, c := range map[string]struct {
		counts []quota.Name
		first  func() func() error // prepares, unlimited, and gives what is done twice
	}{
		"spawn": {agents, func() func() error {
			task := r.task(lab)
			return func() error { _, err := r.s.Spawn(t.Context(), r.auth(lab), r.request(task, newKey(t))); return err }
		}},
		"spawn with a token": {agents, func() func() error {
			task := r.task(lab)
			return func() error { _, err := r.s.Spawn(t.Context(), r.auth(lab), r.tokenSpawn(task)); return err }
		}},
		"delegate": {agents, func() func() error {
			task := r.task(lab)
			agent := r.spawn(lab, task)
			return func() error { _, err := r.child(agent, task); return err }
		}},
		"redeem": {agents, func() func() error {
			q, key := r.token(lab, r.task(lab)), newKey(t)
			return func() error { _, err := r.enroll(q, key); return err }
		}},
		"re-key": {agents, func() func() error {
			agent := r.spawn(lab, r.task(lab))
			return func() error { _, err := r.rekey(agent, newKey(t)); return err }
		}},
		"token": {agents, func() func() error {
			agent := r.spawn(lab, r.task(lab))
			return func() error { _, err := r.s.IssueToken(t.Context(), r.auth(agent), tokenRequest(t)); return err }
		}},
		"decision about itself": {agents, func() func() error {
			agent := r.spawn(lab, r.task(lab))
			return func() error { return r.asks(r.auth(agent), agent) }
		}},
		"decision": {[]quota.Name{quota.Service}, func() func() error {
			agent := r.spawn(lab, r.task(lab))
			return func() error { return r.asks(records, agent) }
		}},
		"grant": {own, func() func() error {
			return func() error {
				_, err := r.s.RequestGrant(t.Context(), r.auth(lab), delegation.GrantRequest{
					Purpose: "p", Scope: scope(t, "database:read:*"), NotAfter: r.clock.Add(time.Minute), MaxDepth: 1, AgentTypes: []string{"research"},
				})
				return err
			}
		}},
		"task": {own, func() func() error {
			g := r.grantFor(r.auth(lab), time.Minute)
			r.approve(g.ID)
			return func() error {
				_, err := r.s.OpenTask(t.Context(), r.auth(lab), delegation.TaskRequest{GrantID: g.ID})
				return err
			}
		}},
		"exchange": {own, func() func() error {
			g := r.grantFor(r.auth(lab), time.Minute)
			return func() error { return r.exchange(r.auth(lab), g.ID, r.now()) }
		}},
		"revoke": {nil, func() func() error {
			id := r.auth(r.spawn(lab, r.task(lab))).ID.AgentID()
			return func() error {
				_, err := r.s.Revoke(t.Context(), r.auth(lab), delegation.RevokeRequest{Kind: chain.RevAgent, ID: id})
				return err
			}
		}},
		"complete": {nil, func() func() error {
			task := r.task(lab)
			return func() error { _, err := r.s.CompleteTask(t.Context(), r.auth(lab), task.ID); return err }
		}},
	} {
		for _, of := range []quota.Name{quota.Task, quota.User, quota.Orchestrator, quota.Service} {
			t.Run(name+"/"+string(of), func(t *testing.T) {
				r.quotas(unlimited)
				do := c.first()
				r.quotas(func(l *quota.Limits) { *limitOf(l, of) = quota.Limit{Rate: 1, Burst: 1} })
				if err := do(); err != nil {
					t.Fatal(err)
				}
				want := quota.Name("")
				if slices.Contains(c.counts, of) {
					want = of
				}
				entries := len(r.log.entries)
				if got := limited(t, do()); got != want {
					t.Errorf("the second one is refused by %q, want %q", got, want)
				}
				if want == "" {
					return
				}
				if n := len(r.log.entries) - entries; n != 1 || r.log.last(t).Type != record.TypeMalformed {
					t.Errorf("%d entries, the last one %s", n, r.log.last(t).Type)
				}
				r.clock = r.clock.Add(time.Second)
				if got := limited(t, do()); got != "" {
					t.Errorf("a second later it is refused by %q", got)
				}
			})
		}
	}
}

func limitOf(l *quota.Limits, n quota.Name) *quota.Limit {
	return map[quota.Name]*quota.Limit{quota.Task: &l.Task, quota.User: &l.User, quota.Orchestrator: &l.Orchestrator, quota.Service: &l.Service}[n]
}

func (r *rig) asks(by delegation.Caller, a identity) error {
	d, err := r.s.Decide(r.t.Context(), by, delegation.DecisionRequest{Chain: a.certs, ResourceType: "database", ResourceID: "patients", Action: "read"})
	if err == nil && !d.Allow {
		return errors.New(d.Reasons[0])
	}
	return err
}

// Nobody pays for others: other tasks, other orchestrators, other services. Only a user is one across orchestrators.
func TestQuotasAreApart(t *testing.T) {
	r := newRig(t)
	lab, ward := r.orchestrator("lab"), r.orchestrator("ward")
	first, second, third := r.task(lab), r.task(lab), r.task(ward)
	agent := r.spawn(lab, first)
	records, images := r.service("records"), r.service("images")
	spawn := func(orch identity, task delegation.Task) quota.Name {
		_, err := r.s.Spawn(t.Context(), r.auth(orch), r.request(task, newKey(t)))
		return limited(t, err)
	}
	expect := func(got, want quota.Name) {
		t.Helper()
		if got != want {
			t.Errorf("refused by %q, want %q", got, want)
		}
	}
	r.quotas(func(l *quota.Limits) { l.Task = quota.Limit{Rate: 1, Burst: 1} })
	expect(spawn(lab, first), "")
	expect(spawn(lab, first), quota.Task)
	expect(spawn(lab, second), "")
	expect(spawn(ward, third), "")
	r.quotas(func(l *quota.Limits) { l.Orchestrator = quota.Limit{Rate: 1, Burst: 1} })
	expect(spawn(lab, first), "")
	expect(spawn(lab, second), quota.Orchestrator)
	expect(spawn(ward, third), "")
	r.quotas(func(l *quota.Limits) { l.User = quota.Limit{Rate: 1, Burst: 2} })
	expect(spawn(lab, first), "")
	expect(spawn(ward, third), "")
	expect(spawn(lab, second), quota.User)
	r.quotas(func(l *quota.Limits) { l.Service = quota.Limit{Rate: 1, Burst: 1} })
	expect(limited(t, r.asks(records, agent)), "")
	expect(limited(t, r.asks(records, agent)), quota.Service)
	expect(limited(t, r.asks(images, agent)), "")
	// An agent that floods uses up its task, and nothing of its orchestrator's.
	r.quotas(func(l *quota.Limits) {
		l.Task, l.Orchestrator = quota.Limit{Rate: 1, Burst: 2}, quota.Limit{Rate: 1, Burst: 3}
	})
	for i := range 10 {
		want := quota.Task
		if i < 2 {
			want = ""
		}
		_, err := r.child(agent, first)
		expect(limited(t, err), want)
	}
	expect(spawn(lab, second), "")
}

// A refused spawn is asked for again under its id and is made then, once. A retry of what was made counts for the orchestrator
// that asks, which the appliance works for, and neither for task nor user, for whom nothing is made.
func TestRetriesUnderQuotas(t *testing.T) {
	r := newRig(t)
	lab := r.orchestrator("lab")
	task := r.task(lab)
	r.quotas(func(l *quota.Limits) {
		l.Task, l.User, l.Orchestrator = quota.Limit{Rate: 1, Burst: 1}, quota.Limit{Rate: 1, Burst: 1}, quota.Limit{Rate: 1, Burst: 6}
	})
	spawn := func(q delegation.SpawnRequest) (delegation.Spawned, error) {
		return r.s.Spawn(t.Context(), r.auth(lab), q)
	}
	before := r.log.count(record.TypeIssue)
	q, late := r.request(task, newKey(t)), r.request(task, newKey(t))
	late.Idempotency = delegation.Idempotency{Key: "k", Hash: [32]byte{1}}
	first, err := spawn(q)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := spawn(late); limited(t, err) != quota.Task {
		t.Fatalf("%v", err)
	}
	for range 4 {
		again, err := spawn(q)
		if err != nil || tbsOf(t, again.Chain) != tbsOf(t, first.Chain) {
			t.Fatalf("a retry: %v", err)
		}
	}
	if _, err := spawn(q); limited(t, err) != quota.Orchestrator {
		t.Errorf("the sixth retry: %v", err)
	}
	r.clock = r.clock.Add(time.Second)
	if _, err := spawn(late); err != nil {
		t.Errorf("the refused one, later: %v", err)
	}
	if n := r.log.count(record.TypeIssue) - before; n != 2 {
		t.Errorf("%d certificates, want 2", n)
	}
}

// A refused redemption leaves the token as it was. The alarm about a token in two hands waits for no quota.
func TestRedemptionUnderQuotas(t *testing.T) {
	r := newRig(t)
	lab := r.orchestrator("lab")
	task := r.task(lab)
	q, key := r.token(lab, task), newKey(t)
	r.quotas(func(l *quota.Limits) { l.Task = quota.Limit{Rate: 1, Burst: 1} })
	if err := r.asks(r.auth(r.spawn(lab, task)), identity{}); limited(t, err) != quota.Task {
		t.Fatalf("%v", err)
	}
	if _, err := r.enroll(q, key); limited(t, err) != quota.Task {
		t.Errorf("%v", err)
	}
	if _, err := r.s.Enroll(t.Context(), delegation.Enrollment{AgentID: q.AgentID, Token: "another", CSR: csr(t, key)}); code(t, err) != "enrollment_token_unknown" {
		t.Errorf("who does not know the token learns of the quota: %v", err)
	}
	r.clock = r.clock.Add(time.Second)
	if _, err := r.enroll(q, key); err != nil {
		t.Error(err)
	}
	if _, err := r.enroll(q, newKey(t)); code(t, err) != "enrollment_token_reused" || r.log.count(record.TypeAlarm) != 1 {
		t.Errorf("%v, %d alarms", err, r.log.count(record.TypeAlarm))
	}
}

// A flood of refusals leaves as few entries as a flood of malformed requests, and each says that it is recorded.
func TestFloodOfRefusals(t *testing.T) {
	r := newRig(t)
	lab, records := r.orchestrator("lab"), r.service("records")
	agent := r.spawn(lab, r.task(lab))
	r.quotas(func(l *quota.Limits) { l.Service = quota.Limit{Rate: 1e-3, Burst: 1} })
	if err := r.asks(records, agent); err != nil {
		t.Fatal(err)
	}
	before := len(r.log.entries)
	const flood = 500
	with, burst := 0, delegation.DefaultLimits().MalformedBurst
	for range flood {
		err := r.asks(records, agent)
		var e *delegation.Error
		if limited(t, err) != quota.Service || !errors.As(err, &e) || !e.Counted {
			t.Fatalf("%v", err)
		}
		if e.AuditIndex != nil {
			with++
		}
	}
	if n := len(r.log.entries) - before; n != burst || with != burst {
		t.Errorf("%d entries, %d of them named; want %d", n, with, burst)
	}
}

// Under load from all sides exactly as many agents are made as the quotas let through.
func TestConcurrentSpawnsUnderQuotas(t *testing.T) {
	r := newRig(t)
	lab := r.orchestrator("lab")
	tasks := []delegation.Task{r.task(lab), r.task(lab)}
	before := r.log.count(record.TypeIssue)
	r.quotas(func(l *quota.Limits) {
		l.User, l.Task = quota.Limit{Rate: 1, Burst: 12}, quota.Limit{Rate: 1, Burst: 10}
	})
	by := r.auth(lab)
	var all sync.WaitGroup
	for i := range 32 {
		q := r.request(tasks[i%2], newKey(t))
		all.Go(func() {
			if _, err := r.s.Spawn(t.Context(), by, q); err != nil && limited(t, err) == "" {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := r.log.count(record.TypeIssue) - before; n != 12 {
		t.Errorf("%d agents, want 12", n)
	}
}

// Without limits nothing starts: a quota that somebody forgot is not one without end.
func TestQuotasAreRequired(t *testing.T) {
	for name, limits := range map[string]delegation.Limits{"quota": {}, "origin": delegation.DefaultLimits()} {
		if _, err := delegation.New(t.Context(), delegation.Config{Limits: limits}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("want a word about %s: %v", name, err)
		}
	}
}
