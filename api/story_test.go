package api

import (
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// From registration to a decision and a revocation, over real TLS, with every answer held against the OpenAPI document.
func TestTheWholeStory(t *testing.T) {
	w := newWorld(t)
	orch := w.as(orchestrator)
	task := w.task()
	if task.Status != "open" || task.AuditReceipt == nil {
		t.Fatalf("task %+v", task)
	}
	key := newKey(t)
	out := decodeAs[v1.Spawned](w, w.do(orchestrator, "POST", "/v1/agents", w.spawn(task, key)), 201)
	if out.AuditReceipt == nil || !strings.HasPrefix(out.AuditReceipt.ReceiptURL, publicURL+"/v1/audit/entries/") {
		t.Fatalf("receipt %+v", out.AuditReceipt)
	}
	ag := w.person(key, ders(t, out.CertificateChain))
	ag.name = out.AgentID
	w.people[agent] = ag

	sub := w.subAgent(ag, task, "database:read:patients")
	lineage := decodeAs[v1.AgentChain](w, w.send(ag, "GET", "/v1/agents/"+ag.name+"/chain", nil), 200)
	if len(lineage.Delegation.Hops) != 2 || lineage.Delegation.Grant.Subject != "physician-1" {
		t.Fatalf("chain %+v", lineage)
	}
	if l := decodeAs[v1.AgentChain](w, w.send(sub, "GET", "/v1/agents/"+sub.name+"/chain", nil), 200); l.Delegation.Hops[2].Delegation == "" {
		t.Error("the sub-agent's chain lacks its parent's signature")
	}
	w.refused(w.send(sub, "GET", "/v1/agents/"+ag.name+"/chain", nil), 404, "agent_not_found")

	report := decodeAs[v1.VerifyReport](w, w.do(service, "POST", "/v1/verify",
		v1.VerifyRequest{CertificateChain: sub.chainPEM(), RequiredScope: []string{"database:read:patients"}}), 200)
	if !report.Valid || report.Checks["scope"].Status != "pass" || len(report.Checks) != 12 {
		t.Fatalf("report %+v", report)
	}

	w.decisions(sub)

	gone := decodeAs[v1.Revocation](w, w.do(orchestrator, "POST", "/v1/revocations",
		v1.RevocationRequest{Kind: "agent", ID: sub.name, Reason: "done"}), 201)
	if gone.Kind != "agent" || gone.AuditReceipt == nil {
		t.Fatalf("revocation %+v", gone)
	}
	if d := w.evaluate(sub.chainPEM(), "patients", nil); d.Decision || !slices.Contains(d.Context.Reasons, "agent_revoked") {
		t.Fatalf("after the revocation: %+v", d)
	}
	w.refused(w.send(sub, "GET", "/v1/agents/"+sub.name+"/chain", nil), 403, "agent_revoked")
	done := decodeAs[v1.Task](w, w.send(orch, "POST", "/v1/tasks/"+task.TaskID+"/complete", nil), 200)
	if done.Status != "completed" {
		t.Fatalf("task %+v", done)
	}
	feed := decodeAs[v1.RevocationPage](w, w.do(service, "GET", "/v1/revocations?limit=1&cursor=", nil), 200)
	next := decodeAs[v1.RevocationPage](w, w.do(service, "GET", "/v1/revocations?cursor="+feed.NextCursor, nil), 200)
	if len(feed.Revocations) != 1 || len(next.Revocations) != 1 || next.Revocations[0].Kind != "task" {
		t.Fatalf("feed %+v then %+v", feed, next)
	}
}

// subAgent has an agent spawn a narrower one.
func (w *world) subAgent(parent *person, task v1.Task, scope string) *person {
	w.t.Helper()
	lineage := decodeAs[v1.AgentChain](w, w.send(parent, "GET", "/v1/agents/"+parent.name+"/chain", nil), 200)
	parentHash, err := hex.DecodeString(lineage.GrantHash)
	must(w.t, err)
	key, id := newKey(w.t), newID(w.t)
	jkt, err := chain.Thumbprint(key.Public())
	must(w.t, err)
	spiffe, err := chain.AgentID(testDomain, "reader", id)
	must(w.t, err)
	tokens, err := chain.ParseScope([]string{scope})
	must(w.t, err)
	leaf, err := x509.ParseCertificate(parent.cert.Certificate[0])
	must(w.t, err)
	jws, err := chain.SignDelegation(parent.key, chain.Claims{
		Issuer: leaf.URIs[0].String(), Subject: spiffe.String(), Audience: testDomain + "/log", JTI: id, TaskID: task.TaskID, Scope: tokens,
		Expiry: time.Now().Add(time.Hour).Truncate(time.Second), IssuedAt: time.Now().Truncate(time.Second), ParentHash: [32]byte(parentHash), KeyHash: jkt,
	})
	must(w.t, err)
	q := w.spawn(task, key)
	q.SpawnID, q.AgentType, q.Scope, q.MaxDepth, q.TTL, q.Confirmation = id, "reader", []string{scope}, 0, 60, jws
	out := decodeAs[v1.Spawned](w, w.send(parent, "POST", "/v1/agents/"+parent.name+"/delegations", q), 201)
	p := w.person(key, ders(w.t, out.CertificateChain))
	p.name = out.AgentID
	return p
}

func (w *world) evaluate(pemChain []string, resource string, user *v1.User) v1.EvaluationResponse {
	w.t.Helper()
	q := v1.EvaluationRequest{
		Subject: v1.Subject{Type: "agent", ID: subjectOf(w.t, pemChain)}, Action: v1.Action{Name: "read"},
		Resource: v1.Resource{Type: "database", ID: resource},
		Context:  v1.EvaluationContext{CertificateChain: pemChain, ExpectedUser: user},
	}
	return decodeAs[v1.EvaluationResponse](w, w.do(service, "POST", "/access/v1/evaluation", q), 200)
}

func subjectOf(t *testing.T, chainPEM []string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(chainPEM[0]))
	leaf, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return leaf.URIs[0].String()
}

