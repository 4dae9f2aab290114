package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation/chain"
)

// answer is what a well-disposed appliance says.
func (f *fake) answer(r *http.Request, body []byte) (int, any) {
	index := uint64(42)
	receipt := &v1.AuditReceipt{Index: 42, LeafHash: "00ff", ReceiptURL: "https://a.test.example/v1/audit/entries/42/receipt"}
	g := v1.Grant{
		GrantID: grant, TaskID: task, Status: "active", Task: "Compare outcomes", Scope: []string{"database:read:*"}, NotAfter: day,
		MaxDepth: 2, AgentTypes: []string{"research"}, Orchestrator: domain + "/orchestrator/trials", GrantHash: strings.Repeat("ab", 32),
	}
	opened := v1.Task{
		TaskID: task, GrantID: grant, Status: "open", Scope: g.Scope, NotAfter: day, MaxDepth: 2, Orchestrator: g.Orchestrator, AuditReceipt: receipt,
	}
	switch route := r.Method + " " + r.URL.Path; route {
	case "POST /v1/orchestrators":
		return 201, v1.OrchestratorRegistered{SPIFFEID: g.Orchestrator, JoinToken: "secret-token", JoinTokenExpires: day, AuditReceipt: receipt}
	case "POST /v1/orchestrators/trials/certificate", "POST /v1/orchestrators/pods/certificate", "POST /v1/services/records/certificate",
		"POST /v1/services", "POST /v1/operators":
		return f.issue(body, receipt)
	case "POST /v1/grants":
		g.Status, g.GrantHash, g.ConsentURL, g.AuditReceipt = "pending", "", "https://a.test.example/consent/"+grant, receipt
		return 201, g
	case "GET /v1/grants/" + grant:
		return 200, g
	case "POST /v1/tasks", "GET /v1/tasks/" + task:
		return 200, opened
	case "POST /v1/tasks/" + task + "/complete":
		opened.Status = "completed"
		return 200, opened
	case "POST /v1/agents", "POST /v1/agents/" + parent + "/delegations":
		return f.spawn(body, receipt)
	case "POST /v1/agents/" + parent + "/certificate":
		return f.certificate(body, receipt)
	case "POST /v1/agents:batch":
		return 200, v1.SpawnBatchResults{Results: []v1.SpawnResult{
			{Status: 201, Agent: &v1.Spawned{AgentID: parent, SPIFFEID: domain + "/agent/research/" + parent, CertificateChain: []string{"A CHAIN\n"}, NotAfter: day}},
			{Status: 403, Problem: &v1.Problem{Status: 403, Code: "scope_exceeds_parent", Field: "scope"}},
		}}
	case "GET /v1/agents/" + parent + "/chain":
		return 200, v1.AgentChain{AgentID: parent, GrantHash: g.GrantHash, Delegation: v1.Delegation{
			TaskID: task, Grant: v1.DelegationGrant{
				GrantID: grant, Issuer: "https://idp.test.example", Subject: "u-1", ConsentType: "oidc_nonce", Scope: g.Scope, NotAfter: day, MaxDepth: 2,
			},
			Hops: []v1.Hop{
				{ID: g.Orchestrator, Scope: g.Scope, NotAfter: day, MaxDepth: 2},
				{ID: domain + "/agent/research/" + parent, Scope: []string{"database:read:a"}, NotAfter: day, MaxDepth: 1, ConfirmationHash: "00"},
			},
		}}
	case "POST /v1/verify":
		return 200, v1.VerifyReport{Valid: true, Agent: domain + "/agent/research/" + parent, Checks: map[string]v1.Check{
			"path": {Status: "pass", Required: true}, "confirmation": {Status: "not_evaluated", Code: "no_confirmation"},
		}}
	case "POST /access/v1/evaluation":
		return 200, v1.EvaluationResponse{Decision: true, Context: v1.DecisionContext{DecisionID: "d-1", AuditID: &index}}
	case "POST /v1/revocations":
		var q v1.RevocationRequest
		if err := json.Unmarshal(body, &q); err != nil {
			return problem(400, "bad_json")
		}
		return 201, v1.Revocation{Seq: 3, Kind: q.Kind, ID: q.ID, User: q.User, Reason: q.Reason, Time: day, AuditReceipt: receipt}
	case "GET /v1/revocations":
		return 200, v1.RevocationPage{Revocations: []v1.Revocation{
			{Seq: 1, Kind: "task", ID: task, Time: day, Reason: "over"},
			{Seq: 2, Kind: "user", User: &v1.User{Issuer: "https://idp.test.example", Subject: "u-1"}, Time: day},
		}, NextCursor: "3"}
	case "GET /v1/audit/entries":
		return 200, v1.EntryPage{Entries: []v1.Entry{entry(4), entry(5)}, NextCursor: "6"}
	case "GET /v1/audit/entries/4":
		e := entry(4)
		e.Payload = []byte("{\"user\":\"u-1\x1b[2J\"}")
		return 200, e
	case "GET /v1/audit/entries/4/receipt":
		return 200, "a receipt"
	case "GET /v1/audit/receipts":
		return 200, v1.ReceiptPage{Receipts: []v1.FoundReceipt{{Index: 3, Receipt: json.RawMessage(`{"index":3}`)}, {Index: 4}}}
	case "GET /v1/audit/entries/3/proof":
		return 200, "a proof"
	case "GET /v1/audit/export":
		return 200, "a bundle"
	case "POST /v1/audit/export":
		return 200, "a selection by " + string(body)
	case "GET /checkpoint":
		return 200, origin + "\n7\nAAAA\n\n— " + origin + " BBBB\n"
	case "GET /readyz":
		return 200, v1.Ready{Status: "ready"}
	}
	return problem(404, "not_found")
}

