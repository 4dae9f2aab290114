package consent_test

import (
	"html"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/descope/virtualwebauthn"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/consent"
	"github.com/signet-pki/signet/delegation/evidence"
)

// named gives a world whose appliance has a name, as WebAuthn wants: its server answers for localhost.
func named(t *testing.T) (*world, *forger, *browser) {
	t.Helper()
	var f *forger
	w := newWorld(t, func(base string) http.Handler { f = newForger(t, base); return f }, func(c *consent.Config) {
		c.RedirectURL = strings.Replace(c.RedirectURL, "127.0.0.1", "localhost", 1)
	})
	return w, f, w.browser(false)
}

// enter passes the login for the user's page.
func enter(t *testing.T, f *forger, b *browser) page {
	t.Helper()
	p := b.get("/account")
	if p.location == nil || p.location.Query().Get("prompt") != "login" || p.location.Query().Get("max_age") != "0" {
		t.Fatalf("no fresh login: %d %v", p.status, p.location)
	}
	q := p.location.Query()
	f.answer = func() string { return f.sign(es256(), f.claims(q.Get("nonce"))) }
	if p := b.get(back(q.Get("state"))); p.location == nil || p.location.Path != "/account" {
		t.Fatalf("login: %d %s", p.status, p.body)
	}
	return b.get("/account")
}

// options are what the page has a browser do.
func (p page) options(t *testing.T) string {
	t.Helper()
	m := regexp.MustCompile(`data-options="([^"]*)"`).FindStringSubmatch(p.body)
	if m == nil {
		t.Fatalf("no options in page of status %d: %s", p.status, p.body)
	}
	return html.UnescapeString(m[1])
}

// device is a user's authenticator, and the browser that it is plugged into.
type device struct {
	rp   virtualwebauthn.RelyingParty
	auth virtualwebauthn.Authenticator
	key  virtualwebauthn.Credential
}

func newDevice(w *world) *device {
	origin := strings.Replace(w.url, "127.0.0.1", "localhost", 1)
	return &device{
		rp:   virtualwebauthn.RelyingParty{Name: "Signet", ID: "localhost", Origin: origin},
		auth: virtualwebauthn.NewAuthenticator(), key: newCredential(),
	}
}

// wholeKey is the size of a P-256 COSE key (RFC 9053 §7.1.1) with both coordinates at full length.
const wholeKey = 77

// newCredential makes a P-256 key. The virtual authenticator drops a coordinate's leading zeros, which no real one may
// do: such a key, about one in 128, is thrown away.
func newCredential() virtualwebauthn.Credential {
	for {
		if c := virtualwebauthn.NewCredential(virtualwebauthn.KeyTypeEC2); len(c.Key.AttestationData()) == wholeKey {
			return c
		}
	}
}

func (d *device) create(t *testing.T, options string) string {
	t.Helper()
	o, err := virtualwebauthn.ParseAttestationOptions(`{"publicKey":` + options + `}`)
	if err != nil {
		t.Fatal(err)
	}
	d.auth.AddCredential(d.key)
	return virtualwebauthn.CreateAttestationResponse(d.rp, d.auth, d.key, *o)
}

func (d *device) get(t *testing.T, options string) string {
	t.Helper()
	o, err := virtualwebauthn.ParseAssertionOptions(`{"publicKey":` + options + `}`)
	if err != nil {
		t.Fatal(err)
	}
	return virtualwebauthn.CreateAssertionResponse(d.rp, d.auth, d.key, *o)
}

// registered is a user with a key.
func registered(t *testing.T) (*world, *forger, *browser, *device) {
	t.Helper()
	w, f, b := named(t)
	d := newDevice(w)
	p := enter(t, f, b)
	form := url.Values{"csrf": {p.field(t, "csrf")}, "action": {"register"}, "credential": {d.create(t, p.options(t))}}
	if p := b.post("/account", form); p.status != http.StatusSeeOther {
		t.Fatalf("register: %d %s %s", p.status, p.body, w.logged)
	}
	return w, f, b, d
}

