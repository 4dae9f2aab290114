package softhsmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/internal/testrig/policyschema"
	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

const (
	defaultBundle = "../policy/opa/bundle"
	capabilities  = "../docs/formats/policy-capabilities.json"
)

// recordedInput is what policy was asked and answered, as the log has it.
type recordedInput struct {
	entry   uint64
	input   json.RawMessage
	allow   bool
	reasons []string
}

// questions reads all that policy was asked from the log alone.
func (c *cast) questions() []recordedInput {
	c.t.Helper()
	var out []recordedInput
	for _, l := range c.entries(0) {
		e, err := c.auditor.Entry(c.t.Context(), l.index)
		must(c.t, err)
		var payload struct {
			Input json.RawMessage `json:"input"`
		}
		if len(e.Payload) == 0 || json.Unmarshal(e.Payload, &payload) != nil || payload.Input == nil {
			continue
		}
		var env struct {
			Type record.Type `json:"type"`
			Body struct {
				Allow   bool     `json:"allow"`
				Reasons []string `json:"reasons"`
			} `json:"body"`
		}
		must(c.t, json.Unmarshal(e.Entry, &env))
		allow := env.Body.Allow || env.Type != record.TypeDecision && env.Type != record.TypeDeny
		out = append(out, recordedInput{l.index, payload.Input, allow, env.Body.Reasons})
	}
	return out
}

// askEverything has policy asked at each point, with either answer where the default bundle has both.
func (c *cast) askEverything() (allowed, denied v1.EvaluationResponse) {
	t := c.t
	_, task := c.task(c.orchestrator)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	allowed, err = decide(t.Context(), c.service, a)
	must(t, err)
	_, err = c.person(a.cert).AccessToken(t.Context(), v1.TokenRequest{Audience: c.service.cert.Leaf.URIs[0].String(), Scope: []string{patients}})
	must(t, err)
	q := evaluation(a.issued.SPIFFEID, a.issued.CertificateChain)
	q.Resource.ID = "nothing" // denied before policy is asked
	unasked, err := c.service.Evaluate(t.Context(), q)
	must(t, err)

	// A clerk may have an agent made, which may not read.
	_, task = c.taskOf(c.orchestrator, "clerk")
	a, err = spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	denied, err = decide(t.Context(), c.service, a)
	must(t, err)
	if !allowed.Decision || denied.Decision || unasked.Decision || !slices.Equal(denied.Context.Reasons, []string{"user_not_analyst"}) {
		t.Fatalf("allowed %+v, denied %+v", allowed, denied)
	}
	return allowed, denied
}

// TestPolicyAgainstOPA holds what an appliance recorded to OPA's own command, built from the module that is embedded, and
// to the documented schema.
func TestPolicyAgainstOPA(t *testing.T) {
	d := start(t, newDir(t))
	c := newCast(t, d.dir, d.url)
	allowed, denied := c.askEverything()
	asked := c.questions()
	schema, err := policyschema.Load()
	must(t, err)
	points := map[policy.Point]int{}
	for _, q := range asked {
		if err := schema.Check(q.input); err != nil {
			t.Errorf("entry %d: %v", q.entry, err)
		}
		in, err := policy.Parse(q.input)
		must(t, err)
		points[in.Point]++
		var answer struct {
			Allow   bool     `json:"allow"`
			Reasons []string `json:"deny_reasons"`
		}
		must(t, json.Unmarshal(eval(t, "data.signet."+string(in.Point), q.input), &answer))
		slices.Sort(answer.Reasons)
		if (answer.Allow && len(answer.Reasons) == 0) != q.allow || !q.allow && !slices.Equal(answer.Reasons, q.reasons) {
			t.Errorf("entry %d: opa says %+v, the log allow=%v %v", q.entry, answer, q.allow, q.reasons)
		}
	}
	if points[policy.PointSpawn] != 2 || points[policy.PointToken] != 1 || points[policy.PointAccess] != 2 {
		t.Errorf("policy was asked %v", points)
	}

	// The log replays as it was recorded, and an explanation says where the policy said no.
	totals, err := c.operator.ReplayPolicy(t.Context(), "active", v1.ReplayRequest{}, func(x v1.ReplayChange) error {
		return errors.New("changed: " + x.DecisionID)
	})
	if err != nil || totals.Replayed != uint64(len(asked)) || totals.Changed != 0 || totals.Skipped != (v1.ReplaySkipped{NotAsked: 1}) {
		t.Errorf("%+v %v", totals, err)
	}
	for _, x := range []v1.EvaluationResponse{allowed, denied} {
		out, err := c.operator.ExplainPolicy(t.Context(), v1.ExplainRequest{DecisionID: x.Context.DecisionID, Bundle: "recorded"})
		must(t, err)
		failed := slices.ContainsFunc(out.Steps, func(s v1.ExplainStep) bool {
			return s.Outcome == "failed" && s.File == "access.rego" && s.Text == "wanted.role in input.user.roles"
		})
		if out.Allow != x.Decision || !slices.Equal(out.Reasons, x.Context.Reasons) || failed == x.Decision || out.Recorded.Index != *x.Context.AuditID {
			t.Errorf("%+v", out)
		}
	}
}

