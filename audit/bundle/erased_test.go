package bundle_test

import (
	"slices"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
)

// erase takes away what an appliance loses with the keys of these entries, and records it, or not.
func (w *world) erase(ranges []record.Range, recorded bool) (redaction uint64) {
	if recorded {
		redaction = w.add(record.TypeRedact, record.Envelope{Operator: "privacy"}, record.RedactBody{Reason: "asked for", Entries: ranges}, nil)
	}
	for _, r := range ranges {
		for i := r[0]; i < r[1]; i++ {
			w.entries[i].Payload, w.entries[i].Salt = nil, nil
			delete(w.issued, i)
			delete(w.jws, i)
			delete(w.links, i)
			if env, err := record.Check(w.entries[i].Envelope); err == nil && env.Type == record.TypeGrant {
				delete(w.evidence, env.Grant)
			}
		}
	}
	return redaction
}

// erasure is two stories, the first of which is to go: what is its grant's, from the grant's entry to its last agent's.
func erasure(t *testing.T) (w *world, ranges []record.Range) {
	w = newWorld(t, newSoftTPM(t))
	w.seal()
	from := uint64(len(w.entries)) + 1 // the orchestrator's own certificate stays
	p := w.play(0x100)
	w.play(0x200)
	return w, []record.Range{{from, p.second + 1}}
}

func sealed(t *testing.T, w *world) bundle.Report {
	t.Helper()
	w.seal()
	return verify(t, written(t, w), bundle.Options{})
}

func TestErased(t *testing.T) {
	w, ranges := erasure(t)
	w.erase(ranges, true)
	r := sealed(t, w)
	if !r.Valid || r.Completeness != "complete" || r.Erased != 3 || len(r.Unproven()) != 0 {
		t.Errorf("%v %s, %d erased\n%+v\n%+v", r.Valid, r.Completeness, r.Erased, r.Failed(), r.Unproven())
	}
}

// What no entry says was erased is missing, each thing by its entry.
func TestErasedWithoutRedaction(t *testing.T) {
	w, ranges := erasure(t)
	w.erase(ranges, false)
	r := sealed(t, w)
	if r.Completeness != "unproven" || r.Erased != 0 {
		t.Errorf("%s, %d erased", r.Completeness, r.Erased)
	}
	for i := ranges[0][0]; i < ranges[0][1]; i++ {
		if env, err := record.Check(w.entries[i].Envelope); err != nil || env.PayloadHash == "" {
			continue
		}
		if !slices.ContainsFunc(r.Unproven(), func(c bundle.Check) bool { return c.Name == bundle.CheckPayload && *c.Index == i }) {
			t.Errorf("nothing about payload %d: %+v", i, r.Unproven())
		}
	}
}

func TestErasedAndStillThere(t *testing.T) {
	w, ranges := erasure(t)
	kept := w.entries[ranges[0][0]]
	w.erase(ranges, true)
	w.entries[ranges[0][0]] = kept
	want(t, sealed(t, w), bundle.CheckPayload, ranges[0][0])
}

// A redact entry erases what stands before it.
func TestErasedAhead(t *testing.T) {
	w, _ := erasure(t)
	index := uint64(len(w.entries))
	w.add(record.TypeRedact, record.Envelope{}, record.RedactBody{Reason: "x", Entries: []record.Range{{index, index + 2}}}, nil)
	want(t, sealed(t, w), bundle.CheckEntry, index)
}

func want(t *testing.T, r bundle.Report, name bundle.CheckName, index uint64) {
	t.Helper()
	if r.Valid || !slices.ContainsFunc(r.Failed(), func(c bundle.Check) bool { return c.Name == name && c.Index != nil && *c.Index == index }) {
		t.Errorf("want %s %d, got %+v", name, index, r.Failed())
	}
}
