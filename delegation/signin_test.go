package delegation_test

import (
	"errors"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// bar ends a user for good.
func (r *rig) bar(u chain.User) {
	r.t.Helper()
	r.revoke(chain.RevUser, chain.UserID(u.Issuer, u.Subject))
}

// onPage is what can be done on a user's own page.
func (r *rig) onPage(grantID string) map[string]func(in delegation.SignIn) error {
	return map[string]func(in delegation.SignIn) error{
		"account.open":   func(in delegation.SignIn) error { return r.s.CheckSignIn(r.t.Context(), in) },
		"grant.withdraw": func(in delegation.SignIn) error { return r.s.WithdrawGrant(r.t.Context(), in, grantID) },
		"credential.register": func(in delegation.SignIn) error {
			return r.s.RegisterCredential(r.t.Context(), in, delegation.Credential{ID: []byte("new"), PublicKey: []byte("k")})
		},
		"credential.forget": func(in delegation.SignIn) error { return r.s.ForgetCredential(r.t.Context(), in, []byte("old")) },
	}
}

// pageRig has an active grant and a registered key of physician-1.
func pageRig(t *testing.T) (*rig, delegation.Task) {
	t.Helper()
	r := newRig(t)
	task := r.task(r.orchestrator("lab"))
	if err := r.s.RegisterCredential(t.Context(), r.signIn(physician1), delegation.Credential{ID: []byte("old"), PublicKey: []byte("k")}); err != nil {
		t.Fatal(err)
	}
	return r, task
}

// What the provider or an operator ended shows and changes nothing on the user's page, and the log says that it was tried.
func TestAnEndedSignIn(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(r *rig) error
		code string
	}{
		"session revoked": {func(r *rig) error { return r.ended(1) }, "session_ended"},
		"user barred":     {func(r *rig) error { r.bar(physician1); return nil }, chain.CodeUserRevoked},
	} {
		t.Run(name, func(t *testing.T) {
			r, task := pageRig(t)
			in := r.signIn(physician1)
			r.clock = r.clock.Add(time.Minute)
			if err := c.end(r); err != nil {
				t.Fatal(err)
			}
			r.restart()
			for op, act := range r.onPage(task.GrantID) {
				r.refusedOnPage(op, act(in), c.code)
			}
			if got, err := r.s.Credentials(t.Context(), physician1); err != nil || len(got) != 1 || string(got[0].ID) != "old" {
				t.Errorf("keys afterwards: %v %v", got, err)
			}
			if err := r.s.CheckSignIn(t.Context(), r.signIn(physician1)); (err == nil) != (c.code == "session_ended") {
				t.Errorf("who signs in again: %v", err)
			}
			if err := r.s.CheckSignIn(t.Context(), delegation.SignIn{User: clerk1}); code(t, err) != "session_ended" {
				t.Errorf("a sign-in of no time: %v", err)
			}
		})
	}
}

// refusedOnPage wants the refusal, and its entry with the user and no name of theirs.
func (r *rig) refusedOnPage(op string, err error, want string) {
	r.t.Helper()
	e := r.log.last(r.t)
	body, decoded := record.DecodeBody[record.DenyBody](e)
	if code(r.t, err) != want || e.Type != record.TypeDeny || e.Code != want || e.User == "" || decoded != nil || body.Operation != op {
		r.t.Errorf("%s: %v; the last entry is %s %s %+v", op, err, e.Type, e.Code, body)
	}
}

// A key is neither registered nor removed by a sign-in that ends while it is asked for.
func TestASignInThatEndsMeanwhile(t *testing.T) {
	for _, op := range []string{"credential.register", "credential.forget"} {
		for want, end := range map[string]func(r *rig){
			"session_ended": func(r *rig) {
				if err := r.ended(1); err != nil {
					r.t.Error(err)
				}
			},
			chain.CodeUserRevoked: func(r *rig) { r.bar(physician1) },
		} {
			r, task := pageRig(t)
			in := r.signIn(physician1)
			r.hooked().before(t, record.TypeAdmin, func() { end(r) })
			r.refusedOnPage(op, r.onPage(task.GrantID)[op](in), want)
		}
	}
}

// Whatever the domain refuses on the consent page is in the log, with the user and the grant.
func TestRefusalsOnTheConsentPageAreRecorded(t *testing.T) {
	for name, c := range map[string]struct {
		before func(r *rig, g delegation.Grant)
		code   string
	}{
		"user barred":      {func(r *rig, _ delegation.Grant) { r.bar(physician1) }, chain.CodeUserRevoked},
		"grant revoked":    {func(r *rig, g delegation.Grant) { r.revoke(chain.RevGrant, g.ID) }, chain.CodeGrantRevoked},
		"not ready":        {func(r *rig, _ delegation.Grant) { r.ready = errors.New("no seal") }, "not_ready"},
		"answered already": {func(r *rig, g delegation.Grant) { r.approve(g.ID) }, "grant_not_pending"},
		"session ended": {func(r *rig, _ delegation.Grant) {
			r.clock = r.clock.Add(time.Minute)
			if err := r.ended(1); err != nil {
				r.t.Error(err)
			}
		}, "session_ended"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			g := r.grantFor(r.auth(r.orchestrator("lab")), time.Hour)
			doc, err := r.s.GrantDocument(g.ID, physician1.Issuer, physician1.Subject)
			if err != nil {
				t.Fatal(err)
			}
			a := approval(chain.OIDCNonce, doc)
			a.SignedIn = r.clock
			c.before(r, g)
			r.refusedOnPage("grant.approve", r.s.Approve(t.Context(), g.ID, a), c.code)
			if e := r.log.last(t); e.Grant != g.ID {
				t.Errorf("the entry is of grant %q", e.Grant)
			}
		})
	}
	r := newRig(t)
	g := r.grantFor(r.auth(r.orchestrator("lab")), time.Hour)
	r.approve(g.ID)
	r.refusedOnPage("grant.decline", r.s.Decline(t.Context(), physician1, g.ID), "grant_not_pending")
}
