package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/quota"
)

// rationed runs a test in a bubble, on an appliance whose quotas are unlimited but for those of change.
func rationed(t *testing.T, change func(*quota.Limits), test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		none := quota.Limit{Unlimited: true}
		p := newPipes()
		w := &world{t: t, dial: p.dial, quotas: &quota.Limits{Task: none, User: none, Orchestrator: none, Service: none}}
		change(w.quotas)
		w.start(p)
		test(w)
	})
}

// told checks the fields of an answer, to the letter; all empty: there are none.
func (a answer) told(t *testing.T, status int, policy, limit, after string) {
	t.Helper()
	if a.status != status {
		t.Errorf("status %d, want %d: %s", a.status, status, a.body)
	}
	for name, want := range map[string]string{"RateLimit-Policy": policy, "RateLimit": limit, "Retry-After": after} {
		if got := strings.Join(a.header.Values(name), " | "); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// A service's decisions, to the second: what the fields say is what happens.
func TestQuotaOfAService(t *testing.T) {
	rationed(t, func(l *quota.Limits) { l.Service = quota.Limit{Rate: 0.5, Burst: 3} }, func(w *world) {
		const policy = `"service";q=3;w=6`
		agent := w.as(agent)
		ask := func() answer {
			return w.do(service, "POST", "/access/v1/evaluation", v1.EvaluationRequest{
				Subject: v1.Subject{Type: "agent", ID: subjectOf(t, agent.chainPEM())}, Action: v1.Action{Name: "read"},
				Resource: v1.Resource{Type: "database", ID: "patients"}, Context: v1.EvaluationContext{CertificateChain: agent.chainPEM()},
			})
		}
		w.do(service, "POST", "/access/v1/evaluation", `{"subject":{}}`).told(t, 400, "", "", "") // before the domain: nothing is counted
		for left := 2; left >= 0; left-- {
			ask().told(t, 200, policy, fmt.Sprintf(`"service";r=%d;t=2`, left), "")
		}
		decisions := w.log.count(record.TypeDecision, "")
		refused := ask()
		refused.told(t, 429, policy, `"service";r=0;t=2`, "2")
		var text string
		must(t, json.Unmarshal(refused.body, &text))
		if text != `rate_limited: the quota "service" is used up` {
			t.Error(text)
		}
		if n := w.log.count(record.TypeDecision, ""); n != decisions || w.log.count(record.TypeMalformed, "rate_limited") != 1 {
			t.Errorf("%d decisions more; the refusal is recorded %d times", n-decisions, w.log.count(record.TypeMalformed, "rate_limited"))
		}
		time.Sleep(1500 * time.Millisecond)
		ask().told(t, 429, policy, `"service";r=0;t=1`, "1")
		time.Sleep(500*time.Millisecond - 1)
		ask().told(t, 429, policy, `"service";r=0;t=1`, "1")
		time.Sleep(time.Nanosecond)
		ask().told(t, 200, policy, `"service";r=0;t=2`, "")
		time.Sleep(time.Minute)
		ask().told(t, 200, policy, `"service";r=2;t=2`, "")
	})
}

// Of what a spawn counts for, the tighter one of orchestrator and task shows; the user's does where it refuses.
func TestQuotasOfASpawn(t *testing.T) {
	rationed(t, func(l *quota.Limits) {
		l.Task, l.User, l.Orchestrator = quota.Limit{Rate: 1, Burst: 5}, quota.Limit{Rate: 0.1, Burst: 3}, quota.Limit{Rate: 1, Burst: 20}
	}, func(w *world) {
		task := w.task()
		time.Sleep(time.Minute)
		q := w.spawn(task, newKey(t))
		w.do(orchestrator, "POST", "/v1/agents", q).told(t, 201, `"task";q=5;w=5`, `"task";r=4;t=1`, "")
		w.do(orchestrator, "POST", "/v1/agents", q).told(t, 201, `"orchestrator";q=20;w=20`, `"orchestrator";r=18;t=1`, "") // a retry
		bad := w.spawn(task, newKey(t))
		bad.TaskID = newID(t)
		w.do(orchestrator, "POST", "/v1/agents", bad).told(t, 404, `"orchestrator";q=20;w=20`, `"orchestrator";r=17;t=1`, "")
		for left := range 2 {
			w.do(orchestrator, "POST", "/v1/agents", w.spawn(task, newKey(t))).told(t, 201, `"task";q=5;w=5`, fmt.Sprintf(`"task";r=%d;t=1`, 3-left), "")
		}
		a := w.do(orchestrator, "POST", "/v1/agents", w.spawn(task, newKey(t)))
		a.told(t, 429, `"user";q=3;w=30`, `"user";r=0;t=10`, "10")
		if p := w.refused(a, 429, "rate_limited"); p.Quota != "user" || p.RetryAfter != 10 || p.AuditID == nil || p.Detail != `the quota "user" is used up` {
			t.Errorf("%+v", p)
		}
		if n := w.log.count(record.TypeDeny, "rate_limited"); n != 0 {
			t.Errorf("%d entries of a kind that a flood would multiply", n)
		}
	})
}

// Each item of a batch counts, and is refused alone.
func TestQuotasOfABatch(t *testing.T) {
	rationed(t, func(l *quota.Limits) { l.Task = quota.Limit{Rate: 1, Burst: 3} }, func(w *world) {
		task := w.task()
		q := v1.SpawnBatch{}
		for range 8 {
			q.Spawns = append(q.Spawns, w.spawn(task, newKey(t)))
		}
		send := func() (made, refused int) {
			a := w.do(orchestrator, "POST", "/v1/agents:batch", q)
			for _, r := range decodeAs[v1.SpawnBatchResults](w, a, 200).Results {
				switch {
				case r.Status == 201 && r.Agent != nil:
					made++
				case r.Status == 429 && r.Problem.Code == "rate_limited" && r.Problem.Quota == "task" && r.Problem.RetryAfter == 1 && r.Problem.AuditID != nil:
					refused++
				default:
					t.Errorf("%+v", r)
				}
			}
			if made < 8 {
				a.told(t, 200, `"task";q=3;w=3`, `"task";r=0;t=1`, "")
			}
			return made, refused
		}
		// The same batch again and again: what was made is not made again, and costs the task nothing.
		for i, want := range []int{3, 6, 8, 8} {
			made, refused := send()
			if made != want || refused != 8-want {
				t.Errorf("batch %d: %d made, %d refused, want %d made", i, made, refused, want)
			}
			time.Sleep(3 * time.Second)
		}
	})
}

// Each evaluation of several counts, and the one that is too much is told so.
func TestQuotaOfSeveralEvaluations(t *testing.T) {
	rationed(t, func(l *quota.Limits) { l.Service = quota.Limit{Rate: 0.5, Burst: 2} }, func(w *world) {
		agent := w.as(agent)
		q := v1.EvaluationsRequest{
			Subject: &v1.Subject{Type: "agent", ID: subjectOf(t, agent.chainPEM())}, Action: &v1.Action{Name: "read"},
			Resource: &v1.Resource{Type: "database", ID: "patients"}, Context: &v1.EvaluationContext{CertificateChain: agent.chainPEM()},
			Evaluations: make([]v1.Evaluation, 3), Options: v1.EvaluationsOptions{Semantic: v1.DenyOnFirstDeny},
		}
		var out v1.EvaluationsResponse
		a := w.do(service, "POST", "/access/v1/evaluations", q)
		must(t, json.Unmarshal(a.body, &out))
		if len(out.Evaluations) != 3 || !out.Evaluations[0].Decision || !out.Evaluations[1].Decision || out.Evaluations[2].Decision {
			t.Fatalf("status %d: %s", a.status, a.body)
		}
		if e := out.Evaluations[2].Context.Error; e == nil || e.Status != 429 {
			t.Errorf("the third: %+v", out.Evaluations[2].Context)
		}
	})
}

// The rows of the table that say so count, whatever comes of a request, and the others do not.
func TestWhatIsLimited(t *testing.T) {
	w := newWorld(t)
	agent := w.as(agent)
	id := newID(t)
	spawn := v1.SpawnRequest{TaskID: id, SpawnID: id, AgentType: "research", Scope: []string{"a:b:c"}, TTL: 60, CSR: "x"}
	bodies := map[string]struct {
		by   role
		path string
		body any
	}{
		"requestGrant":  {orchestrator, "/v1/grants", v1.GrantRequest{Task: "t", Scope: []string{"a:b:c"}, MaxDepth: 1, AgentTypes: []string{"research"}}},
		"exchangeToken": {orchestrator, "/v1/grants/" + id + "/token", v1.TokenExchange{SubjectToken: "x", SubjectTokenType: "y"}},
		"openTask":      {orchestrator, "/v1/tasks", v1.TaskRequest{GrantID: id}},
		"spawnAgent":    {orchestrator, "/v1/agents", spawn},
		"spawnAgents":   {orchestrator, "/v1/agents:batch", v1.SpawnBatch{Spawns: []v1.SpawnRequest{spawn}}},
		"certifyAgent":  {0, "/v1/agents/" + id + "/certificate", v1.AgentCertificateRequest{CSR: "x", Link: "y"}},
		"delegateAgent": {0, "/v1/agents/" + id + "/delegations", spawn},
		"issueToken":    {0, "/v1/tokens", v1.TokenRequest{Audience: "x", Scope: []string{"a:b:c"}}},
		"evaluate": {service, "/access/v1/evaluation", v1.EvaluationRequest{
			Subject: v1.Subject{Type: "agent", ID: "x"}, Action: v1.Action{Name: "x"}, Resource: v1.Resource{Type: "x", ID: "x"},
		}},
		"evaluateAll":  {service, "/access/v1/evaluations", `{"subject":{"type":"agent","id":"x"},"action":{"name":"x"},"resource":{"type":"x","id":"x"},"evaluations":[{}]}`},
		"opaData":      {service, "/opa/v1/data/signet/access", `{"input":{"action":{"name":"x"},"resource":{"type":"x","id":"x"}}}`},
		"revoke":       {orchestrator, "/v1/revocations", v1.RevocationRequest{Kind: "agent", ID: id}},
		"completeTask": {orchestrator, "/v1/tasks/" + id + "/complete", nil},
	}
	for _, r := range table() {
		b, ok := bodies[r.id]
		if !ok {
			if r.limited && !r.grpc { // gRPC's tests have its own client
				t.Errorf("%s is limited, and not tried here", r.id)
			}
			continue
		}
		p := agent
		if b.by != 0 {
			p = w.as(b.by)
		}
		a := w.send(p, http.MethodPost, b.path, b.body)
		if a.status == http.StatusForbidden && strings.Contains(string(a.body), codeRole) {
			t.Errorf("%s: %s", r.id, a.body)
		}
		if has := a.header.Get("RateLimit") != "" && a.header.Get("RateLimit-Policy") != ""; has != r.limited {
			t.Errorf("%s: limited %v; %d with %q", r.id, r.limited, a.status, a.header.Get("RateLimit"))
		}
	}
}

// What the domain has counted is not recorded a second time here.
func TestCountedIsRecorded(t *testing.T) {
	s, c := &Server{}, &call{route: &route{method: http.MethodPost}}
	for counted, want := range map[bool]bool{true: false, false: true} {
		if got := s.recorded(c, &delegation.Error{Kind: delegation.Unauthenticated, Code: "x", Counted: counted}, 401); got != want {
			t.Errorf("counted %v: recorded %v", counted, got)
		}
	}
}
