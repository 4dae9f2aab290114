package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/client"
)

// TestBatch: each spawn has its own result, and one that fails harms no other.
func TestBatch(t *testing.T) {
	w := newWorld(t)
	task := w.task()
	good, wide, broken := w.spawn(task, newKey(t)), w.spawn(task, newKey(t)), w.spawn(task, newKey(t))
	wide.Scope = []string{"database:write:patients"}
	broken.Scope = []string{""}
	token := w.spawn(task, newKey(t))
	token.CSR = ""
	reused := w.spawn(task, newKey(t))
	reused.SpawnID = good.SpawnID
	issued := w.log.count(record.TypeIssue, "")
	q := v1.SpawnBatch{Spawns: []v1.SpawnRequest{good, wide, broken, token, good}}
	out := decodeAs[v1.SpawnBatchResults](w, w.do(orchestrator, "POST", "/v1/agents:batch", q), 200)
	for i, want := range []struct {
		status int
		code   string
	}{{201, ""}, {403, "scope_exceeds_parent"}, {400, "bad_scope"}, {201, ""}, {201, ""}} {
		r := out.Results[i]
		if r.Status != want.status || (r.Agent == nil) != (want.code != "") || (r.Problem == nil) != (want.code == "") {
			t.Fatalf("spawn %d: %+v", i, r)
		}
		if r.Problem != nil && (r.Problem.Code != want.code || r.Problem.AuditID == nil || r.Problem.Status != want.status) {
			t.Errorf("spawn %d: %+v", i, r.Problem)
		}
	}
	if a, b := out.Results[0].Agent, out.Results[4].Agent; a.AgentID != b.AgentID || w.log.count(record.TypeIssue, "") != issued+1 {
		t.Error("the same spawn twice is two agents")
	}
	if out.Results[3].Agent.EnrollmentToken == "" || out.Results[3].Agent.EnrollmentExpires == nil {
		t.Errorf("%+v", out.Results[3].Agent)
	}
	q.Spawns = []v1.SpawnRequest{reused}
	out = decodeAs[v1.SpawnBatchResults](w, w.do(orchestrator, "POST", "/v1/agents:batch", q), 200)
	if p := out.Results[0].Problem; p == nil || p.Code != "spawn_id_used" {
		t.Errorf("another request under a used id: %+v", out.Results[0])
	}
	w.refused(w.do(orchestrator, "POST", "/v1/agents:batch", v1.SpawnBatch{}), 400, "wrong_type")
	w.refused(w.do(orchestrator, "POST", "/v1/agents:batch", `{"spawns":[]}`), 400, "bad_request")
	w.refused(w.do(orchestrator, "POST", "/v1/agents:batch", v1.SpawnBatch{Spawns: make([]v1.SpawnRequest, v1.MaxSpawnBatch+1)}), 400, "wrong_type")
}

// TestBatchSurvives: a fault of ours in one spawn is that spawn's alone.
func TestBatchSurvives(t *testing.T) {
	w := newWorld(t)
	task := w.task()
	c := &call{ctx: t.Context(), route: &route{id: "spawnAgents"}}
	r := w.server.spawnFailed(c, w.server.fault(c, "a panic"))
	if r.Status != 500 || r.Problem == nil || r.Problem.Code != codeInternal || r.Problem.Detail != "" {
		t.Errorf("%+v", r)
	}
	decodeAs[v1.SpawnBatchResults](w, w.do(orchestrator, "POST", "/v1/agents:batch", v1.SpawnBatch{Spawns: []v1.SpawnRequest{w.spawn(task, newKey(t))}}), 200)
}

