package opa

import (
	"context"
	"slices"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/signet-pki/signet/policy"
)

// Bounds of an explanation.
const (
	maxSteps    = 256
	maxEvents   = 100_000
	maxStepText = 200
)

// Explain gives what Decide gives, and the rules and failed expressions on the way there. It evaluates twice: the trace
// is made with every rule tried, which the answer must not depend on.
func (e *Engine) Explain(ctx context.Context, in policy.Input) policy.Explanation {
	out := policy.Explanation{Decision: e.Decide(ctx, in)}
	t := &tracer{seen: map[policy.Step]bool{}, rules: map[uint64]frame{}}
	traced := e.decide(ctx, in, rego.EvalQueryTracer(t), rego.EvalRuleIndexing(false), rego.EvalEarlyExit(false))
	out.Steps, out.Truncated = t.steps, t.more || slices.Contains(traced.Reasons, policy.ReasonTimeout)
	return out
}

// tracer keeps the first of OPA's events, each once: a rule that is tried for a thousand members says nothing new.
type tracer struct {
	steps  []policy.Step
	seen   map[policy.Step]bool
	rules  map[uint64]frame // by query
	events int
	more   bool
}

// frame is a query: the rule that it belongs to, and how deep.
type frame struct {
	rule  string
	depth int
}

// Enabled says that events are wanted.
func (*tracer) Enabled() bool { return true }

// Config asks for no values of variables: those are of the input, and cost a copy at each event.
func (*tracer) Config() topdown.TraceConfig { return topdown.TraceConfig{} }

// TraceEvent takes one of OPA's events.
func (t *tracer) TraceEvent(e topdown.Event) {
	if t.events++; t.events > maxEvents {
		t.more = true
		return
	}
	rule, isRule := e.Node.(*ast.Rule)
	f := t.frame(e, rule)
	switch {
	case e.Op == topdown.EnterOp && isRule:
		t.add(e.Location, policy.Step{Outcome: policy.Tried, Depth: f.depth, Rule: f.rule})
	case e.Op == topdown.ExitOp && isRule:
		t.add(e.Location, policy.Step{Outcome: policy.Held, Depth: f.depth, Rule: f.rule})
	case e.Op == topdown.FailOp:
		t.add(e.Location, policy.Step{Outcome: policy.Failed, Depth: f.depth + 1, Rule: f.rule, Text: written(e.Location)})
	}
}

// frame finds the rule of an event's query. A query within a rule, as of every or not, is that rule's.
func (t *tracer) frame(e topdown.Event, rule *ast.Rule) frame {
	f, known := t.rules[e.QueryID]
	if known && (rule == nil || f.rule == rule.Ref().GroundPrefix().String()) {
		return f
	}
	f = t.rules[e.ParentID]
	if rule != nil {
		if f.rule != "" {
			f.depth++
		}
		f.rule = rule.Ref().GroundPrefix().String()
	}
	t.rules[e.QueryID] = f
	return f
}

func (t *tracer) add(at *ast.Location, s policy.Step) {
	if at == nil || at.File == "" {
		return // the question itself
	}
	s.File, s.Line = strings.TrimPrefix(at.File, "/"), at.Row
	switch {
	case t.seen[s]:
	case len(t.steps) == maxSteps:
		t.more = true
	default:
		t.seen[s] = true
		t.steps = append(t.steps, s)
	}
}

// written is an expression as its author wrote it, on one line.
func written(at *ast.Location) string {
	if at == nil {
		return ""
	}
	return cut(strings.Join(strings.Fields(string(at.Text)), " "), maxStepText)
}