// decisions asks for what is allowed, and for what fails for one reason each.
func (w *world) decisions(sub *person) {
	t := w.t
	t.Helper()
	d := w.evaluate(sub.chainPEM(), "patients", &v1.User{Issuer: issuerURL, Subject: "physician-1"})
	if !d.Decision || d.Context.AuditID == nil || len(d.Context.Reasons) != 0 || d.Context.DecisionID == "" || d.Context.Checks["principal"].Status != "pass" {
		t.Fatalf("decision %+v", d)
	}
	if env := w.log.at(t, *d.Context.AuditID); env.Type != record.TypeDecision || env.Service != "records" {
		t.Errorf("entry %+v", env)
	}
	for reason, d := range map[string]v1.EvaluationResponse{
		"scope_not_covered":  w.evaluate(sub.chainPEM(), "billing", nil),
		"principal_mismatch": w.evaluate(sub.chainPEM(), "patients", &v1.User{Issuer: issuerURL, Subject: "physician-2"}),
	} {
		if d.Decision || !slices.Equal(d.Context.Reasons, []string{reason}) || d.Context.AuditID == nil {
			t.Errorf("want %s alone: %+v", reason, d)
		}
	}
	// An agent about itself, with its own connection as the chain.
	own := v1.EvaluationRequest{
		Subject: v1.Subject{Type: "agent", ID: subjectOf(t, sub.chainPEM())}, Action: v1.Action{Name: "read"}, Resource: v1.Resource{Type: "database", ID: "patients"},
	}
	if d := decodeAs[v1.EvaluationResponse](w, w.send(sub, "POST", "/access/v1/evaluation", own), 200); !d.Decision {
		t.Errorf("about itself: %+v", d)
	}
	own.Subject.Type = "user"
	if d := decodeAs[v1.EvaluationResponse](w, w.send(sub, "POST", "/access/v1/evaluation", own), 200); d.Decision || !slices.Contains(d.Context.Reasons, "subject_mismatch") {
		t.Errorf("another subject type: %+v", d)
	}
}

