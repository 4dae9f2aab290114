package api

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// boxcar asks about databases, with everything else as defaults.
func (w *world) boxcar(p *person, semantic string, databases ...string) v1.EvaluationsResponse {
	w.t.Helper()
	q := question(w.t, p)
	all := v1.EvaluationsRequest{Subject: &q.Subject, Action: &q.Action, Context: &q.Context, Options: v1.EvaluationsOptions{Semantic: semantic}}
	for _, d := range databases {
		all.Evaluations = append(all.Evaluations, v1.Evaluation{Resource: &v1.Resource{Type: "database", ID: d}})
	}
	return decodeAs[v1.EvaluationsResponse](w, w.do(service, "POST", accessPath+"s", all), 200)
}

// decisionsOf are the answers, in their order.
func decisionsOf(r v1.EvaluationsResponse) []bool {
	var out []bool
	for _, e := range r.Evaluations {
		out = append(out, e.Decision)
	}
	return out
}

// Each evaluation is decided and recorded by itself, and answered in its place.
func TestEvaluations(t *testing.T) {
	w := newWorld(t)
	a := w.agent(w.task())
	resources := []string{"patients", "billing", "patients", "nothing", "patients", "billing", "patients", "nothing", "patients", "patients"}
	out := w.boxcar(a, "", resources...)
	ids := map[string]bool{}
	for i, d := range out.Evaluations {
		if d.Decision != (resources[i] == "patients") || d.Context.AuditID == nil || d.Context.Error != nil || len(d.Context.Checks) != 12 {
			t.Fatalf("%d: %+v", i, d)
		}
		env := w.log.at(t, *d.Context.AuditID)
		var body record.DecisionBody
		must(t, json.Unmarshal(env.Body, &body))
		if env.Type != record.TypeDecision || body.DecisionID != d.Context.DecisionID || body.ResourceID != resources[i] || body.Allow != d.Decision {
			t.Errorf("%d: entry %+v", i, body)
		}
		ids[d.Context.DecisionID] = true
	}
	if len(out.Evaluations) != len(resources) || len(ids) != len(resources) || w.log.count(record.TypeDecision, "") != len(resources) || out.Decision != nil {
		t.Errorf("%d answers, %d decisions, %d entries", len(out.Evaluations), len(ids), w.log.count(record.TypeDecision, ""))
	}
}

// The three semantics: what comes after the end is neither decided nor recorded.
func TestSemantics(t *testing.T) {
	w := newWorld(t)
	a := w.agent(w.task())
	mixed := []string{"patients", "billing", "patients", "nothing"}
	for _, tc := range []struct {
		semantic string
		ask      []string
		want     []bool
	}{
		{"", mixed, []bool{true, false, true, false}},
		{v1.ExecuteAll, mixed, []bool{true, false, true, false}},
		{v1.DenyOnFirstDeny, mixed, []bool{true, false}},
		{v1.DenyOnFirstDeny, []string{"billing", "patients"}, []bool{false}},
		{v1.DenyOnFirstDeny, []string{"patients", "patients"}, []bool{true, true}},
		{v1.PermitOnFirstPermit, mixed, []bool{true}},
		{v1.PermitOnFirstPermit, []string{"nothing", "billing", "patients", "patients"}, []bool{false, false, true}},
		{v1.PermitOnFirstPermit, []string{"billing", "billing"}, []bool{false, false}},
	} {
		before := w.log.count(record.TypeDecision, "")
		if got := decisionsOf(w.boxcar(a, tc.semantic, tc.ask...)); !slices.Equal(got, tc.want) {
			t.Errorf("%s %v: %v", tc.semantic, tc.ask, got)
		}
		if n := w.log.count(record.TypeDecision, "") - before; n != len(tc.want) {
			t.Errorf("%s %v: %d decisions are recorded", tc.semantic, tc.ask, n)
		}
	}
	// An error is a denial.
	q := `{"options":{"evaluations_semantic":"` + v1.DenyOnFirstDeny + `"},"evaluations":[7,{}]}`
	if got := decodeAs[v1.EvaluationsResponse](w, w.do(service, "POST", accessPath+"s", q), 200); len(got.Evaluations) != 1 || got.Evaluations[0].Context.Error == nil {
		t.Errorf("%+v", got)
	}
	q = strings.Replace(q, v1.DenyOnFirstDeny, v1.PermitOnFirstPermit, 1)
	if got := decodeAs[v1.EvaluationsResponse](w, w.do(service, "POST", accessPath+"s", q), 200); len(got.Evaluations) != 2 {
		t.Errorf("%+v", got)
	}
}

