package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/review"
)

// reviewedLog is the log as reviews want it.
type reviewedLog struct{ shownLog }

func (l reviewedLog) Size() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.entries))
}

func (l reviewedLog) Minimum() uint64 { return l.minimum.Load() }

func (l reviewedLog) Lookup(ctx context.Context, t record.Term, from uint64, limit int) ([]uint64, error) {
	return l.shownLog.Lookup(ctx, t.Kind, t.ID, from, limit)
}

func (l reviewedLog) Entries(ctx context.Context, from, to uint64, fn func(record.Stored) error) error {
	for ; from < to; from++ {
		e, err := l.Entry(ctx, from)
		if errors.Is(err, ErrPruned) {
			return review.ErrPruned
		}
		if err != nil {
			return err
		}
		if err := errors.Join(ctx.Err(), fn(record.Stored{Index: e.Index, Envelope: e.Envelope, Payload: e.Payload, Salt: e.Salt})); err != nil {
			return err
		}
	}
	return nil
}

// strict is a bundle that denies whatever is read.
type strict struct{}

const strictDigest = "5555555555555555555555555555555555555555555555555555555555555555"

func (strict) Digest() string   { return strictDigest }
func (strict) Revision() string { return "7" }

func (strict) Decide(_ context.Context, in policy.Input) policy.Decision {
	if in.Point != policy.PointAccess {
		return policy.Decision{Allow: true, Digest: strictDigest}
	}
	return policy.Decision{Reasons: []string{"nobody_reads"}, Digest: strictDigest, Revision: "7", Advice: []json.RawMessage{[]byte(`{"ask":"us"}`)}}
}

func (s strict) Explain(ctx context.Context, in policy.Input) policy.Explanation {
	return policy.Explanation{Decision: s.Decide(ctx, in), Steps: []policy.Step{
		{Outcome: policy.Tried, Rule: "data.signet.access.allow", File: "a.rego", Line: 3},
		{Outcome: policy.Failed, Depth: 1, Rule: "data.signet.access.allow", File: "a.rego", Line: 4, Text: "false"},
	}}
}

// oneBundle is active, and called strict.
type oneBundle struct{}

func (oneBundle) Engine(_ context.Context, name, digest string) (review.Engine, error) {
	if name == "busy" {
		return nil, review.ErrBusy
	}
	if !slices.Contains([]string{"", review.Active, "strict"}, name) || digest != "" && digest != strictDigest {
		return nil, review.ErrNoBundle
	}
	return strict{}, nil
}

func newReviews(t *testing.T, l *memoryLog) *review.Reviewer {
	t.Helper()
	r, err := review.New(review.Config{Log: reviewedLog{shownLog{l}}, Bundles: oneBundle{}, Now: time.Now})
	must(t, err)
	return r
}

// decided lets an agent read, and gives the decision.
func (w *world) decided() v1.EvaluationResponse {
	w.t.Helper()
	a := w.as(agent)
	q := v1.EvaluationRequest{
		Subject: v1.Subject{Type: "agent", ID: "spiffe://" + testDomain + "/agent/research/" + a.name}, Action: v1.Action{Name: "read"},
		Resource: v1.Resource{Type: "database", ID: "patients"},
	}
	d := decodeAs[v1.EvaluationResponse](w, w.do(agent, "POST", "/access/v1/evaluation", q), 200)
	if !d.Decision {
		w.t.Fatalf("denied: %v", d.Context.Reasons)
	}
	return d
}

