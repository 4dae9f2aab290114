package api

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
)

const opaURL = "/opa/v1/data/" + opaAccess

func opaQuery(chain []string, id string) v1.OPARequest {
	return v1.OPARequest{Input: v1.OPAInput{
		CertificateChain: chain, Resource: v1.OPAResource{Type: "database", ID: id}, Action: v1.OPAAction{Name: "read"},
	}}
}

// opaAnswer is what a client of OPA reads.
type opaAnswer[T any] struct {
	Result     T      `json:"result"`
	DecisionID string `json:"decision_id"`
}

// The answers have the shape of OPA's REST API ("Get a Document (with Input)"), and each is a decision in the log.
func TestOPAData(t *testing.T) {
	w := newWorld(t)
	chain := w.as(agent).chainPEM()
	for id, reason := range map[string]string{"patients": "", "billing": "scope_not_covered", "other": "resource_unknown", "*": "resource_unknown"} {
		a := decodeAs[opaAnswer[v1.OPAAccess]](w, w.do(service, "POST", opaURL, opaQuery(chain, id)), 200)
		if a.Result.Allow != (reason == "") || a.DecisionID == "" || a.Result.AuditID == nil || a.Result.DenyReasons == nil {
			t.Fatalf("%s: %+v", id, a)
		}
		if reason != "" && !slices.Contains(a.Result.DenyReasons, reason) || reason == "" && len(a.Result.DenyReasons) != 0 {
			t.Errorf("%s: %v, want %s", id, a.Result.DenyReasons, reason)
		}
		if env := w.log.at(t, *a.Result.AuditID); env.Type != record.TypeDecision || env.Service != "records" {
			t.Errorf("%s: entry %+v", id, env)
		}
		before := w.log.count(record.TypeDecision, "")
		b := decodeAs[opaAnswer[*bool]](w, w.do(service, "POST", opaURL+"/allow", opaQuery(chain, id)), 200)
		if b.Result == nil || *b.Result != a.Result.Allow || b.DecisionID == "" || b.DecisionID == a.DecisionID || w.log.count(record.TypeDecision, "") != before+1 {
			t.Errorf("%s: allow %+v", id, b)
		}
	}
}

func TestOPAUndefined(t *testing.T) {
	w := newWorld(t)
	before := len(w.log.entries)
	for _, path := range []string{"signet", "signet/", "signet/access/", "signet/access/deny_reasons", "signet/Access", "signet//access", "signet%2faccess", "system/main"} {
		if a := w.do(service, "POST", "/opa/v1/data/"+path, opaQuery(nil, "patients")); a.status != 200 || string(a.body) != "{}\n" {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if len(w.log.entries) != before+1 { // the service's registration
		t.Errorf("%d entries", len(w.log.entries)-before)
	}
}

// An agent asks about itself, by default or by its own chain, and about nobody else.
func TestOPAAsks(t *testing.T) {
	w := newWorld(t)
	own, other := w.as(agent), w.agent(w.task())
	for name, chain := range map[string][]string{"default": nil, "own": own.chainPEM()} {
		if a := decodeAs[opaAnswer[v1.OPAAccess]](w, w.send(own, "POST", opaURL, opaQuery(chain, "patients")), 200); !a.Result.Allow {
			t.Errorf("%s: %+v", name, a)
		}
	}
	w.refused(w.send(own, "POST", opaURL, opaQuery(other.chainPEM(), "patients")), 403, "service_required")
	if a := decodeAs[opaAnswer[v1.OPAAccess]](w, w.do(service, "POST", opaURL, opaQuery(nil, "patients")), 200); a.Result.Allow {
		t.Error("nobody is allowed")
	}
	q := opaQuery(own.chainPEM(), "patients")
	q.Input.ExpectedUser = &v1.User{Issuer: issuerURL, Subject: "somebody"}
	if a := decodeAs[opaAnswer[v1.OPAAccess]](w, w.do(service, "POST", opaURL, q), 200); a.Result.Allow || !slices.Contains(a.Result.DenyReasons, "principal_mismatch") {
		t.Errorf("another user's agent: %+v", a)
	}
	q.Input.ExpectedUser, q.Input.ExpectedOrchestrator = nil, "spiffe://"+testDomain+"/orchestrator/other"
	if a := decodeAs[opaAnswer[v1.OPAAccess]](w, w.do(service, "POST", opaURL, q), 200); a.Result.Allow {
		t.Errorf("another orchestrator's agent: %+v", a)
	}
}

func TestOPABadInput(t *testing.T) {
	w := newWorld(t)
	chain, err := json.Marshal(w.as(agent).chainPEM())
	must(t, err)
	const what = `"resource":{"type":"database","id":"patients"},"action":{"name":"read"}`
	for name, c := range map[string]struct{ body, code, field string }{
		"no input":      {`{}`, codeBadRequest, "input.resource.type"},
		"no action":     {`{"input":{"resource":{"type":"database","id":"patients"}}}`, codeBadRequest, "input.action.name"},
		"own member":    {`{"input":{"user":"x",` + what + `}}`, codeUnknownField, "input.user"},
		"twice":         {`{"input":{` + what + `,"action":{"name":"write"}}}`, codeDuplicateField, "input.action"},
		"null":          {`{"input":null}`, codeWrongType, "input"},
		"text":          {`{"input":"allow"}`, codeWrongType, "input"},
		"no chain":      {`{"input":{"certificate_chain":[],` + what + `}}`, codeBadCertificate, "input.certificate_chain"},
		"garbage":       {`{"input":{"certificate_chain":["x"],` + what + `}}`, codeBadCertificate, "input.certificate_chain"},
		"chain as text": {`{"input":{"certificate_chain":"x",` + what + `}}`, codeWrongType, "input.certificate_chain"},
		"beside":        {`{"input":{"certificate_chain":` + string(chain) + `,` + what + `},"unknowns":[]}`, codeUnknownField, "unknowns"},
	} {
		if p := w.refused(w.do(service, "POST", opaURL, c.body), 400, c.code); p.Field != c.field || p.AuditID == nil {
			t.Errorf("%s: %+v", name, p)
		}
	}
	w.refused(w.do(service, "POST", opaURL+"?explain=full", opaQuery(nil, "patients")), 400, codeUnknownParameter)
	w.refused(w.do(service, "GET", opaURL, nil), 405, codeMethod)
}

func TestOPAFailsClosed(t *testing.T) {
	for _, fault := range []error{nil, errors.New("fault")} {
		w := newWorld(t, func(cfg *Config) { cfg.Domain = unrecorded{cfg.Domain, fault} })
		chain := w.as(agent).chainPEM()
		if fault != nil {
			w.refused(w.do(service, "POST", opaURL+"/allow", opaQuery(chain, "patients")), 500, codeInternal)
			continue
		}
		if a := decodeAs[opaAnswer[*bool]](w, w.do(service, "POST", opaURL+"/allow", opaQuery(chain, "patients")), 200); a.Result == nil || *a.Result {
			t.Errorf("not recorded: %+v", a)
		}
		if a := decodeAs[opaAnswer[v1.OPAAccess]](w, w.do(service, "POST", opaURL, opaQuery(chain, "patients")), 200); a.Result.Allow || a.Result.AuditID != nil {
			t.Errorf("not recorded: %+v", a)
		}
	}
}
