package opa_test

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

// doubled makes x<n> of x0 by n doublings.
func doubled(first, form string, n int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "allow if {\n\tx0 := %s\n", first)
	for i := range n {
		fmt.Fprintf(&b, "\tx%d := "+form+"\n", i+1, fmt.Sprint("x", i))
	}
	fmt.Fprintf(&b, "\tcount(x%d) > 0\n}\n", n)
	return b.String()
}

// shared makes v<n>, which is small in memory: each holds the one before again and again.
func shared(v, first string, n int, again string) string {
	out := fmt.Sprintf("\t%s0 := %s\n", v, first)
	for i := range n {
		out += fmt.Sprintf("\t%s%d := [%[1]s%[3]d | some _ in %[4]s]\n", v, i+1, i, again)
	}
	return out
}

// together is a list of a value ten thousand times.
func together(v string) string { return "[" + strings.Repeat(v+", ", 9_999) + v + "]" }

// several are v0, v1 and so on.
func several(v string, n int) string {
	out := v + "0"
	for i := range n {
		out += fmt.Sprintf(", %s%d", v, i+1)
	}
	return out
}

// called is likewise by calls of a function.
func called(f string, n int) string {
	out := fmt.Sprintf("\t%s0 := input.point\n", f)
	for i := range n {
		out += fmt.Sprintf("\t%s%d := %[1]s(%[1]s%[3]d)\n", f, i+1, i)
	}
	return out
}

// sharing is a rule that makes a large object of small values.
func sharing(name string) string {
	return name + "[k] := x12 if {\n\tsome k in split(\"" + strings.Repeat(",k", 3) + "\", \"\")\n" + shared("x", "input.point", 12, "[1, 2]") + "}\n\n"
}

// nested makes functions f<n> each of which calls the one before twice, within each other: its calls double.
func nested(n int) string {
	out := "f0(x) := x + 1\n\n"
	for i := range n {
		out += fmt.Sprintf("f%d(x) := f%d(f%[2]d(x))\n\n", i+1, i)
	}
	return out
}

