package chain

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"
)

// maxPaths bounds the certificates whose path is remembered, at about 100 bytes each.
const maxPaths = 8192

// paths remembers which certificates have a path through the bundle's own CAs, and for how long: neither the certificate
// nor the bundle ever changes, so that only the CAs' validity is left to ask. Failures are not remembered: a stranger
// could fill it with them. When it is full an arbitrary one goes.
type paths struct {
	mu sync.RWMutex
	m  map[[32]byte]span
}

// span is a time with both ends in it.
type span struct{ from, to time.Time }

func (s span) holds(t time.Time) bool { return !t.Before(s.from) && !t.After(s.to) }

// known says that leaf has a path at this time. The SHA-256 covers the signature too.
func (p *paths) known(leaf *x509.Certificate, now time.Time) bool {
	key := sha256.Sum256(leaf.Raw)
	p.mu.RLock()
	defer p.mu.RUnlock()
	s, ok := p.m[key]
	return ok && s.holds(now)
}

func (p *paths) keep(leaf *x509.Certificate, s span) {
	key := sha256.Sum256(leaf.Raw)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m == nil {
		p.m = make(map[[32]byte]span)
	}
	if _, ok := p.m[key]; !ok && len(p.m) >= maxPaths {
		for old := range p.m {
			delete(p.m, old)
			break
		}
	}
	p.m[key] = s
}

// life is when all of cas, and the roots that anchors hang on, are valid together.
func (t *Trust) life(cas []*x509.Certificate) span {
	s := span{from: cas[0].NotBefore, to: cas[0].NotAfter}
	for _, c := range cas {
		s = s.within(c)
		for _, a := range t.anchors {
			if bytes.Equal(a.ca.Raw, c.Raw) {
				s = s.within(a.root)
			}
		}
	}
	return s
}

func (s span) within(c *x509.Certificate) span {
	if c.NotBefore.After(s.from) {
		s.from = c.NotBefore
	}
	if c.NotAfter.Before(s.to) {
		s.to = c.NotAfter
	}
	return s
}
