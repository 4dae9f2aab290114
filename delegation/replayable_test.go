package delegation_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/policy"
)

// newest gives the last entry with its payload, as T and P.
func newest[T, P any](t *testing.T, l *memoryLog) (record.Envelope, T, P) {
	t.Helper()
	env := l.last(t)
	body, err := record.DecodeBody[T](env)
	if err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var payload P
	if err := json.Unmarshal(l.entries[len(l.entries)-1].Payload, &payload); err != nil {
		t.Fatal(err)
	}
	return env, body, payload
}

// asked checks that the entry has what policy was asked last, and its digest.
func (r *rig) asked(input json.RawMessage, hash string) {
	r.t.Helper()
	in, err := policy.Parse(input)
	if err != nil {
		r.t.Fatalf("%v: %s", err, input)
	}
	want, err := json.Marshal(r.rules.seen)
	if err != nil {
		r.t.Fatal(err)
	}
	if got, err := json.Marshal(in); err != nil || string(got) != string(want) {
		r.t.Errorf("%v: recorded %s, asked %s", err, got, want)
	}
	if hash != digest(input) {
		r.t.Errorf("the digest %s is not the input's", hash)
	}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (r *rig) mayRead(by delegation.Caller, q delegation.DecisionRequest) delegation.Decision {
	r.t.Helper()
	q.ResourceType, q.ResourceID, q.Action = "database", "patients", "read"
	d, err := r.s.Decide(r.t.Context(), by, q)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// Every answer of policy is in the log with what it was asked: decisions, certificates, tokens and refusals of these.
func TestWhatPolicyWasAskedIsRecorded(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	agent := r.spawn(orch, task)
	_, issue, issued := newest[record.IssueBody, record.IssuePayload](t, r.log)
	r.asked(issued.Input, issue.InputHash)
	r.token(orch, task)
	_, enrol, waiting := newest[record.EnrollmentBody, record.EnrollmentPayload](t, r.log)
	r.asked(waiting.Input, enrol.InputHash)

	records := r.service("records")
	r.mayRead(records, delegation.DecisionRequest{
		Chain: agent.certs, SubjectID: r.auth(agent).ID.String(), Orchestrator: r.auth(orch).ID.String(),
		Principal: &chain.User{Issuer: "https://idp.example", Subject: "physician-1"},
	})
	env, body, payload := newest[record.DecisionBody, record.DecisionPayload](t, r.log)
	r.asked(payload.Input, body.InputHash)
	if !body.Allow || !body.PolicyAllow || env.Policy != "00" || len(payload.Chain) != len(agent.certs) || payload.Subject != r.auth(agent).ID.String() ||
		payload.ExpectedOrchestrator != r.auth(orch).ID.String() || *payload.ExpectedUser != (record.UserPayload{Issuer: "https://idp.example", Subject: "physician-1"}) {
		t.Errorf("%+v %+v", body, payload)
	}

	r.rules.deny = []string{"no", "never"}
	r.mayRead(records, delegation.DecisionRequest{Chain: agent.certs})
	_, body, payload = newest[record.DecisionBody, record.DecisionPayload](t, r.log)
	r.asked(payload.Input, body.InputHash)
	if body.Allow || body.PolicyAllow || !slices.Equal(body.Reasons, r.rules.deny) {
		t.Errorf("%+v", body)
	}
	if _, err := r.s.Spawn(t.Context(), r.auth(orch), r.request(task, newKey(t))); code(t, err) != "policy_denied" {
		t.Fatal(err)
	}
	env, deny, denied := newest[record.DenyBody, record.DenyPayload](t, r.log)
	r.asked(denied.Input, deny.InputHash)
	if !slices.Equal(deny.Reasons, r.rules.deny) || env.Policy != "00" || env.User == "" || env.Task != task.ID || env.Grant != task.GrantID || env.Orchestrator != "lab" {
		t.Errorf("%+v %+v", env, deny)
	}
	if _, err := r.s.IssueToken(t.Context(), r.auth(agent), delegation.TokenRequest{Audience: records.ID.String(), Scope: scope(t, "database:read:patients")}); code(t, err) != "policy_denied" {
		t.Fatal(err)
	}
	_, deny, denied = newest[record.DenyBody, record.DenyPayload](t, r.log)
	r.asked(denied.Input, deny.InputHash)
}

// Policy sees how fresh the view of revocations is, and who signed for each hop.
func TestInputSaysWhatWasRevoked(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	agent, other := r.spawn(orch, task), r.auth(r.spawn(orch, task))
	records := r.service("records")
	r.mayRead(records, delegation.DecisionRequest{Chain: agent.certs})
	if v := r.rules.seen.Revocation; v != (policy.Revocation{AsOf: r.clock, Epoch: 1}) {
		t.Errorf("before any revocation: %+v", v)
	}
	v, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevAgent, ID: other.ID.AgentID()})
	if err != nil {
		t.Fatal(err)
	}
	want := policy.Revocation{AsOf: r.clock.Add(time.Second), Epoch: 1, Seq: v.Seq, Changed: v.Time}
	r.clock = r.clock.Add(time.Second)
	for _, again := range []bool{false, true} {
		if again {
			r.restart()
		}
		r.mayRead(records, delegation.DecisionRequest{Chain: agent.certs})
		if got := r.rules.seen.Revocation; !got.Changed.Equal(want.Changed) || got.Seq < want.Seq || got.Epoch != want.Epoch || !got.AsOf.Equal(want.AsOf) {
			t.Errorf("restarted %v: %+v, want %+v", again, got, want)
		}
	}
	if r.rules.seen.Hops[1].Confirmed {
		t.Error("nobody signed for the agent")
	}
	if _, err := r.child(agent, task); err != nil {
		t.Fatal(err)
	}
	if h := r.rules.seen.Hops; len(h) != 3 || !h[2].Confirmed {
		t.Errorf("the parent signed for its child: %+v", h)
	}
}