// bombs are policies that would take all time or memory there is.
func bombs() map[string]string {
	long := strings.Repeat("a", 60_000)
	digits := `split("0,1,2,3,4,5,6,7,8,9", ",")`
	product := func(of string) string {
		return "allow if {\n\tl := " + digits + "\n\tcount(" + of + ") < 0\n}\n"
	}
	vars := "some a in l; some b in l; some c in l; some d in l; some e in l; some f in l; some g in l; some h in l"
	return map[string]string{
		"loop":                 loop("allow"),
		"comprehension":        product("[[a, b, c, d, e, f, g, h] | " + vars + "]"),
		"set comprehension":    product("{[a, b, c, d, e, f, g, h] | " + vars + "}"),
		"object comprehension": product("{[a, b, c, d, e, f, g, h]: a | " + vars + "}"),
		"partial set":          "allow if count(s) < 0\n\ns contains [a, b, c, d, e, f, g, h] if { l := " + digits + "; " + vars + " }\n",
		"long concat":          doubled(`"x"`, `concat("", [%[2]s, %[2]s])`, 40),
		"long template":        doubled(`"x"`, "$\"{%[2]s}{%[2]s}\"", 40),
		"long sprintf":         doubled(`"x"`, `sprintf("%%s%%s", [%[2]s, %[2]s])`, 40),
		"long hex":             doubled(`"x"`, "hex.encode(%[2]s)", 40),
		"long base64":          doubled(`"x"`, "base64.encode(%[2]s)", 90),
		"long json":            doubled(`"\\"`, "json.marshal(%[2]s)", 40),
		"shared json":          "f(x) := [x, x]\n\n" + strings.Replace(doubled(`["x"]`, "f(%[2]s)", 40), "count(x40)", "count(json.marshal(x40))", 1),
		"long array":           doubled(`["x"]`, "array.concat(%[2]s, %[2]s)", 40),
		"replace":              fmt.Sprintf("allow if count(replace(%q, \"a\", %[1]q)) < 0\n", long),
		"replace nothing":      fmt.Sprintf("allow if count(replace(%q, \"\", %[1]q)) < 0\n", long),
		"concat delimiter":     fmt.Sprintf("allow if count(concat(%q, split(%[1]q, \"\"))) < 0\n", long),
		"sprintf width":        "allow if count(sprintf(\"" + strings.Repeat("%999999d", 2000) + "\", [1])) < 0\n",
		"sprintf star":         "allow if count(sprintf(\"" + strings.Repeat("%[1]*d", 2000) + "\", [999999])) < 0\n",
		"sprintf again":        fmt.Sprintf("allow if count(sprintf(\"%s\", [%q])) < 0\n", strings.Repeat("%[1]s", 5000), long),
		"format_int":           "allow if count(format_int(to_number(\"1e300000000\"), 10)) < 0\n",
		"ceil":                 "allow if ceil(to_number(\"1e300000000\")) < 0\n",
		"rem":                  "allow if to_number(\"1e300000000\") % 7 == 1\n",
		"parsed number":        "allow if round(to_number(\"1e300000000\")) < 0\n",
		"number in json":       "allow if floor(json.unmarshal(\"1e300000000\")) < 0\n",
		"regex instructions":   fmt.Sprintf("allow if regex.match(\"%s$\", %q)\n", strings.Repeat("(a{0,30}){30}", 100), long),
		"regex length":         fmt.Sprintf("allow if regex.match(\"%s$\", %q)\n", strings.Repeat("a?", 2000), long),
		"glob":                 fmt.Sprintf("allow if glob.match(\"%s\", [], %q)\n", strings.Repeat("*a", 12)+"b", long[:2000]),
		"product":              "allow if {\n\tl := " + digits + "\n\tproduct([1.5e300 | " + vars[:63] + "]) < 0\n}\n",
		"numbers in json":      fmt.Sprintf("allow if sort(json.unmarshal(%q))[0] == 0\n", "["+strings.Repeat("1.5e-30000,2.5e-30000,", 5000)+"0]"),
		"indexof":              fmt.Sprintf("allow if indexof(%q, %q) > 0\n", strings.Repeat("é", 60_000), strings.Repeat("é", 30_000)+"x"),
		"trim":                 fmt.Sprintf("allow if trim(%q, %q) == \"\"\n", strings.Repeat("ĩ", 60_000)+"x", strings.Repeat("é", 60_000)+"ĩ"),
		"regex kept":           fmt.Sprintf("allow if regex.match(%q, \"\")\n", long[:20_000]),
		"shared, compared":     "allow if {\n" + shared("x", "input.point", 40, "[1, 2]") + shared("y", "input.point", 40, "[1, 2]") + "\tx40 == y40\n}\n",
		"shared, not equal":    "allow if {\n" + shared("x", "input.point", 40, "[1, 2]") + shared("y", "input.point", 40, "[1, 2]") + "\tnot x40 == y40\n}\n",
		"shared, put together": "allow if {\n" + shared("x", "input.point", 10, "[1, 2]") + shared("y", "input.point", 10, "[1, 2]") + "\t" + together("x10") + " == " + together("y10") + "\n}\n",
		"shared, in order":     "allow if {\n" + shared("x", "input.point", 40, "[1, 2]") + shared("y", "input.point", 40, "[1, 2]") + "\tx40 < y40\n}\n",
		"shared by functions":  "allow if {\n" + called("f", 40) + called("g", 40) + "\tf40 == g40\n}\n\nf(x) := [x | some _ in [1, 2]]\n\ng(x) := [x | some _ in [1, 2]]\n",
		"shared in an object":  "allow if o == p\n\n" + sharing("o") + sharing("p"),
		"shared, no object":    "allow if not o == p\n\n" + sharing("o") + sharing("p"),
		"shared, answered":     "allow := true\n\nobligations := [{\"a\": x6}] if {\n" + shared("x", "[]", 6, `split("`+strings.Repeat(",", 63)+`", ",")`) + "}\n",
		"deep by lines":        "allow if {\n" + strings.Repeat("\tinput.point\n", 6_000) + "\tloop\n}\n\n" + loop("loop"),
		"deep by functions":    "allow if f40(0) < 0\n\n" + nested(40),
		"deep by equal values": "allow if {\n" + shared("x", "input.point", 12, "[1, 2]") + shared("y", "input.point", 12, "[1, 2]") + strings.Repeat("\tx12 == y12\n", 1_000) + "\tloop\n}\n\n" + loop("loop"),
		"number squared":       strings.Replace(doubled("99999999999999999999", "%[2]s * %[2]s", 40), "count(x40) > 0", "x40 < 0", 1),
	}
}

