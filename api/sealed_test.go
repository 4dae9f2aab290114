package api

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
)

const sealedQuery = "?wait=sealed"

// waiting is a world in a bubble, with a task to spawn for, and nothing sealed.
type waiting struct {
	*world
	task v1.Task
}

func eachSealing(t *testing.T, test func(w *waiting), change ...func(*Config)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newPipedWorld(t, false, change...)
		w.as(service)
		test(&waiting{w, w.task()})
	})
}

// asks sends a request in the background, and returns when it waits for a seal.
func (w *waiting) asks(p *person, path string, body any) <-chan answer {
	w.t.Helper()
	p.http.Timeout = 0
	out := make(chan answer, 1)
	go func() { out <- w.send(p, http.MethodPost, path, body) }()
	synctest.Wait()
	if len(w.server.sealing) != 1 || len(out) != 0 {
		w.t.Fatal("it does not wait for a seal")
	}
	return out
}

func (w *waiting) request() v1.SpawnRequest { return w.spawn(w.task, newKey(w.t)) }

// certified wants an agent with its certificate, and a receipt that says whether it is sealed.
func (w *waiting) certified(a answer, sealed bool) {
	w.t.Helper()
	out := decodeAs[v1.Spawned](w.world, a, 201)
	r := out.AuditReceipt
	if len(out.CertificateChain) != 2 || r == nil || r.Sealed == nil || *r.Sealed != sealed || (r.Seal != nil) != sealed || sealed && *r.Seal != 7 {
		w.t.Errorf("want sealed %v: %s", sealed, a.body)
	}
	if len(w.server.sealing) != 0 {
		w.t.Error("it keeps its place")
	}
}

// Who asks is answered when there is a seal, and not before; who does not ask, at once.
func TestWaitSealed(t *testing.T) {
	eachSealing(t, func(w *waiting) {
		if a := w.do(orchestrator, "POST", "/v1/agents", w.request()); a.status != 201 || strings.Contains(string(a.body), "seal") {
			w.t.Errorf("not asked: %s", a.body)
		}
		answered := w.asks(w.as(orchestrator), "/v1/agents"+sealedQuery, w.request())
		time.Sleep(7 * time.Second)
		synctest.Wait()
		if len(answered) != 0 {
			w.t.Fatal("it is answered without a seal")
		}
		w.log.seal()
		w.certified(<-answered, true)
	})
}

// A seal that does not come takes nothing away: the answer is there in time, and says what it is.
func TestWaitSealedIsOver(t *testing.T) {
	eachSealing(t, func(w *waiting) {
		began, issued := time.Now(), w.log.count(record.TypeIssue, "")
		w.certified(<-w.asks(w.as(orchestrator), "/v1/agents"+sealedQuery, w.request()), false)
		if took := time.Since(began); took < 25*time.Second || took >= 30*time.Second {
			w.t.Errorf("after %s", took)
		}
		if n := w.log.count(record.TypeIssue, ""); n != issued+1 {
			w.t.Errorf("%d certificates were recorded", n-issued)
		}
	})
}

func TestWaitSealedEndsWithTheServer(t *testing.T) {
	eachSealing(t, func(w *waiting) {
		answered, began := w.asks(w.as(orchestrator), "/v1/agents"+sealedQuery, w.request()), time.Now()
		w.stop()
		w.certified(<-answered, false)
		if time.Since(began) >= time.Second {
			w.t.Errorf("after %s", time.Since(began))
		}
	})
}

// No more than half of those at work wait; the others are told at once that nothing is sealed yet.
func TestWaitSealedHasPlaces(t *testing.T) {
	eachSealing(t, func(w *waiting) {
		first, began := w.asks(w.as(orchestrator), "/v1/agents"+sealedQuery, w.request()), time.Now()
		a := w.do(orchestrator, "POST", "/v1/agents"+sealedQuery, w.request())
		if out := decodeAs[v1.Spawned](w.world, a, 201); time.Since(began) >= time.Second || out.AuditReceipt.Sealed == nil || *out.AuditReceipt.Sealed {
			w.t.Errorf("after %s: %s", time.Since(began), a.body)
		}
		if a := w.do(orchestrator, "POST", "/v1/agents", w.request()); a.status != 201 {
			w.t.Errorf("who does not wait: %d", a.status)
		}
		w.log.seal()
		w.certified(<-first, true)
	}, func(c *Config) { c.Limits.Concurrency = 2 })
}

// A denial is an entry like a permission, and can be waited for as well; each of several tells for itself.
func TestDecisionsWaitSealed(t *testing.T) {
	eachSealing(t, func(w *waiting) {
		question := v1.EvaluationRequest{
			Subject: v1.Subject{Type: "agent", ID: "x"}, Action: v1.Action{Name: "read"}, Resource: v1.Resource{Type: "database", ID: "patients"},
		}
		p := w.as(service)
		answered := w.asks(p, "/access/v1/evaluation"+sealedQuery, question)
		w.log.seal()
		one := decodeAs[v1.EvaluationResponse](w.world, <-answered, 200)
		if k := one.Context; one.Decision || k.AuditSealed == nil || !*k.AuditSealed || k.AuditSeal == nil || *k.AuditSeal != 7 {
			w.t.Errorf("%+v", k)
		}
		all := v1.EvaluationsRequest{
			Subject: &question.Subject, Action: &question.Action,
			Evaluations: []v1.Evaluation{{Resource: &question.Resource}, {Resource: &question.Resource}, {}},
		}
		answered = w.asks(p, "/access/v1/evaluations"+sealedQuery, all)
		w.log.seal()
		several := decodeAs[v1.EvaluationsResponse](w.world, <-answered, 200)
		for i, e := range several.Evaluations {
			if e.Context.AuditID == nil || e.Context.AuditSealed == nil || !*e.Context.AuditSealed {
				w.t.Errorf("%d: %+v", i, e.Context)
			}
		}
	})
}

func TestBatchesWaitSealed(t *testing.T) {
	eachSealing(t, func(w *waiting) {
		bad := w.request()
		bad.Scope = []string{"database:write:patients"}
		answered := w.asks(w.as(orchestrator), "/v1/agents:batch"+sealedQuery, v1.SpawnBatch{Spawns: []v1.SpawnRequest{w.request(), bad, w.request()}})
		w.log.seal()
		out := decodeAs[v1.SpawnBatchResults](w.world, <-answered, 200)
		for i, r := range out.Results {
			if (r.Agent != nil) != (i != 1) || r.Agent != nil && (r.Agent.AuditReceipt.Sealed == nil || !*r.Agent.AuditReceipt.Sealed) {
				w.t.Errorf("%d: %+v", i, r)
			}
		}
	})
}

// Whoever asks for a kind of waiting that there is not gets nothing done.
func TestWaitSealedIsSpelledRight(t *testing.T) {
	w := newWorld(t)
	task := w.task()
	for _, query := range []string{"?wait=durable", "?wait=", "?wait=sealed&wait=sealed", "?wait=5"} {
		p := w.refused(w.do(orchestrator, "POST", "/v1/agents"+query, w.spawn(task, newKey(t))), 400, codeBadParameter)
		if p.Field != "wait" {
			t.Errorf("%s: %+v", query, p)
		}
	}
	w.refused(w.do(orchestrator, "POST", "/v1/agents?wiat=sealed", w.spawn(task, newKey(t))), 400, codeUnknownParameter)
	if n := w.log.count(record.TypeIssue, ""); n != 2 { // the orchestrator's and the operator's
		t.Errorf("%d certificates were recorded", n)
	}
}
