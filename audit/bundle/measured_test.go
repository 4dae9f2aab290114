package bundle_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// reboots resets the TPM, and has the log say so.
func (w *world) reboots(t *testing.T) {
	t.Helper()
	w.add(record.TypeDevice, record.Envelope{}, record.DeviceBody{Event: record.EventTPMReset, Seal: w.last.Number}, nil)
	soft(t, w).reset++
}

// sealOver makes a seal with another value in PCR 4.
func (w *world) sealOver(t *testing.T, pcr byte) {
	t.Helper()
	soft(t, w).pcr = pcr
	w.seal()
}

// told is the entry of a change in PCR 4 between two seals.
func told(event string, before, after checkpoint.Seal, was, is string) record.DeviceBody {
	anchor := func(s checkpoint.Seal) *record.AnchorBody {
		return &record.AnchorBody{Reset: s.Reset, Restart: s.Restart, Counter: s.Counter}
	}
	return record.DeviceBody{
		Event: event, Expected: anchor(before), Found: anchor(after), Seal: after.Number,
		PCRs: []record.PCRChange{{PCR: 4, Before: strings.Repeat(was, 32), After: strings.Repeat(is, 32)}},
	}
}

func (w *world) tell(b record.DeviceBody) uint64 {
	return w.add(record.TypeDevice, record.Envelope{}, b, nil)
}

// TestChangedPCRs changes PCR 4 at seal 2 of three, across a boot unless the row says otherwise.
func TestChangedPCRs(t *testing.T) {
	both := newSecond(t)
	quote2 := func(s bundle.Status) []expected { return []expected{{bundle.CheckQuote, 2, "seals/2.quote", s}} }
	entry := func(index uint64) expected {
		return expected{bundle.CheckSealEntry, int64(index), "entries/0.jsonl", ""}
	}
	for name, row := range map[string]struct {
		sameBoot bool
		// story goes on after seal 2 and says what the findings are. good is the entry that the appliance writes.
		story  func(t *testing.T, w *world, good record.DeviceBody) []expected
		phrase string
	}{
		"recorded": {false, func(_ *testing.T, w *world, good record.DeviceBody) []expected {
			w.tell(good)
			return quote2(bundle.Unproven)
		}, "other firmware, settings or kernel"},
		"recorded, in one boot": {true, func(_ *testing.T, w *world, good record.DeviceBody) []expected {
			w.tell(good)
			return quote2(bundle.Unproven)
		}, "nothing should extend them afterwards"},
		"not recorded": {false, func(*testing.T, *world, record.DeviceBody) []expected {
			return quote2("")
		}, "no pcrs_changed entry among"},
		"not recorded, in one boot": {true, func(*testing.T, *world, record.DeviceBody) []expected {
			return quote2("")
		}, "no pcrs_changed_in_boot entry among"},
		"recorded as another boot's": {true, func(_ *testing.T, w *world, good record.DeviceBody) []expected {
			good.Event = record.EventPCRsChanged
			return append(quote2(""), entry(w.tell(good)))
		}, "no pcrs_changed_in_boot entry among"},
		"recorded with other values": {false, func(_ *testing.T, w *world, good record.DeviceBody) []expected {
			good.PCRs[0].After = strings.Repeat("11", 32)
			return append(quote2(""), entry(w.tell(good)))
		}, "which the quotes do not show so"},
		"recorded with one PCR too many": {false, func(_ *testing.T, w *world, good record.DeviceBody) []expected {
			good.PCRs = append(good.PCRs, record.PCRChange{PCR: 7, Before: strings.Repeat("00", 32), After: strings.Repeat("11", 32)})
			return append(quote2(""), entry(w.tell(good)))
		}, "which the quotes do not show so"},
		"recorded at another counter": {false, func(_ *testing.T, w *world, good record.DeviceBody) []expected {
			good.Found.Counter++
			return append(quote2(""), entry(w.tell(good)))
		}, "which the quotes do not show so"},
		"recorded twice": {false, func(_ *testing.T, w *world, good record.DeviceBody) []expected {
			w.tell(good)
			return append(quote2(bundle.Unproven), entry(w.tell(good)))
		}, "which the quotes do not show so"},
		"recorded too late": {false, func(_ *testing.T, w *world, good record.DeviceBody) []expected {
			w.seal()
			return append(quote2(""), entry(w.tell(good)))
		}, "no pcrs_changed entry among"},
		"nothing changed": {false, func(_ *testing.T, w *world, good record.DeviceBody) []expected {
			w.tell(good)
			w.seal()
			again := good
			again.Seal = 3
			return append(quote2(bundle.Unproven), entry(w.tell(again)))
		}, "says that PCRs changed at seal 3"},
		"of the first seal": {false, func(_ *testing.T, w *world, good record.DeviceBody) []expected {
			w.tell(good)
			first := good
			first.Seal = 1
			return append(quote2(bundle.Unproven), entry(w.tell(first)))
		}, "says that PCRs changed at seal 1"},
		"of a seal that is not here": {false, func(_ *testing.T, w *world, good record.DeviceBody) []expected {
			w.tell(good)
			other := good
			other.Seal = 9
			return append(quote2(bundle.Unproven), entry(w.tell(other)))
		}, "says that PCRs changed at seal 9"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			w.seal()
			w.recordSeal()
			before, event := w.last, record.EventPCRsChangedInBoot
			if !row.sameBoot {
				w.reboots(t)
				event = record.EventPCRsChanged
			}
			w.sealOver(t, 0xee)
			want := row.story(t, w, told(event, before, w.last, "00", "ee"))
			w.recordSeal()
			w.seal()
			m := written(t, w)
			r := verify(t, m, bundle.Options{})
			failing := false
			for _, e := range want {
				wantFinding(t, r, e)
				failing = failing || e.status == ""
			}
			if r.Valid == failing || r.Completeness != "unproven" && !failing {
				t.Errorf("valid %v, completeness %s", r.Valid, r.Completeness)
			}
			wantPhrase(t, r, row.phrase)
			want = slices.DeleteFunc(want, func(e expected) bool { return e.name == bundle.CheckSealEntry }) // which verify.py leaves to ours
			both.add(name, m.onDisk(both.t), r, want...)
		})
	}
	both.agree()
}