func TestApproveByKey(t *testing.T) {
	for name, c := range map[string]struct {
		change func(d *device, options string) string
		code   string
	}{
		"good": {func(_ *device, o string) string { return o }, ""},
		"another challenge": {func(_ *device, o string) string {
			return regexp.MustCompile(`"challenge":"[^"]*"`).ReplaceAllString(o, `"challenge":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`)
		}, "assertion_invalid"},
		"another origin":    {func(d *device, o string) string { d.rp.Origin = "https://evil.example"; return o }, "assertion_invalid"},
		"another party":     {func(d *device, o string) string { d.rp.ID = "evil.example"; return o }, "assertion_invalid"},
		"user not verified": {func(d *device, o string) string { d.auth.Options.UserNotVerified = true; return o }, "assertion_invalid"},
		"user not present":  {func(d *device, o string) string { d.auth.Options.UserNotPresent = true; return o }, "assertion_invalid"},
		"another key": {func(d *device, o string) string {
			d.key = newCredential()
			return o
		}, "assertion_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			w, f, b, d := registered(t)
			p := login(t, f, b)
			form := url.Values{"csrf": {p.field(t, "csrf")}, "decision": {"approve_key"}, "credential": {d.get(t, c.change(d, p.options(t)))}}
			answer := b.post("/consent/"+grantID, form)
			if c.code != "" {
				answer.want(t, http.StatusForbidden, c.code)
				w.domain.nothing(t)
				return
			}
			if answer.status != http.StatusOK || len(w.domain.approved) != 1 {
				t.Fatalf("%d %s %s", answer.status, answer.body, w.logged)
			}
			a := w.domain.approved[0]
			if a.Type != chain.WebAuthn || a.User.Subject != "physician-7f3a" || len(a.Roles) != 1 || len(a.Credential) == 0 {
				t.Errorf("approval %+v", a)
			}
			e, err := evidence.Parse(a.Evidence)
			if err != nil || e.Verify(w.now()) != nil {
				t.Errorf("the evidence does not verify: %v", err)
			}
		})
	}
}

// Without a registered key there is nothing to approve with; a key needs the page's token like every form.
func TestKeyForms(t *testing.T) {
	w, f, b := named(t)
	p := login(t, f, b)
	if strings.Contains(p.body, "data-webauthn") || strings.Contains(p.body, "<script") {
		t.Error("a key is offered to who has none")
	}
	form := url.Values{"csrf": {p.field(t, "csrf")}, "decision": {"approve_key"}, "credential": {"{}"}}
	b.post("/consent/"+grantID, form).want(t, http.StatusForbidden, "assertion_invalid")
	w.domain.nothing(t)

	for name, change := range map[string]struct {
		edit   func(url.Values)
		status int
		code   string
	}{
		"no token":      {func(v url.Values) { v.Del("csrf") }, 403, "csrf_mismatch"},
		"no action":     {func(v url.Values) { v.Del("action") }, 400, "form_invalid"},
		"no credential": {func(v url.Values) { v.Del("credential") }, 400, "credential_invalid"},
		"another origin": {func(v url.Values) {
			d := newDevice(w)
			d.rp.Origin = "https://evil.example"
			v.Set("credential", d.create(t, v.Get("x")))
		}, 400, "credential_invalid"},
		"unverified": {func(v url.Values) {
			d := newDevice(w)
			d.auth.Options.UserNotVerified = true
			v.Set("credential", d.create(t, v.Get("x")))
		}, 400, "credential_invalid"},
		"another's grant": {func(v url.Values) { v.Set("action", "withdraw"); v.Set("grant", otherID) }, 410, "grant_not_pending"},
		"another's key":   {func(v url.Values) { v.Set("action", "forget"); v.Set("key", "AAAA") }, 410, "grant_not_pending"},
	} {
		t.Run(name, func(t *testing.T) {
			b := w.browser(false)
			p := enter(t, f, b)
			form := url.Values{"csrf": {p.field(t, "csrf")}, "action": {"register"}, "credential": {newDevice(w).create(t, p.options(t))}, "x": {p.options(t)}}
			change.edit(form)
			b.post("/account", form).want(t, change.status, change.code)
			if len(w.domain.keys.all) != 0 {
				t.Error("a key was registered")
			}
		})
	}
}

func TestAccountNeedsAFreshLogin(t *testing.T) {
	_, f, b := named(t)
	login(t, f, b) // for a grant: another stage
	p := b.get("/account")
	if p.location == nil {
		t.Fatalf("the page of %d is shown", p.status)
	}
	q := p.location.Query()
	f.answer = func() string {
		c := f.claims(q.Get("nonce"))
		c["auth_time"] = 1_000_000_000
		return f.sign(es256(), c)
	}
	b.get(back(q.Get("state"))).want(t, http.StatusForbidden, "auth_time_stale")
}

