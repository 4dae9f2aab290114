package consent_test

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-pki/signet/delegation/consent"
)

func TestTokenEndpoint(t *testing.T) {
	for status, want := range map[int]struct {
		status int
		code   string
	}{
		http.StatusBadRequest:         {http.StatusForbidden, "code_refused"},
		http.StatusServiceUnavailable: {http.StatusServiceUnavailable, "idp_unavailable"},
	} {
		w, f, b := forgedWorld(t, nil)
		q := begin(t, b)
		f.status = status
		b.get(back(q.Get("state"))).want(t, want.status, want.code)
		w.domain.nothing(t)
	}
}

func TestMetadataChecks(t *testing.T) {
	for name, change := range map[string]func(m map[string]any){
		"other issuer":     func(m map[string]any) { m["issuer"] = "https://other.example" },
		"plain token":      func(m map[string]any) { m["token_endpoint"] = "http://127.0.0.1/token" },
		"no keys":          func(m map[string]any) { delete(m, "jwks_uri") },
		"plain authorize":  func(m map[string]any) { m["authorization_endpoint"] = "http://127.0.0.1/" },
		"only weak":        func(m map[string]any) { m["id_token_signing_alg_values_supported"] = []string{"none", "HS256"} },
		"script authorize": func(m map[string]any) { m["authorization_endpoint"] = "javascript:alert(1)" },
		"huge":             func(m map[string]any) { m["x"] = strings.Repeat("x", 2<<20) },
	} {
		_, f, b := forgedWorld(t, nil)
		change(f.metadata)
		p := b.get("/consent/" + grantID)
		p.want(t, http.StatusServiceUnavailable, "idp_unavailable")
		if t.Failed() {
			t.Fatalf("%s", name)
		}
	}
}

func TestRolesClaimPathAndEmailSubject(t *testing.T) {
	w, f, b := forgedWorld(t, func(c *consent.Config) {
		c.RolesClaim, c.GroupsClaim, c.AllowEmailSub = "realm_access.roles", "https://hospital.example/groups", true
	})
	sign := func(nonce string) func() string {
		return func() string {
			c := f.claims(nonce)
			c["sub"] = "someone@hospital.example"
			c["realm_access"] = map[string]any{"roles": []string{"analyst"}}
			c["https://hospital.example/groups"] = "one"
			return f.sign(es256(), c)
		}
	}
	q := begin(t, b)
	f.answer = sign(q.Get("nonce"))
	b.get(back(q.Get("state")))
	p := b.post("/consent/"+grantID, decision(b.get("/consent/"+grantID), t, "approve"))
	f.answer = sign(p.location.Query().Get("nonce"))
	if done := b.get(back(p.location.Query().Get("state"))); done.status != http.StatusOK {
		t.Fatalf("%d %s %s", done.status, done.body, w.logged)
	}
	a := w.domain.approved[0]
	if a.User.Subject != "someone@hospital.example" || len(a.Roles) != 1 || a.Roles[0] != "analyst" || len(a.Groups) != 1 || a.Groups[0] != "one" {
		t.Errorf("%+v", a)
	}
}

// A provider that is down is asked once in a while, and found when it is back; while discovery is fresh it is not asked.
func TestDiscoveryIsKept(t *testing.T) {
	var asked, down atomic.Int64
	var f *forger
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if down.Load() != 0 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		f.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	f = newForger(t, server.URL)
	now := time.Now()
	p, err := consent.NewProvider(consent.Config{
		Name: "idp", Issuer: server.URL + "/idp", ClientID: clientID, RedirectURL: server.URL + "/v1/grants/callback/idp",
		HTTPClient: server.Client(), Now: func() time.Time { return now }, Rand: rand.Reader,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		after time.Duration
		down  int64
		asked int64
		ok    bool
	}{
		{0, 1, 1, false},
		{time.Second, 1, 1, false}, // too soon to ask again
		{2 * time.Second, 0, 2, true},
		{time.Second, 1, 2, true}, // asked just now
		{2 * time.Second, 1, 3, false},
		{3 * time.Second, 0, 4, true},
	} {
		now = now.Add(step.after)
		down.Store(step.down)
		err := p.Available(t.Context())
		if (err == nil) != step.ok || asked.Load() != step.asked || err != nil && !errors.Is(err, consent.ErrProviderUnavailable) {
			t.Errorf("%+v: asked %d times, %v", step, asked.Load(), err)
		}
	}
}
