package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// ErrScope is wrapped by every refusal of a scope or a token.
var ErrScope = errors.New("invalid scope")

const wildcardSuffix = ":*"

// Token is one scope token: segment *(":" segment) [":*"]. A segment is one or more of the characters of RFC 6749 §3.3
// (printable ASCII without space, '"' and '\') without ':' and '*'. The zero Token covers nothing and is refused by Marshal.
type Token struct{ text string }

// ParseToken accepts 1 to MaxTokenBytes bytes of the grammar. Nothing is folded or trimmed.
func ParseToken(s string) (Token, error) {
	if s == "" || len(s) > MaxTokenBytes {
		return Token{}, fmt.Errorf("%w: a token has 1 to %d bytes", ErrScope, MaxTokenBytes)
	}
	last := byte(':')
	for i := range len(strings.TrimSuffix(s, wildcardSuffix)) {
		c := s[i]
		switch {
		case c == '*':
			return Token{}, fmt.Errorf("%w: '*' stands only alone, as the last segment after another", ErrScope)
		case c == ':' && last == ':':
			return Token{}, fmt.Errorf("%w: empty segment", ErrScope)
		case c <= ' ' || c == '"' || c == '\\' || c >= 0x7f:
			return Token{}, fmt.Errorf("%w: byte 0x%02x at %d", ErrScope, c, i)
		}
		last = c
	}
	if last == ':' {
		return Token{}, fmt.Errorf("%w: empty segment", ErrScope)
	}
	return Token{text: s}, nil
}

// String returns the token as parsed.
func (t Token) String() string { return t.text }

// Covers says whether everything that u allows is allowed by t. A wildcard stands for one or more further segments, so
// "a:*" covers "a:b", "a:b:c" and "a:b:*", and not "a".
func (t Token) Covers(u Token) bool {
	if t.text == "" || u.text == "" {
		return false
	}
	if t.text == u.text {
		return true
	}
	prefix, wild := strings.CutSuffix(t.text, "*")
	// prefix ends in ':', and no token does: u has at least one further segment, which may itself be the wildcard.
	return wild && strings.HasPrefix(u.text, prefix)
}

// MarshalText returns String.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.text), nil }

// Scope is a set of tokens in the caller's order. The nil Scope allows nothing.
type Scope []Token

// ParseScope accepts 1 to MaxTokens distinct tokens.
func ParseScope(tokens []string) (Scope, error) {
	if len(tokens) == 0 || len(tokens) > MaxTokens {
		return nil, fmt.Errorf("%w: %d tokens; 1 to %d are allowed", ErrScope, len(tokens), MaxTokens)
	}
	s := make(Scope, 0, len(tokens))
	for i, text := range tokens {
		t, err := ParseToken(text)
		if err != nil {
			return nil, fmt.Errorf("token %d: %w", i, err)
		}
		if s.has(t) {
			return nil, fmt.Errorf("%w: token %d is a duplicate", ErrScope, i)
		}
		s = append(s, t)
	}
	return s, nil
}

// ParseScopeString accepts tokens separated by exactly one space each (RFC 6749 §3.3).
func ParseScopeString(s string) (Scope, error) {
	// One more than allowed is enough to be refused; a hostile string is not split further.
	return ParseScope(strings.SplitN(s, " ", MaxTokens+1))
}

func (s Scope) has(t Token) bool {
	for _, have := range s {
		if have == t {
			return true
		}
	}
	return false
}

// check re-validates a Scope that a caller may have put together by hand.
func (s Scope) check() error {
	if len(s) == 0 || len(s) > MaxTokens {
		return fmt.Errorf("%w: %d tokens; 1 to %d are allowed", ErrScope, len(s), MaxTokens)
	}
	for i, t := range s {
		if t.text == "" {
			return fmt.Errorf("%w: token %d is empty", ErrScope, i)
		}
		if s[:i].has(t) {
			return fmt.Errorf("%w: token %d is a duplicate", ErrScope, i)
		}
	}
	return nil
}

// Strings returns the tokens' texts in order; never nil.
func (s Scope) Strings() []string {
	out := make([]string, len(s))
	for i, t := range s {
		out[i] = t.text
	}
	return out
}

// String returns the tokens separated by spaces, as in OAuth.
func (s Scope) String() string { return strings.Join(s.Strings(), " ") }

// Covers says whether one token of s covers t.
func (s Scope) Covers(t Token) bool {
	for _, have := range s {
		if have.Covers(t) {
			return true
		}
	}
	return false
}

// Subset says whether everything that s allows is allowed by of. Since the segment alphabet is open-ended, no finite union
// of tokens covers a wildcard that none of them covers: looking at one token at a time is exact.
func (s Scope) Subset(of Scope) bool {
	_, exceeds := s.exceeding(of)
	return !exceeds
}

// exceeding returns the first token of s that of does not cover.
func (s Scope) exceeding(of Scope) (Token, bool) {
	for _, t := range s {
		if !of.Covers(t) {
			return t, true
		}
	}
	return Token{}, false
}

// UnmarshalJSON accepts an array of strings, by ParseScope.
func (s *Scope) UnmarshalJSON(data []byte) error {
	var tokens []string
	if err := json.Unmarshal(data, &tokens); err != nil {
		return fmt.Errorf("%w: not an array of strings", ErrScope)
	}
	parsed, err := ParseScope(tokens)
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}
