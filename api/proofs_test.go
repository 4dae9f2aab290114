package api

import (
	"fmt"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
)

// Proofs are everybody's, name what is wrong with a question, and leave no entry: they are reads.
func TestProofs(t *testing.T) {
	w := newWorld(t)
	w.as(orchestrator) // so that there are entries
	size := shownLog{w.log}.size()
	in := decodeAs[v1.InclusionProof](w, w.do(anyone, "GET", fmt.Sprintf("/v1/audit/proof/inclusion?index=1&size=%d", size), nil), 200)
	if in.Index != 1 || in.Size != size || len(in.Hashes) != 2 || in.Hashes[1][0] != 2 {
		t.Errorf("%+v", in)
	}
	if a := w.do(anyone, "GET", "/v1/audit/proof/consistency?from=0&to=2", nil); a.status != 200 || string(a.body) != `{"from":0,"to":2,"hashes":[]}`+"\n" {
		t.Errorf("%d %s", a.status, a.body)
	}
	a := w.do(anyone, "GET", "/v1/audit/entries/0/proof", nil)
	if a.status != 200 || string(a.body) != "c2sp.org/tlog-proof@v1\nindex 0\n" || a.header.Get("Content-Type") != mediaText || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %s %v", a.status, a.body, a.header)
	}
	for _, row := range []struct {
		path        string
		status      int
		code, field string
	}{
		{"proof/inclusion", 400, codeBadParameter, "index"},
		{"proof/inclusion?index=1", 400, codeBadParameter, "size"},
		{"proof/inclusion?index=01&size=2", 400, codeBadParameter, "index"},
		{"proof/inclusion?index=-1&size=2", 400, codeBadParameter, "index"},
		{"proof/inclusion?index=1&size=9223372036854775808", 400, codeBadParameter, "size"},
		{"proof/inclusion?index=2&size=2", 400, codeBadParameter, "index"},
		{"proof/inclusion?index=0&size=0", 400, codeBadParameter, "index"},
		{"proof/inclusion?index=0&size=1&size=2", 400, codeBadParameter, "size"},
		{"proof/inclusion?index=0&size=1&leaf=x", 400, codeUnknownParameter, "leaf"},
		{"proof/inclusion?index=0&size=100000", 404, codeNotFound, ""},
		{"proof/consistency?from=2&to=1", 400, codeBadParameter, "from"},
		{"proof/consistency?to=1", 400, codeBadParameter, "from"},
		{"proof/consistency?from=1&to=x", 400, codeBadParameter, "to"},
		{"proof/consistency?from=1&to=100000", 404, codeNotFound, ""},
		{"entries/100000/proof", 404, "entry_not_found", "index"},
		{"entries/00/proof", 404, "entry_not_found", "index"},
		{fmt.Sprintf("entries/%d/proof", size-1), 409, codeNotSealed, ""},
	} {
		a := w.do(anyone, "GET", "/v1/audit/"+row.path, nil)
		if p := w.refused(a, row.status, row.code); p.Field != row.field || p.AuditID != nil || a.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %s", row.path, a.body)
		}
	}
	if now := (shownLog{w.log}).size(); now != size {
		t.Errorf("%d entries were written", now-size)
	}
}
