package bundle_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
)

// prune records that the entries [from, to) are in an archive.
func (w *world) prune(from, to uint64, previous *uint64) uint64 {
	return w.add(record.TypePrune, record.Envelope{Operator: "officer"}, record.PruneBody{
		Reason: "old", From: from, To: to, Archive: "entries-" + fmtUint(from) + ".tar", SHA256: strings.Repeat("ab", 32), Previous: previous,
	}, nil)
}

// prunable is a log of which the entries up to 512 can go: a story in the first bundle, and another at the
// end of the second, on which a later certificate stands.
func prunable(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, newSoftTPM(t))
	w.seal()
	w.recordSeal()
	w.play(0x100)
	w.decide(490 - len(w.entries))
	w.seal()
	p := w.play(0x200)
	w.decide(520 - len(w.entries))
	w.issueAgent(p.agent, &p.agentKey.PublicKey, w.jws[p.first]) // it stands on what is pruned
	w.decide(600 - len(w.entries))
	w.seal()
	w.recordSeal()
	return w
}

// writtenPruned is the bundle of a log that has pruned the entries up to minimum.
func writtenPruned(t *testing.T, w *world, minimum uint64) memory {
	t.Helper()
	m, o := memory{}, w.options()
	o.Minimum = minimum
	must(t, bundle.Write(t.Context(), m, w, o))
	return m
}

// What a prune entry names and is not here is unproven, and nothing else is wrong; the archive is whole.
func TestPruned(t *testing.T) {
	w := prunable(t)
	first := w.seal()
	w.prune(0, 512, nil)
	w.seal()
	m := writtenPruned(t, w, 512)
	if _, here := m["entries/1.jsonl"]; here || m["entries/0.jsonl"] == nil || m["payloads/0.jsonl"] != nil {
		t.Error("not the files of a pruned log")
	}
	r := verify(t, m, bundle.Options{})
	if !r.Valid || r.Completeness != "unproven" {
		t.Fatalf("%v %s %+v", r.Valid, r.Completeness, r.Failed())
	}
	said := false
	for _, c := range r.Unproven() {
		said = said || c.Name == bundle.CheckPrune && strings.Contains(c.Detail, "entries 256 to 511 are pruned") && strings.Contains(c.Detail, "entries-0.tar with SHA-256 abab")
		if c.Name == bundle.CheckRange || c.Name == bundle.CheckPayload {
			t.Errorf("%+v", c)
		}
	}
	if !said {
		t.Errorf("%+v", r.Unproven())
	}
	if strings.Contains(string(m["README.verify"]), "--range") {
		t.Error("README.verify asks for a range")
	}
	// The archive, as it was written before.
	o := w.options()
	o.Head, o.From, o.To = first, 0, 512
	archive := memory{}
	must(t, bundle.Write(t.Context(), archive, w, o))
	r = verify(t, archive, bundle.Options{Range: &bundle.Range{From: 0, To: 512}})
	if !r.Valid || len(r.Failed()) > 0 || archive["payloads/1.jsonl"] == nil {
		t.Errorf("%+v", r.Failed())
	}
}

// Each continues the one before, also where that was pruned since.
func TestPrunedTwice(t *testing.T) {
	w := prunable(t)
	one := w.prune(0, 512, nil)
	w.decide(1100 - len(w.entries))
	w.seal()
	w.prune(512, 1024, &one)
	w.seal()
	if r := verify(t, writtenPruned(t, w, 512), bundle.Options{}); !r.Valid {
		t.Errorf("the first is here: %+v", r.Failed())
	}
	r := verify(t, writtenPruned(t, w, 1024), bundle.Options{})
	if !r.Valid || !slices.ContainsFunc(r.Unproven(), func(c bundle.Check) bool {
		return c.Name == bundle.CheckPrune && strings.Contains(c.Detail, "entries 256 to 1023 are pruned") && strings.Contains(c.Detail, "prune entry "+fmtUint(one)+" names")
	}) {
		t.Errorf("%+v %+v", r.Failed(), r.Unproven())
	}
}

func TestPruneEntriesThatAreFalse(t *testing.T) {
	beyond := uint64(5)
	for name, forge := range map[string]func(w *world) uint64{
		"itself":                 func(w *world) uint64 { return w.prune(0, 1024, nil) },
		"not whole bundles":      func(w *world) uint64 { return w.prune(0, 500, nil) },
		"a former one is none":   func(w *world) uint64 { return w.prune(256, 512, &[]uint64{uint64(len(w.entries)) - 1}[0]) },
		"before its former one":  func(w *world) uint64 { return w.prune(512, 768, &beyond) },
		"overlapping":            func(w *world) uint64 { w.prune(0, 512, nil); return w.prune(0, 512, nil) },
		"with a gap in between":  func(w *world) uint64 { one := w.prune(0, 256*2, nil); return w.prune(256, 512, &one) },
		"without what it prunes": func(w *world) uint64 { return w.add(record.TypePrune, record.Envelope{}, nil, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			w := prunable(t)
			w.decide(900 - len(w.entries))
			at := forge(w)
			want(t, sealed(t, w), bundle.CheckPrune, at)
		})
	}
}

// A prune entry explains what stands before it, and nothing else that is missing.
func TestMissingBesidesPruned(t *testing.T) {
	w := prunable(t)
	w.prune(0, 512, nil)
	w.seal()
	for _, path := range []string{"entries/0.jsonl", "entries/2.jsonl"} {
		m := writtenPruned(t, w, 512)
		delete(m, path)
		m.remanifest()
		if r := verify(t, m, bundle.Options{}); r.Valid {
			t.Errorf("without %s: valid", path)
		}
	}
	m := writtenPruned(t, w, 512)
	delete(m, "log/tile/0/001")
	m.remanifest()
	want(t, verify(t, m, bundle.Options{}), bundle.CheckTile, 256)
}

func TestWriteRefusesPruned(t *testing.T) {
	w := prunable(t)
	for _, r := range [][2]uint64{{256, 600}, {0, 512}, {300, 400}} {
		o := w.options()
		o.Minimum, o.From, o.To = 512, r[0], r[1]
		if err := bundle.Write(t.Context(), memory{}, w, o); err == nil {
			t.Errorf("%v was written", r)
		}
	}
}
