package delegation_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

var (
	physician1 = chain.User{Issuer: "https://idp.example", Subject: "physician-1"}
	clerk1     = chain.User{Issuer: "https://idp.example", Subject: "clerk-1"}
)

func TestCredentials(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	one := delegation.Credential{ID: []byte("one"), PublicKey: []byte("key")}
	if err := r.s.RegisterCredential(ctx, r.signIn(physician1), one); err != nil {
		t.Fatal(err)
	}
	if e := r.log.last(t); e.Type != record.TypeAdmin || e.User == "" || !strings.Contains(string(e.Body), `"action":"credential.register"`) ||
		!strings.Contains(string(e.Body), `"public_key":"a2V5"`) || strings.Contains(string(e.Body), "physician") {
		t.Errorf("entry %+v %s", e, e.Body)
	}
	for name, c := range map[string]struct {
		user chain.User
		c    delegation.Credential
		code string
	}{
		"again":        {physician1, one, "credential_taken"},
		"by another":   {clerk1, one, "credential_taken"},
		"no id":        {clerk1, delegation.Credential{PublicKey: []byte("k")}, "credential_invalid"},
		"no key":       {clerk1, delegation.Credential{ID: []byte("x")}, "credential_invalid"},
		"a giant's id": {clerk1, delegation.Credential{ID: make([]byte, 1024), PublicKey: []byte("k")}, "credential_invalid"},
	} {
		if err := r.s.RegisterCredential(ctx, r.signIn(c.user), c.c); code(t, err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.s.ForgetCredential(ctx, r.signIn(clerk1), one.ID); code(t, err) != "credential_not_found" {
		t.Errorf("forgotten by another: %v", err)
	}
	r.restart()
	if got, err := r.s.Credentials(ctx, physician1); err != nil || len(got) != 1 || string(got[0].PublicKey) != "key" {
		t.Errorf("after a restart: %v %v", got, err)
	}
	if got, err := r.s.Credentials(ctx, clerk1); err != nil || len(got) != 0 {
		t.Errorf("another user's: %v %v", got, err)
	}
	for i := range 15 {
		if err := r.s.RegisterCredential(ctx, r.signIn(physician1), delegation.Credential{ID: []byte{byte(i)}, PublicKey: []byte("k")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.s.RegisterCredential(ctx, r.signIn(physician1), delegation.Credential{ID: []byte("more"), PublicKey: []byte("k")}); code(t, err) != "too_many_credentials" {
		t.Errorf("a seventeenth: %v", err)
	}
	r.ready = errors.New("no seal")
	if err := r.s.RegisterCredential(ctx, r.signIn(clerk1), delegation.Credential{ID: []byte("x"), PublicKey: []byte("k")}); code(t, err) != "not_ready" {
		t.Errorf("while not ready: %v", err)
	}
}

// A consent by a key counts only while the key is the user's, whenever it goes.
func TestConsentNeedsTheCredential(t *testing.T) {
	r := newRig(t)
	by := r.auth(r.orchestrator("lab"))
	one := delegation.Credential{ID: []byte("one"), PublicKey: []byte("key")}
	approve := func(g delegation.Grant, id []byte) error {
		doc, err := r.s.GrantDocument(g.ID, physician1.Issuer, physician1.Subject)
		if err != nil {
			t.Fatal(err)
		}
		a := approval(chain.WebAuthn, doc)
		a.Credential = id
		return r.s.Approve(t.Context(), g.ID, a)
	}
	g := r.ask(by)
	if err := approve(g, one.ID); code(t, err) != "credential_removed" {
		t.Errorf("a key of nobody: %v", err)
	}
	if err := r.s.RegisterCredential(t.Context(), r.signIn(clerk1), one); err != nil {
		t.Fatal(err)
	}
	if err := approve(g, one.ID); code(t, err) != "credential_removed" {
		t.Errorf("another user's key: %v", err)
	}
	mine := delegation.Credential{ID: []byte("mine"), PublicKey: []byte("key")}
	if err := r.s.RegisterCredential(t.Context(), r.signIn(physician1), mine); err != nil {
		t.Fatal(err)
	}
	if err := approve(g, mine.ID); err != nil {
		t.Fatal(err)
	}
	if e := r.log.last(t); !strings.Contains(string(e.Body), `"consent_type":"webauthn"`) {
		t.Errorf("entry %s", e.Body)
	}
	if err := r.s.ForgetCredential(t.Context(), r.signIn(physician1), mine.ID); err != nil {
		t.Fatal(err)
	}
	if err := approve(r.ask(by), mine.ID); code(t, err) != "credential_removed" {
		t.Errorf("a removed key: %v", err)
	}
}
