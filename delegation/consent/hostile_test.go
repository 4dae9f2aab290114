package consent_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/consent"
)

// forgedWorld runs against a forger, with a browser that stops at each redirect.
func forgedWorld(t *testing.T, change func(*consent.Config)) (*world, *forger, *browser) {
	t.Helper()
	var f *forger
	w := newWorld(t, func(base string) http.Handler { f = newForger(t, base); return f }, change)
	return w, f, w.browser(false)
}

// begin opens a grant and returns what the first authorization request asks for.
func begin(t *testing.T, b *browser) url.Values {
	t.Helper()
	p := b.get("/consent/" + grantID)
	if p.location == nil {
		t.Fatalf("no redirect: %d %s", p.status, p.body)
	}
	return p.location.Query()
}

func back(state string, more ...string) string {
	return "/v1/grants/callback/idp?code=c&state=" + url.QueryEscape(state) + strings.Join(more, "")
}

// header of a good token.
func es256() map[string]any { return map[string]any{"alg": "ES256", "kid": "k"} }

// login passes the first flow and gives the review page.
func login(t *testing.T, f *forger, b *browser) page {
	t.Helper()
	q := begin(t, b)
	f.answer = func() string { return f.sign(es256(), f.claims(q.Get("nonce"))) }
	if p := b.get(back(q.Get("state"))); p.location == nil || p.location.Path != "/consent/"+grantID {
		t.Fatalf("login: %d %s", p.status, p.body)
	}
	return b.get("/consent/" + grantID)
}

// approve passes the page and gives the second authorization request.
func approve(t *testing.T, f *forger, b *browser) url.Values {
	t.Helper()
	p := b.post("/consent/"+grantID, decision(login(t, f, b), t, "approve"))
	if p.location == nil {
		t.Fatalf("approve: %d %s", p.status, p.body)
	}
	return p.location.Query()
}

func TestSecondRequestCommitsToTheGrant(t *testing.T) {
	w, f, b := forgedWorld(t, nil)
	first := begin(t, b)
	if first.Get("prompt") != "" || first.Get("nonce") == "" {
		t.Errorf("first request %v", first)
	}
	second := approve(t, f, b)
	document, err := w.domain.Document(t.Context(), grantID, consent.User{Issuer: w.url + "/idp", Subject: "physician-7f3a"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := chain.ParseGrantDocument(document)
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := g.Nonce()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"nonce": nonce, "prompt": "login", "max_age": "0", "code_challenge_method": "S256", "response_type": "code",
		"client_id": clientID, "redirect_uri": w.url + "/v1/grants/callback/idp",
	} {
		if second.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, second.Get(name), want)
		}
	}
	if second.Get("state") == first.Get("state") || second.Get("code_challenge") == first.Get("code_challenge") {
		t.Error("state or challenge was used again")
	}
	if len(f.form.Get("code_verifier")) < 43 || f.form.Get("client_id") != clientID {
		t.Errorf("token request %v", f.form)
	}
}

