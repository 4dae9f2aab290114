package chain

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

type scopeVector struct {
	Token string `json:"token"`
	Valid bool   `json:"valid"`
}

type coverVector struct {
	Parent string `json:"parent"`
	Child  string `json:"child"`
	Covers bool   `json:"covers"`
}

type scopeVectors struct {
	Tokens []scopeVector `json:"tokens"`
	Covers []coverVector `json:"covers"`
}

func TestScopeVectors(t *testing.T) {
	made := scopeVectors{
		Tokens: []scopeVector{
			{"database:read:patients", true},
			{"a", true},
			{"a:*", true},
			{"fhir:read:Observation:*", true},
			{"repo:push:github.com/org/name@main", true},
			{"!#$%&'()+,-./;<=>?@[]^_`{|}~", true},
			{strings.Repeat("a", MaxTokenBytes), true},
			{strings.Repeat("a", MaxTokenBytes+1), false},
			{"", false},
			{"*", false},
			{"**", false},
			{":*", false},
			{"a:**", false},
			{"a:*:b", false},
			{"a:*:*", false},
			{"a*", false},
			{"a:b*", false},
			{"*:a", false},
			{":", false},
			{":a", false},
			{"a:", false},
			{"a::b", false},
			{"a::*", false},
			{"a b", false},
			{" a", false},
			{"a\n", false},
			{"a\t", false},
			{"a\"b", false},
			{"a\\b", false},
			{"a\x7f", false},
			{"a\x00", false},
			{"d\u0430tabase:read", false}, // Cyrillic a
			{"a\uff1ab", false},           // full-width colon
			{"a\u200bb", false},           // zero-width space
			{"caf\u00e9", false},
			{"a\u2236b", false}, // ratio sign, looks like a colon
			{"a:\u2217", false}, // asterisk operator
			{"a:%2A", true},     // percent-encoding means itself: no wildcard
			{"a%3Ab", true},     // one segment
		},
		Covers: []coverVector{
			{"a:b", "a:b", true},
			{"a:*", "a:b", true},
			{"a:*", "a:b:c", true},
			{"a:*", "a:b:*", true},
			{"a:*", "a:*", true},
			{"a:*", "a", false},
			{"a:b:*", "a:*", false},
			{"a:b:*", "a:b", false},
			{"a:b:*", "a:bc:d", false},
			{"a:b", "a:b:c", false},
			{"a:b", "a:b:*", false},
			{"a:b:c", "a:b", false},
			{"A:b", "a:b", false},
			{"a:*", "a%3Ab", false},
			{"a:b", "a:%62", false},
			{"a:%2A", "a:b", false},
			{"a:*", "a:%2A", true},
		},
	}
	sameVectors(t, "scope.json", made)
	for _, v := range made.Tokens {
		if _, err := ParseToken(v.Token); (err == nil) != v.Valid || err != nil && !errors.Is(err, ErrScope) {
			t.Errorf("%q: %v", v.Token, err)
		}
	}
	for _, v := range made.Covers {
		p, c := must[Token](t)(ParseToken(v.Parent)), must[Token](t)(ParseToken(v.Child))
		if p.Covers(c) != v.Covers {
			t.Errorf("%s covers %s: %v", v.Parent, v.Child, !v.Covers)
		}
	}
	if (Token{}).Covers(Token{}) {
		t.Error("nothing covers nothing")
	}
}

