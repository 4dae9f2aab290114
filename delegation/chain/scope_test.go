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
