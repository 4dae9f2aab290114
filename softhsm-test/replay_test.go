package softhsmtest

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/internal/testrig/policybundle"
	"github.com/signet-pki/signet/policy"
)

// TestSoakReplay has many decisions made, of which a candidate would make some otherwise, and `signet policy replay` find out
// which: exactly these, each with its answer before and after. 300 decisions in an ordinary run, 10,000 in a long one.
func TestSoakReplay(t *testing.T) {
	batches := 3
	if os.Getenv("SIGNET_SOAK") != "" {
		batches = 100
	}
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	s := newSecurity(c, dir)
	h := &history{cast: c, dir: dir}
	began := time.Now()
	h.make(batches)
	t.Logf("%d decisions in %s", len(h.all), time.Since(began).Round(time.Millisecond))

	s.push(trialsClosed(t))
	h.replays("main", true)
	h.replays("active", false)
}

// trialsClosed is the default bundle with one rule more.
func trialsClosed(t *testing.T) policybundle.Bundle {
	t.Helper()
	out := policybundle.Bundle{}
	names, err := filepath.Glob(filepath.Join(defaultBundle, "*"))
	must(t, err)
	for _, name := range names {
		text, err := os.ReadFile(name)
		must(t, err)
		out[filepath.Base(name)] = string(text)
	}
	return out.
		With(".manifest", `{"revision":"1","rego_version":1}`).
		With("trials.rego", "package signet.access\n\ndeny_reasons contains \"trials_closed\" if input.resource.id == \"trials\"\n")
}

// history is what an appliance decided.
type history struct {
	*cast
	dir    string
	agents []historian
	all    []past
}

// historian is an agent, and whether its user is an analyst.
type historian struct {
	*agent
	analyst bool
}

// past is a decision, and what policy depends on.
type past struct {
	answer   v1.EvaluationResponse
	resource string
	analyst  bool
}

// make has batches of a hundred decisions made about two agents: allowed, denied by policy, and denied before policy is asked.
func (h *history) make(batches int) {
	h.t.Helper()
	for _, user := range []string{"physician", "clerk"} {
		_, task := h.taskOf(h.orchestrator, user)
		a, err := spawn(h.t.Context(), h.orchestrator, task)
		must(h.t, err)
		h.agents = append(h.agents, historian{a, user == "physician"})
	}
	chance := rand.New(rand.NewPCG(1, 2))
	for batch := range batches {
		a := h.agents[batch%3/2] // every third is about the clerk's
		q := evaluation(a.issued.SPIFFEID, a.issued.CertificateChain)
		all := v1.EvaluationsRequest{Subject: &q.Subject, Action: &q.Action, Context: &q.Context}
		for range v1.MaxEvaluations {
			all.Evaluations = append(all.Evaluations, v1.Evaluation{Resource: &v1.Resource{
				Type: "database", ID: []string{"patients", "patients", "trials", "billing"}[chance.IntN(4)],
			}})
		}
		out, err := h.service.EvaluateAll(h.t.Context(), all)
		must(h.t, err)
		if len(out.Evaluations) != v1.MaxEvaluations {
			h.t.Fatalf("%d answers", len(out.Evaluations))
		}
		for i, answer := range out.Evaluations {
			h.all = append(h.all, past{answer, all.Evaluations[i].Resource.ID, a.analyst})
		}
	}
}

// says is the answer of the default bundle, or of the candidate.
func (p past) says(candidate bool) v1.PolicyAnswer {
	var out v1.PolicyAnswer
	if candidate && p.resource == "trials" {
		out.Reasons = append(out.Reasons, "trials_closed")
	}
	if !p.analyst {
		out.Reasons = append(out.Reasons, "user_not_analyst")
	}
	out.Allow = len(out.Reasons) == 0
	return out
}

// told is the answer that was given.
func (p past) told() v1.PolicyAnswer {
	return v1.PolicyAnswer{Allow: p.answer.Decision, Reasons: p.answer.Context.Reasons}
}

// replays has the command replay the log under the candidate or the active bundle, and say exactly what changes. What policy had
// no time for, on a busy machine, was answered otherwise than it would be now.
func (h *history) replays(name string, candidate bool) {
	t := h.t
	t.Helper()
	want := map[uint64]past{}
	totals := v1.ReplayTotals{Replayed: uint64(len(h.agents))} // their spawns
	for _, p := range h.all {
		switch reasons := p.told().Reasons; {
		case p.resource == "billing":
			totals.Skipped.NotAsked++
		case slices.Contains(reasons, policy.ReasonBusy):
			totals.Skipped.Busy++
		default:
			totals.Replayed++
			if !same(p.told(), p.says(candidate)) {
				want[*p.answer.Context.AuditID] = p
			}
		}
	}
	if candidate && len(want) < len(h.all)/8 {
		t.Fatalf("%d decisions would change", len(want))
	}
	totals.Changed = uint64(len(want))
	began := time.Now()
	lines, code := h.command(name)
	t.Logf("%s: %d of %d change, told in %s", name, len(want), totals.Replayed, time.Since(began).Round(time.Millisecond))
	if code != min(len(want), 1) {
		t.Errorf("%s: exit %d with %d changes", name, code, len(want))
	}
	last := lines[len(lines)-1].Totals
	if last == nil || last.Replayed != totals.Replayed || last.Changed != totals.Changed || last.Skipped != totals.Skipped {
		t.Fatalf("%s: %+v, want %+v", name, last, totals)
	}
	for _, l := range lines[:len(lines)-1] {
		p, ok := want[l.Change.Index]
		delete(want, l.Change.Index) // each once
		if !ok || l.Change.DecisionID != p.answer.Context.DecisionID || !same(l.Change.Before, p.told()) || !same(l.Change.After, p.says(candidate)) {
			t.Errorf("%s: %+v of %+v", name, l.Change, p)
		}
	}
	if len(want) > 0 {
		t.Errorf("%s: %d changes are not told", name, len(want))
	}
}

func same(a, b v1.PolicyAnswer) bool { return a.Allow == b.Allow && slices.Equal(a.Reasons, b.Reasons) }

// command is what the command prints, line by line.
func (h *history) command(name string) (lines []v1.ReplayLine, code int) {
	h.t.Helper()
	out, code := command(h.t, "", nil, program("signet"), "--url", h.url, "--root", filepath.Join(h.dir, "pki", "root.pem"),
		"--cert", filepath.Join(h.dir, "pki", "operator.pem"), "--key", filepath.Join(h.dir, "operator.key"),
		"--json", "--request-timeout", "5m", "policy", "replay", name)
	for text := range strings.Lines(out) {
		var l v1.ReplayLine
		if err := json.Unmarshal([]byte(text), &l); err != nil || (l.Change == nil) == (l.Totals == nil) {
			h.t.Fatalf("%q: %v", text, err)
		}
		lines = append(lines, l)
	}
	if len(lines) == 0 {
		h.t.Fatalf("exit %d, nothing printed", code)
	}
	return lines, code
}
