package consent_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/consent"
	"github.com/signet-pki/signet/delegation/evidence"
)

const exchangeAudience = "signet-exchange"

// exchange is a provider of a forger's tokens, of which lab presents those issued to lab-client.
func exchange(t *testing.T) (*world, *forger, func(kind, token string) (consent.Approval, error)) {
	t.Helper()
	var f *forger
	w := newWorld(t, func(base string) http.Handler { f = newForger(t, base); return f }, nil)
	p, err := consent.NewProvider(consent.Config{
		Name: "idp", Issuer: w.url + "/idp", ClientID: clientID, RedirectURL: w.url + "/v1/grants/callback/idp",
		Exchange:   &consent.TokenExchange{Audience: exchangeAudience, MaxAge: 5 * time.Minute, Clients: map[string]string{"lab": "lab-client"}},
		HTTPClient: w.client, Now: func() time.Time { return w.now() }, Rand: rand.Reader,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w, f, func(kind, token string) (consent.Approval, error) {
		return consent.Exchange(t.Context(), []*consent.Provider{p}, "lab", kind, token, func(u consent.User) ([]byte, error) {
			return w.domain.Document(context.Background(), grantID, u)
		})
	}
}

func (f *forger) accessClaims() map[string]any {
	c := f.claims("")
	delete(c, "nonce")
	c["aud"], c["azp"], c["jti"] = exchangeAudience, "lab-client", "one"
	return c
}

func TestExchange(t *testing.T) {
	type claims = map[string]any
	set := func(name string, v any) func(claims, claims) { return func(_, c claims) { c[name] = v } }
	head := func(name string, v any) func(claims, claims) { return func(h, _ claims) { h[name] = v } }
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	for name, c := range map[string]struct {
		change func(header, c claims)
		code   string
	}{
		"good":                       {func(_, _ claims) {}, ""},
		"good, RFC 9068":             {head("typ", "at+jwt"), ""},
		"good, client_id":            {func(_, c claims) { delete(c, "azp"); c["client_id"] = "lab-client" }, ""},
		"for consent's client":       {set("aud", clientID), "token_invalid"},
		"for the console":            {set("aud", "console"), "token_invalid"},
		"for two":                    {set("aud", []string{exchangeAudience, "other"}), "token_audience"},
		"a login":                    {set("nonce", "n"), "token_is_login"},
		"a login beside a token":     {set("at_hash", "h"), "token_is_login"},
		"to another client":          {set("azp", "other"), "token_client"},
		"to no client":               {func(_, c claims) { delete(c, "azp") }, "token_client"},
		"to two clients":             {set("client_id", "other"), "token_invalid"},
		"without jti":                {func(_, c claims) { delete(c, "jti") }, "token_invalid"},
		"issued six minutes ago":     {set("iat", ago(6*time.Minute)), "token_too_old"},
		"issued in five minutes":     {set("iat", ago(-5*time.Minute)), "token_too_old"},
		"expired":                    {set("exp", ago(time.Minute)), "token_invalid"},
		"of another issuer":          {set("iss", "https://other.example"), "issuer_unknown"},
		"of nobody":                  {func(_, c claims) { delete(c, "iss") }, "issuer_unknown"},
		"another kind of JWT":        {head("typ", "secevent+jwt"), "token_invalid"},
		"alg none":                   {head("alg", "none"), "token_invalid"},
		"HS256 with the public key":  {head("alg", "HS256"), "token_invalid"},
		"a key that nobody serves":   {head("kid", "x"), "token_invalid"},
		"a user with e-mail for sub": {set("sub", "a@b.example"), "subject_is_email"},
	} {
		t.Run(name, func(t *testing.T) {
			_, f, present := exchange(t)
			header, body := es256(), f.accessClaims()
			c.change(header, body)
			a, err := present(consent.TypeAccessToken, f.sign(header, body))
			code, _ := consent.Refusal(err)
			if code != c.code || (err == nil) != (c.code == "") {
				t.Fatalf("%q %v, want %q", code, err, c.code)
			}
			if err != nil {
				return
			}
			if a.Type != chain.TokenExchange || a.User.Subject != "physician-7f3a" || len(a.Roles) != 1 || a.Once == nil {
				t.Errorf("approval %+v", a)
			}
			p, err := evidence.Parse(a.Evidence)
			if err != nil || p.Verify(time.Now()) != nil {
				t.Errorf("the evidence does not verify: %v", err)
			}
		})
	}
}

func TestExchangeKinds(t *testing.T) {
	_, f, present := exchange(t)
	token := f.sign(es256(), f.accessClaims())
	for kind, want := range map[string]string{
		consent.TypeJWT: "", "urn:ietf:params:oauth:token-type:id_token": "token_type_unsupported", "": "token_type_unsupported",
		"urn:ietf:params:oauth:token-type:refresh_token": "token_type_unsupported",
	} {
		if code, _ := consent.Refusal(errOf(present(kind, token))); code != want {
			t.Errorf("%q: %q, want %q", kind, code, want)
		}
	}
	for _, garbage := range []string{"", "x", "a.b.c", string(make([]byte, 100_000))} {
		if code, _ := consent.Refusal(errOf(present(consent.TypeJWT, garbage))); code != "token_invalid" {
			t.Errorf("%.9q: %q", garbage, code)
		}
	}
	f.mu.Lock()
	f.keys = nil // rotated away
	f.mu.Unlock()
	if code, _ := consent.Refusal(errOf(present(consent.TypeJWT, token))); code != "token_invalid" {
		t.Errorf("a withdrawn key: %q", code)
	}
}

func errOf(_ consent.Approval, err error) error { return err }

func TestExchangeOnceNamesTheToken(t *testing.T) {
	_, f, present := exchange(t)
	a, err := present(consent.TypeJWT, f.sign(es256(), f.accessClaims()))
	again, err2 := present(consent.TypeJWT, f.sign(es256(), f.accessClaims())) // another signature of the same jti
	other := f.accessClaims()
	other["jti"] = "two"
	b, err3 := present(consent.TypeJWT, f.sign(es256(), other))
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatal(err)
	}
	if a.Once.Hash != again.Once.Hash || a.Once.Hash == b.Once.Hash {
		t.Error("a token is not named by its jti")
	}
}

func TestExchangeConfig(t *testing.T) {
	good := consent.Config{
		Name: "a", Issuer: "https://a.example", ClientID: "c", RedirectURL: "https://s.example/v1/grants/callback/a", Now: time.Now, Rand: rand.Reader,
	}
	for name, change := range map[string]func(*consent.Config){
		"audience of consent": func(c *consent.Config) { c.Exchange = &consent.TokenExchange{Audience: "c", MaxAge: time.Minute} },
		"no audience":         func(c *consent.Config) { c.Exchange = &consent.TokenExchange{MaxAge: time.Minute} },
		"no age":              func(c *consent.Config) { c.Exchange = &consent.TokenExchange{Audience: "x"} },
		"any age":             func(c *consent.Config) { c.Exchange = &consent.TokenExchange{Audience: "x", MaxAge: 2 * time.Hour} },
		"no CA":               func(c *consent.Config) { c.Certificates = &consent.UserCertificates{SubjectFrom: evidence.FromURI} },
	} {
		cfg := good
		change(&cfg)
		if _, err := consent.NewProvider(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
