package delegation_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// proofs answers as it is told; nil answers refuse.
type proofs struct {
	event     func() delegation.IdentityEvent
	signed    func(jws string) (delegation.Approval, error)
	exchanged func(document func(issuer, subject string) ([]byte, error)) (delegation.Approval, error)
}

var errProof = &delegation.Error{Kind: delegation.Forbidden, Code: "proof_refused"}

func (p *proofs) Signed(jws string) (delegation.Approval, error) {
	if p.signed == nil {
		return delegation.Approval{}, errProof
	}
	return p.signed(jws)
}

func (p *proofs) Exchanged(_ context.Context, _ string, _ delegation.TokenExchange, document func(issuer, subject string) ([]byte, error)) (delegation.Approval, error) {
	if p.exchanged == nil {
		return delegation.Approval{}, errProof
	}
	return p.exchanged(document)
}

func approval(kind chain.ConsentType, doc []byte) delegation.Approval {
	return delegation.Approval{
		Type: kind, User: delegation.User{Issuer: "https://idp.example", Subject: "physician-1", Roles: []string{"analyst"}}, Document: doc, Evidence: []byte("e"),
	}
}

// ask has an orchestrator ask for a grant.
func (r *rig) ask(by delegation.Caller) delegation.Grant {
	r.t.Helper()
	g, err := r.s.RequestGrant(r.t.Context(), by, delegation.GrantRequest{
		Purpose: "look into outcomes", Scope: scope(r.t, "database:read:*"), NotAfter: r.clock.Add(time.Hour), MaxDepth: 3,
		AgentTypes: []string{"research", "reader"},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return g
}

func TestSignedConsent(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	by := r.auth(orch)
	g := r.ask(by)
	doc, err := r.s.GrantDocumentFor(by, g.ID, "https://idp.example", "physician-1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.s.GrantDocumentFor(by, g.ID, "https://other.example", "physician-1"); code(t, err) != "issuer_unknown" {
		t.Errorf("a user of nobody: %v", err)
	}
	if _, err := r.s.ApproveSigned(t.Context(), g.ID, "x"); code(t, err) != "proof_refused" || r.log.count(record.TypeMalformed) != 1 {
		t.Errorf("a bad signature: %v", err)
	}
	r.proofs.signed = func(string) (delegation.Approval, error) {
		return approval(chain.JWS, append([]byte(" "), doc...)), nil
	}
	if _, err := r.s.ApproveSigned(t.Context(), g.ID, "x"); code(t, err) != "consent_mismatch" {
		t.Errorf("another document: %v", err)
	}
	r.proofs.signed = func(string) (delegation.Approval, error) { return approval(chain.ConsentUnknown, doc), nil }
	if _, err := r.s.ApproveSigned(t.Context(), g.ID, "x"); code(t, err) != "consent_type_unknown" {
		t.Errorf("no type of consent: %v", err)
	}
	r.proofs.signed = func(string) (delegation.Approval, error) { return approval(chain.JWS, doc), nil }
	if out, err := r.s.ApproveSigned(t.Context(), g.ID, "x"); err != nil || out.Status != delegation.GrantActive {
		t.Fatalf("%v %v", out.Status, err)
	}
	if e := r.log.last(t); e.Type != record.TypeGrant || !strings.Contains(string(e.Body), `"consent_type":"jws"`) {
		t.Errorf("entry %s %s", e.Type, e.Body)
	}
	if _, err := r.s.ApproveSigned(t.Context(), g.ID, "x"); code(t, err) != "grant_not_pending" {
		t.Errorf("a second time: %v", err)
	}
	task, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: g.ID})
	if err != nil {
		t.Fatal(err)
	}
	d, err := chain.Extract(r.spawn(orch, task).certs[0])
	if err != nil || d.Grant.Consent != chain.JWS {
		t.Errorf("the certificate says %s, %v", d.Grant.Consent, err)
	}
}

