package api

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
)

// Each way to be wrong has its own code, and an entry that says it.
func TestBadBodies(t *testing.T) {
	w := newWorld(t)
	deep := `{"csr":` + strings.Repeat(`{"a":`, 20) + "1" + strings.Repeat("}", 21)
	for _, tc := range []struct {
		name, body, code, field string
		status                  int
	}{
		{"empty", "", "body_missing", "", 400},
		{"white space", "  ", "bad_json", "", 400},
		{"no JSON", "{name}", "bad_json", "", 400},
		{"cut", `{"name":"lab"`, "bad_json", "", 400},
		{"bad word", `{"name":nil}`, "wrong_type", "name", 400},
		{"bad escape", `{"name":"\x"}`, "bad_json", "", 400},
		{"control", "{\"name\":\"a\nb\"}", "bad_json", "name", 400},
		{"array", `[]`, "wrong_type", "", 400},
		{"string", `"x"`, "wrong_type", "", 400},
		{"UTF-8", "{\"name\":\"\xff\"}", "bad_utf8", "", 400},
		{"surrogate", `{"name":"\ud800x"}`, "bad_utf8", "name", 400},
		{"low surrogates", `{"name":"\udc00\udc00"}`, "bad_utf8", "name", 400},
		{"pair", `{"name":"\ud83d\ude00"}`, "bad_name", "name", 400},
		{"unknown", `{"name":"lab","nmae":1}`, "unknown_field", "nmae", 400},
		{"case", `{"Name":"lab"}`, "unknown_field", "Name", 400},
		{"duplicate", `{"name":"a","name":"b"}`, "duplicate_field", "name", 400},
		{"hidden duplicate", `{"name":"a","n\u0061me":"b"}`, "duplicate_field", "name", 400},
		{"trailing", `{"name":"a"} x`, "trailing_data", "", 400},
		{"second", `{"name":"a"}{}`, "trailing_data", "", 400},
		{"deep", strings.Replace(deep, "csr", "agent_types", 1), "wrong_type", "agent_types", 400},
		{"null", `{"name":null}`, "wrong_type", "name", 400},
		{"type", `{"name":1}`, "wrong_type", "name", 400},
		{"element", `{"name":"a","agent_types":["x",7]}`, "wrong_type", "agent_types[1]", 400},
		{"fraction", `{"name":"a","max_ttl":1.5}`, "wrong_type", "max_ttl", 400},
		{"overflow", `{"name":"a","max_ttl":99999999999999999999}`, "wrong_type", "max_ttl", 400},
		{"negative", `{"name":"a","max_ttl":-1}`, "bad_ttl", "max_ttl", 400},
		{"large", `{"name":"` + strings.Repeat("a", 65<<10) + `"}`, "body_too_large", "", 413},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w.t = t
			kind := record.TypeMalformed
			if tc.code == "bad_name" {
				kind = record.TypeDeny // it got as far as the domain
			}
			before := w.log.count(kind, tc.code)
			p := w.refused(w.do(operator, "POST", "/v1/orchestrators", tc.body), tc.status, tc.code)
			if p.Field != tc.field {
				t.Errorf("field %q, want %q", p.Field, tc.field)
			}
			if p.AuditID == nil || w.log.count(kind, tc.code) != before+1 {
				t.Errorf("not exactly one entry: %+v", p)
			}
		})
	}
	w.t = t
	if n := w.log.count(record.TypeAdmin, ""); n != 0 {
		t.Errorf("%d registrations came of it", n)
	}
}

func TestBadHeaders(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		code, field string
		status      int
		header      []string
	}{
		{codeMediaType, "Content-Type", 415, []string{"Content-Type", "text/plain"}},
		{codeMediaType, "Content-Type", 415, []string{"Content-Type", "application/json; charset=latin1"}},
		{codeMediaType, "Content-Type", 415, []string{"Content-Type", ""}},
		{codeContentEncoding, "Content-Encoding", 415, []string{"Content-Encoding", "gzip"}},
	} {
		p := w.refused(w.do(operator, "POST", "/v1/orchestrators", "{}", tc.header...), tc.status, tc.code)
		if p.Field != tc.field || p.AuditID == nil {
			t.Errorf("%v: %+v", tc.header, p)
		}
	}
	p := w.refused(w.do(operator, "POST", "/v1/orchestrators", "{}", "Content-Type", "application/json; charset=UTF-8"), 400, "bad_name")
	if p.AuditID == nil {
		t.Error("no entry")
	}
	w.refused(w.do(operator, "GET", "/v1/nothing", nil), 404, codeRouteNotFound)
	a := w.do(operator, "DELETE", "/v1/grants", nil)
	w.refused(a, 405, codeMethod)
	if a.header.Get("Allow") == "" {
		t.Error("405 without Allow")
	}
	if n := w.log.count(record.TypeMalformed, codeRouteNotFound); n != 1 {
		t.Errorf("%d entries of an unknown route", n)
	}
	w.refused(w.do(operator, "POST", "/v1/orchestrators?x=1", "{}"), 400, codeUnknownParameter)
	w.refused(w.do(orchestrator, "GET", "/v1/revocations?limit=1&limit=2", nil), 400, codeBadParameter)
	w.refused(w.do(orchestrator, "GET", "/v1/revocations?cursor=-1", nil), 400, codeBadParameter)
}