// A broken evaluation is an error of its own, with an entry, and harms no other.
func TestBrokenEvaluations(t *testing.T) {
	w := newWorld(t)
	q := question(t, w.agent(w.task()))
	top := map[string]any{"subject": q.Subject, "context": q.Context, "action": q.Action}
	good := map[string]any{"resource": q.Resource}
	for item, message := range map[string]string{
		`{}`:   "bad_request (resource.type): this member is required",
		`null`: "wrong_type: must be an object", `7`: "wrong_type: must be an object", `[]`: "wrong_type: must be an object", `"x"`: "wrong_type: must be an object",
		`{"resource":{"type":"a","id":"b"},"Resource":{"id":"patients"}}`: "unknown_field (Resource): this member is not known here",
		`{"resource":"x"}`:                  "wrong_type (resource): must be an object",
		`{"resource":{"type":"a","id":1}}`:  "wrong_type (resource.id): must be a string",
		`{"resource":{"type":"a"}}`:         "bad_request (resource.id): this member is required",
		`{"resource":{"type":"a","id":""}}`: "bad_request (resource.id): this member is required",
		`{"resource":{"type":"a","id":"b"},"context":{"certificate_chain":["x"]}}`:                                   "bad_certificate (context.certificate_chain):",
		`{"resource":{"type":"a","id":"b"},"context":{"certificate_chain":[]}}`:                                      "bad_certificate (context.certificate_chain):",
		`{"resource":{"type":"a","id":"b"},"context":{"certificate_chain":["` + strings.Repeat("-", 65<<10) + `"]}}`: "bad_certificate (context.certificate_chain): at most 65536 bytes of PEM",
		`{"resource":{"type":"` + strings.Repeat("a", 257) + `","id":"b"}}`:                                          "bad_request (resource): names of at most 256 bytes",
		`{"resource":{"type":"a","id":"b"},"subject":{"type":"","id":""},"action":true}`:                             "wrong_type (action): must be an object",
	} {
		top["evaluations"] = []any{good, json.RawMessage(item), good}
		before := w.log.count(record.TypeMalformed, "") + w.log.count(record.TypeDeny, "")
		out := decodeAs[v1.EvaluationsResponse](w, w.do(service, "POST", accessPath+"s", top), 200)
		if !slices.Equal(decisionsOf(out), []bool{true, false, true}) {
			t.Fatalf("%s: %+v", item, out)
		}
		c := out.Evaluations[1].Context
		if c.Error == nil || c.Error.Status != 400 || !strings.HasPrefix(c.Error.Message, message) || c.AuditID == nil || c.DecisionID != "" {
			t.Errorf("%s: %+v %+v", item, c, c.Error)
		}
		if n := w.log.count(record.TypeMalformed, "") + w.log.count(record.TypeDeny, ""); n != before+1 {
			t.Errorf("%s: %d entries", item, n-before)
		}
	}
}

// Without evaluations it is a single one, whose errors are the request's.
func TestASingleEvaluation(t *testing.T) {
	w := newWorld(t)
	q := question(t, w.agent(w.task()))
	for _, none := range []any{nil, []any{}, json.RawMessage("null")} {
		body := map[string]any{"subject": q.Subject, "context": q.Context, "action": q.Action, "resource": q.Resource}
		if none != nil {
			body["evaluations"] = none
		}
		out := decodeAs[v1.EvaluationsResponse](w, w.do(service, "POST", accessPath+"s", body), 200)
		if out.Decision == nil || !*out.Decision || out.Context == nil || out.Context.AuditID == nil || out.Evaluations != nil {
			t.Errorf("%v: %+v", none, out)
		}
		delete(body, "resource")
		if a := w.do(service, "POST", accessPath+"s", body); a.status != 400 || !strings.Contains(string(a.body), "resource.type") {
			t.Errorf("%v: %d %s", none, a.status, a.body)
		}
	}
}

