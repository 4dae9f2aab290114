package consent_test

import (
	"crypto/rand"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/delegation/consent"
	"github.com/signet-pki/signet/web"
)

// twoProviders is a world whose users choose between two forgers: idp, and evil.
func twoProviders(t *testing.T) (*world, *forger, *forger) {
	t.Helper()
	var good *forger
	w := newWorld(t, func(base string) http.Handler { good = newForger(t, base); return good }, nil)
	evil := newForger(t, w.url)
	evil.metadata["issuer"] = w.url + "/evil"
	evil.metadata["authorization_endpoint"] = w.url + "/evil/authorize"
	evil.metadata["token_endpoint"] = w.url + "/evil/token"
	evil.metadata["jwks_uri"] = w.url + "/evil/keys"
	config := func(name string) *consent.Provider {
		p, err := consent.NewProvider(consent.Config{
			Name: name, Issuer: w.url + "/" + name, ClientID: clientID, RedirectURL: w.url + "/v1/grants/callback/" + name,
			HTTPClient: w.client, Now: time.Now, Rand: rand.Reader,
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	pages, err := web.NewConsent()
	if err != nil {
		t.Fatal(err)
	}
	h, err := consent.NewHandler([]*consent.Provider{config("idp"), config("evil")}, w.domain.users(), pages, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	w.mux.Handle("/consent/", h)
	w.mux.Handle("/v1/grants/", h)
	w.mux.Handle("/evil/", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		r.URL.Path = strings.Replace(r.URL.Path, "/evil/", "/idp/", 1)
		evil.ServeHTTP(rw, r)
	}))
	return w, good, evil
}

func TestUserChoosesTheProvider(t *testing.T) {
	w, _, _ := twoProviders(t)
	b := w.browser(false)
	p := b.get("/consent/" + grantID)
	for _, want := range []string{"Where do you sign in?", "provider=idp", "provider=evil", w.url + "/evil"} {
		if p.status != http.StatusOK || !strings.Contains(p.body, want) {
			t.Errorf("status %d, no %q: %s", p.status, want, p.body)
		}
	}
	if strings.Contains(p.body, "cardiology") {
		t.Error("the request is shown before anybody signed in")
	}
	for _, name := range []string{"idp", "evil"} {
		p := b.get("/consent/" + grantID + "?provider=" + name)
		if p.location == nil || p.location.Path != "/"+name+"/authorize" || p.location.Query().Get("redirect_uri") != w.url+"/v1/grants/callback/"+name {
			t.Errorf("%s: %d to %v", name, p.status, p.location)
		}
	}
	b.get("/consent/"+grantID+"?provider=x").want(t, http.StatusBadRequest, "provider_unknown")
}

// TestMixUp is the attack of RFC 9700 §4.4: the user chose the evil provider, which sends them on to the good one; the good
// one's code must not be given to the evil one's token endpoint.
func TestMixUp(t *testing.T) {
	w, good, evil := twoProviders(t)
	good.answer = func() string { t.Error("the good provider's code was redeemed"); return "" }
	evil.answer = func() string { t.Error("the evil provider got a code"); return "" }
	for name, path := range map[string]string{
		"redirect to the good one's URI":           "/v1/grants/callback/idp?code=c&state=",
		"redirect with the good one's issuer":      "/v1/grants/callback/evil?code=c&iss=" + w.url + "/idp&state=",
		"redirect to the URI of nobody configured": "/v1/grants/callback/other?code=c&state=",
	} {
		t.Run(name, func(t *testing.T) {
			b := w.browser(false)
			state := b.get("/consent/" + grantID + "?provider=evil").location.Query().Get("state")
			b.get(path+state).want(t, http.StatusForbidden, "issuer_mismatch")
			w.domain.nothing(t)
		})
	}
}

func TestProvidersAreDistinct(t *testing.T) {
	w := newWorld(t, func(base string) http.Handler { return newForger(t, base) }, nil)
	good := consent.Config{
		Name: "a", Issuer: "https://a.example", ClientID: "c", RedirectURL: "https://s.example/v1/grants/callback/a", Now: time.Now, Rand: rand.Reader,
	}
	for name, change := range map[string]func(*consent.Config){
		"no name":         func(c *consent.Config) { c.Name, c.RedirectURL = "", "https://s.example/v1/grants/callback/" },
		"name with slash": func(c *consent.Config) { c.Name, c.RedirectURL = "a/b", "https://s.example/v1/grants/callback/a/b" },
		"shared URI":      func(c *consent.Config) { c.RedirectURL = "https://s.example/v1/grants/callback/other" },
	} {
		cfg := good
		change(&cfg)
		if _, err := consent.NewProvider(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	a, err := consent.NewProvider(good)
	if err != nil {
		t.Fatal(err)
	}
	pages, err := web.NewConsent()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := consent.NewHandler([]*consent.Provider{a, a}, w.domain.users(), pages, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("one provider twice: accepted")
	}
}
