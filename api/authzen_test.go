package api

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
)

// shapes holds answers against the shapes of AuthZEN's specification.
type shapes map[string]*jsonschema.Schema

const shapesPath = "testdata/authzen/shapes.schema.json"

func newShapes(t *testing.T) shapes {
	t.Helper()
	raw, err := os.ReadFile(shapesPath)
	must(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	must(t, err)
	c := jsonschema.NewCompiler()
	must(t, c.AddResource("authzen.json", doc))
	out := shapes{}
	for _, name := range []string{"evaluation_request", "evaluations_request", "decision", "evaluations_response", "configuration", "error"} {
		out[name], err = c.Compile("authzen.json#/$defs/" + name)
		must(t, err)
	}
	return out
}

// fits says whether a document has a shape.
func (s shapes) fits(t *testing.T, name string, doc []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	must(t, err)
	return s[name].Validate(v)
}

// check is for every answer of AuthZEN's endpoints.
func (s shapes) check(t *testing.T, path string, a answer) {
	t.Helper()
	name := ""
	switch path, _, _ := strings.Cut(path, "?"); {
	case strings.HasPrefix(path, "/access/") && a.status != http.StatusOK:
		name = "error"
	case path == "/access/v1/evaluation":
		name = "decision"
	case path == "/access/v1/evaluations":
		name = "evaluations_response"
	case strings.HasPrefix(path, wellKnown) && a.status == http.StatusOK:
		name = "configuration"
	default:
		return
	}
	if err := s.fits(t, name, a.body); err != nil {
		t.Errorf("%s: %d has not the shape %s: %v\n%s", path, a.status, name, err, a.body)
	}
	if a.header.Get("Content-Type") != mediaJSON {
		t.Errorf("%s: %d is %q", path, a.status, a.header.Get("Content-Type"))
	}
}

// The shapes refuse what is none: they could not find anything wrong otherwise.
func TestShapesRefuse(t *testing.T) {
	s := newShapes(t)
	for name, docs := range map[string][]string{
		"decision":             {`{}`, `{"decision":"true"}`, `{"decision":1}`, `{"decision":true,"context":[]}`, `[]`},
		"evaluations_response": {`{}`, `{"evaluations":[]}`, `{"evaluations":[{}]}`, `{"evaluations":[{"decision":null}]}`, `{"decision":true,"evaluations":[{"decision":true}]}`},
		"configuration":        {`{}`, `{"policy_decision_point":"https://a","access_evaluation_endpoint":"http://a"}`, `{"policy_decision_point":"https://a?x","access_evaluation_endpoint":"https://a"}`},
		"error":                {`{"code":"x"}`, `""`, `null`},
		"evaluation_request":   {`{}`, `{"subject":{"type":"a","id":"b"},"action":{},"resource":{"type":"a","id":"b"}}`},
		"evaluations_request":  {`{}`, `{"evaluations":[]}`, `{"evaluations":[1]}`, `{"evaluations":[{}],"options":{"evaluations_semantic":"all"}}`},
	} {
		for _, doc := range docs {
			if s.fits(t, name, []byte(doc)) == nil {
				t.Errorf("%s fits %s", doc, name)
			}
		}
	}
}

const accessPath = "/access/v1/evaluation"

// badAccess is what both endpoints refuse as a whole.
var badAccess = []struct {
	name, body, code string
	status           int
}{
	{"empty", "", "body_missing", 400},
	{"no JSON", "{subject}", "bad_json", 400},
	{"cut", `{"subject":{"type":"agent"`, "bad_json", 400},
	{"byte order mark", "\ufeff{}", "bad_json", 400},
	{"array", `[]`, "wrong_type", 400},
	{"text", `"subject"`, "wrong_type", 400},
	{"number", `7`, "wrong_type", 400},
	{"null", `null`, "bad_request (subject.type)", 400},
	{"nothing in it", `{}`, "bad_request (subject.type)", 400},
	{"null members", `{"subject":null,"action":null,"resource":null,"context":null}`, "bad_request (subject.type)", 400},
	{"subject is text", `{"subject":"alice"}`, "wrong_type (subject)", 400},
	{"subject is a list", `{"subject":[{"type":"agent","id":"x"}]}`, "wrong_type (subject)", 400},
	{"type is a number", `{"subject":{"type":1}}`, "wrong_type (subject.type)", 400},
	{"id is an object", `{"subject":{"id":{}}}`, "wrong_type (subject.id)", 400},
	{"properties are a list", `{"subject":{"type":"agent","id":"x","properties":[]}}`, "wrong_type (subject.properties)", 400},
	{"context is a list", `{"context":[]}`, "wrong_type (context)", 400},
	{"chain is text", `{"context":{"certificate_chain":"x"}}`, "wrong_type (context.certificate_chain)", 400},
	{"twice", `{"subject":{"type":"agent","id":"a","id":"b"}}`, "duplicate_field (subject.id)", 400},
	{"twice, in disguise", `{"subject":{"type":"agent","id":"a","\u0069d":"b"}}`, "duplicate_field (subject.id)", 400},
	{"twice, in what is ignored", `{"x":{"y":[{"a":1,"a":2}]}}`, "duplicate_field (x.y[0].a)", 400},
	{"twice, in another case", `{"subject":{"type":"agent","id":"a"},"Subject":{"id":"b"}}`, "unknown_field (Subject)", 400},
	{"twice, the later in case", `{"Context":{"certificate_chain":["x"]},"context":{}}`, "unknown_field (Context)", 400},
	{"in another case, deeper", `{"context":{"Certificate_Chain":["x"]}}`, "unknown_field (context.Certificate_Chain)", 400},
	{"folded beyond ASCII", `{"\u017fubject":{"type":"agent"}}`, "unknown_field (??ubject)", 400},
	{"in another case, escaped", `{"subject":{"type":"agent","id":"a","\u0049D":"b"}}`, "unknown_field (subject.ID)", 400},
	{"not UTF-8", "{\"subject\":{\"id\":\"\xff\"}}", "bad_utf8", 400},
	{"lone surrogate", `{"subject":{"id":"\ud800"}}`, "bad_utf8 (subject.id)", 400},
	{"deep", `{"x":` + strings.Repeat(`[`, 40) + strings.Repeat(`]`, 40) + `}`, "too_deep (x[0]", 400},
	{"more behind it", `{} {}`, "trailing_data", 400},
}

// Whatever is wrong with a request's form is 400 and a text, with the caller's identifier of the request.
func TestBadEvaluations(t *testing.T) {
	w := newWorld(t)
	w.as(service)
	for _, path := range []string{accessPath, accessPath + "s"} {
		for _, tc := range badAccess {
			before := w.log.count(record.TypeMalformed, "")
			a := w.do(service, "POST", path, tc.body, "X-Request-ID", "r-1")
			if a.status != tc.status || !strings.HasPrefix(string(a.body), `"`+tc.code) || a.header.Get("X-Request-ID") != "r-1" {
				t.Errorf("%s, %s: %d %s", path, tc.name, a.status, a.body)
			}
			if w.log.count(record.TypeMalformed, "") != before+1 {
				t.Errorf("%s, %s: not one entry", path, tc.name)
			}
		}
		for _, media := range []string{"", "text/plain", "application/json; charset=latin1", "application/xml", "application/jsonx"} {
			if a := w.do(service, "POST", path, "{}", "Content-Type", media); a.status != 400 || !strings.HasPrefix(string(a.body), `"`+codeMediaType) {
				t.Errorf("%s, %q: %d %s", path, media, a.status, a.body)
			}
		}
		if a := w.do(service, "POST", path, `{"x":"`+strings.Repeat("a", 600<<10)+`"}`); a.status != 413 {
			t.Errorf("%s: a large body: %d %s", path, a.status, a.body)
		}
		if a := w.do(service, "GET", path, nil, "X-Request-ID", "r-2"); a.status != 405 || a.header.Get("X-Request-ID") != "r-2" {
			t.Errorf("%s: GET: %d %s", path, a.status, a.body)
		}
	}
	if n := w.log.count(record.TypeDecision, ""); n != 0 {
		t.Errorf("%d decisions came of it", n)
	}
	if a := w.do(service, "POST", "/access/v1/search/subject", "{}"); a.status != 404 {
		t.Errorf("there is no search: %d %s", a.status, a.body)
	}
}

// An identifier of the request comes back as it was, if it is short and printable, with every kind of answer.
func TestRequestIdentifiers(t *testing.T) {
	w := newWorld(t)
	for id, want := range map[string]string{"a b:c/7": "a b:c/7", strings.Repeat("x", 256): strings.Repeat("x", 256), strings.Repeat("x", 257): "", "ü": "", "": ""} {
		for _, r := range []role{service, operator, anyone} {
			if got := w.do(r, "POST", accessPath, "{}", "X-Request-ID", id).header.Get("X-Request-ID"); got != want {
				t.Errorf("%s sent %.20q and got %.20q", r, id, got)
			}
		}
	}
}

// question is an evaluation that is permitted.
func question(t *testing.T, p *person) v1.EvaluationRequest {
	t.Helper()
	return v1.EvaluationRequest{
		Subject: v1.Subject{Type: "agent", ID: subjectOf(t, p.chainPEM())}, Action: v1.Action{Name: "read"},
		Resource: v1.Resource{Type: "database", ID: "patients"}, Context: v1.EvaluationContext{CertificateChain: p.chainPEM()},
	}
}

// What a caller says of a subject is not looked at, and gets nowhere near policy.
func TestTheCallerSaysNothingOfTheSubject(t *testing.T) {
	w := newWorld(t)
	a := w.agent(w.task())
	q := question(t, a)
	q.Subject.Properties = map[string]any{"role": "forged-role", "user": map[string]any{"roles": []any{"forged-role"}}}
	q.Action.Properties, q.Resource.Properties = map[string]any{"soft": "forged-role"}, map[string]any{"required_scope": []string{"forged-role"}}
	d := decodeAs[v1.EvaluationResponse](w, w.do(service, "POST", accessPath, q), 200)
	if !d.Decision || d.Context.AuditID == nil {
		t.Fatalf("%+v", d)
	}
	e, err := shownLog{w.log}.Entry(t.Context(), *d.Context.AuditID)
	must(t, err)
	if !bytes.Contains(e.Payload, []byte("physician-1")) || bytes.Contains(append(e.Payload, e.Envelope...), []byte("forged-role")) {
		t.Errorf("policy was asked with %s", e.Payload)
	}
	// A subject without a certificate is nobody, whatever is said of it, here and in a batch.
	user := v1.EvaluationRequest{
		Subject: v1.Subject{Type: "user", ID: "alice", Properties: map[string]any{"role": "admin"}}, Action: v1.Action{Name: "read"},
		Resource: v1.Resource{Type: "record", ID: "record-1"},
	}
	if d := decodeAs[v1.EvaluationResponse](w, w.do(service, "POST", accessPath, user), 200); d.Decision {
		t.Error("a made-up subject is permitted")
	}
	if d := decodeAs[v1.EvaluationsResponse](w, w.do(service, "POST", accessPath+"s", user), 200); *d.Decision {
		t.Error("a made-up subject is permitted")
	}
	user.Context.CertificateChain, user.Resource = a.chainPEM(), q.Resource
	if d := decodeAs[v1.EvaluationResponse](w, w.do(service, "POST", accessPath, user), 200); d.Decision || d.Context.Reasons[0] != "subject_mismatch" {
		t.Errorf("a made-up subject with an agent's chain: %+v", d)
	}
}

// What stands in a request once is recorded with each evaluation: neither names nor an agent's own connection make the log grow
// by more than single requests could.
func TestALogGrowsByWhatIsAsked(t *testing.T) {
	w := newWorld(t)
	a := w.agent(w.task())
	q := question(t, a)
	q.Subject.ID = strings.Repeat("x", 400<<10)
	all := v1.EvaluationsRequest{Subject: &q.Subject, Action: &q.Action, Resource: &q.Resource, Evaluations: make([]v1.Evaluation, 100)}
	before := len(w.log.entries)
	_, junk := selfSigned(t, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}, Value: make([]byte, 15<<10)}}
	})
	heavy := w.person(a.key, slices.Concat(a.cert.Certificate, [][]byte{junk, junk, junk, junk, junk}))
	for name, ask := range map[string]func() answer{
		"names": func() answer {
			all.Subject = &q.Subject
			return w.do(service, "POST", accessPath+"s", all)
		},
		"connection": func() answer {
			all.Subject = &v1.Subject{Type: "agent", ID: "x"}
			return w.send(heavy, "POST", accessPath+"s", all)
		},
	} {
		out := decodeAs[v1.EvaluationsResponse](w, ask(), 200)
		for i, e := range out.Evaluations {
			if e.Decision || e.Context.Error == nil || e.Context.Error.Status != 400 {
				t.Fatalf("%s, %d: %+v", name, i, e)
			}
		}
	}
	size := 0
	for _, e := range w.log.entries[before:] {
		size += len(e.Envelope) + len(e.Payload)
	}
	if size > 1<<20 {
		t.Errorf("%d bytes in %d entries", size, len(w.log.entries)-before)
	}
}