// eval is `opa eval` with the functions that the appliance allows.
func eval(t *testing.T, query string, input []byte) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program("opa"), "eval", "--format", "raw", "--strict-builtin-errors", // #nosec G204 -- built by the test
		"--capabilities", capabilities, "--bundle", defaultBundle, "--stdin-input", query)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("opa eval: %v: %s", err, out)
	}
	return out
}

// TestBundleToolsOfOPA uses OPA's command as an author of policies does: on the default bundle, and on broken copies of it,
// about which it and the appliance agree.
func TestBundleToolsOfOPA(t *testing.T) {
	schema, err := policyschema.Path()
	must(t, err)
	check := func(dir string) (string, int) {
		return command(t, "", nil, program("opa"), "check", "--strict", "--capabilities", capabilities, "--schema", schema, "--bundle", dir)
	}
	test := func(dir string) (string, int) {
		return command(t, "", nil, program("opa"), "test", "--capabilities", capabilities, "--bundle", dir)
	}
	for name, c := range map[string]struct {
		file, old, with       string
		check, test, activate string // what each says; "" for nothing
	}{
		"as shipped":      {"access.rego", "", "", "", "", ""},
		"mistyped path":   {"access.rego", "input.user.roles", "input.user.rolls", "undefined ref: input.user.rolls", "FAIL", "tests do not pass"},
		"source address":  {"access.rego", "input.task.id", "input.source_address", "undefined ref: input.source_address", "FAIL", "tests do not pass"},
		"clock":           {"access.rego", `input.task.id != ""`, "time.now_ns() > 0", "undefined function time.now_ns", "undefined function time.now_ns", "time.now_ns"},
		"another outcome": {"access_test.rego", "test_wildcard_scope if access.allow", "test_wildcard_scope if not access.allow", "", "FAIL", "test_wildcard_scope"},
		"old syntax":      {"access.rego", "action_permitted if ", "action_permitted = true ", "rego_parse_error", "rego_parse_error", "parse"},
	} {
		dir := filepath.Join(t.TempDir(), "bundle")
		must(t, os.CopyFS(dir, os.DirFS(defaultBundle)))
		path := filepath.Join(dir, c.file)
		text, err := os.ReadFile(path)
		must(t, err)
		if c.old != "" && !strings.Contains(string(text), c.old) {
			t.Fatalf("%s: no %q in %s", name, c.old, c.file)
		}
		must(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), c.old, c.with)), 0o600))
		says := func(tool, out string, failed bool, want string) {
			if failed != (want != "") || !strings.Contains(out, want) {
				t.Errorf("%s: %s: failed %v, want …%s…: %s", name, tool, failed, want, out)
			}
		}
		out, code := check(dir)
		says("opa check", out, code != 0, c.check)
		out, code = test(dir)
		says("opa test", out, code != 0, c.test)
		if _, err = opa.New(t.Context(), opa.Options{Bundle: os.DirFS(dir)}); err != nil {
			says("the appliance", err.Error(), true, c.activate)
		} else {
			says("the appliance", "", false, c.activate)
		}
	}
}