func TestRefusedAsAWhole(t *testing.T) {
	w := newWorld(t)
	w.as(service)
	many := func(n int) string {
		return `{"evaluations":[` + strings.TrimSuffix(strings.Repeat(`{"action":{"name":"read"}},`, n), ",") + `]}`
	}
	for name, tc := range map[string]struct{ body, want string }{
		"101":              {many(101), "bad_request (evaluations): at most 100 evaluations"},
		"10,000":           {many(10_000), "bad_request (evaluations): at most 100 evaluations"},
		"no list":          {`{"evaluations":{"0":{}}}`, "wrong_type (evaluations): must be an array"},
		"unknown semantic": {`{"evaluations":[{}],"options":{"evaluations_semantic":"any"}}`, "bad_request (options.evaluations_semantic): execute_all"},
		"no semantic":      {`{"evaluations":[{}],"options":{"evaluations_semantic":""}}`, "bad_request (options.evaluations_semantic): execute_all"},
		"semantic is 1":    {`{"evaluations":[{}],"options":{"evaluations_semantic":1}}`, "wrong_type (options.evaluations_semantic): must be a string"},
		"options are []":   {`{"evaluations":[{}],"options":[]}`, "wrong_type (options): must be an object"},
		"bad default":      {`{"subject":"alice","evaluations":[{}]}`, "wrong_type (subject): must be an object"},
		"twice":            {`{"evaluations":[{"resource":{"id":"a","id":"b"}}]}`, "duplicate_field (evaluations[0].resource.id)"},
		"deep":             {`{"evaluations":[{"x":` + strings.Repeat(`{"a":`, 20) + `1` + strings.Repeat(`}`, 20) + `}]}`, "too_deep"},
	} {
		a := w.do(service, "POST", accessPath+"s", tc.body)
		if a.status != 400 || !strings.HasPrefix(string(a.body), `"`+tc.want) {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if n := w.log.count(record.TypeDecision, ""); n != 0 {
		t.Errorf("%d decisions came of it", n)
	}
	known := `{"evaluations":[{}],"options":{"evaluations_semantic":null,"another":[1]},"page":7}`
	if out := decodeAs[v1.EvaluationsResponse](w, w.do(service, "POST", accessPath+"s", known), 200); len(out.Evaluations) != 1 {
		t.Errorf("what is unknown is ignored: %+v", out)
	}
	if out := decodeAs[v1.EvaluationsResponse](w, w.do(service, "POST", accessPath+"s", many(100)), 200); len(out.Evaluations) != 100 {
		t.Errorf("%d answers", len(out.Evaluations))
	}
}

// Evaluations may be about several agents; each is held against its own chain.
func TestOtherChains(t *testing.T) {
	w := newWorld(t)
	task := w.task()
	a, b := question(t, w.agent(task)), question(t, w.agent(task))
	mixed := v1.EvaluationRequest{Subject: a.Subject, Context: b.Context}
	_, der := selfSigned(t, func(*x509.Certificate) {})
	foreign := v1.EvaluationContext{CertificateChain: pemChain([][]byte{der})}
	q := v1.EvaluationsRequest{
		Action: &a.Action, Resource: &a.Resource, Context: &a.Context, Subject: &a.Subject,
		Evaluations: []v1.Evaluation{
			{}, {Subject: &b.Subject, Context: &b.Context}, {Subject: &mixed.Subject, Context: &mixed.Context}, {Subject: &b.Subject}, {Context: &foreign}, {},
		},
	}
	out := decodeAs[v1.EvaluationsResponse](w, w.do(service, "POST", accessPath+"s", q), 200)
	if !slices.Equal(decisionsOf(out), []bool{true, true, false, false, false, true}) {
		t.Fatalf("%v", decisionsOf(out))
	}
	for i, reason := range map[int]string{2: "subject_mismatch", 3: "subject_mismatch", 4: "san_missing"} {
		if !slices.Contains(out.Evaluations[i].Context.Reasons, reason) {
			t.Errorf("%d: %v", i, out.Evaluations[i].Context.Reasons)
		}
	}
}

// An agent asks about itself, over its connection, and about nobody else.
func TestAnAgentsEvaluations(t *testing.T) {
	w := newWorld(t)
	task := w.task()
	a, other := w.agent(task), w.agent(task)
	own, its := question(t, a), question(t, other)
	q := v1.EvaluationsRequest{
		Subject: &own.Subject, Action: &own.Action, Resource: &own.Resource,
		Evaluations: []v1.Evaluation{{}, {Subject: &its.Subject, Context: &its.Context}, {Context: &own.Context}, {Subject: &its.Subject}},
	}
	before := w.log.count(record.TypeDeny, "service_required")
	out := decodeAs[v1.EvaluationsResponse](w, w.send(a, "POST", accessPath+"s", q), 200)
	if !slices.Equal(decisionsOf(out), []bool{true, false, true, false}) {
		t.Fatalf("%+v", out)
	}
	if e := out.Evaluations[1].Context.Error; e == nil || e.Status != 403 || !strings.HasPrefix(e.Message, "service_required") || out.Evaluations[1].Context.AuditID == nil {
		t.Errorf("about another: %+v", out.Evaluations[1].Context)
	}
	if n := w.log.count(record.TypeDeny, "service_required"); n != before+1 {
		t.Errorf("%d refusals", n-before)
	}
	if r := out.Evaluations[3].Context.Reasons; !slices.Equal(r, []string{"subject_mismatch"}) {
		t.Errorf("another subject on its own connection: %v", r)
	}
}

// watched is a domain that notes what it is asked, and how much of it at a time.
type watched struct {
	Domain
	mu      sync.Mutex
	asked   []delegation.DecisionRequest
	running int
	most    int
	full    chan struct{} // closed when as many run as may
	panics  bool
}

func (d *watched) Decide(ctx context.Context, by delegation.Caller, q delegation.DecisionRequest) (delegation.Decision, error) {
	d.mu.Lock()
	d.asked = append(d.asked, q)
	d.running++
	if d.running > d.most {
		if d.most = d.running; d.most == evaluationWorkers {
			close(d.full)
		}
	}
	d.mu.Unlock()
	defer func() { d.mu.Lock(); d.running--; d.mu.Unlock() }()
	if d.panics {
		panic("out of order")
	}
	if d.full != nil {
		<-d.full // nobody ends before all workers have begun
	}
	return d.Domain.Decide(ctx, by, q)
}

// A chain is parsed and examined once, however many evaluations show it; and a request takes a bounded share.
func TestOneLookAtAChain(t *testing.T) {
	d := &watched{full: make(chan struct{})}
	w := newWorld(t, func(c *Config) { d.Domain = c.Domain; c.Domain = d })
	task := w.task()
	a, b := w.agent(task), w.agent(task)
	q, other := question(t, a), question(t, b)
	all := v1.EvaluationsRequest{Subject: &q.Subject, Action: &q.Action, Resource: &q.Resource, Context: &q.Context}
	for range 30 {
		again := question(t, a).Context // the same text, another value
		all.Evaluations = append(all.Evaluations, v1.Evaluation{}, v1.Evaluation{Context: &again}, v1.Evaluation{Subject: &other.Subject, Context: &other.Context})
	}
	out := decodeAs[v1.EvaluationsResponse](w, w.do(service, "POST", accessPath+"s", all), 200)
	if slices.Contains(decisionsOf(out), false) || len(d.asked) != 90 {
		t.Fatalf("%d asked: %v", len(d.asked), decisionsOf(out))
	}
	looks := map[*chain.Known]int{}
	for _, q := range d.asked {
		looks[q.Known]++
	}
	if len(looks) != 2 || looks[nil] != 0 {
		t.Errorf("%d chains were looked at %d times", 2, len(looks))
	}
	if d.most != evaluationWorkers {
		t.Errorf("%d at a time", d.most)
	}
}

// A fault of ours in one evaluation is a denial without a word about it.
func TestAFaultIsADenial(t *testing.T) {
	d := &watched{panics: true}
	w := newWorld(t, func(c *Config) { d.Domain = c.Domain; c.Domain = d })
	out := w.boxcar(w.agent(w.task()), "", "patients", "billing")
	for _, e := range out.Evaluations {
		if e.Decision || e.Context.Error == nil || e.Context.Error.Status != 500 || e.Context.Error.Message != codeInternal {
			t.Errorf("%+v", e)
		}
	}
}

// A permission of a batch that is not recorded is none.
func TestWhatIsNotRecordedIsDeniedInABatch(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Domain = forgetful{c.Domain} })
	if got := decisionsOf(w.boxcar(w.agent(w.task()), "", "patients", "patients")); !slices.Equal(got, []bool{false, false}) {
		t.Errorf("%v", got)
	}
}