// A body without a length is bounded too.
func TestAnEndlessBody(t *testing.T) {
	w := newWorld(t)
	endless := io.MultiReader(strings.NewReader(`{"name":"`), io.LimitReader(letters{}, 1<<20))
	w.refused(w.do(operator, "POST", "/v1/orchestrators", endless), 413, codeBodyTooLarge)
}

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

// A length that is only claimed costs nothing: nothing is set aside for it.
func TestAHugeLength(t *testing.T) {
	w := newWorld(t)
	op := w.as(operator)
	cfg := &tls.Config{RootCAs: w.roots, Certificates: []tls.Certificate{*op.cert}, MinVersion: tls.VersionTLS13}
	c, err := (&tls.Dialer{Config: cfg}).DialContext(t.Context(), "tcp", strings.TrimPrefix(w.base, "https://"))
	must(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "POST /v1/orchestrators HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1099511627776\r\n\r\n{")
	must(t, err)
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	must(t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(t, err)
	w.refused(answer{resp.StatusCode, resp.Header, raw}, 413, codeBodyTooLarge)
}

// A key used for another endpoint is used for another request, also with the same body.
func TestRequestHash(t *testing.T) {
	seen := map[[32]byte]bool{}
	for _, q := range [][3]string{{"POST", "/v1/tasks", "{}"}, {"POST", "/v1/agents", "{}"}, {"PUT", "/v1/tasks", "{}"}, {"POST", "/v1/tasks", "{} "}} {
		seen[requestHash(q[0], q[1], []byte(q[2]))] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d different hashes of 4 requests", len(seen))
	}
}

// A body that does not come ends with an answer, not with a hanging connection.
func TestASlowBody(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Limits.ReadTimeout = 300 * time.Millisecond })
	p := w.as(operator)
	if tr, ok := p.http.Transport.(*http.Transport); ok {
		tr.ForceAttemptHTTP2, tr.Protocols = false, new(http.Protocols)
		tr.Protocols.SetHTTP1(true)
	}
	r, wr := io.Pipe()
	defer wr.Close()
	w.refused(w.send(p, "POST", "/v1/orchestrators", r), 408, codeBodyTimeout)
}

// The certificate of another CA is answered, with a code and an entry; the handshake does not break.
func TestForeignCertificates(t *testing.T) {
	w := newWorld(t)
	uri, err := url.Parse("spiffe://" + testDomain + "/operator/admin")
	must(t, err)
	foreign, der := selfSigned(t, func(c *x509.Certificate) { c.URIs = []*url.URL{uri} })
	p := w.refused(w.send(w.person(foreign, [][]byte{der}), "GET", "/v1/audit/seals/1", nil), 401, "client_certificate_untrusted")
	if p.AuditID == nil || p.Checks["path"].Code != "path_untrusted" {
		t.Errorf("%+v", p)
	}
	if a := w.send(w.person(foreign, [][]byte{der}), "GET", "/livez", nil); a.status != 200 {
		t.Errorf("livez needs no identity: %d", a.status)
	}
	plain, der := selfSigned(t, func(*x509.Certificate) {})
	p = w.refused(w.send(w.person(plain, [][]byte{der}), "POST", "/v1/agents", "{}"), 401, "client_certificate_untrusted")
	if p.AuditID == nil {
		t.Errorf("%+v", p)
	}
}

