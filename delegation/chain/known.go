package chain

import (
	"bytes"
	"crypto/x509"
	"sync"
	"time"
)

// Known is what one certificate says by itself, for as long as it exists: its delegation, and the checks "format", "binding",
// "attenuation" and "depth". Who is shown the same certificate often keeps it and gives it to Verify, which then asks only
// what may have changed: path, time, principal, scope, revocation and freshness.
type Known struct {
	leaf  *x509.Certificate
	id    ID
	ids   []ID
	d     *Delegation
	found settled
	shown *shown // nil: of the certificate alone
}

// shown is the whole chain, and that it was found to have no path under a bundle. It serves one request, so that asking many
// things about a chain that leads nowhere costs no more signatures than asking one; it can only deny.
type shown struct {
	certs []*x509.Certificate
	mu    sync.Mutex
	trust *Trust
	lost  *failure
}

// settled are the checks that nothing but the certificate answers.
type settled struct{ format, binding, attenuation, depth Check }

// Examine looks at a leaf alone. It says nothing about who signed it.
func Examine(leaf *x509.Certificate) *Known {
	e := &evaluation{in: &Input{}, leaf: leaf}
	found := e.settle()
	return &Known{leaf: leaf, id: e.id, ids: e.ids, d: e.d, found: found}
}

// ExamineChain is Examine for a chain that one request shows several times: besides, a path that was not found is not looked
// for again. Whoever remembers certificates between requests wants Examine. It is safe for concurrent use.
func ExamineChain(certs []*x509.Certificate) *Known {
	if len(certs) == 0 {
		return nil
	}
	k := Examine(certs[0])
	k.shown = &shown{certs: certs}
	return k
}

// path is the check for this very chain; those who ask at the same time wait for the first.
func (s *shown) path(trust *Trust, now time.Time) *failure {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost != nil && s.trust == trust {
		return s.lost
	}
	_, f := checkPath(s.certs, trust, now)
	s.trust, s.lost = trust, f
	return f
}

// of says whether it is about this certificate, to the last byte.
func (k *Known) of(leaf *x509.Certificate) bool {
	return k != nil && k.leaf != nil && leaf != nil && bytes.Equal(k.leaf.Raw, leaf.Raw)
}

// settle reads the certificate, or takes what is known of it.
func (e *evaluation) settle() settled {
	if k := e.in.Known; k.of(e.leaf) {
		e.id, e.ids, e.d = k.id, k.ids, k.d
		return k.found
	}
	if e.leaf != nil {
		// The check "path" judges the SAN; here it is only read.
		e.id, _ = leafID(e.leaf)
	}
	return settled{
		format: e.format(), binding: e.dependent(CheckBinding, e.binding),
		attenuation: e.dependent(CheckAttenuation, e.attenuation), depth: e.dependent(CheckDepth, e.depth),
	}
}
