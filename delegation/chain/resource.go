package chain

import (
	"fmt"
	"strings"
)

// ResourceToken is the scope that an action on a resource requires: "type:action:id". Type and action are one segment
// each and an id is one or more, without a wildcard, so that no two resources or actions share a scope: the token says
// which of its segments are what. An id "ward7:42" is within "records:read:ward7:*".
func ResourceToken(resourceType, id, action string) (Token, error) {
	for _, p := range [...]struct{ name, text string }{{"type", resourceType}, {"action", action}} {
		if t, err := ParseToken(p.text); err != nil || strings.Contains(t.text, ":") {
			return Token{}, fmt.Errorf("%w: a resource's %s is one segment of a scope", ErrScope, p.name)
		}
	}
	if t, err := ParseToken(id); err != nil || strings.HasSuffix(t.text, wildcardSuffix) {
		return Token{}, fmt.Errorf("%w: a resource's id is one or more segments of a scope, without a wildcard", ErrScope)
	}
	return ParseToken(resourceType + ":" + action + ":" + id)
}

// Catalogue is a set of resources and what may be done with them, as the scopes that they require: "database:read:patients"
// is one resource, "records:read:*" are all of a type. It never changes and is safe for concurrent use; the zero
// Catalogue has nothing.
type Catalogue struct{ tokens map[string]struct{} }

// ParseCatalogue accepts distinct tokens of at least three segments, a closing wildcard included.
func ParseCatalogue(tokens []string) (Catalogue, error) {
	c := Catalogue{tokens: make(map[string]struct{}, len(tokens))}
	for i, text := range tokens {
		if err := c.add(text); err != nil {
			return Catalogue{}, fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return c, nil
}

func (c Catalogue) add(text string) error {
	t, err := ParseToken(text)
	if err != nil {
		return err
	}
	if strings.Count(t.text, ":") < 2 {
		return fmt.Errorf("%w: type:action:id, or type:action:* for every id", ErrScope)
	}
	if _, ok := c.tokens[t.text]; ok {
		return fmt.Errorf("%w: listed twice", ErrScope)
	}
	c.tokens[t.text] = struct{}{}
	return nil
}

// Required is the scope of a resource that the catalogue has, and false for any other.
func (c Catalogue) Required(resourceType, id, action string) (Token, bool) {
	t, err := ResourceToken(resourceType, id, action)
	if err != nil {
		return Token{}, false
	}
	return t, c.has(t.text)
}

// has looks for the token itself and then for each wildcard above it, so its cost does not grow with the catalogue.
func (c Catalogue) has(token string) bool {
	if _, ok := c.tokens[token]; ok {
		return true
	}
	for i := strings.LastIndexByte(token, ':'); i > 0; i = strings.LastIndexByte(token[:i], ':') {
		if _, ok := c.tokens[token[:i]+wildcardSuffix]; ok {
			return true
		}
	}
	return false
}
