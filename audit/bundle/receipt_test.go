package bundle_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/merkle"
)

// tiles lets merkle read the world's tiles at a size.
type tiles struct {
	t testing.TB
	w *world
}

func (s tiles) Tile(level int, index uint64, width int) ([]byte, error) {
	return s.w.Tile(s.t.Context(), level, index, width)
}

// receiptOf makes the receipt of an entry by the first seal that covers it.
func receiptOf(t testing.TB, w *world, index uint64, sealed bool) bundle.Receipt {
	t.Helper()
	anchors, err := bundle.AnchorsOf(w.entries[0].Envelope)
	must(t, err)
	last := w.seals[len(w.seals)-1]
	path, err := merkle.Inclusion(tiles{t, w}, index, w.last.Size)
	must(t, err)
	proof := merkle.Proof{Index: index, Path: path, Checkpoint: last.Checkpoint}
	if !sealed {
		return bundle.NewReceipt(w.entries[index], proof, nil, anchors)
	}
	return bundle.NewReceipt(w.entries[index], proof, &last, anchors)
}

func TestReceipt(t *testing.T) {
	w, p := goodWorld(t, newSoftTPM(t))
	trust, err := w.trustFile().Trust()
	must(t, err)
	for _, index := range []uint64{0, p.first, 256, uint64(len(w.entries) - 1)} {
		data, err := receiptOf(t, w, index, true).Marshal()
		must(t, err)
		r, err := bundle.ParseReceipt(data)
		must(t, err)
		if got := bundle.VerifyReceipt(r, nil); !got.Valid || got.Anchors != bundle.SelfAsserted || got.Completeness != "complete" {
			show(t, got)
			t.Errorf("receipt %d", index)
		}
		if got := bundle.VerifyReceipt(r, trust); !got.Valid || got.Anchors != bundle.Anchored {
			show(t, got)
			t.Errorf("receipt %d with a trust file", index)
		}
	}
	unsealed := bundle.VerifyReceipt(receiptOf(t, w, p.first, false), trust)
	wantFinding(t, unsealed, expected{bundle.CheckSeal, -1, "receipt", bundle.Unproven})
	if !unsealed.Valid || unsealed.Completeness != "unproven" {
		t.Error("an unsealed receipt is valid and says so")
	}
}