// Obligations go with a permission alone, and are in its entry; advice goes with any answer.
func TestObligationsAreRecorded(t *testing.T) {
	r := newRig(t)
	log := r.hooked()
	orch := r.orchestrator("lab")
	task := r.task(orch)
	agent := r.spawn(orch, task)
	records := r.service("records")
	r.rules.obligations = []json.RawMessage{json.RawMessage(`{"id":"mask"}`), json.RawMessage(`{"id":"\u003c"}`)}
	r.rules.advice = []json.RawMessage{json.RawMessage(`{"note":1}`)}
	ask := func(allow bool, obligations string) {
		t.Helper()
		d := r.mayRead(records, delegation.DecisionRequest{Chain: agent.certs})
		_, body, payload := newest[record.DecisionBody, record.DecisionPayload](t, r.log)
		if d.Allow != allow || body.Allow != allow || string(payload.Obligations) != obligations || (len(d.Obligations) > 0) != (obligations != "") {
			t.Errorf("allow %v: obligations %s, recorded %s", d.Allow, d.Obligations, payload.Obligations)
		}
		if obligations == "" && body.ObligationsHash != "" || obligations != "" && body.ObligationsHash != digest(payload.Obligations) {
			t.Errorf("allow %v: digest %q", allow, body.ObligationsHash)
		}
		if string(payload.Advice) != `[{"note":1}]` || body.AdviceHash != digest(payload.Advice) || len(d.Advice) != 1 {
			t.Errorf("allow %v: advice %s, recorded %s, digest %q", allow, d.Advice, payload.Advice, body.AdviceHash)
		}
	}
	ask(true, `[{"id":"mask"},{"id":"\u003c"}]`)
	r.rules.deny = []string{"no"}
	ask(false, "")
	r.rules.deny = nil

	// Where nobody would learn of them there is no permission, and the entry says so.
	d := r.mayRead(records, delegation.DecisionRequest{Chain: agent.certs, Bare: true})
	_, body, payload := newest[record.DecisionBody, record.DecisionPayload](t, r.log)
	if d.Allow || body.Allow || !body.PolicyAllow || !slices.Equal(body.Reasons, []string{"obligations_unsupported"}) || body.ObligationsHash != "" || d.Obligations != nil || payload.Obligations != nil {
		t.Errorf("%+v %+v", d, body)
	}
	given := r.rules.obligations
	r.rules.obligations = nil
	if d := r.mayRead(records, delegation.DecisionRequest{Chain: agent.certs, Bare: true}); !d.Allow {
		t.Errorf("without obligations: %+v", d)
	}
	r.rules.obligations = given

	// Revoked while policy was asked: no obligations, and the entry tells that policy had said yes.
	log.before(t, record.TypeDecision, func() {
		if _, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevTask, ID: task.ID}); err != nil {
			t.Error(err)
		}
	})
	ask(false, "")
	if _, body, _ := newest[record.DecisionBody, record.DecisionPayload](t, r.log); !body.PolicyAllow || !slices.Equal(body.Reasons, []string{chain.CodeTaskRevoked}) {
		t.Errorf("%+v", body)
	}
	r.log.fail = delegation.ErrUnknown
	if d := r.mayRead(records, delegation.DecisionRequest{Chain: agent.certs}); d.Allow || d.Obligations != nil {
		t.Errorf("not recorded: %+v", d)
	}
}