// A token makes one grant, even of two that ask at once, and after a restart.
func TestExchangedConsent(t *testing.T) {
	r := newRig(t)
	by := r.auth(r.orchestrator("lab"))
	first, second := r.ask(by), r.ask(by)
	r.proofs.exchanged = func(document func(issuer, subject string) ([]byte, error)) (delegation.Approval, error) {
		doc, err := document("https://idp.example", "physician-1")
		a := approval(chain.TokenExchange, doc)
		a.Once = &delegation.Once{Hash: [32]byte{7}, Expires: r.now().Add(time.Minute)}
		return a, err
	}
	x := delegation.TokenExchange{SubjectToken: "t", SubjectTokenType: "u"}
	stranger := r.auth(r.orchestrator("stranger"))
	if _, err := r.s.ApproveExchanged(t.Context(), stranger, first.ID, x); code(t, err) != "grant_not_found" {
		t.Errorf("another orchestrator: %v", err)
	}
	if _, err := r.s.ApproveExchanged(t.Context(), by, first.ID, x); err != nil {
		t.Fatal(err)
	}
	denied := r.log.count(record.TypeDeny)
	if _, err := r.s.ApproveExchanged(t.Context(), by, second.ID, x); code(t, err) != "token_replayed" || r.log.count(record.TypeDeny) != denied+1 {
		t.Errorf("the token again: %v", err)
	}
	if g, err := r.s.Grant(by, second.ID); err != nil || g.Status != delegation.GrantPending {
		t.Errorf("the second grant: %v %v", g.Status, err)
	}
	r.restart()
	if _, err := r.s.ApproveExchanged(t.Context(), by, second.ID, x); code(t, err) != "token_replayed" {
		t.Errorf("after a restart: %v", err)
	}
}

func (p *proofs) Event(context.Context, string) (delegation.IdentityEvent, error) {
	if p.event == nil {
		return delegation.IdentityEvent{}, errProof
	}
	return p.event(), nil
}

// A session that the provider ended ends the grants that the user has then, once, and bars none that they give later.
func TestSessionRevoked(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	by := r.auth(orch)
	task := r.task(orch)
	agent := r.spawn(orch, task)
	if err := r.s.ReceiveEvent(t.Context(), "x"); code(t, err) != "proof_refused" || r.log.count(record.TypeMalformed) != 1 {
		t.Errorf("a bad event: %v", err)
	}
	e := delegation.IdentityEvent{
		User: chain.User{Issuer: "https://idp.example", Subject: "somebody-else"}, Type: "https://x/session-revoked", Counts: true, ID: [32]byte{1}, Expires: r.now().Add(time.Hour),
	}
	r.proofs.event = func() delegation.IdentityEvent { return e }
	receive := func() {
		t.Helper()
		if err := r.s.ReceiveEvent(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
	}
	status := func(id string) delegation.GrantStatus {
		t.Helper()
		g, err := r.s.Grant(by, id)
		if err != nil {
			t.Fatal(err)
		}
		return g.Status
	}
	receive() // about another user
	e.User.Subject, e.ID, e.Counts, e.Type = "physician-1", [32]byte{2}, false, "https://x/credential-change"
	receive() // of a kind that is let pass
	if got := status(task.GrantID); got != delegation.GrantActive {
		t.Fatalf("the grant is %s", got)
	}
	e.ID, e.Counts, e.Type = [32]byte{3}, true, "https://x/session-revoked"
	receive()
	if got := status(task.GrantID); got != delegation.GrantRevoked {
		t.Errorf("the grant is %s", got)
	}
	if _, err := r.s.Authenticate(agent.certs); code(t, err) != chain.CodeGrantRevoked {
		t.Errorf("its agent: %v", err)
	}
	later := r.task(orch)
	entries := r.log.count(record.TypeAdmin)
	r.restart()
	receive() // the same again
	if got := status(later.GrantID); got != delegation.GrantActive || r.log.count(record.TypeAdmin) != entries {
		t.Errorf("a replay: the grant is %s", got)
	}
	e.ID = [32]byte{4}
	receive()
	if got := status(later.GrantID); got != delegation.GrantRevoked {
		t.Errorf("the next event: the grant is %s", got)
	}
}