func TestBadSpawns(t *testing.T) {
	w := newWorld(t)
	task := w.task()
	issued := w.log.count(record.TypeIssue, "")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	must(t, err)
	forged := func() string {
		block, _ := pem.Decode([]byte(csr(t, newKey(t))))
		block.Bytes[len(block.Bytes)-1] ^= 1
		return string(pem.EncodeToMemory(block))
	}()
	for _, tc := range []struct {
		code   string
		status int
		change func(q *v1.SpawnRequest)
	}{
		{"bad_csr", 400, func(q *v1.SpawnRequest) { q.CSR = " " }},
		{"bad_enrollment_hash", 400, func(q *v1.SpawnRequest) { q.CSR, q.EnrollmentHash = "", "AAAA" }},
		{"bad_enrollment_hash", 400, func(q *v1.SpawnRequest) { q.CSR, q.EnrollmentHash = "", strings.Repeat("A", 43) }},
		{"enrollment_hash_with_csr", 400, func(q *v1.SpawnRequest) { q.EnrollmentHash = strings.Repeat("A", 42) + "E" }},
		{"bad_csr", 400, func(q *v1.SpawnRequest) { q.CSR += "x" }},
		{"bad_csr_signature", 422, func(q *v1.SpawnRequest) { q.CSR = forged }},
		{"bad_csr_key", 422, func(q *v1.SpawnRequest) { q.CSR = csr(t, rsaKey) }},
		{"bad_csr_key", 422, func(q *v1.SpawnRequest) { q.CSR = csr(t, p521) }},
		{"bad_spawn_id", 400, func(q *v1.SpawnRequest) { q.SpawnID = "1" }},
		{"bad_scope", 400, func(q *v1.SpawnRequest) { q.Scope = []string{} }},
		{"bad_scope", 400, func(q *v1.SpawnRequest) { q.Scope = []string{"a", "a"} }},
		{"scope_exceeds_parent", 403, func(q *v1.SpawnRequest) { q.Scope = []string{"database:write:patients"} }},
		{"deadline_exceeds_parent", 403, func(q *v1.SpawnRequest) { q.TTL = 7200 }},
		{"ttl_exceeds_limit", 403, func(q *v1.SpawnRequest) { q.TTL = 1800 }},
		{"depth_exceeded", 403, func(q *v1.SpawnRequest) { q.MaxDepth = 8 }},
		{"bad_request", 400, func(q *v1.SpawnRequest) { q.MaxDepth = -1 }},
		{"bad_ttl", 400, func(q *v1.SpawnRequest) { q.TTL = 1 << 40 }},
		{"agent_type_not_allowed", 403, func(q *v1.SpawnRequest) { q.AgentType = "writer" }},
		{"task_not_found", 404, func(q *v1.SpawnRequest) { q.TaskID = newID(t) }},
		{"confirmation_invalid", 403, func(q *v1.SpawnRequest) { q.Confirmation = "a.b.c" }},
	} {
		q := w.spawn(task, newKey(t))
		tc.change(&q)
		p := w.refused(w.do(orchestrator, "POST", "/v1/agents", q), tc.status, tc.code)
		if p.AuditID == nil {
			t.Errorf("%s has no entry", tc.code)
		}
	}
	if n := w.log.count(record.TypeIssue, ""); n != issued {
		t.Errorf("%d certificates were issued", n-issued)
	}
	w.ready = errors.New("the last seal is too old")
	a := w.do(orchestrator, "POST", "/v1/agents", w.spawn(task, newKey(t)))
	w.refused(a, 503, "not_ready")
	if a.header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	w.ready, w.signing = nil, errors.New("too many wait for the token")
	a = w.do(orchestrator, "POST", "/v1/agents", w.spawn(task, newKey(t)))
	w.refused(a, 503, "signing_unavailable")
	if got := a.header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After is %q", got)
	}
	if n := w.log.count(record.TypeIssue, ""); n != issued {
		t.Errorf("%d certificates were logged that could not be signed", n-issued)
	}
}

func TestBadRevocations(t *testing.T) {
	w := newWorld(t)
	for _, tc := range []struct {
		q    v1.RevocationRequest
		code string
	}{
		{v1.RevocationRequest{Kind: "planet", ID: "x"}, "bad_revocation_kind"},
		{v1.RevocationRequest{Kind: "agent"}, "bad_request"},
		{v1.RevocationRequest{Kind: "certificate", ID: "a\x00b"}, "bad_request"},
		{v1.RevocationRequest{Kind: "user", ID: "x"}, "bad_request"},
		{v1.RevocationRequest{Kind: "user", User: &v1.User{Issuer: "a\x00", Subject: "b"}}, "bad_request"},
		{v1.RevocationRequest{Kind: "task", ID: "x", User: &v1.User{Issuer: "a", Subject: "b"}}, "bad_request"},
	} {
		if p := w.refused(w.do(operator, "POST", "/v1/revocations", tc.q), 400, tc.code); p.AuditID == nil {
			t.Errorf("%+v has no entry", tc.q)
		}
	}
	got := decodeAs[v1.Revocation](w, w.do(operator, "POST", "/v1/revocations",
		v1.RevocationRequest{Kind: "user", User: &v1.User{Issuer: issuerURL, Subject: "physician-1"}}), 201)
	if got.ID != "" || got.User == nil || got.User.Subject != "physician-1" {
		t.Errorf("%+v", got)
	}
	w.refused(w.do(orchestrator, "POST", "/v1/revocations", v1.RevocationRequest{Kind: "orchestrator", ID: "lab"}), 403, "not_yours")
}

