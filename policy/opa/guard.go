package opa

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp/syntax"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/topdown"
)

// Bounds of what one call of a function may take or make. An evaluation ends at its deadline, but only between calls: one
// call must be neither long nor large. What is beyond them is an error, and denies.
const (
	maxText     = 256 << 10 // bytes of text
	maxItems    = 64 << 10  // members of an array that is made of two
	maxOrdered  = 64 << 10  // bytes of what is put in order, as text
	maxDigits   = 512       // of a number as written
	maxExponent = 308       // a float's: beyond it comparing two numbers takes as long as multiplying them
	maxProduct  = 4096      // digits and exponents of all numbers that are multiplied
	maxWidth    = 999       // of a verb of sprintf
	maxMatch    = 8 << 20   // instructions of a pattern times bytes of its subject
	maxScan     = 8 << 20   // bytes of a text times bytes of what is looked for in it, rune by rune
	maxPattern  = 16 << 10
	maxRepeat   = 256 // bytes of a pattern with {…}, which can make many instructions of few characters
	maxGlob     = 1e7 // positions that stars can take in a subject
)

var errGuard = errors.New("larger than one call of a function may take or make")

// guard puts the bounds in front of OPA's own functions. OPA looks these up in one table of the process, before it looks at
// an engine's, so this is done once, before anything is evaluated.
var guard = sync.OnceFunc(func() {
	registerMeasure()
	for name, check := range guards() {
		call := topdown.GetBuiltin(name)
		topdown.RegisterBuiltinFunc(name, func(b topdown.BuiltinContext, operands []*ast.Term, iter func(*ast.Term) error) error {
			if err := check(operands); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			return call(b, operands, iter)
		})
	}
})

func guards() map[string]func([]*ast.Term) error {
	out := map[string]func([]*ast.Term) error{
		"concat": guardConcat, "replace": guardReplace, "sprintf": guardSprintf, "array.concat": guardArrays,
		"regex.match": guardRegex, "glob.match": guardGlob, "product": guardProduct, "to_number": guardToNumber, "json.unmarshal": guardJSON,
		"indexof": guardScan,
		"trim":    guardScan, "trim_left": guardScan, "trim_right": guardScan, "sort": guardOrder, "max": guardOrder, "min": guardOrder,
	}
	for _, name := range []string{
		"internal.template_string", "json.marshal", "json.is_valid", "upper", "lower", "split", "substring",
		"trim_prefix", "trim_suffix", "trim_space", "strings.count",
		"base64.encode", "base64.decode", "base64url.encode_no_pad", "base64url.decode", "hex.encode", "hex.decode", "crypto.sha256",
		"regex.is_valid", "semver.is_valid", "semver.compare",
	} {
		out[name] = guardText
	}
	for _, name := range []string{"plus", "minus", "mul", "div", "round", "ceil", "floor", "abs", "rem", "format_int", "sum"} {
		out[name] = guardNumbers
	}
	return out
}

// scale weighs values as text: each member counts, however often it is shared.
type scale struct{ left int }

func (s *scale) weigh(v ast.Value) bool {
	s.left -= 4 // brackets, comma, and so that counting ends soon
	more := func(t *ast.Term) error {
		if !s.weigh(t.Value) {
			return errGuard
		}
		return nil
	}
	var err error
	switch v := v.(type) {
	case ast.String:
		s.left -= len(v)
	case ast.Number:
		s.left -= len(v)
	case list: // a set is put in order to be gone through
		if v.Len() > s.left {
			return false
		}
		err = v.Iter(more)
	case ast.Object:
		if v.Len() > s.left {
			return false
		}
		err = v.Iter(func(k, t *ast.Term) error { return errors.Join(more(k), more(t)) })
	}
	return err == nil && s.left >= 0
}

// weight is how much text the operands are, at most.
func weight(operands ...*ast.Term) (int, error) {
	s := scale{left: maxText}
	for _, o := range operands {
		if !s.weigh(o.Value) {
			return 0, errGuard
		}
	}
	return maxText - s.left, nil
}

func guardText(operands []*ast.Term) error {
	_, err := weight(operands...)
	return err
}

// guardConcat is for the delimiter, which stands between all members.
func guardConcat(operands []*ast.Term) error {
	n, err := weight(operands...)
	if err != nil {
		return err
	}
	delimiter, ok := operands[0].Value.(ast.String)
	if of, isList := operands[1].Value.(list); ok && isList {
		return within(n + of.Len()*len(delimiter))
	}
	return nil // not its types: it will say so
}

func guardReplace(operands []*ast.Term) error {
	n, err := weight(operands...)
	if err != nil {
		return err
	}
	s, ok1 := operands[0].Value.(ast.String)
	old, ok2 := operands[1].Value.(ast.String)
	with, ok3 := operands[2].Value.(ast.String)
	if !ok1 || !ok2 || !ok3 {
		return nil
	}
	return within(n + strings.Count(string(s), string(old))*len(with))
}

// guardSprintf is for verbs that name a value again and again, or ask for a width.
func guardSprintf(operands []*ast.Term) error {
	n, err := weight(operands...)
	format, ok := operands[0].Value.(ast.String)
	if err != nil || !ok {
		return err
	}
	total := n
	for rest := string(format); ; {
		_, after, found := strings.Cut(rest, "%")
		if !found {
			return nil
		}
		verb := after[:len(after)-len(strings.TrimLeft(after, "+-# .0123456789[]*"))]
		digits := strings.FieldsFunc(verb, func(r rune) bool { return r < '0' || r > '9' })
		for _, d := range digits {
			if width, err := strconv.Atoi(d); err != nil || width > maxWidth {
				return errGuard
			}
		}
		total += maxWidth * len(digits)
		if strings.ContainsAny(verb, "[*") {
			total += n
		}
		if err := within(total); err != nil {
			return err
		}
		rest = strings.TrimPrefix(after[len(verb):], "%")
	}
}