func wantPhrase(t *testing.T, r bundle.Report, phrase string) {
	t.Helper()
	for _, c := range append(r.Failed(), r.Unproven()...) {
		if strings.Contains(c.Detail, phrase) {
			return
		}
	}
	t.Errorf("no finding says %q", phrase)
	show(t, r)
}

// changedWorld has a recorded change at seal 2 of n seals.
func changedWorld(t *testing.T, n int) *world {
	t.Helper()
	w := newWorld(t, newSoftTPM(t))
	w.seal()
	w.recordSeal()
	before := w.last
	w.sealOver(t, 0xee)
	w.tell(told(record.EventPCRsChangedInBoot, before, w.last, "00", "ee"))
	for range n - 2 {
		w.recordSeal()
		w.seal()
	}
	return w
}

// A change at the last seal is recorded behind what the bundle holds.
func TestChangeAtTheLastSeal(t *testing.T) {
	w := changedWorld(t, 2)
	m := written(t, w)
	r := verify(t, m, bundle.Options{})
	wantFinding(t, r, expected{bundle.CheckQuote, 2, "seals/2.quote", bundle.Unproven})
	wantPhrase(t, r, "stands behind the last seal")
	if !r.Valid || r.Completeness != "unproven" {
		t.Errorf("valid %v, completeness %s", r.Valid, r.Completeness)
	}
	both := newSecond(t)
	both.add("at the last seal", m.onDisk(both.t), r, expected{bundle.CheckQuote, 2, "seals/2.quote", bundle.Unproven})
	both.agree()
}