// FuzzEvaluations: what is answered has the answers that its evaluations ask for, one by one, and each is read as
// encoding/json reads it.
func FuzzEvaluations(f *testing.F) {
	for _, s := range []string{
		`{"subject":{"type":"agent","id":"x"},"evaluations":[{"resource":{"type":"a","id":"b"}},{},7,null]}`,
		`{"evaluations":[{"subject":null,"context":{"expected_user":{"issuer":"i"}}}],"options":{"evaluations_semantic":"deny_on_first_deny"}}`,
		`{"evaluations":null,"action":{"name":"read","properties":{"a":[1,{"b":null}]}}}`, `{"evaluations":[[{}]]}`, `{"options":null}`,
	} {
		f.Add([]byte(s))
	}
	body, err := shapeOf(typeOf[evaluationsBody]())
	if err != nil {
		f.Fatal(err)
	}
	item, err := shapeOf(typeOf[v1.Evaluation]())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var q evaluationsBody
		if f := decode(data, body, true, &q); f != nil {
			if f.code == "" || !printable(f.code+f.field+"x", 4096) {
				t.Fatalf("a fault without a printable place: %+v", f)
			}
			return
		}
		for _, raw := range q.Evaluations {
			var e, again v1.Evaluation
			if f := decode(raw, item, true, &e); f != nil {
				continue
			}
			must(t, json.Unmarshal(raw, &again))
			if !reflect.DeepEqual(e, again) {
				t.Fatalf("two readings of %s", raw)
			}
			full := q.fill(e)
			if again := q.fill(e); !reflect.DeepEqual(full, again) {
				t.Fatalf("two ways to complete %s", raw)
			}
		}
	})
}
