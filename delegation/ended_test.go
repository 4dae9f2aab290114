package delegation_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// ended receives the event that physician-1's session is over.
func (r *rig) ended(n byte) error {
	r.proofs.event = func() delegation.IdentityEvent {
		return delegation.IdentityEvent{
			User: chain.User{Issuer: "https://idp.example", Subject: "physician-1"}, Type: "https://x/session-revoked", Counts: true,
			ID: [32]byte{n}, Expires: r.now().Add(time.Hour),
		}
	}
	return r.s.ReceiveEvent(r.t.Context(), "x")
}

// signIn is a user who signs in now.
func (r *rig) signIn(u chain.User) delegation.SignIn { return delegation.SignIn{User: u, At: r.now()} }

// exchange approves a grant by a token of the session that began then.
func (r *rig) exchange(by delegation.Caller, id string, signedIn time.Time) error {
	r.proofs.exchanged = func(document func(issuer, subject string) ([]byte, error)) (delegation.Approval, error) {
		doc, err := document("https://idp.example", "physician-1")
		a := approval(chain.TokenExchange, doc)
		a.SignedIn = signedIn
		return a, err
	}
	_, err := r.s.ApproveExchanged(r.t.Context(), by, id, delegation.TokenExchange{})
	return err
}

// What is left of a session that the provider ended makes no grant: neither after the event nor while it is received.
func TestAnEndedSessionGivesNoGrant(t *testing.T) {
	r := newRig(t)
	by := r.auth(r.orchestrator("lab"))
	old := r.clock
	r.clock = r.clock.Add(time.Minute)
	if err := r.ended(1); err != nil {
		t.Fatal(err)
	}
	r.restart()
	g := r.ask(by)
	if err := r.exchange(by, g.ID, old); err == nil || code(t, err) != "session_ended" {
		t.Errorf("by a token of the ended session: %v", err)
	}
	if err := r.exchange(by, g.ID, r.clock); err != nil {
		t.Errorf("by one of the next: %v", err)
	}
	log := r.hooked()
	g = r.ask(by)
	log.before(t, record.TypeGrant, func() {
		if err := r.ended(2); err != nil {
			t.Error(err)
		}
	})
	if err := r.exchange(by, g.ID, r.clock); err == nil || code(t, err) != "session_ended" {
		t.Errorf("while the event is received: %v", err)
	}
}

// An event whose revocations failed is not done with.
func TestAnEventIsRepeatedUntilItIsDone(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	log := r.hooked()
	log.beforeAppend = func(e record.Entry) {
		if typeOf(t, e) == record.TypeRevoke {
			log.fail = errors.New("the disk is gone")
		}
	}
	if err := r.ended(1); err == nil {
		t.Fatal("nothing failed")
	}
	log.beforeAppend = nil
	log.fail = nil
	if err := r.ended(1); err != nil {
		t.Fatal(err)
	}
	if g, err := r.s.Grant(r.auth(orch), task.GrantID); err != nil || g.Status != delegation.GrantRevoked {
		t.Errorf("%s %v", g.Status, err)
	}
}

// However many grants a user gave: those past what is listed at a time are ended too.
func TestEveryGrantOfAUserEnds(t *testing.T) {
	r := newRig(t)
	r.damaged = true
	orch := r.orchestrator("lab")
	task := r.task(orch)
	// Earlier ones, in the log's state: ids grow with time, so these are listed first.
	raw, _, err := r.log.Get("grant/" + task.GrantID)
	if err != nil {
		t.Fatal(err)
	}
	given := ""
	for _, e := range r.log.entries {
		for _, m := range e.Mutations {
			if strings.HasPrefix(m.Key, "given/") {
				given = strings.TrimSuffix(m.Key, task.GrantID)
			}
		}
	}
	old := bytes.Replace(raw, []byte(`"status":"active"`), []byte(`"status":"expired"`), 1)
	for i := range 10_000 {
		id := fmt.Sprintf("00000000-0000-7000-8000-%012x", i)
		r.log.apply([]record.Mutation{
			{Key: given + id, Value: []byte(id)},
			{Key: "grant/" + id, Value: bytes.Replace(old, []byte(task.GrantID), []byte(id), 1)},
		})
	}
	if err := r.ended(1); err != nil {
		t.Fatal(err)
	}
	if g, err := r.s.Grant(r.auth(orch), task.GrantID); err != nil || g.Status != delegation.GrantRevoked {
		t.Errorf("%s %v", g.Status, err)
	}
}