func TestParseScope(t *testing.T) {
	many := make([]string, MaxTokens+1)
	for i := range many {
		many[i] = "a:" + strings.Repeat("b", i+1)
	}
	for name, c := range map[string]struct {
		tokens []string
		ok     bool
	}{
		"64": {many[:MaxTokens], true}, "65": {many, false}, "none": {nil, false}, "duplicate": {[]string{"a", "b", "a"}, false},
		"look-alike differs": {[]string{"a:O", "a:0"}, true}, "case differs": {[]string{"a", "A"}, true},
	} {
		s, err := ParseScope(c.tokens)
		if (err == nil) != c.ok || err == nil && strings.Join(s.Strings(), ",") != strings.Join(c.tokens, ",") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for text, ok := range map[string]bool{"a b": true, "a": true, "": false, "a  b": false, " a": false, "a ": false, "a,b c": true, "a\tb": false} {
		if s, err := ParseScopeString(text); (err == nil) != ok || ok && s.String() != text {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := ParseScopeString(strings.Join(many, " ")); err == nil {
		t.Error("65 tokens in a string")
	}
	var s Scope
	if err := json.Unmarshal([]byte(`["a:*","b"]`), &s); err != nil || s.String() != "a:* b" {
		t.Errorf("%v %v", s, err)
	}
	if text := must[[]byte](t)(json.Marshal(s)); string(text) != `["a:*","b"]` {
		t.Errorf("%s", text)
	}
	if err := json.Unmarshal([]byte(`["a","a"]`), &s); err == nil {
		t.Error("JSON with a duplicate")
	}
}

// denotes lists, by brute force from the definition, which names over a small alphabet a scope allows. "z" stands in no scope, so that
// it speaks for all the segments that none names.
func denotes(s Scope, universe []string) map[string]bool {
	out := map[string]bool{}
	for _, name := range universe {
		for _, t := range s {
			prefix, wild := strings.CutSuffix(t.String(), ":*")
			segments, want := strings.Split(name, ":"), strings.Split(prefix, ":")
			match := len(segments) == len(want) || wild && len(segments) > len(want)
			if wild && len(segments) == len(want) {
				match = false
			}
			for i := range want {
				match = match && i < len(segments) && segments[i] == want[i]
			}
			out[name] = out[name] || match
		}
	}
	return out
}

func TestSubsetAgainstBruteForce(t *testing.T) {
	var universe, tokens []string
	level := []string{""}
	for depth := range 4 {
		var next []string
		for _, p := range level {
			for _, c := range []string{"a", "b", "z"} {
				name := strings.TrimPrefix(p+":"+c, ":")
				universe, next = append(universe, name), append(next, name)
				if depth < 3 && !strings.Contains(name, "z") {
					tokens = append(tokens, name, name+":*")
				}
			}
		}
		level = next
	}
	r := rand.New(rand.NewPCG(1, 2))
	pick := func() Scope {
		var s Scope
		for range 1 + r.IntN(4) {
			if tok := (Token{text: tokens[r.IntN(len(tokens))]}); !s.has(tok) {
				s = append(s, tok)
			}
		}
		return s
	}
	counts := map[bool]int{}
	for range 6000 {
		child, parent := pick(), pick()
		want, allowed := true, denotes(parent, universe)
		for name, in := range denotes(child, universe) {
			want = want && (!in || allowed[name])
		}
		if child.Subset(parent) != want {
			t.Fatalf("%q subset of %q: %v", child, parent, !want)
		}
		counts[want]++
	}
	if counts[true] < 150 || counts[false] < 150 {
		t.Errorf("lopsided: %v", counts)
	}
}

// bits are a set of at most 128 names.
type bits [2]uint64

func (b bits) within(other bits) bool { return b[0]&^other[0] == 0 && b[1]&^other[1] == 0 }

func (b bits) or(other bits) bits { return bits{b[0] | other[0], b[1] | other[1]} }

// names lists all names of 1 to depth of the segments.
func names(depth int, segments ...string) []string {
	var out []string
	level := []string{""}
	for range depth {
		var next []string
		for _, p := range level {
			for _, s := range segments {
				next = append(next, strings.TrimPrefix(p+":"+s, ":"))
			}
		}
		out, level = append(out, next...), next
	}
	return out
}

// TestSubsetExhaustively compares every child of up to two tokens with every parent of up to three, over all tokens of up to
// three segments (a wildcard counts) of the alphabet {a, b}.
//
// The universe suffices: such a token looks at the first three segments of a name at most, and at whether there is a further one,
// so a name of five segments or more is allowed exactly if its first four are; and "z", which stands in no token, speaks for every
// other segment.
func TestSubsetExhaustively(t *testing.T) {
	universe := names(4, "a", "b", "z")
	var tokens []Token
	for _, name := range names(3, "a", "b") {
		tokens = append(tokens, must[Token](t)(ParseToken(name)))
		if strings.Count(name, ":") < 2 {
			tokens = append(tokens, must[Token](t)(ParseToken(name+":*")))
		}
	}
	meaning := map[Token]bits{}
	for _, token := range tokens {
		allowed, set := denotes(Scope{token}, universe), bits{}
		for i, name := range universe {
			if allowed[name] {
				set[i/64] |= 1 << (i % 64)
			}
		}
		meaning[token] = set
	}
	if len(universe) != 120 || len(tokens) != 20 {
		t.Fatalf("%d names, %d tokens", len(universe), len(tokens))
	}
	scopes := combinations(tokens, 3)
	counts := map[bool]int{}
	for _, child := range combinations(tokens, 2) {
		means := meaningOf(child, meaning)
		for _, parent := range scopes {
			want := means.within(meaningOf(parent, meaning))
			if child.Subset(parent) != want {
				t.Fatalf("%q subset of %q: %v", child, parent, !want)
			}
			counts[want]++
		}
	}
	if counts[true]+counts[false] != 210*1350 || counts[true] < 10000 {
		t.Errorf("%v", counts)
	}
}

func meaningOf(s Scope, meaning map[Token]bits) bits {
	var out bits
	for _, t := range s {
		out = out.or(meaning[t])
	}
	return out
}

// combinations are all scopes of 1 to most of the tokens.
func combinations(tokens []Token, most int) []Scope {
	if most == 0 {
		return nil
	}
	var out []Scope
	for i, t := range tokens {
		out = append(out, Scope{t})
		for _, rest := range combinations(tokens[i+1:], most-1) {
			out = append(out, append(Scope{t}, rest...))
		}
	}
	return out
}