// However busy its user is, a stay on the page is over a quarter of an hour after the sign-in.
func TestAccountEnds(t *testing.T) {
	w, f, b := named(t)
	begun := time.Now()
	at := begun
	w.now = func() time.Time { return at }
	p := enter(t, f, b)
	register := func() page {
		return b.post("/account", url.Values{"csrf": {p.field(t, "csrf")}, "action": {"register"}, "credential": {newDevice(w).create(t, p.options(t))}})
	}
	for _, later := range []time.Duration{9 * time.Minute, 15*time.Minute - time.Second} {
		at = begun.Add(later)
		if answer := register(); answer.status != http.StatusSeeOther {
			t.Fatalf("after %v: %d %s", later, answer.status, answer.body)
		}
		p = b.get("/account")
	}
	at = begun.Add(15 * time.Minute)
	register().want(t, http.StatusBadRequest, "flow_missing")
	if p := b.get("/account"); p.location == nil || p.location.Query().Get("prompt") != "login" {
		t.Errorf("the page is shown: %d %s", p.status, p.body)
	}
}

// A sign-in that was ended since shows nothing and changes nothing, and the stay is over.
func TestAccountEndsWithTheSession(t *testing.T) {
	w, f, b := named(t)
	over := func(p page) {
		t.Helper()
		p.want(t, http.StatusForbidden, "session_ended")
		if strings.Contains(p.body, "physician") || !strings.Contains(p.body, "has ended your session") {
			t.Errorf("the page says %s", p.body)
		}
		if p := b.get("/account"); p.location == nil || p.location.Query().Get("prompt") != "login" {
			t.Errorf("no new sign-in: %d %s", p.status, p.body)
		}
		w.domain.keys.ended = time.Time{}
	}
	enter(t, f, b)
	w.domain.keys.ended = time.Now()
	over(b.get("/account"))
	for _, form := range []url.Values{
		{"action": {"withdraw"}, "grant": {grantID}}, {"action": {"register"}}, {"action": {"forget"}, "key": {"AAAA"}},
	} {
		p := enter(t, f, b)
		form.Set("csrf", p.field(t, "csrf"))
		if form.Get("action") == "register" {
			form.Set("credential", newDevice(w).create(t, p.options(t)))
		}
		w.domain.keys.ended = time.Now()
		over(b.post("/account", form))
	}
	if len(w.domain.keys.all) != 0 {
		t.Error("a key was registered")
	}
}

// A provider whose clock is ahead does not make a sign-in later than what ended it.
func TestSignInIsNotInTheFuture(t *testing.T) {
	w, f, b := named(t)
	q := b.get("/account").location.Query()
	f.answer = func() string {
		c := f.claims(q.Get("nonce"))
		c["iat"] = time.Now().Add(20 * time.Second).Unix()
		return f.sign(es256(), c)
	}
	if p := b.get(back(q.Get("state"))); p.status != http.StatusSeeOther {
		t.Fatalf("login: %d %s", p.status, p.body)
	}
	w.domain.keys.ended = time.Now()
	b.get("/account").want(t, http.StatusForbidden, "session_ended")
}

func TestWithdrawAndForget(t *testing.T) {
	w, f, b, d := registered(t)
	p := login(t, f, b)
	b.post("/consent/"+grantID, url.Values{"csrf": {p.field(t, "csrf")}, "decision": {"approve_key"}, "credential": {d.get(t, p.options(t))}})
	p = enter(t, f, b)
	if !strings.Contains(p.body, "cardiology cohort") || !strings.Contains(p.body, taskID) || p.header.Get("Content-Security-Policy") == "" {
		t.Fatalf("the page: %s", p.body)
	}
	if csp := p.header.Get("Content-Security-Policy"); !strings.Contains(csp, "script-src 'self'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy %s", csp)
	}
	if again := b.post("/account", url.Values{"csrf": {p.field(t, "csrf")}, "action": {"withdraw"}, "grant": {grantID}}); again.status != http.StatusSeeOther || len(w.domain.approved) != 0 {
		t.Fatalf("withdraw: %d %s", again.status, again.body)
	}
	p = b.get("/account")
	if again := b.post("/account", url.Values{"csrf": {p.field(t, "csrf")}, "action": {"forget"}, "key": {p.field(t, "key")}}); again.status != http.StatusSeeOther {
		t.Fatalf("forget: %d %s", again.status, again.body)
	}
	if p = b.get("/account"); strings.Contains(p.body, `value="forget"`) {
		t.Error("the key is still there")
	}
	script := b.get("/consent/webauthn.js")
	if script.status != http.StatusOK || !strings.HasPrefix(script.header.Get("Content-Type"), "text/javascript") {
		t.Errorf("script: %d %s", script.status, script.header)
	}
}
