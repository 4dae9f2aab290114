package chain

import (
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestExtend(t *testing.T) {
	base := fixedDelegation(t)
	key := sha256.Sum256([]byte("key 2"))
	child := Hop{
		ID: "spiffe://hospital.example/agent/research/" + agentUUID(2), SPKIHash: key, Scope: mustScope(t, "database:read:patients"),
		NotAfter: base.Hops[1].NotAfter, MaxDepth: 0,
	}
	grown, err := base.Extend(child)
	if err != nil || len(grown.Hops) != 3 || len(base.Hops) != 2 {
		t.Fatalf("%d hops from %d: %v", len(grown.Hops), len(base.Hops), err)
	}
	if d := must[Delegation](t)(Parse(must[[]byte](t)(grown.Marshal()))); d.Hops[2].ID != child.ID {
		t.Errorf("%+v", d.Hops[2])
	}
	// Two children of one parent do not share memory.
	roomy := base
	roomy.Hops = append(make([]Hop, 0, MaxHops), base.Hops...)
	sibling := child
	sibling.ID = "spiffe://hospital.example/agent/research/" + agentUUID(3)
	first := must[Delegation](t)(roomy.Extend(child))
	if second := must[Delegation](t)(roomy.Extend(sibling)); first.Hops[2].ID != child.ID || second.Hops[2].ID != sibling.ID {
		t.Errorf("%s and %s", first.Hops[2].ID, second.Hops[2].ID)
	}
	for name, c := range map[string]struct {
		code   string
		change func(h *Hop, d *Delegation)
	}{
		"scope":         {CodeScopeExceeds, func(h *Hop, _ *Delegation) { h.Scope = mustScope(t, "database:read:*") }},
		"deadline":      {CodeDeadlineExceeds, func(h *Hop, _ *Delegation) { h.NotAfter = h.NotAfter.Add(time.Second) }},
		"depth":         {CodeDepthExceeded, func(h *Hop, _ *Delegation) { h.MaxDepth = 1 }},
		"negative":      {CodeDepthExceeded, func(h *Hop, _ *Delegation) { h.MaxDepth = -1 }},
		"exhausted":     {CodeDepthExceeded, func(_ *Hop, d *Delegation) { d.Hops[1].MaxDepth = 0 }},
		"grandchild id": {CodeDuplicateHop, func(h *Hop, d *Delegation) { h.ID = d.Hops[1].ID }},
		"key":           {CodeDuplicateHopKey, func(h *Hop, d *Delegation) { h.SPKIHash = d.Hops[0].SPKIHash }},
		"domain":        {CodeHopInvalid, func(h *Hop, _ *Delegation) { h.ID = strings.Replace(h.ID, "hospital", "clinic", 1) }},
		"kind":          {CodeHopInvalid, func(h *Hop, _ *Delegation) { h.ID = "spiffe://hospital.example/service/records" }},
		"no scope":      {CodeHopInvalid, func(h *Hop, _ *Delegation) { h.Scope = nil }},
		"fraction":      {CodeHopInvalid, func(h *Hop, _ *Delegation) { h.NotAfter = h.NotAfter.Add(-time.Millisecond) }},
		"no grant":      {CodeHopInvalid, func(_ *Hop, d *Delegation) { d.Grant = Grant{} }},
		"too many":      {CodeTooManyHops, func(_ *Hop, d *Delegation) { d.Hops = slices.Repeat(d.Hops, 5) }},
	} {
		h, d := child, base
		d.Hops = slices.Clone(base.Hops)
		c.change(&h, &d)
		var refused *AttenuationError
		if got, err := d.Extend(h); !errors.As(err, &refused) || refused.Code != c.code || len(got.Hops) != 0 {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
}

// The orchestrator is measured against the grant, and holds its depth undiminished.
func TestExtendFromGrant(t *testing.T) {
	fixed := fixedDelegation(t)
	start := Delegation{TaskID: fixed.TaskID, Grant: fixed.Grant}
	if d, err := start.Extend(fixed.Hops[0]); err != nil || len(d.Hops) != 1 {
		t.Fatalf("%v", err)
	}
	if _, err := start.Extend(fixed.Hops[1]); err == nil {
		t.Error("an agent begins the chain")
	}
	h := fixed.Hops[0]
	h.Scope = mustScope(t, "database:write:patients")
	var refused *AttenuationError
	if _, err := start.Extend(h); !errors.As(err, &refused) || refused.Code != CodeScopeExceeds {
		t.Errorf("%v", err)
	}
	h = fixed.Hops[0]
	h.MaxDepth++
	if _, err := start.Extend(h); !errors.As(err, &refused) || refused.Code != CodeDepthExceeded {
		t.Errorf("%v", err)
	}
}

// What Extend makes Verify's checks of the hops accept, for chains as long as depth allows.
func TestExtendToTheEnd(t *testing.T) {
	fixed := fixedDelegation(t)
	fixed.Grant.MaxDepth = MaxDepth
	d := Delegation{TaskID: fixed.TaskID, Grant: fixed.Grant}
	first := fixed.Hops[0]
	first.MaxDepth = MaxDepth
	d = must[Delegation](t)(d.Extend(first))
	for i := 1; i <= MaxDepth; i++ {
		h := fixed.Hops[1]
		h.ID, h.SPKIHash, h.MaxDepth = "spiffe://hospital.example/agent/research/"+agentUUID(i), sha256.Sum256([]byte{byte(i)}), MaxDepth-i
		d = must[Delegation](t)(d.Extend(h))
	}
	if _, err := d.Marshal(); err != nil {
		t.Error(err)
	}
	e := &evaluation{d: &d}
	if f := e.checkDepth(); f != nil || e.attenuation().Status != Pass {
		t.Errorf("%+v", f)
	}
}