// An auditor who knows both values has nothing left to look at; one who knows one of them is told of the other.
func TestAcceptedPCRs(t *testing.T) {
	w := changedWorld(t, 4)
	m := written(t, w)
	zero, changed := strings.Repeat("00", 32), strings.Repeat("ee", 32)
	for name, row := range map[string]struct {
		values map[string]bundle.PCRValues
		failed []uint64 // seals
		clean  bool     // nothing is unproven
	}{
		"both":                 {map[string]bundle.PCRValues{"4": {zero, changed}, "7": {zero}}, nil, true},
		"the old":              {map[string]bundle.PCRValues{"4": {zero}}, []uint64{2, 3, 4}, true},
		"the new":              {map[string]bundle.PCRValues{"4": {changed}}, []uint64{1}, true},
		"another PCR's":        {map[string]bundle.PCRValues{"7": {zero}}, nil, false},
		"for another register": {map[string]bundle.PCRValues{"4": {changed, zero}, "7": {changed}}, []uint64{1, 2, 3, 4}, true},
	} {
		t.Run(name, func(t *testing.T) {
			file := w.trustFile()
			file.PCRValues = row.values
			text, err := file.Marshal()
			must(t, err)
			trust, err := bundle.ParseTrust(text)
			must(t, err)
			r := verify(t, m, bundle.Options{Trust: trust})
			for _, n := range row.failed {
				wantFinding(t, r, expected{bundle.CheckQuote, int64(n), "seals/" + fmtUint(n) + ".quote", ""})
			}
			if len(r.Failed()) != len(row.failed) || (len(r.Unproven()) == 0) != row.clean {
				show(t, r)
				t.Error("other findings")
			}
			if row.clean && len(row.failed) == 0 && r.Completeness != "complete" {
				t.Errorf("completeness %s", r.Completeness)
			}
		})
	}
}

// The bare value of earlier trust files is still read.
func TestTrustFileWithOneValue(t *testing.T) {
	w := changedWorld(t, 3)
	raw, err := w.trustFile().Marshal()
	must(t, err)
	for name, values := range map[string]string{
		"bare": `pcr_values: {"7": "` + strings.Repeat("00", 32) + `"}`, "list": "pcr_values:\n  \"7\":\n    - " + strings.Repeat("ee", 32) + "\n    - \"" + strings.Repeat("00", 32) + "\"",
		"unquoted": "pcr_values:\n  7: [" + strings.Repeat("ee", 32) + ", \"" + strings.Repeat("00", 32) + "\"]",
	} {
		trust, err := bundle.ParseTrust([]byte(string(raw) + values + "\n"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r := verify(t, written(t, w), bundle.Options{Trust: trust}); !r.Valid {
			t.Errorf("%s: not valid", name)
		}
	}
	for name, values := range map[string]string{
		"empty list": `pcr_values: {"7": []}`, "list of lists": `pcr_values: {"7": [["` + strings.Repeat("00", 32) + `"]]}`, "map": `pcr_values: {"7": {a: b}}`,
		"null": `pcr_values: {"7": null}`,
	} {
		if _, err := bundle.ParseTrust([]byte(string(raw) + values + "\n")); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Of a part of the log that ends before the entry, nobody can say whether there is one.
func TestChangeBehindTheRange(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	w.seal()
	w.recordSeal()
	w.decide(300)
	before := w.last
	w.sealOver(t, 0xee)
	w.tell(told(record.EventPCRsChangedInBoot, before, w.last, "00", "ee"))
	w.recordSeal()
	w.seal()
	m := written(t, w)
	delete(m, "entries/1.jsonl")
	delete(m, "payloads/1.jsonl")
	m.remanifest()
	r := verify(t, m, bundle.Options{Range: &bundle.Range{From: 0, To: 256}})
	wantFinding(t, r, expected{bundle.CheckQuote, 2, "seals/2.quote", bundle.Unproven})
	wantPhrase(t, r, "not part of the range")
	if !r.Valid {
		show(t, r)
		t.Error("not valid")
	}
}
