package api

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
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

// Receipts are found by what they are about, and given to those whom the entry names.
func TestFindReceipts(t *testing.T) {
	w := newWorld(t)
	w.log.signed.Store(true)
	ag := w.as(agent)
	other := w.agent(w.task())
	leaf, err := x509.ParseCertificate(ag.cert.Certificate[0])
	must(t, err)
	find := func(r role, query string) v1.ReceiptPage {
		t.Helper()
		return decodeAs[v1.ReceiptPage](w, w.do(r, "GET", "/v1/audit/receipts?"+query, nil), 200)
	}
	bySerial, byAgent := "serial="+chain.Serial(leaf), "agent="+ag.name
	for _, r := range []role{agent, orchestrator, operator, auditor} {
		got := find(r, bySerial)
		if len(got.Receipts) != 1 || got.NextCursor != "" || len(find(r, byAgent).Receipts) != 1 {
			t.Fatalf("%s: %+v", r, got)
		}
		var receipt struct {
			Index         uint64
			Proof         string
			Payload, Salt []byte
		}
		must(t, json.Unmarshal(got.Receipts[0].Receipt, &receipt))
		if receipt.Index != got.Receipts[0].Index || receipt.Proof != "a\n<b>" || (receipt.Payload != nil && receipt.Salt != nil) != (r == auditor) {
			t.Errorf("%s: %s", r, got.Receipts[0].Receipt)
		}
	}
	// Who is not named learns nothing, not even that there is something.
	if a := w.do(service, "GET", "/v1/audit/receipts?"+bySerial, nil); string(a.body) != `{"receipts":[]}`+"\n" {
		t.Errorf("a service: %s", a.body)
	}
	if a := w.send(other, "GET", "/v1/audit/receipts?"+byAgent, nil); string(a.body) != `{"receipts":[]}`+"\n" {
		t.Errorf("another agent: %s", a.body)
	}
	w.log.signed.Store(false)
	if got := find(auditor, bySerial); len(got.Receipts) != 1 || got.Receipts[0].Receipt != nil {
		t.Errorf("what nothing signed covers: %+v", got)
	}
}

func TestFindReceiptsByPages(t *testing.T) {
	w := newWorld(t)
	w.log.signed.Store(true)
	task := w.task()
	for range 5 {
		w.agent(task)
	}
	path, seen := "/v1/audit/receipts?limit=2&task="+task.TaskID, []uint64{}
	for cursor := ""; ; {
		page := decodeAs[v1.ReceiptPage](w, w.do(orchestrator, "GET", path+"&cursor="+cursor, nil), 200)
		for _, r := range page.Receipts {
			seen = append(seen, r.Index)
		}
		if cursor = page.NextCursor; cursor == "" {
			break
		}
		if len(page.Receipts) != 2 {
			t.Fatalf("%+v", page)
		}
	}
	if !slices.IsSorted(seen) || len(slices.Compact(seen)) < 6 {
		t.Errorf("entries %v", seen) // the task's own, and five agents'
	}
	for query, field := range map[string]string{
		"": "serial", "limit=5": "serial", "task=a&agent=b": "task", "serial=": "serial", "task=a&limit=101": "limit", "task=a&limit=0": "limit",
		"task=a&cursor=x": "cursor", "task=a&cursor=-1": "cursor",
	} {
		if p := w.refused(w.do(agent, "GET", "/v1/audit/receipts?"+query, nil), 400, codeBadParameter); p.Field != field {
			t.Errorf("%s: %+v", query, p)
		}
	}
	w.refused(w.do(agent, "GET", "/v1/audit/receipts?user=a", nil), 400, codeUnknownParameter)
	w.refused(w.do(anyone, "GET", "/v1/audit/receipts?task=a", nil), 401, codeCertificateRequired)
}

// A page looks at so many entries and no more, whoever they are about.
func TestFindReceiptsLooksAtSoMany(t *testing.T) {
	w := newWorld(t)
	w.log.signed.Store(true)
	w.as(agent)
	w.log.mu.Lock()
	first := uint64(len(w.log.entries))
	for range maxSeen + 5 {
		e := w.log.entries[0]
		e.Terms = []record.Term{{Kind: "task", ID: "busy"}}
		w.log.entries = append(w.log.entries, e)
	}
	w.log.mu.Unlock()
	page := decodeAs[v1.ReceiptPage](w, w.do(agent, "GET", "/v1/audit/receipts?task=busy", nil), 200)
	if len(page.Receipts) != 0 || page.NextCursor != jsonNumber(first+maxSeen) {
		t.Errorf("%+v", page)
	}
	if a := w.do(agent, "GET", "/v1/audit/receipts?task=busy&cursor="+page.NextCursor, nil); string(a.body) != `{"receipts":[]}`+"\n" {
		t.Errorf("%s", a.body)
	}
}