// AuthZEN differs from the rest: plain 400s, bodies that are strings, unknown members ignored, ids echoed.
func TestAuthZENHabits(t *testing.T) {
	w := newWorld(t)
	const path = "/access/v1/evaluation"
	good := `{"subject":{"type":"agent","id":"x","extra":[1,{"a":null}]},"action":{"name":"read"},"resource":{"type":"database","id":"patients"},"context":null,"more":{"deep":[[]]}}`
	a := w.do(service, "POST", path, good, "X-Request-ID", "r-1")
	d := decodeAs[v1.EvaluationResponse](w, a, 200)
	if d.Decision || !slices.Contains(d.Context.Reasons, "chain_empty") || d.Context.AuditID == nil || a.header.Get("X-Request-Id") != "r-1" {
		t.Errorf("%s", a.body)
	}
	for _, tc := range []struct {
		body, code string
		header     []string
	}{
		{"", "body_missing", nil},
		{good, codeMediaType, []string{"Content-Type", "text/plain"}},
		{"{", codeBadJSON, nil},
		{"{}", codeBadRequest + " (subject.type)", nil},
		{strings.Replace(good, `"id":"patients"`, `"name":"x"`, 1), codeBadRequest + " (resource.id)", nil},
		{strings.Replace(good, `"id":"patients"`, `"id":7`, 1), codeWrongType + " (resource.id)", nil},
		{strings.Replace(good, `"name":"read"`, `"name":"read","name":"write"`, 1), codeDuplicateField + " (action.name)", nil},
		{strings.Replace(good, `"deep":[[]]`, `"deep":`+strings.Repeat("[", 20)+strings.Repeat("]", 20), 1), codeTooDeep, nil},
		{strings.Replace(good, `"context":null`, `"context":{"certificate_chain":["x"]}`, 1), codeBadCertificate + " (context.certificate_chain)", nil},
	} {
		a := w.do(service, "POST", path, tc.body, append(tc.header, "X-Request-ID", "r-2")...)
		text := decodeAs[string](w, a, 400)
		if !strings.HasPrefix(text, tc.code) || a.header.Get("X-Request-Id") != "r-2" {
			t.Errorf("%.60q: %s", tc.body, a.body)
		}
		code, _, _ := strings.Cut(tc.code, " ")
		if w.log.count(record.TypeMalformed, code) == 0 {
			t.Errorf("%s has no entry", code)
		}
	}
	if text := decodeAs[string](w, w.do(anyone, "POST", path, good), 401); !strings.HasPrefix(text, codeCertificateRequired) {
		t.Error(text)
	}
}

// What decode takes, encoding/json takes too, and means the same by it.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		`{"task_id":"a","scope":["x:y"],"ttl":5,"csr":"-"}`, `{"task_id":"\u0061","task_id":"b"}`, `{"ttl":1e3}`, `{"scope":[[]]}`, `{} {}`, `{"a":{"b":[1,2,{}]}}`,
		`{"subject":{"type":"agent"},"context":{"expected_user":null}}`, `{"subject":{"id":"a"},"SUBJECT":{"iD":"b"}}`, `{"not_after":"2026-01-02T03:04:05Z"}`, "{\"task\\u005fid\":\"\\ud83d\\ude00\"}",
	} {
		f.Add([]byte(s), true)
		f.Add([]byte(s), false)
	}
	spawn, err := shapeOf(typeOf[v1.SpawnRequest]())
	if err != nil {
		f.Fatal(err)
	}
	evaluation, err := shapeOf(typeOf[v1.EvaluationRequest]())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, lenient bool) {
		if lenient {
			var q v1.EvaluationRequest
			if decode(data, evaluation, true, &q) != nil {
				return
			}
			// By another reader, to whom names are what they are.
			var other map[string]any
			if err := json.Unmarshal(data, &other); err != nil {
				t.Fatalf("took what is not JSON: %q: %v", data, err)
			}
			subject, _ := other["subject"].(map[string]any)
			if id, _ := subject["id"].(string); id != q.Subject.ID {
				t.Fatalf("two readings of %q: %q and %q", data, q.Subject.ID, id)
			}
			return
		}
		var q, again v1.SpawnRequest
		if f := decode(data, spawn, false, &q); f != nil {
			if f.code == "" || !printable(f.code+f.field+"x", 4096) {
				t.Fatalf("a fault without a printable place: %+v", f)
			}
			return
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&again); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", data, err)
		}
		if q.TaskID != again.TaskID || q.TTL != again.TTL || !slices.Equal(q.Scope, again.Scope) {
			t.Fatalf("two readings of %q", data)
		}
	})
}