func TestRegistrationAnswers(t *testing.T) {
	w := newWorld(t)
	root := pemFile(w.trust.Roots)
	reg := decodeAs[v1.OrchestratorRegistered](w, w.do(operator, "POST", "/v1/orchestrators",
		v1.OrchestratorRegistration{Name: "lab", AgentTypes: []string{"research"}, MaxTTL: 60, X509PopRoots: string(root)}), 201)
	if reg.JoinToken == "" || reg.SPIFFEID != "spiffe://"+testDomain+"/orchestrator/lab" {
		t.Fatalf("%+v", reg)
	}
	path, key := "/v1/orchestrators/lab/certificate", newKey(t)
	// The operator's certificate is of the named CA, but says another name.
	w.refused(w.do(operator, "POST", path, v1.Attestation{Method: v1.MethodX509Pop, CSR: csr(t, key)}), 401, "x509pop_wrong_name")
	w.refused(w.do(anyone, "POST", path, v1.Attestation{Method: v1.MethodX509Pop, CSR: csr(t, key)}), 401, "client_certificate_required")
	q := v1.Attestation{Method: v1.MethodJoinToken, Token: reg.JoinToken, CSR: csr(t, key)}
	decodeAs[v1.Certificate](w, w.do(anyone, "POST", path, q), 201)
	w.refused(w.do(anyone, "POST", path, q), 401, "join_token_used")
	q.Token = "wrong"
	w.refused(w.do(anyone, "POST", path, q), 401, "join_token_unknown")
	q.Method = "password"
	w.refused(w.do(anyone, "POST", path, q), 400, "bad_attestation_method")
}

// An orchestrator that has a certificate of another CA attests with it, in the same handshake that any other caller uses.
func TestX509PopOverTheConnection(t *testing.T) {
	w := newWorld(t)
	key, der := selfSigned(t, func(c *x509.Certificate) {
		c.Subject.CommonName = "lab"
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, c.KeyUsage|x509.KeyUsageCertSign
	})
	reg := v1.OrchestratorRegistration{Name: "lab", X509PopRoots: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}
	decodeAs[v1.OrchestratorRegistered](w, w.do(operator, "POST", "/v1/orchestrators", reg), 201)
	p := w.person(key, [][]byte{der})
	cert := decodeAs[v1.Certificate](w, w.send(p, "POST", "/v1/orchestrators/lab/certificate", v1.Attestation{Method: v1.MethodX509Pop, CSR: csr(t, key)}), 201)
	if cert.SPIFFEID != "spiffe://"+testDomain+"/orchestrator/lab" {
		t.Fatalf("%+v", cert)
	}
}

func TestIdempotency(t *testing.T) {
	w := newWorld(t)
	q := v1.GrantRequest{Task: "look", Scope: []string{"database:read:*"}, NotAfter: time.Now().Add(time.Hour), MaxDepth: 1, AgentTypes: []string{"research"}}
	first := decodeAs[v1.Grant](w, w.do(orchestrator, "POST", "/v1/grants", q, "Idempotency-Key", "k 1"), 201)
	again := decodeAs[v1.Grant](w, w.do(orchestrator, "POST", "/v1/grants", q, "Idempotency-Key", "k 1"), 201)
	if first.GrantID != again.GrantID || first.ConsentURL != publicURL+"/consent/"+first.GrantID {
		t.Fatalf("%+v then %+v", first, again)
	}
	q.MaxDepth = 2
	p := w.refused(w.do(orchestrator, "POST", "/v1/grants", q, "Idempotency-Key", "k 1"), 422, "idempotency_key_reused")
	if p.AuditID == nil {
		t.Error("no entry")
	}
	w.approve(first.GrantID)
	// The same key and body for another endpoint are another request.
	w.refused(w.do(orchestrator, "POST", "/v1/tasks", v1.TaskRequest{GrantID: first.GrantID}, "Idempotency-Key", "k 1"), 422, "idempotency_key_reused")
	for _, bad := range []string{"", strings.Repeat("k", 256), "schlüssel"} {
		w.refused(w.do(orchestrator, "POST", "/v1/grants", q, "Idempotency-Key", bad), 400, "bad_idempotency_key")
	}
	spawn := w.spawn(w.task(), newKey(t))
	one := decodeAs[v1.Spawned](w, w.do(orchestrator, "POST", "/v1/agents", spawn), 201)
	two := decodeAs[v1.Spawned](w, w.do(orchestrator, "POST", "/v1/agents", spawn), 201)
	if one.AgentID != two.AgentID {
		t.Errorf("%+v then %+v", one, two)
	}
}