// TestCertifyAgent redeems a token without a certificate, and replaces the key of the agent that connects.
func TestCertifyAgent(t *testing.T) {
	w := newWorld(t)
	q := w.spawn(w.task(), newKey(t))
	q.CSR = ""
	spawned := decodeAs[v1.Spawned](w, w.do(orchestrator, "POST", "/v1/agents", q), 201)
	path := "/v1/agents/" + spawned.AgentID + "/certificate"
	key := newKey(t)
	redeem := v1.AgentCertificateRequest{CSR: csr(t, key), EnrollmentToken: spawned.EnrollmentToken}
	out := decodeAs[v1.Spawned](w, w.do(anyone, "POST", path, redeem), 201)
	decodeAs[v1.Spawned](w, w.do(anyone, "POST", path, redeem), 201)
	agent := w.person(key, ders(t, out.CertificateChain))
	cert, err := client.Certificate(out.CertificateChain, key)
	must(t, err)
	next := newKey(t)
	link, err := client.SignRekey(cert, testDomain+"/log", next.Public())
	must(t, err)
	rekey := v1.AgentCertificateRequest{CSR: csr(t, next), Link: link}
	w.refused(w.do(anyone, "POST", path, rekey), 401, "client_certificate_required")
	w.refused(w.do(orchestrator, "POST", path, rekey), 403, "agent_required")
	renewed := decodeAs[v1.Spawned](w, w.send(agent, "POST", path, rekey), 201)
	shown := decodeAs[v1.AgentChain](w, w.send(w.person(next, ders(t, renewed.CertificateChain)), "GET", "/v1/agents/"+spawned.AgentID+"/chain", nil), 200)
	if links := shown.Delegation.Hops[1].Links; len(links) != 1 || links[0].Link != link {
		t.Errorf("%+v", links)
	}
	redeem.CSR = csr(t, newKey(t))
	w.refused(w.do(anyone, "POST", path, redeem), 401, "enrollment_token_reused")
	if n := w.log.count(record.TypeAlarm, record.EventTokenReused); n != 1 {
		t.Errorf("%d alarms", n)
	}
}

// TestTypeLimits: a registration narrows single types, and can be replaced.
func TestTypeLimits(t *testing.T) {
	w := newWorld(t)
	none := 0
	q := v1.OrchestratorRegistration{
		Name: "narrow", AgentTypes: []string{"coding"}, TypeLimits: map[string]v1.TypeLimit{"coding": {MaxTTL: 60, MaxDepth: &none}}, RequireConfirmation: true,
	}
	decodeAs[v1.OrchestratorRegistered](w, w.do(operator, "POST", "/v1/orchestrators", q), 201)
	w.refused(w.do(operator, "POST", "/v1/orchestrators", q), 409, "already_registered")
	q.Replace = true
	decodeAs[v1.OrchestratorRegistered](w, w.do(operator, "POST", "/v1/orchestrators", q), 201)
	q.TypeLimits = map[string]v1.TypeLimit{"other": {}}
	w.refused(w.do(operator, "POST", "/v1/orchestrators", q), 400, "bad_type_limits")
	q.TypeLimits = map[string]v1.TypeLimit{"coding": {MaxTTL: -1}}
	w.refused(w.do(operator, "POST", "/v1/orchestrators", q), 400, "bad_ttl")
}

// FuzzDecodeBatch: what is taken is what encoding/json reads, spawn by spawn.
func FuzzDecodeBatch(f *testing.F) {
	for _, s := range []string{
		`{"spawns":[{"task_id":"a","scope":["x:y"],"ttl":5,"csr":"-"},{"enrollment_hash":"h"}]}`, `{"spawns":[]}`, `{"spawns":[null]}`, `{"spawns":{}}`,
		`{"spawns":[[{}]]}`, `{"spawns":[{"ttl":1,"ttl":2}]}`, `{"spawns":[{},{},{"admin":1}]}`,
	} {
		f.Add([]byte(s))
	}
	batch, err := shapeOf(typeOf[v1.SpawnBatch]())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var q, again v1.SpawnBatch
		if f := decode(data, batch, false, &q); f != nil {
			if f.code == "" || !printable(f.code+f.field+"x", 4096) {
				t.Fatalf("a fault without a printable place: %+v", f)
			}
			return
		}
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&again); err != nil || !reflect.DeepEqual(q, again) {
			t.Fatalf("two readings of %q: %v", data, err)
		}
	})
}