func TestExplain(t *testing.T) {
	w := newWorld(t)
	d := w.decided()
	entry := strconv.FormatUint(*d.Context.AuditID, 10)
	payload := w.log.entries[*d.Context.AuditID].Payload
	var kept record.DecisionPayload
	must(t, json.Unmarshal(payload, &kept))
	for body, target := range map[string]string{
		`{"decision_id":"` + d.Context.DecisionID + `"}`:          "decision " + d.Context.DecisionID,
		`{"index":` + entry + `}`:                                 "entry " + entry,
		`{"input":` + string(kept.Input) + `}`:                    "input",
		`{"index":` + entry + `,"bundle":"` + strictDigest + `"}`: "entry " + entry,
	} {
		x := decodeAs[v1.Explanation](w, w.do(officer, "POST", "/v1/policy/explain", body), 200)
		if x.Allow || !slices.Equal(x.Reasons, []string{"nobody_reads"}) || x.Bundle != (v1.BundleRef{Digest: strictDigest, Revision: "7"}) ||
			len(x.Steps) != 2 || x.Steps[1] != (v1.ExplainStep{Outcome: "failed", Depth: 1, Rule: "data.signet.access.allow", File: "a.rego", Line: 4, Text: "false"}) {
			t.Errorf("%s: %+v", body, x)
		}
		if r := x.Recorded; target == "input" && r != nil || target != "input" && (r == nil || !r.Answer.Allow || r.DecisionID != d.Context.DecisionID || r.Digest != "00") {
			t.Errorf("%s: recorded %+v", body, r)
		}
		env := w.log.at(t, x.AuditID)
		admin, err := record.DecodeBody[record.AdminBody](env)
		if err != nil || admin.Action != "policy.explain" || admin.Target != target || env.Operator != "security-officer" {
			t.Errorf("%s: entry %+v %+v %v", body, env, admin, err)
		}
	}
	for body, want := range map[string]struct {
		status int
		code   string
	}{
		`{}`:                            {400, codeBadRequest},
		`{"index":0,"decision_id":"x"}`: {400, codeBadRequest},
		`{"decision_id":"x"}`:           {400, codeBadRequest},
		`{"index":1,"input":{}}`:        {400, codeBadRequest},
		`{"input":{"source_address":"192.0.2.1"}}`: {400, codeBadRequest},
		`{"index":-1}`:                       {400, codeWrongType},
		`{"index":0,"bundle":"x"}`:           {400, codeBadRequest},
		`{"index":0,"rego":"package x"}`:     {400, codeUnknownField},
		`{"index":99999}`:                    {404, "entry_not_found"},
		`{"decision_id":"` + newID(t) + `"}`: {404, "entry_not_found"},
		`{"index":0}`:                        {409, codeNotAsked},
		`{"index":` + entry + `,"bundle":"` + strings.Repeat("0", 64) + `"}`: {404, codeBundleUnknown},
	} {
		w.refused(w.do(operator, "POST", "/v1/policy/explain", body), want.status, want.code)
	}
	w.log.mu.Lock()
	w.log.entries[*d.Context.AuditID].Payload = nil
	w.log.mu.Unlock()
	w.refused(w.do(operator, "POST", "/v1/policy/explain", `{"index":`+entry+`}`), 409, codeInputErased)
}

func readLines(t *testing.T, body []byte) []v1.ReplayLine {
	t.Helper()
	var out []v1.ReplayLine
	for line := range bytes.Lines(body) {
		var l v1.ReplayLine
		must(t, json.Unmarshal(line, &l))
		out = append(out, l)
	}
	return out
}