func TestTokenChecks(t *testing.T) {
	type claims = map[string]any
	set := func(name string, v any) func(*forger, claims) string {
		return func(f *forger, c claims) string { c[name] = v; return f.sign(es256(), c) }
	}
	with := func(header claims) func(*forger, claims) string {
		return func(f *forger, c claims) string { return f.sign(header, c) }
	}
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	for name, c := range map[string]struct {
		forge func(*forger, claims) string
		code  string
	}{
		"good":                  {with(es256()), ""},
		"good, typ JWT":         {with(claims{"alg": "ES256", "kid": "k", "typ": "JWT"}), ""},
		"good, no kid":          {with(claims{"alg": "ES256"}), ""},
		"good, audience list":   {set("aud", []string{clientID}), ""},
		"wrong nonce":           {set("nonce", "other"), "nonce_mismatch"},
		"no nonce":              {set("nonce", ""), "nonce_mismatch"},
		"other user":            {set("sub", "clerk-19c2"), "other_user"},
		"no user":               {set("sub", ""), "subject_invalid"},
		"e-mail as user":        {set("sub", "someone@hospital.example"), "subject_is_email"},
		"alg none":              {with(claims{"alg": "none"}), "token_invalid"},
		"HS256 with public key": {with(claims{"alg": "HS256", "kid": "k"}), "token_invalid"},
		"algorithm of no key":   {with(claims{"alg": "RS256", "kid": "k"}), "token_invalid"},
		"unknown kid":           {with(claims{"alg": "ES256", "kid": "x"}), "token_invalid"},
		"critical header":       {with(claims{"alg": "ES256", "kid": "k", "crit": []string{"x"}, "x": 1}), "token_invalid"},
		"other kind of token":   {with(claims{"alg": "ES256", "kid": "k", "typ": "at+jwt"}), "token_invalid"},
		"other audience":        {set("aud", "other"), "token_invalid"},
		"one audience more":     {set("aud", []string{clientID, "other"}), "token_invalid"},
		"other azp":             {set("azp", "other"), "token_invalid"},
		"other issuer":          {set("iss", "https://other.example"), "token_invalid"},
		"expired":               {set("exp", ago(time.Minute)), "token_invalid"},
		"issued before":         {set("iat", ago(time.Hour)), "token_invalid"},
		"issued later":          {set("iat", ago(-time.Hour)), "token_invalid"},
		"old auth_time":         {set("auth_time", ago(time.Hour)), "auth_time_stale"},
		"future auth_time":      {set("auth_time", ago(-time.Hour)), "auth_time_stale"},
		"no auth_time":          {func(f *forger, c claims) string { delete(c, "auth_time"); return f.sign(es256(), c) }, "auth_time_missing"},
		"roles of another type": {set("roles", 7), "claims_invalid"},
		"too many roles":        {set("roles", strings.Split(strings.Repeat("r,", 300), ",")), "claims_invalid"},
		"not a token":           {func(*forger, claims) string { return "x" }, "token_invalid"},
		"no token":              {func(*forger, claims) string { return "" }, "token_missing"},
		"huge token":            {set("x", strings.Repeat("x", 100_000)), "token_invalid"},
		"changed signature": {func(f *forger, c claims) string {
			good := f.sign(es256(), c)
			c["sub"] = "clerk-19c2"
			return strings.Split(f.sign(es256(), c), ".")[0] + "." + segment(c) + "." + strings.Split(good, ".")[2]
		}, "token_invalid"},
		"key not served": {func(f *forger, c claims) string {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			served := f.key
			f.key = key
			defer func() { f.key = served }()
			return f.sign(es256(), c)
		}, "token_invalid"},
		"weak RSA":           {func(f *forger, c claims) string { return f.weakRSA(c) }, "token_invalid"},
		"key for encryption": {func(f *forger, c claims) string { f.keys[0].Use = "enc"; return f.sign(es256(), c) }, "token_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			w, f, b := forgedWorld(t, nil)
			q := approve(t, f, b)
			f.answer = func() string { return c.forge(f, f.claims(q.Get("nonce"))) }
			p := b.get(back(q.Get("state")))
			if c.code == "" {
				if p.status != http.StatusOK || len(w.domain.approved) != 1 {
					t.Fatalf("a good token: %d %s %s", p.status, p.body, w.logged)
				}
				return
			}
			p.want(t, http.StatusForbidden, c.code)
			w.domain.nothing(t)
			b.get(back(q.Get("state"))).want(t, http.StatusBadRequest, "flow_missing") // no second try
		})
	}
}

