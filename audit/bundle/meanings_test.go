package bundle_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
)

// meaning is a finding, and the words by which it must tell an auditor what it means.
type meaning struct {
	expected
	phrase string
}

// TestMeanings: what happens to a TPM and to seals, admitted or hidden, is explained in words, and what can be concluded from what is left.
func TestMeanings(t *testing.T) {
	const (
		back    = "A TPM counts upwards only: it was cleared and its counter begun anew, or its state was put back from an older copy. What earlier seals cover stays proven"
		missing = "The next seal still covers every entry before it; when those entries were written, and that the TPM was not restarted meanwhile, is not shown"
		hidden  = "the log was put back to an older copy and continued, or they were taken out. What is here stays proven; what those seals covered is lost or withheld"
		foreign = "the TPM was exchanged, the statement was made without it, or its bytes were changed. Nothing ties this seal to that TPM"
	)
	event := func(w *world, event string) {
		w.add(record.TypeDevice, record.Envelope{}, record.DeviceBody{Event: event, Seal: w.last.Number}, nil)
	}
	// Each story begins behind seal 1, is told up to a seal, and is followed by one more. It may tamper with the bundle.
	for name, row := range map[string]struct {
		story  func(t *testing.T, w *world)
		tamper func(m memory)
		want   []meaning
	}{
		"reset, recorded": {func(t *testing.T, w *world) {
			event(w, record.EventTPMReset)
			soft(t, w).reset++
			soft(t, w).count += 255
		}, nil, []meaning{{
			expected{bundle.CheckBoot, 2, "seals/2.txt", bundle.Unproven},
			"restarted or its TPM lost power. All that the log holds stays proven; seals made shortly before, and entries that only they covered, could be missing",
		}}},
		"reset, hidden": {func(t *testing.T, w *world) {
			soft(t, w).reset++
			soft(t, w).count += 255
		}, nil, []meaning{{
			expected{bundle.CheckBoot, 2, "seals/2.txt", ""},
			"it was taken out, or something else continued the log. What earlier seals cover stays proven; of what came since, nothing shows that it is all",
		}}},
		"seal that was never finished, recorded": {func(t *testing.T, w *world) {
			event(w, record.EventCounterGap)
			soft(t, w).count++
			soft(t, w).restart++
		}, nil, []meaning{{
			expected{bundle.CheckBoot, 2, "seals/2.txt", bundle.Unproven},
			"could not be finished, because the machine slept in between. All that the log holds stays proven; that nothing was sealed at that value and withheld is not",
		}}},
		"database put back behind its last seal": {func(t *testing.T, w *world) {
			soft(t, w).count++
		}, nil, []meaning{{expected{bundle.CheckBoot, 2, "seals/2.txt", ""}, hidden}}},
		"database put back behind its last seal, with a reset to excuse it": {func(t *testing.T, w *world) {
			event(w, record.EventTPMReset)
			soft(t, w).reset++
			soft(t, w).count += 600
		}, nil, []meaning{{expected{bundle.CheckBoot, 2, "seals/2.txt", ""}, hidden}}},
		"TPM cleared, and its key and counter made anew": {func(t *testing.T, w *world) {
			soft(t, w).reset, soft(t, w).count = 0, 0
		}, nil, []meaning{{expected{bundle.CheckSealChain, 2, "seals/2.txt", ""}, back}}},
		"TPM cleared, and reset until its count is higher": {func(t *testing.T, w *world) {
			soft(t, w).count = 1000
			w.seal() // 2
			event(w, record.EventTPMReset)
			soft(t, w).reset, soft(t, w).count = 9, 0
		}, nil, []meaning{{expected{bundle.CheckBoot, 3, "seals/3.txt", ""}, back}}},
		"TPM's state put back": {func(t *testing.T, w *world) {
			soft(t, w).count -= 5
		}, nil, []meaning{{expected{bundle.CheckSealChain, 2, "seals/2.txt", ""}, back}}},
		"TPM's state put back behind a reset": {func(t *testing.T, w *world) {
			soft(t, w).reset--
		}, nil, []meaning{{expected{bundle.CheckSealChain, 2, "seals/2.txt", ""}, back}}},
		"TPM exchanged": {func(t *testing.T, w *world) {
			other := newSoftTPM(t)
			other.count = soft(t, w).count
			w.tpm = other
		}, nil, []meaning{
			{expected{bundle.CheckQuote, 2, "seals/2.quote", ""}, foreign}, {expected{bundle.CheckCounter, 2, "seals/2.nv", ""}, foreign},
		}},
		"seals lost in the middle": {
			func(_ *testing.T, w *world) { w.seal(); w.seal() }, func(m memory) { removeSeal(m, "2"); removeSeal(m, "3") },
			[]meaning{{expected{bundle.CheckSealChain, 2, "seals/2.txt", ""}, missing}},
		},
		"first seals lost": {
			func(_ *testing.T, w *world) { w.seal() }, func(m memory) { removeSeal(m, "1"); removeSeal(m, "2") },
			[]meaning{{expected{bundle.CheckSealChain, 2, "seals/2.txt", ""}, missing}},
		},
		"last seal lost": {func(_ *testing.T, w *world) { w.seal() }, func(m memory) { removeSeal(m, "3") }, []meaning{{
			expected{bundle.CheckSeal, 2, "seals/2.txt", ""},
			"or the log was signed without the TPM. What the last seal covers stays proven; whatever else the checkpoint covers can be changed by whoever has the audit key",
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			w.seal()
			w.decide(2)
			row.story(t, w)
			w.decide(2)
			w.seal()
			m := written(t, w)
			if row.tamper != nil {
				row.tamper(m)
				m.remanifest()
			}
			r := verify(t, m, bundle.Options{})
			for _, e := range row.want {
				wantFinding(t, r, e.expected)
				wantMeaning(t, r, e)
			}
		})
	}
}

// wantMeaning looks for the words in the very finding.
func wantMeaning(t *testing.T, r bundle.Report, want meaning) {
	t.Helper()
	for _, c := range slices.Concat(r.Failed(), r.Unproven()) {
		if c.Name == want.name && c.File == want.file && strings.Contains(c.Detail, want.phrase) && !strings.HasSuffix(c.Detail, "…") {
			return
		}
	}
	t.Errorf("no finding of %s %s says %q", want.name, want.file, want.phrase)
	show(t, r)
}
