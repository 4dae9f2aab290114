package bundle_test

import (
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
)

// issueAt is what an issue entry says.
func (w *world) issueAt(entry uint64) record.IssueBody {
	env, err := record.Check(w.entries[entry].Envelope)
	must(w.t, err)
	body, err := record.DecodeBody[record.IssueBody](env)
	must(w.t, err)
	return body
}

// An absent certificate is explained by a later entry that says that its signature failed, or that a crash left it open:
// by its TBSCertificate, since after a crash nobody remembers the entry.
func TestAbsentCertificates(t *testing.T) {
	for name, tc := range map[string]struct {
		explain func(w *world, index uint64, body record.FailBody)
		open    bool
	}{
		"failed": {explain: func(w *world, index uint64, body record.FailBody) {
			body.Index = index
			w.add(record.TypeIssueFailed, record.Envelope{Code: "signing_failed"}, body, nil)
		}},
		"left open by a crash": {explain: func(w *world, _ uint64, body record.FailBody) {
			w.add(record.TypeIssueUnknown, record.Envelope{}, body, nil)
		}},
		"another left open": {explain: func(w *world, _ uint64, body record.FailBody) {
			body.TBSHash = w.issueAt(w.orchestratorEntry()).TBSHash
			w.add(record.TypeIssueUnknown, record.Envelope{}, body, nil)
		}, open: true},
		"nothing": {explain: func(*world, uint64, record.FailBody) {}, open: true},
		"the end of an earlier try": {explain: func(w *world, index uint64, body record.FailBody) {
			body.Index = index
			w.add(record.TypeIssueFailed, record.Envelope{Code: "signing_failed"}, body, nil)
			delete(w.issued, w.again(index))
		}, open: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			p := w.play(0x100)
			index := p.second
			body := w.issueAt(index)
			delete(w.issued, index)
			tc.explain(w, index, record.FailBody{Serial: body.Serial, TBSHash: body.TBSHash})
			w.seal()
			r := verify(t, written(t, w), bundle.Options{})
			if !r.Valid {
				t.Fatalf("invalid: %+v", r.Checks)
			}
			open := false
			for _, c := range r.Checks {
				open = open || c.Name == bundle.CheckCertificate && c.Status == bundle.Unproven
			}
			if open != tc.open {
				t.Errorf("unproven %v, want %v", open, tc.open)
			}
		})
	}
}