func TestReplay(t *testing.T) {
	w := newWorld(t)
	first, second := w.decided(), w.decided()
	a := w.do(operator, "POST", "/v1/policy/bundles/strict/replay", "{}")
	if a.status != http.StatusOK || a.header.Get("Content-Type") != mediaLines {
		t.Fatalf("%d %s", a.status, a.body)
	}
	got := readLines(t, a.body)
	if len(got) != 3 {
		t.Fatalf("%s", a.body)
	}
	for i, d := range []v1.EvaluationResponse{first, second} {
		c := got[i].Change
		if c == nil || c.Index != *d.Context.AuditID || c.DecisionID != d.Context.DecisionID || c.Point != "access" || !c.Before.Allow || c.After.Allow ||
			!slices.Equal(c.After.Reasons, []string{"nobody_reads"}) {
			t.Errorf("line %d: %+v", i, c)
		}
	}
	// The agent's spawn is a question too, and is answered as before.
	total := got[2].Totals
	if total == nil || total.Replayed != 3 || total.Changed != 2 || total.Skipped != (v1.ReplaySkipped{}) || total.Bundle.Digest != strictDigest || total.Next != nil {
		t.Errorf("%+v", total)
	}
	admin, err := record.DecodeBody[record.AdminBody](w.log.at(t, total.AuditID))
	if err != nil || admin.Action != "policy.replay" || admin.Target != "strict" {
		t.Errorf("%+v %v", admin, err)
	}
	body := `{"from":` + strconv.FormatUint(*second.Context.AuditID, 10) + `}`
	if got := readLines(t, w.do(auditor, "POST", "/v1/policy/bundles/active/replay", body).body); len(got) != 2 || got[0].Change.Index != *second.Context.AuditID {
		t.Errorf("%+v", got)
	}
	for path, c := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"other":                 {"{}", 404, codeBundleUnknown},
		"busy":                  {"{}", 503, codeReviewBusy},
		"strict":                {`{"digest":"x"}`, 400, codeBadRequest},
		"active":                {`{"from":-1}`, 400, codeWrongType},
		strings.Repeat("x", 65): {"{}", 400, codeBadRequest},
	} {
		w.refused(w.do(operator, "POST", "/v1/policy/bundles/"+path+"/replay", c.body), c.status, c.code)
	}
}

// What cannot be recorded is not reviewed, and what breaks off has no totals.
func TestReplayBreaks(t *testing.T) {
	broken := errors.New("the log cannot be read")
	w := newWorld(t, func(c *Config) { c.Reviews = breaking{broken} })
	a := w.as(operator)
	req, err := http.NewRequestWithContext(t.Context(), "POST", w.base+"/v1/policy/bundles/active/replay", strings.NewReader("{}"))
	must(t, err)
	req.Header.Set("Content-Type", "application/json")
	body, err := readAll(a.http.Do(req))
	if err == nil || strings.Contains(body, "totals") {
		t.Errorf("%v: %s", err, body)
	}
	w.refused(w.do(operator, "POST", "/v1/policy/explain", `{"index":0}`), 500, codeInternal)
}

func readAll(resp *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// breaking fails after the first change.
type breaking struct{ err error }

func (b breaking) Explain(context.Context, review.ExplainRequest) (review.Explained, error) {
	return review.Explained{}, b.err
}

func (b breaking) Replay(_ context.Context, _ review.ReplayRequest, changed func(review.Change) error) (review.Totals, error) {
	return review.Totals{}, errors.Join(changed(review.Change{}), b.err)
}

// Obligations and advice reach the enforcement point as AuthZEN's context, or as members of OPA's document. Where there is no
// place for obligations nothing is permitted under one.
func TestObligationsOnTheWire(t *testing.T) {
	w := newWorld(t)
	w.obliges = true
	d := w.decided()
	if len(d.Context.Obligations) != 1 || string(d.Context.Obligations[0]) != `{"id":"mask"}` || len(d.Context.Advice) != 1 || string(d.Context.Advice[0]) != `{"id":"note"}` {
		t.Errorf("%+v", d.Context)
	}
	chain := w.as(agent).chainPEM()
	o := decodeAs[opaAnswer[v1.OPAAccess]](w, w.do(service, "POST", opaURL, opaQuery(chain, "patients")), 200).Result
	if !o.Allow || len(o.Obligations) != 1 || string(o.Obligations[0]) != `{"id":"mask"}` || len(o.Advice) != 1 || string(o.Advice[0]) != `{"id":"note"}` {
		t.Errorf("OPA: %+v", o)
	}
	if o := decodeAs[opaAnswer[v1.OPAAccess]](w, w.do(service, "POST", opaURL, opaQuery(chain, "billing")), 200).Result; o.Allow || o.Obligations != nil {
		t.Errorf("OPA, denied: %+v", o)
	}
	if a := decodeAs[opaAnswer[*bool]](w, w.do(service, "POST", opaURL+"/allow", opaQuery(chain, "patients")), 200); a.Result == nil || *a.Result {
		t.Errorf("OPA's boolean: %+v", a)
	}
}