// The metadata is where its own identifier says, and nowhere else.
func TestMetadata(t *testing.T) {
	for base, paths := range map[string]map[string]int{
		publicURL:             {wellKnown: 200, wellKnown + "/": 404, wellKnown + "/signet": 404, wellKnown + "x": 404},
		publicURL + "/signet": {wellKnown: 404, wellKnown + "/signet": 200, wellKnown + "/signet/x": 404, wellKnown + "/other": 404},
	} {
		w := newWorld(t, func(c *Config) { c.PublicURL = base })
		for path, status := range paths {
			a := w.do(anyone, "GET", path, nil)
			if a.status != status {
				t.Errorf("%s%s: %d", base, path, a.status)
			}
			if status != 200 {
				continue
			}
			got := decodeAs[v1.AccessConfiguration](w, a, 200)
			want := v1.AccessConfiguration{PolicyDecisionPoint: base, AccessEvaluationEndpoint: base + accessPath, AccessEvaluationsEndpoint: base + accessPath + "s"}
			if got != want || a.header.Get("Cache-Control") != "public, max-age=300" || bytes.Contains(a.body, []byte("search")) {
				t.Errorf("%s, cache %q", a.body, a.header.Get("Cache-Control"))
			}
			if n := a.header.Get("Content-Length"); n != strconv.Itoa(len(a.body)) {
				t.Errorf("length %s of %d", n, len(a.body))
			}
		}
	}
}