func TestAuditReading(t *testing.T) {
	w := newWorld(t)
	w.as(agent)
	entry := decodeAs[v1.Entry](w, w.do(auditor, "GET", "/v1/audit/entries/0", nil), 200)
	if !json.Valid(entry.Entry) || record.LeafHash(entry.Entry) != record.LeafHash(w.log.entries[0].Envelope) {
		t.Errorf("entry 0 is not the bytes in the log: %s", entry.Entry)
	}
	orchID := "lab"
	page := decodeAs[v1.EntryPage](w, w.do(auditor, "GET", "/v1/audit/entries?limit=2&orchestrator="+orchID, nil), 200)
	if len(page.Entries) != 2 || page.NextCursor == "" || page.Entries[0].Payload != nil {
		t.Fatalf("page %+v", page)
	}
	seen := page.Entries
	for page.NextCursor != "" {
		page = decodeAs[v1.EntryPage](w, w.do(auditor, "GET", "/v1/audit/entries?limit=2&orchestrator="+orchID+"&cursor="+page.NextCursor, nil), 200)
		seen = append(seen, page.Entries...)
	}
	if len(seen) < 4 || !slices.IsSortedFunc(seen, func(a, b v1.Entry) int { return int(a.Index) - int(b.Index) }) {
		t.Errorf("%d entries over pages", len(seen))
	}
	all := decodeAs[v1.EntryPage](w, w.do(auditor, "GET", "/v1/audit/entries", nil), 200)
	if len(all.Entries) < len(seen) || all.NextCursor != "" {
		t.Errorf("%d entries of all", len(all.Entries))
	}
	w.refused(w.do(auditor, "GET", "/v1/audit/entries?agent=a&task=b", nil), 400, "bad_parameter")
	w.refused(w.do(auditor, "GET", "/v1/audit/entries?agent=", nil), 400, "bad_parameter")
	w.refused(w.do(auditor, "GET", "/v1/audit/entries?limit=0", nil), 400, "bad_parameter")
	w.refused(w.do(auditor, "GET", "/v1/audit/entries/007", nil), 404, "entry_not_found")
	w.refused(w.do(auditor, "GET", "/v1/audit/entries/99999", nil), 404, "entry_not_found")
	decodeAs[v1.Seal](w, w.do(operator, "GET", "/v1/audit/seals/1", nil), 200)
	w.refused(w.do(operator, "GET", "/v1/audit/seals/2", nil), 404, "not_found")
	task, digest := "01890a5d-ac96-774b-bcce-b302099a8001", strings.Repeat("5e", 32)
	for body, want := range map[string]string{
		`{"task":"` + task + `"}`:                                   "a tar of " + task + "  <nil> ",
		`{"agent":"` + task + `"}`:                                  "a tar of  " + task + " <nil> ",
		`{"pseudonym":"` + digest + `"}`:                            "a tar of   <nil> " + digest,
		`{"user":{"issuer":"https://idp.example","subject":"u-1"}}`: "a tar of   &{https://idp.example u-1} ",
	} {
		if a := w.do(auditor, "POST", "/v1/audit/export", body); string(a.body) != want || a.header.Get("Content-Type") != "application/x-tar" {
			t.Errorf("%s: %s", body, a.body)
		}
	}
	for body, code := range map[string]string{
		`{}`:                         codeBadRequest,
		`{"task":""}`:                codeBadRequest,
		`{"task":"x"}`:               codeBadRequest,
		`{"agent":"` + digest + `"}`: codeBadRequest,
		`{"pseudonym":"5e"}`:         codeBadRequest,
		`{"user":{"issuer":"https://idp.example"}}`:                                              codeBadRequest,
		`{"task":"` + task + `","agent":"` + task + `"}`:                                         codeBadRequest,
		`{"task":"` + task + `","user":{"issuer":"https://idp.example","subject":"u-1"}}`:        codeBadRequest,
		`{"pseudonym":"` + digest + `","user":{"issuer":"https://idp.example","subject":"u-1"}}`: codeBadRequest,
		`{"grant":"` + task + `"}`:                                                               codeUnknownField,
	} {
		w.refused(w.do(auditor, "POST", "/v1/audit/export", body), 400, code)
	}
	w.refused(w.do(auditor, "GET", "/v1/audit/export?task="+task, nil), 400, "unknown_parameter")
	if a := w.do(auditor, "GET", "/v1/audit/export", nil); string(a.body) != "a tar" || a.header.Get("Content-Type") != "application/x-tar" {
		t.Errorf("export %d %s", a.status, a.body)
	}
}