func guardArrays(operands []*ast.Term) error {
	n := 0
	for _, o := range operands {
		if a, ok := o.Value.(*ast.Array); ok {
			n += a.Len()
		}
	}
	if n > maxItems {
		return errGuard
	}
	return nil
}

// guardNumbers is for numbers of a few characters that are millions of digits as an integer.
func guardNumbers(operands []*ast.Term) error {
	check := func(t *ast.Term) error {
		if n, ok := t.Value.(ast.Number); ok && !modest(string(n)) {
			return errGuard
		}
		return nil
	}
	for _, o := range operands {
		if of, ok := o.Value.(list); ok {
			if err := of.Iter(check); err != nil {
				return err
			}
		}
		if err := check(o); err != nil {
			return err
		}
	}
	return nil
}

func modest(number string) bool {
	_, ok := extent(number)
	return ok
}

// extent is how many digits a number has and moves, if they are not too many.
func extent(number string) (n int, ok bool) {
	mantissa, exponent, found := strings.Cut(strings.ToLower(number), "e")
	if !found || len(mantissa) > maxDigits {
		return len(mantissa), len(mantissa) <= maxDigits
	}
	e, err := strconv.Atoi(exponent)
	e = max(e, -e)
	return len(mantissa) + e, err == nil && e >= 0 && e <= maxExponent
}

// guardJSON looks at the numbers before anybody makes more than text of them.
func guardJSON(operands []*ast.Term) error {
	if err := guardText(operands); err != nil {
		return err
	}
	text, ok := operands[0].Value.(ast.String)
	if !ok {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(string(text)))
	d.UseNumber()
	for {
		t, err := d.Token()
		if err != nil {
			return nil //nolint:nilerr // its end, or not JSON: it will say so
		}
		if n, ok := t.(json.Number); ok && !modest(string(n)) {
			return errGuard
		}
	}
}

// guardProduct is for numbers each of which is modest.
func guardProduct(operands []*ast.Term) error {
	total := 0
	add := func(t *ast.Term) error {
		n, is := t.Value.(ast.Number)
		if !is {
			return nil // it will say so
		}
		digits, ok := extent(string(n))
		if total += digits; !ok || total > maxProduct {
			return errGuard
		}
		return nil
	}
	if of, ok := operands[0].Value.(list); ok && of.Len() <= maxProduct {
		return of.Iter(add)
	}
	return errGuard
}

func guardToNumber(operands []*ast.Term) error {
	if s, ok := operands[0].Value.(ast.String); ok && !modest(string(s)) {
		return errGuard
	}
	return nil
}

// guardOrder is for what is compared again and again.
func guardOrder(operands []*ast.Term) error {
	s := scale{left: maxOrdered}
	if !s.weigh(operands[0].Value) {
		return errGuard
	}
	return nil
}

// guardScan is for what is not ASCII: it is looked for rune by rune.
func guardScan(operands []*ast.Term) error {
	if err := guardText(operands); err != nil {
		return err
	}
	text, ok1 := operands[0].Value.(ast.String)
	what, ok2 := operands[1].Value.(ast.String)
	if ok1 && ok2 && !(ascii(string(text)) && ascii(string(what))) && len(text)*len(what) > maxScan {
		return errGuard
	}
	return nil
}

func ascii(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0
}

// guardRegex bounds the steps of a match, which are at most the pattern's instructions for each byte.
func guardRegex(operands []*ast.Term) error {
	if err := guardText(operands); err != nil {
		return err
	}
	pattern, ok1 := operands[0].Value.(ast.String)
	subject, ok2 := operands[1].Value.(ast.String)
	if !ok1 || !ok2 {
		return nil
	}
	if len(pattern) > maxPattern { // compiled patterns are kept, a hundred of them
		return errGuard
	}
	instructions := 2 * len(pattern)
	if strings.Contains(string(pattern), "{") {
		if len(pattern) > maxRepeat {
			return errGuard
		}
		parsed, err := syntax.Parse(string(pattern), syntax.Perl)
		if err != nil {
			return nil //nolint:nilerr // not a pattern: it will say so
		}
		prog, err := syntax.Compile(parsed.Simplify())
		if err != nil {
			return nil //nolint:nilerr // likewise
		}
		instructions = len(prog.Inst)
	}
	if instructions*(len(subject)+1) > maxMatch {
		return errGuard
	}
	return nil
}

// guardGlob bounds the ways in which stars can be laid over a subject, all of which may be tried.
func guardGlob(operands []*ast.Term) error {
	if err := guardText(operands); err != nil {
		return err
	}
	pattern, ok1 := operands[0].Value.(ast.String)
	subject, ok2 := operands[2].Value.(ast.String)
	if !ok1 || !ok2 {
		return nil
	}
	stars := strings.Count(strings.ReplaceAll(string(pattern), "**", "*"), "*")
	ways := float64(len(pattern)) * math.Pow(float64(utf8.RuneCountInString(string(subject))+1), float64(stars))
	if ways*math.Pow(2, float64(strings.Count(string(pattern), "{"))) > maxGlob {
		return errGuard
	}
	return nil
}

func within(n int) error {
	if n > maxText {
		return errGuard
	}
	return nil
}
