package opa_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

func stepLines(x policy.Explanation) []string {
	out := make([]string, len(x.Steps))
	for i, s := range x.Steps {
		out[i] = strings.TrimSpace(fmt.Sprintf("%s%s %s %s:%d %s", strings.Repeat(" ", s.Depth), s.Outcome, s.Rule, s.File, s.Line, s.Text))
	}
	return out
}

// An explanation names the expression that failed, where it stands, and gives the answer that Decide gives.
func TestExplain(t *testing.T) {
	e := engine(t, opa.Options{Timeout: evalTimeout})
	for name, c := range map[string]struct {
		change func(*policy.Input)
		failed string
	}{
		"allowed": {func(*policy.Input) {}, ""},
		"role":    {func(in *policy.Input) { in.User.Roles = []string{"clerk"} }, "failed data.signet.access.created_by_user_with_role access.rego:44 wanted.role in input.user.roles"},
		"action":  {func(in *policy.Input) { in.Action.Name = "write" }, "failed data.signet.access.action_permitted access.rego:42 input.action.name in wanted.actions"},
		"scope":   {func(in *policy.Input) { in.Agent.Scope = []string{"database:read:billing"} }, "failed data.signet.scope.all_covered scope.rego:19 every w in wanted { some t in tokens covers(t, w) }"},
	} {
		in := access()
		c.change(&in)
		x := e.Explain(t.Context(), in)
		if want := e.Decide(t.Context(), in); x.Allow != want.Allow || !slices.Equal(x.Reasons, want.Reasons) || x.Digest != want.Digest {
			t.Errorf("%s: %+v, want %+v", name, x.Decision, want)
		}
		lines := stepLines(x)
		if c.failed != "" && !slices.Contains(lines, c.failed) {
			t.Errorf("%s: no %q in\n%s", name, c.failed, strings.Join(lines, "\n"))
		}
		if c.failed == "" && !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "held data.signet.access.allow access.rego:11") }) {
			t.Errorf("%s: allow did not hold:\n%s", name, strings.Join(lines, "\n"))
		}
		if x.Truncated || strings.Contains(strings.Join(lines, ""), "billing") || strings.Contains(strings.Join(lines, ""), "clerk") {
			t.Errorf("%s: truncated %v, or a value of the input is in\n%s", name, x.Truncated, strings.Join(lines, "\n"))
		}
	}
}

// A policy without end is explained as far as it goes, in bounded time and space.
func TestExplainIsBounded(t *testing.T) {
	var many strings.Builder
	for i := range 400 {
		fmt.Fprintf(&many, "f%d if input.nothing%d\n\nallow if f%d\n\n", i, i, i)
	}
	for name, rules := range map[string]string{"loop": loop("allow"), "many rules": many.String()} {
		e := engine(t, opa.Options{Bundle: bundleOf("package signet.access\n\n" + rules), Timeout: time.Second})
		x := e.Explain(t.Context(), access())
		if x.Allow || len(x.Steps) == 0 || len(x.Steps) > 256 || !x.Truncated {
			t.Errorf("%s: %d steps, truncated %v, %v", name, len(x.Steps), x.Truncated, x.Reasons)
		}
	}
}

// What is evaluated apart has its own place.
func TestApart(t *testing.T) {
	e := engine(t, opa.Options{Bundle: bundleOf("package signet.access\n\n" + loop("allow")), Timeout: 2 * time.Second, Concurrency: 1})
	aside := e.Apart()
	done := make(chan policy.Decision)
	go func() { done <- aside.Decide(t.Context(), access()) }()
	// Were there one place for both, one of the two would have waited for it.
	here, there := e.Decide(t.Context(), access()), <-done
	for _, d := range []policy.Decision{here, there} {
		if !slices.Equal(d.Reasons, []string{policy.ReasonTimeout}) {
			t.Errorf("%v", d.Reasons)
		}
	}
}
