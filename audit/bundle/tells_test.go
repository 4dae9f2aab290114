package bundle_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
)

func claimed(list []bundle.Claim) string {
	var names []string
	for _, c := range list {
		names = append(names, c.Name)
	}
	return strings.Join(names, " ")
}

// A receipt claims what was checked, and never what no receipt can show.
func TestReceiptTells(t *testing.T) {
	w, p := goodWorld(t, newSoftTPM(t))
	trust, err := w.trustFile().Trust()
	must(t, err)
	const never = " completeness single_view truth later"
	plain := int64(-1)
	for i := range w.entries {
		if w.entries[i].Salt == nil {
			plain = int64(i)
		}
	}
	for name, row := range map[string]struct {
		index             uint64
		trust             *bundle.Trust
		change            func(r *bundle.Receipt)
		proven, notProven string
	}{
		"whole":           {p.first, trust, nil, "entry log sealed payload", "completeness single_view truth later"},
		"self-asserted":   {p.first, nil, nil, "entry sealed payload", "log" + never},
		"not sealed":      {p.first, trust, func(r *bundle.Receipt) { r.Seal = nil }, "entry log payload", "sealed" + never},
		"withheld":        {p.first, trust, func(r *bundle.Receipt) { r.Payload, r.Salt = nil, nil }, "entry log sealed", "payload" + never},
		"without payload": {uint64(plain), trust, nil, "entry log sealed", "completeness single_view truth later"},
		"another seal":    {p.first, trust, func(r *bundle.Receipt) { r.Seal.Text = string(w.seals[1].Text) }, "", "entry log sealed payload" + never},
		"changed":         {p.first, trust, func(r *bundle.Receipt) { r.Envelope[len(r.Envelope)-1] ^= 1 }, "", "entry log sealed" + never},
		"nothing":         {p.first, trust, func(r *bundle.Receipt) { *r = bundle.Receipt{} }, "", "entry log sealed" + never},
	} {
		r := receiptOf(t, w, row.index, true)
		r.Envelope = slices.Clone(r.Envelope)
		if row.change != nil {
			row.change(&r)
		}
		report := bundle.VerifyReceipt(r, row.trust)
		if got := claimed(report.Tells.Proven); got != row.proven {
			t.Errorf("%s proves %q, want %q", name, got, row.proven)
		}
		if got := claimed(report.Tells.NotProven); got != row.notProven {
			t.Errorf("%s does not prove %q, want %q", name, got, row.notProven)
		}
	}
}

// Who reads the report by a program finds the claims where they always are.
func TestTellsInJSON(t *testing.T) {
	w, p := goodWorld(t, newSoftTPM(t))
	r := receiptOf(t, w, p.first, true)
	r.Index++
	text, err := json.Marshal(bundle.VerifyReceipt(r, nil))
	must(t, err)
	if !strings.Contains(string(text), `"tells":{"proven":[],"not_proven":[{"name":"entry","text":"that this was recorded`) {
		t.Errorf("%s", text)
	}
}
