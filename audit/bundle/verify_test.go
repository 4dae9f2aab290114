package bundle_test

import (
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
)

func show(t testing.TB, r bundle.Report) {
	t.Helper()
	t.Logf("valid %v, integrity %s, completeness %s, anchors %s, size %d, entries %d, seals %d",
		r.Valid, r.Integrity, r.Completeness, r.Anchors, r.Size, r.Entries, r.Seals)
	for _, c := range r.Checks {
		index := "-"
		if c.Index != nil {
			index = fmtUint(*c.Index)
		}
		t.Logf("  %-13s %-9s %4s %s %s", c.Name, c.Status, index, c.File, c.Detail)
	}
}

func TestGoodBundle(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	m := written(t, w)
	r := verify(t, m, bundle.Options{})
	show(t, r)
	if !r.Valid || r.Integrity != "pass" || r.Anchors != bundle.SelfAsserted || r.Entries != uint64(len(w.entries)) || r.Seals != 6 {
		t.Error("the good bundle is not valid")
	}
	if len(r.Failed()) > 0 || len(r.Unproven()) != 1 || r.Unproven()[0].Name != bundle.CheckBoot || r.Completeness != "unproven" {
		t.Errorf("findings %v, want one about the boot", r.Unproven())
	}
}
