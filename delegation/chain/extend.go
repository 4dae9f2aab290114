package chain

import "slices"

// Extend returns the chain with one more hop, which gets no more than its parent has: the first hop, the orchestrator, is
// measured against the grant, every other against the hop before it. The receiver is not changed. The error is an
// *AttenuationError. Whether the parent's deadline has passed is the caller's to ask: there is no clock here.
func (d Delegation) Extend(h Hop) (Delegation, error) {
	if err := d.admit(h); err != nil {
		return Delegation{}, err
	}
	d.Hops = append(slices.Clip(slices.Clone(d.Hops)), h)
	return d, nil
}

func (d *Delegation) admit(h Hop) error {
	if len(d.Hops) >= MaxHops {
		return exceeds(CodeTooManyHops, "the chain has %d hops already", len(d.Hops))
	}
	if err := d.admitForm(h); err != nil {
		return err
	}
	scope, notAfter, depth := d.Grant.Scope, d.Grant.NotAfter, d.Grant.MaxDepth
	if n := len(d.Hops); n > 0 {
		parent := &d.Hops[n-1]
		scope, notAfter, depth = parent.Scope, parent.NotAfter, parent.MaxDepth-1
	}
	if t, over := h.Scope.exceeding(scope); over {
		return exceeds(CodeScopeExceeds, "the parent's scope does not cover %q", t.text)
	}
	if h.NotAfter.After(notAfter) {
		return exceeds(CodeDeadlineExceeds, "not_after is later than the parent's")
	}
	if h.MaxDepth < 0 || h.MaxDepth > depth || h.MaxDepth > MaxDepth {
		return exceeds(CodeDepthExceeded, "max_depth %d; the parent leaves %d", h.MaxDepth, depth)
	}
	for i := range d.Hops {
		if d.Hops[i].ID == h.ID {
			return exceeds(CodeDuplicateHop, "hop %d has the same id", i)
		}
		if d.Hops[i].SPKIHash == h.SPKIHash {
			return exceeds(CodeDuplicateHopKey, "hop %d has the same key", i)
		}
	}
	return nil
}

// admitForm checks the hop by itself, and its kind and trust domain.
func (d *Delegation) admitForm(h Hop) error {
	if err := d.Grant.validate(); err != nil {
		return exceeds(CodeHopInvalid, "grant: %v", err)
	}
	grown := Delegation{Hops: append(slices.Clip(slices.Clone(d.Hops)), h)}
	if err := grown.validateHops(); err != nil {
		return exceeds(CodeHopInvalid, "%v", err)
	}
	return nil
}