// Receipts are for those whom the entry names: nobody learns of another's entries by counting.
func TestReceiptsAreForParties(t *testing.T) {
	w := newWorld(t)
	ag := w.as(agent)
	issued := decodeAs[v1.EntryPage](w, w.do(auditor, "GET", "/v1/audit/entries?agent="+ag.name, nil), 200).Entries[0]
	path := "/v1/audit/entries/" + jsonNumber(issued.Index) + "/receipt"
	for _, r := range []role{agent, orchestrator, operator, auditor} {
		got := decodeAs[map[string]any](w, w.do(r, "GET", path+"?wait=sealed", nil), 200)
		if got["index"] != float64(issued.Index) || got["proof"] != "a\n<b>" {
			t.Errorf("%s: %v", r, got)
		}
		// The payload names people: it is the auditor's alone.
		if shown := got["payload"] != nil && got["salt"] != nil; shown != (r == auditor) {
			t.Errorf("%s: payload shown %v", r, shown)
		}
	}
	p := w.refused(w.do(agent, "GET", path, nil), 409, "not_sealed")
	if p.AuditID != nil {
		t.Error("a question that comes too early is no refusal")
	}
	w.refused(w.do(service, "GET", path, nil), 404, "entry_not_found")
	w.people[orchestrator] = w.orchestrator("other")
	w.refused(w.do(orchestrator, "GET", path, nil), 404, "entry_not_found")
	w.refused(w.do(agent, "GET", path+"?wiat=sealed", nil), 400, "unknown_parameter")
	w.refused(w.do(agent, "GET", path+"?wait=durable", nil), 400, "bad_parameter")
}

func jsonNumber(n uint64) string {
	b, _ := json.Marshal(n)
	return string(b)
}

func TestTheTrustBundle(t *testing.T) {
	w := newWorld(t)
	b := decodeAs[v1.Bundle](w, w.do(anyone, "GET", "/v1/trust-bundle", nil), 200)
	der, err := base64.StdEncoding.DecodeString(b.Keys[0].X5C[0])
	must(t, err)
	if len(b.Keys) != 1 || b.Keys[0].Use != "x509-svid" || b.Keys[0].Crv != "P-256" || string(der) != string(w.trust.Roots[0].Raw) {
		t.Errorf("%+v", b)
	}
	x, err := base64.RawURLEncoding.DecodeString(b.Keys[0].X)
	if err != nil || len(x) != 32 {
		t.Errorf("x is %d bytes: %v", len(x), err)
	}
	keys := decodeAs[v1.KeySet](w, w.do(anyone, "GET", "/v1/jwks", nil), 200)
	if len(keys.Keys) != 1 || keys.Keys[0].Use != "sig" || keys.Keys[0].Alg != "ES256" || len(keys.Keys[0].X5C) != 1 ||
		keys.Keys[0].X5C[0] != base64.StdEncoding.EncodeToString(w.trust.JWT[0].Raw) {
		t.Errorf("jwks: %+v", keys)
	}
	// Another implementation of RFC 7517 and RFC 7638 reads the same key, and finds its certificate and its id.
	var other jose.JSONWebKeySet
	must(t, json.Unmarshal(w.do(anyone, "GET", "/v1/jwks", nil).body, &other))
	if found := other.Key(keys.Keys[0].Kid); len(found) != 1 || !found[0].Valid() || !found[0].Certificates[0].Equal(w.trust.JWT[0]) {
		t.Errorf("read by go-jose: %+v", found)
	} else if sum, err := found[0].Thumbprint(crypto.SHA256); err != nil || base64.RawURLEncoding.EncodeToString(sum) != keys.Keys[0].Kid {
		t.Errorf("kid %s is not the thumbprint", keys.Keys[0].Kid)
	}
	if a := w.do(anyone, "GET", "/v1/trust-bundle?format=pem", nil); string(a.body) != string(pemFile(w.trust.Roots)) {
		t.Errorf("pem: %s", a.body)
	}
	if a := w.do(anyone, "GET", "/v1/trust-bundle?format=issuing-pem", nil); string(a.body) != string(pemFile(w.trust.Issuing)) {
		t.Errorf("issuing: %s", a.body)
	}
	w.refused(w.do(anyone, "GET", "/v1/trust-bundle?format=der", nil), 400, "bad_parameter")
	if a := w.do(anyone, "GET", "/crl/service-1.crl", nil); a.status != 200 || a.header.Get("Content-Type") != "application/pkix-crl" {
		t.Errorf("crl %d", a.status)
	}
	w.refused(w.do(anyone, "GET", "/crl/service-1", nil), 404, "not_found")
	w.refused(w.do(anyone, "GET", "/crl/zzz.crl", nil), 404, "not_found")
}