// Each is refused at its deadline, or at the call that would be too large, without taking the memory first; others get their
// answers meanwhile.
func TestBombs(t *testing.T) {
	const timeout = 150 * time.Millisecond
	limit := 5 * time.Second // the tests run beside others, under the race detector
	if os.Getenv("SIGNET_SOAK") != "" {
		limit = 250 * time.Millisecond
	}
	good := engine(t, opa.Options{Timeout: evalTimeout})
	for name, rule := range bombs() {
		e := engine(t, opa.Options{Bundle: bundleOf("package signet.access\n\n" + rule), Timeout: timeout})
		stop, answered := make(chan struct{}), make(chan int)
		go func() {
			n := 0
			for ; ; n++ {
				select {
				case <-stop:
					answered <- n
					return
				default:
				}
				if d := good.Decide(t.Context(), access()); !d.Allow {
					t.Errorf("%s: somebody else was denied: %v", name, d.Reasons)
				}
			}
		}()
		before := allocated()
		start := time.Now()
		d := e.Decide(t.Context(), access())
		took := time.Since(start)
		close(stop)
		others := <-answered
		if d.Allow || len(d.Reasons) != 1 || !slices.Contains([]string{policy.ReasonTimeout, policy.ReasonError}, d.Reasons[0]) {
			t.Errorf("%s: allow=%v %v %v", name, d.Allow, d.Reasons, d.Fault)
		}
		if took > limit {
			t.Errorf("%s took %v", name, took)
		}
		t.Logf("%-20s %-16s %8.1f ms %7.1f MB, %d others answered", name, d.Reasons[0], float64(took.Microseconds())/1000, float64(allocated()-before)/(1<<20), others)
	}
}

func TestSoakBombs(t *testing.T) {
	if os.Getenv("SIGNET_SOAK") != "" {
		TestBombs(t)
	}
}

// allocated is all that was ever allocated; peak use is at most that.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// What data is large enough to hold is not put in order in one step.
func TestLargeDataIsNotSorted(t *testing.T) {
	numbers := `{"n":[` + strings.Repeat("1.5,", 100_000) + `1]}`
	for _, call := range []string{"sort(data.n)[0]", "max(data.n)", "min(data.n)"} {
		b := with(bundleOf("package signet.access\n\nallow if "+call+" == 1\n"), "data.json", numbers)
		d := engine(t, opa.Options{Bundle: b, Timeout: evalTimeout}).Decide(t.Context(), access())
		if d.Allow || !slices.Equal(d.Reasons, []string{policy.ReasonError}) {
			t.Errorf("%s: %v %v %v", call, d.Allow, d.Reasons, d.Fault)
		}
	}
}

// What an honest policy does with text, numbers and patterns is within the bounds.
func TestGuardsLetWorkThrough(t *testing.T) {
	e := engine(t, opa.Options{Timeout: evalTimeout, Bundle: bundleOf(`package signet.access

allow if {
	concat(", ", {r | some r in input.user.roles}) == "analyst, physician"
	replace("a-b-c", "-", "__") == "a__b__c"
	sprintf("%5d|%-8s|%3.1f|%v%%", [42, "x", 2.5, {"a": [1]}]) == "   42|x       |2.5|{\"a\": [1]}%"
	sprintf("%[2]s %[1]s", ["a", "b"]) == "b a"
	array.concat([1], [2]) == [1, 2]
	regex.match("^[a-z]{2,10}(-[0-9]{4})?$", "trial-2030")
	glob.match("https://*.example/*", ["/"], "https://a.example/x")
	1e6 + 0.5 == 1000000.5
	17 % 5 == 2
	format_int(255, 16) == "ff"
	sum([1, 2, 3]) * product([2, 5]) == 60
	json.unmarshal(json.marshal({"a": [1, 2]})).a[1] == 2
	to_number("1e3") == 1000
	$"{input.point}-{1}" == "access-1"
}
`)})
	if d := e.Decide(t.Context(), access()); !d.Allow {
		t.Errorf("%v %v", d.Reasons, d.Fault)
	}
}