func TestReceiptTampering(t *testing.T) {
	w, p := goodWorld(t, newSoftTPM(t))
	trust, err := w.trustFile().Trust()
	must(t, err)
	stranger := newWorld(t, newSoftTPM(t))
	stranger.decide(int(p.first) + 1)
	stranger.seal()
	index := int64(p.first)
	for name, row := range map[string]struct {
		tamper func(r *bundle.Receipt)
		want   expected
	}{
		"envelope":           {func(r *bundle.Receipt) { r.Envelope[30] ^= 1 }, expected{bundle.CheckReceipt, index, "receipt", ""}},
		"index":              {func(r *bundle.Receipt) { r.Index++ }, expected{bundle.CheckReceipt, index + 1, "receipt", ""}},
		"payload":            {func(r *bundle.Receipt) { r.Payload[3] ^= 1 }, expected{bundle.CheckPayload, index, "receipt", ""}},
		"payload withheld":   {func(r *bundle.Receipt) { r.Payload, r.Salt = nil, nil }, expected{bundle.CheckPayload, index, "receipt", bundle.Unproven}},
		"seal of another":    {func(r *bundle.Receipt) { r.Seal.Text = string(w.seals[1].Text) }, expected{bundle.CheckSeal, -1, "receipt", ""}},
		"seal":               {func(r *bundle.Receipt) { r.Seal.Text += "\n" }, expected{bundle.CheckSeal, -1, "receipt", ""}},
		"quote":              {func(r *bundle.Receipt) { r.Seal.Quote[50] ^= 1 }, expected{bundle.CheckQuote, -1, "receipt", ""}},
		"quote's signature":  {func(r *bundle.Receipt) { r.Seal.QuoteSig = r.Seal.NVSig }, expected{bundle.CheckQuote, -1, "receipt", ""}},
		"registers":          {func(r *bundle.Receipt) { r.Seal.PCRs[0] ^= 1 }, expected{bundle.CheckQuote, -1, "receipt", ""}},
		"counter":            {func(r *bundle.Receipt) { r.Seal.NV[90] ^= 1 }, expected{bundle.CheckCounter, -1, "receipt", ""}},
		"counter by a quote": {func(r *bundle.Receipt) { r.Seal.NV, r.Seal.NVSig = r.Seal.Quote, r.Seal.QuoteSig }, expected{bundle.CheckCounter, -1, "receipt", ""}},
		"another log":        {func(r *bundle.Receipt) { *r = receiptOf(t, stranger, p.first, true) }, expected{bundle.CheckTrust, -1, "", ""}},
		"anchors of another": {func(r *bundle.Receipt) { r.Anchors = receiptOf(t, stranger, 0, true).Anchors }, expected{bundle.CheckTrust, -1, "", ""}},
		"no anchors":         {func(r *bundle.Receipt) { r.Anchors = bundle.ReceiptAnchors{} }, expected{bundle.CheckReceipt, -1, "receipt", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			data, err := receiptOf(t, w, p.first, true).Marshal()
			must(t, err)
			r, err := bundle.ParseReceipt(data)
			must(t, err)
			row.tamper(&r)
			got := bundle.VerifyReceipt(r, trust)
			wantFinding(t, got, row.want)
			if got.Valid != (row.want.status == bundle.Unproven) {
				t.Errorf("valid %v", got.Valid)
			}
		})
	}
}

func TestParseReceiptRefuses(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	data, err := receiptOf(t, w, 5, true).Marshal()
	must(t, err)
	text := string(data)
	for name, bad := range map[string]string{
		"empty":            "",
		"unknown member":   strings.Replace(text, `"index"`, `"more":1,"index"`, 1),
		"repeated":         strings.Replace(text, `"index":5`, `"index":5,"index":5`, 1),
		"repeated below":   strings.Replace(text, `"pcrs":"sha256`, `"pcrs":"x","pcrs":"sha256`, 1),
		"another case":     strings.Replace(text, `"index"`, `"Index"`, 1),
		"trailing":         text + "{}",
		"other format":     strings.Replace(text, "receipt@v1", "receipt@v2", 1),
		"no proof":         strings.Replace(text, `"proof":"`, `"proof":"","x":"`, 1),
		"negative index":   strings.Replace(text, `"index":5`, `"index":-5`, 1),
		"not UTF-8":        strings.Replace(text, "signet/", "signet\xff", 1),
		"a list":           "[" + text + "]",
		"too long":         text + strings.Repeat(" ", 1<<20),
		"salt of 31 bytes": strings.Replace(text, `"salt":"`, `"salt":"AA`, 1),
		"deep":             strings.Repeat(`{"a":`, 100),
	} {
		if _, err := bundle.ParseReceipt([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParseReceipt(f *testing.F) {
	w, p := goodWorld(f, newSoftTPM(f))
	for _, sealed := range []bool{true, false} {
		data, err := receiptOf(f, w, p.first, sealed).Marshal()
		must(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := bundle.ParseReceipt(data)
		if err != nil {
			return
		}
		report := bundle.VerifyReceipt(r, nil)
		again, err := json.Marshal(r)
		must(t, err)
		second, err := bundle.ParseReceipt(again)
		must(t, err)
		third, err := json.Marshal(second)
		must(t, err)
		if !bytes.Equal(again, third) {
			t.Error("a receipt changes when it is written again")
		}
		if report.Valid && len(report.Failed()) > 0 {
			t.Error("valid with failures")
		}
	})
}
