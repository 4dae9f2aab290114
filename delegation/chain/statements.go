package chain

import "sync"

// Bounds of Statements, at about half a kilobyte each.
const (
	maxClaims = 8192
	maxGrants = 1024
)

// Statements remembers which delegations verified under which key, and what grant documents say, for who verifies many
// chains that hang on the same ones: neither a signature nor a document ever changes. Failures are not remembered. The zero
// value is ready, nil remembers nothing, and all of it is safe for concurrent use.
type Statements struct {
	claims memory[signedBy, Claims]
	grants memory[[32]byte, GrantDocument]
}

// signedBy names a compact JWS and the key that it verifies with, by the SHA-256 of both.
type signedBy struct{ compact, key [32]byte }

func (s *Statements) delegation(at signedBy) (Claims, bool) {
	if s == nil {
		return Claims{}, false
	}
	return s.claims.get(at)
}

func (s *Statements) keepDelegation(at signedBy, c Claims) {
	if s != nil {
		s.claims.keep(at, c, maxClaims)
	}
}

// document is ParseGrantDocument of what has that SHA-256.
func (s *Statements) document(sum [32]byte, text []byte) (GrantDocument, error) {
	if s == nil {
		return ParseGrantDocument(text)
	}
	if d, ok := s.grants.get(sum); ok {
		return d, nil
	}
	d, err := ParseGrantDocument(text)
	if err == nil {
		s.grants.keep(sum, d, maxGrants)
	}
	return d, err
}

// memory is a bounded map. When it is full an arbitrary entry goes.
type memory[K comparable, V any] struct {
	mu sync.RWMutex
	m  map[K]V
}

func (c *memory[K, V]) get(k K) (V, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v, ok := c.m[k]
	return v, ok
}

func (c *memory[K, V]) keep(k K, v V, most int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = make(map[K]V)
	}
	if _, ok := c.m[k]; !ok && len(c.m) >= most {
		for old := range c.m {
			delete(c.m, old)
			break
		}
	}
	c.m[k] = v
}
