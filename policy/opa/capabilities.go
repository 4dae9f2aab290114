package opa

import (
	"slices"

	"github.com/open-policy-agent/opa/v1/ast"
)

// capabilities is what a policy may use: an allow-list of functions whose result depends on their arguments alone, so
// that a recorded decision gives the same answer when it is replayed elsewhere. Not on it: network, clock, randomness,
// the process's environment, tracing, printing, calendar functions (they read the host's time zone database), whatever
// makes large values out of small ones (numbers.range), and cryptography beyond a plain hash.
func capabilities() *ast.Capabilities {
	c := ast.CapabilitiesForThisVersion(ast.CapabilitiesRegoVersion(ast.RegoV1))
	allowed := allowedBuiltins()
	c.Builtins = slices.DeleteFunc(c.Builtins, func(b *ast.Builtin) bool { return !slices.Contains(allowed, b.Name) })
	c.AllowNet = []string{} // nil would allow every host
	return c
}

func allowedBuiltins() []string {
	return []string{
		"eq", "assign", "internal.member_2", "internal.member_3", "gt", "gte", "lt", "lte", "neq", "equal",
		"plus", "minus", "mul", "div", "round", "ceil", "floor", "abs", "rem",
		"and", "or", "intersection", "union", "count", "sum", "product", "max", "min", "sort",
		"array.concat", "array.slice", "array.reverse", "to_number",
		"object.get", "object.keys", "object.subset", "object.union", "object.filter", "object.remove",
		"concat", "contains", "startswith", "endswith", "format_int", "indexof", "lower", "upper", "replace", "split",
		"sprintf", "substring", "trim", "trim_left", "trim_right", "trim_prefix", "trim_suffix", "trim_space",
		"strings.any_prefix_match", "strings.any_suffix_match", "strings.count",
		"regex.match", "regex.is_valid", "glob.match", "semver.is_valid", "semver.compare",
		"json.marshal", "json.unmarshal", "json.is_valid",
		"base64.encode", "base64.decode", "base64url.encode_no_pad", "base64url.decode", "hex.encode", "hex.decode",
		"time.parse_rfc3339_ns", "time.parse_duration_ns", "crypto.sha256",
		"is_number", "is_string", "is_boolean", "is_array", "is_set", "is_object", "is_null", "type_name",
		"internal.test_case", "internal.template_string", // made by the compiler for tests and for string templates
	}
}
