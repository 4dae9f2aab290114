package api

import (
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
)

// What was pruned is told apart from what never was, to everybody who may ask; lists go on behind it.
func TestPruned(t *testing.T) {
	w := newWorld(t)
	none := decodeAs[v1.Retention](w, w.do(anyone, "GET", "/v1/audit/retention", nil), 200)
	if none.MinimumIndex != 0 || none.PruneEntry != nil {
		t.Errorf("%+v", none)
	}
	w.log.minimum.Store(1024)
	told := decodeAs[v1.Retention](w, w.do(anyone, "GET", "/v1/audit/retention", nil), 200)
	if told.MinimumIndex != 1024 || told.PruneEntry == nil || *told.PruneEntry != 1031 {
		t.Errorf("%+v", told)
	}
	for _, path := range []string{"/v1/audit/entries/300", "/v1/audit/entries/1023", "/v1/audit/entries/256/receipt", "/tile/entries/001"} {
		w.refused(w.do(auditor, "GET", path, nil), 410, codePruned)
	}
	w.refused(w.do(auditor, "GET", "/v1/audit/entries/1024", nil), 404, "entry_not_found")
	if a := w.do(auditor, "GET", "/tile/entries/000", nil); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	for _, cursor := range []string{"256", "300"} {
		page := decodeAs[v1.EntryPage](w, w.do(auditor, "GET", "/v1/audit/entries?cursor="+cursor, nil), 200)
		if len(page.Entries) != 0 || page.NextCursor != "" {
			t.Errorf("%+v", page)
		}
	}
}

// Without an archive nothing is pruned, and who asks for what is refused is recorded.
func TestPruneRefusals(t *testing.T) {
	w := newWorld(t)
	for code, c := range map[string]struct {
		status int
		field  string
		body   map[string]any
	}{
		"bad_reason":      {400, "reason", map[string]any{"before": "2026-01-01T00:00:00Z", "reason": ""}},
		"bad_before":      {400, "before", map[string]any{"before": "0001-01-01T00:00:00Z", "reason": "old"}},
		"retention_unset": {409, "", map[string]any{"before": "2026-01-01T00:00:00Z", "reason": "old"}},
	} {
		p := w.refused(w.do(officer, "POST", "/v1/audit/prunes", c.body), c.status, code)
		if p.Field != c.field || p.AuditID == nil {
			t.Errorf("%s: %+v", code, p)
		}
	}
}