func TestCallbackChecks(t *testing.T) {
	for name, c := range map[string]struct {
		path   func(state string, w *world) string
		sends  bool // the provider claims RFC 9207
		status int
		code   string
	}{
		"foreign state":  {func(string, *world) string { return back("x") }, false, 403, "state_mismatch"},
		"no state":       {func(string, *world) string { return "/v1/grants/callback/idp?code=c" }, false, 403, "state_mismatch"},
		"state twice":    {func(s string, _ *world) string { return back(s, "&state=x") }, false, 400, "callback_invalid"},
		"code twice":     {func(s string, _ *world) string { return back(s, "&code=d") }, false, 400, "callback_invalid"},
		"no code":        {func(s string, _ *world) string { return "/v1/grants/callback/idp?state=" + s }, false, 400, "callback_invalid"},
		"provider error": {func(s string, _ *world) string { return "/v1/grants/callback/idp?error=access_denied&state=" + s }, false, 403, "idp_refused"},
		"iss missing":    {func(s string, _ *world) string { return back(s) }, true, 403, "issuer_mismatch"},
		"iss wrong":      {func(s string, _ *world) string { return back(s, "&iss=https%3A%2F%2Fother") }, true, 403, "issuer_mismatch"},
		"iss unasked":    {func(s string, _ *world) string { return back(s, "&iss=https%3A%2F%2Fother") }, false, 403, "issuer_mismatch"},
		"iss right":      {func(s string, w *world) string { return back(s, "&iss="+url.QueryEscape(w.url+"/idp")) }, true, 303, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w, f, b := forgedWorld(t, nil)
			f.metadata["authorization_response_iss_parameter_supported"] = c.sends
			q := begin(t, b)
			f.answer = func() string { return f.sign(es256(), f.claims(q.Get("nonce"))) }
			p := b.get(c.path(q.Get("state"), w))
			if c.code == "" {
				if p.status != c.status {
					t.Errorf("status %d: %s", p.status, p.body)
				}
				return
			}
			p.want(t, c.status, c.code)
			w.domain.nothing(t)
		})
	}
}

func TestReplayAndForeignBrowser(t *testing.T) {
	w, f, b := forgedWorld(t, nil)
	q := approve(t, f, b)
	f.answer = func() string { return f.sign(es256(), f.claims(q.Get("nonce"))) }
	w.browser(false).get(back(q.Get("state"))).want(t, http.StatusBadRequest, "flow_missing") // without the cookie
	b.get(back("x")).want(t, http.StatusForbidden, "state_mismatch")                          // does not spend the flow
	if p := b.get(back(q.Get("state"))); p.status != http.StatusOK {
		t.Fatalf("%d %s", p.status, p.body)
	}
	b.get(back(q.Get("state"))).want(t, http.StatusBadRequest, "flow_missing")
	if len(w.domain.approved) != 1 {
		t.Errorf("%d approvals", len(w.domain.approved))
	}
}

func TestForm(t *testing.T) {
	for name, c := range map[string]struct {
		grant  string
		change func(url.Values)
		status int
		code   string
	}{
		"no token":      {grantID, func(v url.Values) { v.Del("csrf") }, 403, "csrf_mismatch"},
		"other token":   {grantID, func(v url.Values) { v.Set("csrf", "x") }, 403, "csrf_mismatch"},
		"no decision":   {grantID, func(v url.Values) { v.Del("decision") }, 400, "form_invalid"},
		"other word":    {grantID, func(v url.Values) { v.Set("decision", "Approve") }, 400, "form_invalid"},
		"large":         {grantID, func(v url.Values) { v.Set("x", strings.Repeat("x", 20_000)) }, 400, "form_invalid"},
		"other grant":   {otherID, func(url.Values) {}, 400, "flow_missing"},
		"no grant":      {"not-an-id", func(url.Values) {}, 410, "grant_not_pending"},
		"token in link": {grantID + "?csrf=x&decision=approve", func(v url.Values) { v.Del("csrf"); v.Del("decision") }, 400, "form_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			w, f, b := forgedWorld(t, nil)
			form := decision(login(t, f, b), t, "approve")
			c.change(form)
			b.post("/consent/"+c.grant, form).want(t, c.status, c.code)
			w.domain.nothing(t)
			if again := b.get("/consent/" + grantID); again.status != http.StatusOK {
				t.Errorf("the page is gone: %d", again.status)
			}
		})
	}
}

func TestFormFromAnotherSite(t *testing.T) {
	w, f, b := forgedWorld(t, nil)
	form := decision(login(t, f, b), t, "approve")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/consent/"+grantID, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	b.do(r).want(t, http.StatusForbidden, "csrf_mismatch")
	w.domain.nothing(t)
}

