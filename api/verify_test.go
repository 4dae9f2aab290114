package api

import (
	"strings"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
)

// Each wrong expectation is refused by its name, before anything is judged.
func TestVerifyRefusesExpectations(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		name, code, field string
		change            func(q *v1.VerifyRequest)
	}{
		{"no chain", "bad_certificate", "certificate_chain", func(q *v1.VerifyRequest) { q.CertificateChain = []string{} }},
		{"scope", "bad_scope", "required_scope", func(q *v1.VerifyRequest) { q.RequiredScope = []string{"database:*:read"} }},
		{"empty scope", "bad_scope", "required_scope", func(q *v1.VerifyRequest) { q.RequiredScope = []string{""} }},
		{"check", "bad_request", "require[1]", func(q *v1.VerifyRequest) { q.Require = []string{"logged", "Path"} }},
		{"checks", "bad_request", "require", func(q *v1.VerifyRequest) { q.Require = strings.Fields(strings.Repeat("path ", 25)) }},
		{"staleness", "bad_ttl", "max_staleness", func(q *v1.VerifyRequest) { q.MaxStaleness = -1 }},
		{"delegations", "bad_request", "delegations", func(q *v1.VerifyRequest) { q.Delegations = make([]string, 11) }},
		{"keys", "bad_request", "keys", func(q *v1.VerifyRequest) { q.Keys = make([][]byte, 11) }},
		{"grant", "bad_request", "grant", func(q *v1.VerifyRequest) { q.Grant = "e30=" }},
	} {
		q := w.verifyBody()
		tc.change(&q)
		if tc.name == "keys" {
			for i := range q.Keys {
				q.Keys[i] = []byte{}
			}
		}
		p := w.refused(w.do(service, "POST", "/v1/verify", q), 400, tc.code)
		if p.Field != tc.field {
			t.Errorf("%s: field %q", tc.name, p.Field)
		}
	}
}

// What the caller names must pass, also where it could not be evaluated; a chain without a delegation has nobody to name.
func TestVerifyRequiresWhatIsNamed(t *testing.T) {
	w := newWorld(t)
	q := w.verifyBody()
	q.RequiredScope, q.ExpectedUser, q.MaxStaleness = []string{"a"}, &v1.User{Issuer: "i", Subject: "s"}, 5
	q.Require = []string{"confirmation"}
	report := decodeAs[v1.VerifyReport](w, w.do(service, "POST", "/v1/verify", q), 200)
	for _, name := range []string{"scope", "principal", "freshness", "confirmation", "revocation"} {
		if !report.Checks[name].Required {
			t.Errorf("%s is not required: %+v", name, report.Checks[name])
		}
	}
	if report.Valid || report.Checks["logged"].Required || report.Checks["freshness"].Status != "pass" {
		t.Errorf("%+v", report)
	}
	// Of the operator's certificate the log knows, and it is looked for only where that is required.
	q = w.verifyBody()
	q.Require = []string{"logged"}
	report = decodeAs[v1.VerifyReport](w, w.do(service, "POST", "/v1/verify", q), 200)
	if c := report.Checks["logged"]; c.Status == "not_evaluated" || !c.Required {
		t.Errorf("logged: %+v", c)
	}
}
