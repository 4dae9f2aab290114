package opa_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

const passing = "package signet.some_test\n\ntest_something if true\n"

// bundleOf makes a bundle with a passing test of its own.
func bundleOf(access string) fstest.MapFS {
	return files(map[string]string{"access.rego": access, "some_test.rego": passing})
}

func files(m map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range m {
		out[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return out
}

func TestActivationRefuses(t *testing.T) {
	rule := func(body string) fs.FS { return bundleOf("package signet.access\n\n" + body + "\n") }
	for name, c := range map[string]struct {
		bundle fs.FS
		want   string
	}{
		"syntax":        {rule("allow if {"), "parse"},
		"v0 syntax":     {rule(`allow { input.point == "access" }`), "if"},
		"v0 manifest":   {with(rule("allow if true"), ".manifest", `{"rego_version":0}`), "Rego v1"},
		"v0 for a file": {with(rule("allow if true"), ".manifest", `{"file_rego_versions":{"/access.rego":0}}`), "Rego v1"},
		"recursion":     {rule("allow if f\n\nf if g\n\ng if f"), "recursive"},
		"unused":        {rule("allow if { x := 1; input.point }"), "unused"},
		"clock":         {rule("allow if time.now_ns() > 0"), "time.now_ns"},
		"calendar":      {rule(`allow if time.weekday([0, "Europe/Zurich"]) == "Monday"`), "time.weekday"},
		"network":       {rule(`allow if http.send({"method": "get", "url": "http://127.0.0.1"}).status_code == 200`), "http.send"},
		"name lookup":   {rule(`allow if net.lookup_ip_addr("localhost")`), "net.lookup_ip_addr"},
		"environment":   {rule("allow if opa.runtime().env.HOME"), "opa.runtime"},
		"randomness":    {rule(`allow if rand.intn("x", 2) == 1`), "rand.intn"},
		"uuid":          {rule(`allow if uuid.rfc4122("x")`), "uuid.rfc4122"},
		"trace":         {rule(`allow if trace("x")`), "trace"},
		"function":      {rule("allow(x) := x"), "not called"},
		"certificates":  {rule(`allow if crypto.x509.parse_certificates("x")`), "crypto.x509"},
		"range":         {rule(`allow if count(numbers.range(1, 1000000000)) > 1`), "numbers.range"},
		"clock in test": {with(rule("allow if true"), "more_test.rego", "package signet.more_test\n\ntest_x if time.now_ns() > 0\n"), "time.now_ns"},
		"failing test":  {with(rule("allow if true"), "more_test.rego", "package signet.more_test\n\ntest_x if false\n"), "data.signet.more_test.test_x"},
		"looping test":  {with(rule("allow if true"), "more_test.rego", "package signet.more_test\n\n"+loop("test_x")), "data.signet.more_test.test_x"},
		"deep test":     {with(rule("allow if true"), "more_test.rego", "package signet.more_test\n\ntest_x if f40(0) < 0\n\n"+nested(40)), "too deep"},
		"no tests":      {files(map[string]string{"access.rego": "package signet.access\n\nallow if true\n"}), "there are none"},
		"other file":    {with(rule("allow if true"), "policy.wasm", "x"), `"policy.wasm"`},
		"signatures":    {with(rule("allow if true"), ".signatures.json", "{}"), `".signatures.json"`},
		"bad data":      {with(rule("allow if true"), "data.json", "{"), "data"},
		"data on rules": {with(rule("allow if true"), "data.json", `{"signet":{"access":{"allow":true}}}`), "conflict"},
		"huge file":     {with(rule("allow if true"), "data.json", `"`+strings.Repeat("x", 5<<20)+`"`), "larger"},
		"many files":    {many(600), "more than"},
		"empty":         {fstest.MapFS{}, "there are none"},
	} {
		start := time.Now()
		_, err := opa.New(t.Context(), opa.Options{Bundle: c.bundle})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want …%s…", name, err, c.want)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
}

func TestTestFailuresAreErrTests(t *testing.T) {
	b := with(bundleOf("package signet.access\n\nallow if true\n"), "x_test.rego", "package signet.x_test\n\ntest_x if false\n")
	if _, err := opa.New(t.Context(), opa.Options{Bundle: b}); !errors.Is(err, opa.ErrTests) {
		t.Fatal(err)
	}
}

func with(f fs.FS, name, text string) fs.FS {
	out, ok := f.(fstest.MapFS)
	if !ok {
		panic("not a map of files")
	}
	out = maps.Clone(out)
	out[name] = &fstest.MapFile{Data: []byte(text)}
	return out
}

func many(n int) fs.FS {
	m := fstest.MapFS{}
	for i := range n {
		m[strings.Repeat("d/", i%5)+"f"+strings.Repeat("x", i/5)+".rego"] = &fstest.MapFile{Data: []byte("package a\n")}
	}
	return m
}

// loop is a rule that needs 10^10 steps.
func loop(name string) string {
	return name + ` if {
	l := split("0,1,2,3,4,5,6,7,8,9", ",")
	some a in l
	some b in l
	some c in l
	some d in l
	some e in l
	some f in l
	some g in l
	some h in l
	some i in l
	some j in l
	concat("", [a, b, c, d, e, f, g, h, i, j]) == "x"
}
`
}

func TestEvaluationDenies(t *testing.T) {
	for name, c := range map[string]struct{ rule, want string }{
		"undefined":         {"allow if input.nothing", policy.ReasonUndefined},
		"no package":        {"", policy.ReasonUndefined},
		"string":            {`allow := "true"`, policy.ReasonNotBoolean},
		"number":            {"allow := 1", policy.ReasonNotBoolean},
		"set":               {"allow contains input.point", policy.ReasonNotBoolean},
		"builtin error":     {`allow if to_number("x") == 1`, policy.ReasonError},
		"conflict":          {"allow := true if input.point\n\nallow := false if input.time", policy.ReasonError},
		"plain no":          {"default allow := false", policy.ReasonDenied},
		"loop":              {loop("allow"), policy.ReasonTimeout},
		"reasons no set":    {"allow := true\n\ndeny_reasons := \"x\"", policy.ReasonError},
		"reasons undefined": {"allow := true\n\ndeny_reasons := {\"x\"} if input.nothing", policy.ReasonUndefined},
		"reason no word":    {"allow := true\n\ndeny_reasons contains input.user.subject", policy.ReasonError},
		"reason no text":    {"allow := true\n\ndeny_reasons contains 1", policy.ReasonError},
		"many reasons":      {"allow := false\n\ndeny_reasons contains sprintf(\"r%s\", [x]) if some x in split(\"1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17\", \",\")", policy.ReasonError},
		"allow with reason": {"allow := true\n\ndeny_reasons contains \"yet_no\"", "yet_no"},
	} {
		rule := "package signet.access\n\n" + c.rule + "\n"
		if c.rule == "" {
			rule = "package other\n\nallow := true\n"
		}
		// Only what never ends may meet its deadline here, however busy the machine is.
		timeout := time.Minute
		if c.want == policy.ReasonTimeout {
			timeout = 50 * time.Millisecond
		}
		e, err := opa.New(t.Context(), opa.Options{Bundle: bundleOf(rule), Timeout: timeout})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		d := e.Decide(t.Context(), access())
		if d.Allow || !slices.Equal(d.Reasons, []string{c.want}) {
			t.Errorf("%s: allow=%v reasons=%v fault=%v, want %s", name, d.Allow, d.Reasons, d.Fault, c.want)
		}
		if c.want == policy.ReasonTimeout {
			continue
		}
		if d := e.Decide(t.Context(), spawn()); d.Allow || !slices.Equal(d.Reasons, []string{policy.ReasonUndefined}) {
			t.Errorf("%s: spawn without a rule: %v %v", name, d.Allow, d.Reasons)
		}
	}
}

// Whose time is up before it looks for a place was not kept from one: it is told of the time, not of others.
func TestAFreePlaceIsTaken(t *testing.T) {
	e := engine(t, opa.Options{Bundle: bundleOf("package signet.access\n\n" + loop("allow")), Timeout: time.Nanosecond, Concurrency: 1})
	for range 200 {
		if d := e.Decide(t.Context(), access()); d.Allow || !slices.Equal(d.Reasons, []string{policy.ReasonTimeout}) {
			t.Fatalf("%+v", d)
		}
	}
}

// What a bundle says as data, beside its rules, counts as if a rule said it.
func TestDataCounts(t *testing.T) {
	for data, want := range map[string]string{
		`{"deny_reasons":["x"]}`:   policy.ReasonError, // JSON has no sets
		`{"obligations":{"a":1}}`:  policy.ReasonObligation,
		`{"advice":1}`:             policy.ReasonAdvice,
		`{"something_else":["x"]}`: "",
	} {
		b := with(bundleOf("package signet.access\n\nallow := true\n"), "signet/access/data.json", data)
		d := engine(t, opa.Options{Bundle: b, Timeout: evalTimeout}).Decide(t.Context(), access())
		if d.Allow != (want == "") || want != "" && !slices.Equal(d.Reasons, []string{want}) {
			t.Errorf("%s: allow=%v %v %v", data, d.Allow, d.Reasons, d.Fault)
		}
	}
}

// A hostile policy holds its place for the timeout and no longer; who waits for a place is told so.
func TestHostileLoadIsBounded(t *testing.T) {
	e := engine(t, opa.Options{
		Bundle: bundleOf("package signet.access\n\n" + loop("allow")), Timeout: 100 * time.Millisecond, Concurrency: 1,
	})
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	start := time.Now()
	for range 40 {
		wg.Go(func() {
			d := e.Decide(context.Background(), access())
			mu.Lock()
			defer mu.Unlock()
			seen[d.Reasons[0]]++
		})
	}
	wg.Wait()
	if seen[policy.ReasonTimeout] == 0 || seen[policy.ReasonBusy] == 0 || seen[policy.ReasonTimeout]+seen[policy.ReasonBusy] != 40 {
		t.Errorf("reasons %v", seen)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("40 decisions of at most 100 ms each took %v", took)
	}
}

func TestEndedContextDenies(t *testing.T) {
	e := engine(t, opa.Options{Bundle: bundleOf("package signet.access\n\n" + loop("allow")), Timeout: time.Minute})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if d := e.Decide(ctx, access()); d.Allow || !slices.Equal(d.Reasons, []string{policy.ReasonTimeout}) {
		t.Fatalf("%+v", d)
	}
}
