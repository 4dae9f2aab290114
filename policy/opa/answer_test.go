package opa_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

const allowing = "package signet.access\n\nallow := true\n\n"

func TestObligationsAndAdvice(t *testing.T) {
	for name, c := range map[string]struct{ rules, obligations, advice string }{
		"none":       {allowing, "[]", "[]"},
		"array":      {allowing + `obligations := [{"id": "mask", "fields": ["name", 1, null, true, {"x": 1.50}]}, {"a": "<"}]`, `[{"fields":["name",1,null,true,{"x":1.50}],"id":"mask"},{"a":"\u003c"}]`, "[]"},
		"set":        {allowing + "obligations contains {\"id\": \"b\"}\n\nobligations contains {\"id\": \"a\", \"of\": {\"y\", \"x\"}}", `[{"id":"a","of":["x","y"]},{"id":"b"}]`, "[]"},
		"from input": {allowing + `advice contains {"role": role} if some role in input.user.roles`, "[]", `[{"role":"analyst"},{"role":"physician"}]`},
		"empty":      {allowing + "obligations := []\n\nadvice contains {\"x\": 1} if input.action.name == \"write\"", "[]", "[]"},
		"undefined":  {allowing + `obligations := [{"x": 1}] if input.action.name == "write"`, "[]", "[]"},
		"deny": {
			"package signet.access\n\nallow := false\n\nobligations := [{\"x\": 1}]\n\nadvice := [{\"ask\": \"a clerk\"}]", "[]", `[{"ask":"a clerk"}]`,
		},
		"deny with reason": {allowing + "deny_reasons := {\"no\"}\n\nobligations := [{\"x\": 1}]\n\nadvice := [{\"y\": 2}]", "[]", `[{"y":2}]`},
	} {
		d := engine(t, opa.Options{Bundle: bundleOf(c.rules + "\n"), Timeout: evalTimeout}).Decide(t.Context(), access())
		if denies := strings.HasPrefix(name, "deny"); d.Allow == denies {
			t.Errorf("%s: allow=%v %v %v", name, d.Allow, d.Reasons, d.Fault)
		}
		if got := listed(t, d.Obligations); got != c.obligations {
			t.Errorf("%s: obligations %s, want %s", name, got, c.obligations)
		}
		if got := listed(t, d.Advice); got != c.advice {
			t.Errorf("%s: advice %s, want %s", name, got, c.advice)
		}
	}
}

func listed(t *testing.T, l []json.RawMessage) string {
	t.Helper()
	if l == nil {
		l = []json.RawMessage{}
	}
	b, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What is no bounded list of objects denies, with its own reason beside the others.
func TestMalformedObligationsDeny(t *testing.T) {
	deep := strings.Repeat(`{"x": `, 9) + "1" + strings.Repeat("}", 9)
	for name, value := range map[string]string{
		"text":          `"x"`,
		"object":        `{"x": 1}`,
		"number":        "1",
		"null":          "null",
		"list of text":  `["x"]`,
		"set of arrays": `{[]}`,
		"list in list":  `[[{"x": 1}]]`,
		"no text key":   `[{1: 2}]`,
		"many":          "[" + strings.Repeat(`{"x": 1}, `, 16) + `{"x": 1}]`,
		"deep":          "[" + deep + "]",
		"long":          fmt.Sprintf(`[{"x": "%s"}]`, strings.Repeat("y", 9<<10)),
		"long in all":   fmt.Sprintf(`[{"x": "%s"}, {"y": "%[1]s"}]`, strings.Repeat("y", 5<<10)),
		"long name":     fmt.Sprintf(`[{"%s": 1}]`, strings.Repeat("y", 9<<10)),
		"long escaped":  fmt.Sprintf(`[{"x": "%s"}]`, strings.Repeat("<", 3<<10)),
		"long number":   "[{\"x\": " + strings.Repeat("9", 9<<10) + "}]",
		"many members":  "[{\"x\": [" + strings.Repeat("1, ", 5<<10) + "1]}]",
	} {
		for rule, reason := range map[string]string{"obligations": policy.ReasonObligation, "advice": policy.ReasonAdvice} {
			e := engine(t, opa.Options{Bundle: bundleOf(allowing + rule + " := " + value + "\n"), Timeout: evalTimeout})
			d := e.Decide(t.Context(), access())
			if d.Allow || !slices.Equal(d.Reasons, []string{reason}) || d.Fault == nil || d.Obligations != nil || d.Advice != nil {
				t.Errorf("%s %s: allow=%v %v %v", name, rule, d.Allow, d.Reasons, d.Fault)
			}
		}
	}
	e := engine(t, opa.Options{Bundle: bundleOf(allowing + "deny_reasons := {\"no\"}\n\nobligations := 1\n"), Timeout: evalTimeout})
	if d := e.Decide(t.Context(), access()); d.Allow || !slices.Equal(d.Reasons, []string{"no", policy.ReasonObligation}) {
		t.Errorf("with a reason: %v", d.Reasons)
	}
}

// The other points have none: who asks there is the appliance itself.
func TestObligationsOfAccessAlone(t *testing.T) {
	b := files(map[string]string{
		"spawn.rego": "package signet.spawn\n\nallow := true\n\nobligations := 1\n", "some_test.rego": passing,
	})
	if d := engine(t, opa.Options{Bundle: b, Timeout: evalTimeout}).Decide(t.Context(), spawn()); !d.Allow || d.Obligations != nil {
		t.Errorf("%+v", d)
	}
}