func entry(index uint64) v1.Entry {
	text := []byte(`{"v":1,"type":"issue","time":"2030-01-02T03:04:05.006Z","task":"` + task + `","agent":"` + parent + `","orchestrator":"trials"}`)
	return v1.Entry{Index: index, Entry: text, Envelope: text}
}

// issue certifies the key of a CSR.
func (f *fake) issue(body []byte, receipt *v1.AuditReceipt) (int, any) {
	var q struct {
		CSR string `json:"csr"`
	}
	const id = domain + "/service/new"
	text, ok := f.sign(body, &q, func() string { return q.CSR }, id)
	if !ok {
		return problem(400, "bad_csr")
	}
	return 201, v1.Certificate{SPIFFEID: id, CertificateChain: []string{text}, NotAfter: day, AuditReceipt: receipt}
}

func (f *fake) spawn(body []byte, receipt *v1.AuditReceipt) (int, any) {
	var q v1.SpawnRequest
	id := func() string { return domain + "/agent/" + q.AgentType + "/" + q.SpawnID }
	if err := json.Unmarshal(body, &q); err != nil {
		return problem(400, "bad_json")
	}
	if q.CSR == "" {
		expires := day
		return 201, v1.Spawned{AgentID: q.SpawnID, SPIFFEID: id(), EnrollmentExpires: &expires, NotAfter: day.Add(time.Hour), AuditReceipt: receipt}
	}
	text, ok := f.sign(body, &q, func() string { return q.CSR }, id())
	if !ok {
		return problem(400, "bad_csr")
	}
	return 201, v1.Spawned{AgentID: q.SpawnID, SPIFFEID: id(), CertificateChain: []string{text}, NotAfter: day.Add(time.Hour), AuditReceipt: receipt}
}

// certificate answers an agent that redeems a token or replaces its key.
func (f *fake) certificate(body []byte, receipt *v1.AuditReceipt) (int, any) {
	var q v1.AgentCertificateRequest
	const id = domain + "/agent/research/" + parent
	text, ok := f.sign(body, &q, func() string { return q.CSR }, id)
	if !ok {
		return problem(400, "bad_csr")
	}
	return 201, v1.Spawned{AgentID: parent, SPIFFEID: id, CertificateChain: []string{text}, NotAfter: day, AuditReceipt: receipt}
}

func (f *fake) sign(body []byte, q any, csr func() string, id string) (string, bool) {
	if err := json.Unmarshal(body, q); err != nil {
		return "", false
	}
	req, err := chain.ParseCSR([]byte(csr()))
	if err != nil {
		return "", false
	}
	cert, err := f.certify(id, req.Public)
	if err != nil {
		return "", false
	}
	return string(certPEM(cert)), true
}