// Measuring what a policy makes changes no answer.
func TestMeasuringChangesNoAnswer(t *testing.T) {
	e := engine(t, opa.Options{Timeout: evalTimeout, Bundle: bundleOf(`package signet.access

allow if {
	o == p
	not o == q
	not o == nothing
	[r | some r in input.user.roles] == ["physician", "analyst"]
	{k: v | some k, v in o} == p
	f(1) == [1, 1]
	[a, b] := f(2)
	a + b == 4
	[f(a), _] = [[c, c], f(b)]
	[c, [f(a), {"k": c}]] == [2, [[2, 2], {"k": b}]]
	{"k": [c, d2], "l": [f(b), d3]} = {"k": [a, 4], "l": [[2, 2], [d2]]}
	d3 == [4]
	not [c, [1]] == [2, [b]]
	{c, [b]} == {a, [2]}
	c == 2
	s == {[1, 1], [2, 2]}
	some [1, d] in s
	g({"x": [d, d]}) == {"v": [[1, 1], [1, 1]]}
	every x in [y | some y in s] { count(x) == 2 }
	h == "else"
	{x | some x in s} == {x | some x in s} with input as {}
}

o[k] := [k, k] if some k in ["a", "b"]

p := {"a": ["a", "a"], "b": ["b", "b"]}

q[k] := [k, "x"] if some k in ["a", "b"]

nothing := {"a": ["a", "a"]} if input.nothing

f(x) := [x, x]

g(x) := {"v": y} if y := f(x.x)

s contains f(x) if some x in [1, 2]

h := [1] if {
	input.nothing
} else := "else"
`)})
	if d := e.Decide(t.Context(), access()); !d.Allow {
		t.Errorf("%v %v", d.Reasons, d.Fault)
	}
}

// rules makes x<n> of x0, a rule each.
func rules(n int) string {
	out := ""
	for i := range n {
		out += fmt.Sprintf("x%d := [x%d, x%[2]d]\n\n", i+1, i)
	}
	return out
}

// What a policy may not use does not compile.
func TestNoBuiltinWithoutEnd(t *testing.T) {
	for name, rule := range map[string]string{
		"walk":          "allow if walk(input, [_, x])",
		"range":         "allow if count(numbers.range(1, 1000000000)) > 1",
		"range step":    "allow if count(numbers.range_step(1, 1000000000, 1)) > 1",
		"regex find":    `allow if count(regex.find_n("a", input.point, -1)) > 1`,
		"regex replace": `allow if regex.replace("a", "a", "b") == "b"`,
		"reachable":     `allow if count(graph.reachable({}, {})) > 1`,
		"bits":          `allow if bits.lsh(1, 1000000000) > 1`,
		"repeat":        `allow if count(strings.render_template("x", {})) > 1`,
		"patch":         `allow if json.patch({}, []) == {}`,
		"growth":        doubled(`["x"]`, "[%[2]s, %[2]s]", 40),
		"rules' growth": "allow if x40 == []\n\nx0 := [input.point]\n\n" + rules(40),
		"object growth": doubled(`["x"]`, "{1: %[2]s, 2: [%[2]s]}", 40),
		"pattern":       doubled(`["x"]`, "y%[1]d; [y%[1]d, _] = [[%[2]s, %[2]s], 1]", 40),
		"set of shared": "allow if {\n" + shared("x", "input.point", 20, "[1, 2]") + "\t{" + several("x", 20) + "} == {[x1, x2], " + several("x", 20) + "}\n}\n",
		"number":        "allow if 1e300000000 % 7 == 1",
		"tiny number":   "allow if 1.5e-30000 > 0",
		"recursion":     "allow if f(1)\n\nf(x) if f(x + 1)",
	} {
		if _, err := opa.New(t.Context(), opa.Options{Bundle: bundleOf("package signet.access\n\n" + rule + "\n")}); err == nil {
			t.Errorf("%s is active", name)
		}
	}
}