// What the user commits to is what they saw: a document that says anything else goes nowhere.
func TestDocumentMustMatchThePage(t *testing.T) {
	for name, tamper := range map[string]func(*chain.GrantDocument){
		"deadline":     func(g *chain.GrantDocument) { g.NotAfter = g.NotAfter.Add(time.Hour) },
		"depth":        func(g *chain.GrantDocument) { g.MaxDepth++ },
		"task":         func(g *chain.GrantDocument) { g.Task += "!" },
		"user":         func(g *chain.GrantDocument) { g.Subject = "clerk-19c2" },
		"client":       func(g *chain.GrantDocument) { g.ClientID = "other" },
		"types":        func(g *chain.GrantDocument) { g.AgentTypes = append(g.AgentTypes, "other") },
		"orchestrator": func(g *chain.GrantDocument) { g.Orchestrator += "2" },
		"grant":        func(g *chain.GrantDocument) { g.GrantID = otherID },
		"scope": func(g *chain.GrantDocument) {
			s, err := chain.ParseScope([]string{"database:read:*"})
			if err != nil {
				t.Fatal(err)
			}
			g.Scope = s
		},
	} {
		w, f, b := forgedWorld(t, nil)
		w.domain.tamper = tamper
		p := b.post("/consent/"+grantID, decision(login(t, f, b), t, "approve"))
		if p.status != http.StatusInternalServerError {
			t.Errorf("%s: %d %s", name, p.status, p.body)
		}
		w.domain.nothing(t)
	}
}

func TestFlowEndsInTime(t *testing.T) {
	w, f, b := forgedWorld(t, nil)
	q := begin(t, b)
	f.answer = func() string { return f.sign(es256(), f.claims(q.Get("nonce"))) }
	w.now = func() time.Time { return time.Now().Add(11 * time.Minute) }
	b.get(back(q.Get("state"))).want(t, http.StatusBadRequest, "flow_missing")
}

func TestCookie(t *testing.T) {
	_, f, b := forgedWorld(t, nil)
	p := b.get("/consent/" + grantID)
	first := p.header.Get("Set-Cookie")
	for _, part := range []string{"__Host-signet-consent=", "Path=/", "HttpOnly", "Secure", "SameSite=Lax"} {
		if !strings.Contains(first, part) {
			t.Errorf("cookie %q lacks %s", first, part)
		}
	}
	if strings.Contains(first, "Domain") {
		t.Errorf("cookie %q", first)
	}
	q := p.location.Query()
	f.answer = func() string { return f.sign(es256(), f.claims(q.Get("nonce"))) }
	if second := b.get(back(q.Get("state"))).header.Get("Set-Cookie"); second == "" || second == first {
		t.Error("the cookie did not change at login")
	}
}

func TestUnknownGrant(t *testing.T) {
	_, _, b := forgedWorld(t, nil)
	for _, id := range []string{"x", "01912d68-783e-7a03-8467-5661c1243aff", "01912D68-783E-7A03-8467-5661C1243AD4"} {
		b.get("/consent/"+id).want(t, http.StatusGone, "grant_not_pending")
	}
}

func TestDomainRefusesTheApproval(t *testing.T) {
	secret := errors.New("secret detail")
	for want, err := range map[int]error{
		http.StatusGone: consent.ErrNotPending, http.StatusInternalServerError: secret,
		http.StatusForbidden: consent.Refuse("user_revoked", http.StatusForbidden, secret), http.StatusConflict: consent.Refuse("some_code", http.StatusConflict, secret),
		http.StatusServiceUnavailable: consent.Refuse("not_ready", http.StatusServiceUnavailable, secret),
	} {
		w, f, b := forgedWorld(t, nil)
		w.domain.fail = err
		q := approve(t, f, b)
		f.answer = func() string { return f.sign(es256(), f.claims(q.Get("nonce"))) }
		if p := b.get(back(q.Get("state"))); p.status != want || strings.Contains(p.body, "secret") {
			t.Errorf("%v: %d %s", err, p.status, p.body)
		} else if code, ok := consent.Refusal(err); ok && (!strings.Contains(p.body, "<code>"+code+"</code>") || !strings.Contains(p.body, "othing was granted")) {
			t.Errorf("%s is not told: %s", code, p.body)
		}
		w.domain.nothing(t)
	}
}

func TestDomainRefusesTheRefusal(t *testing.T) {
	w, f, b := forgedWorld(t, nil)
	p := login(t, f, b)
	w.domain.fail = consent.Refuse("state_unavailable", http.StatusServiceUnavailable, errors.New("secret detail"))
	p = b.post("/consent/"+grantID, decision(p, t, "refuse"))
	p.want(t, http.StatusServiceUnavailable, "state_unavailable")
	if p.header.Get("Retry-After") == "" {
		t.Error("the browser is not told when to try again")
	}
}
