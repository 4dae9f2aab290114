package consent_test

import (
	"crypto/rand"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/consent"
)

// receiver takes a forger's events.
func receiver(t *testing.T, change func(*consent.Events)) (*world, *forger, func(set string) (consent.Event, error)) {
	t.Helper()
	var f *forger
	w := newWorld(t, func(base string) http.Handler { f = newForger(t, base); return f }, nil)
	events := &consent.Events{Audience: "signet-events"}
	if change != nil {
		change(events)
	}
	p, err := consent.NewProvider(consent.Config{
		Name: "idp", Issuer: w.url + "/idp", ClientID: clientID, RedirectURL: w.url + "/v1/grants/callback/idp", Events: events,
		HTTPClient: w.client, Now: func() time.Time { return w.now() }, Rand: rand.Reader,
	})
	if err != nil {
		t.Fatal(err)
	}
	return w, f, func(set string) (consent.Event, error) {
		return consent.ReadEvent(t.Context(), []*consent.Provider{p}, set)
	}
}

func setHeader() map[string]any {
	return map[string]any{"alg": "ES256", "kid": "k", "typ": "secevent+jwt"}
}

func (f *forger) event() map[string]any {
	return map[string]any{
		"iss": f.base + "/idp", "aud": "signet-events", "iat": time.Now().Unix(), "jti": "one",
		"sub_id": map[string]any{"format": "iss_sub", "iss": f.base + "/idp", "sub": "physician-7f3a"},
		"events": map[string]any{consent.SessionRevoked: map[string]any{"event_timestamp": time.Now().Unix()}},
	}
}

func TestReadEvent(t *testing.T) {
	type claims = map[string]any
	set := func(name string, v any) func(*forger, claims, claims) {
		return func(_ *forger, _, c claims) { c[name] = v }
	}
	head := func(name string, v any) func(*forger, claims, claims) {
		return func(_ *forger, h, _ claims) { h[name] = v }
	}
	ago := func(d time.Duration) int64 { return time.Now().Add(-d).Unix() }
	subject := func(format, issuer, sub string) func(*forger, claims, claims) {
		return func(f *forger, _, c claims) {
			c["sub_id"] = claims{"format": format, "iss": f.base + issuer, "sub": sub}
		}
	}
	for name, c := range map[string]struct {
		change func(f *forger, header, c claims)
		code   string
	}{
		"good":             {func(*forger, claims, claims) {}, ""},
		"good, media type": {head("typ", "application/secevent+jwt"), ""},
		"good, audiences":  {set("aud", []string{"other", "signet-events"}), ""},
		"good, older subject": {func(f *forger, _, c claims) {
			c["events"] = claims{consent.SessionRevoked: claims{"subject": c["sub_id"]}}
			delete(c, "sub_id")
		}, ""},
		"an ID token":        {head("typ", "JWT"), "set_invalid"},
		"no typ":             {func(_ *forger, h, _ claims) { delete(h, "typ") }, "set_invalid"},
		"alg none":           {head("alg", "none"), "set_invalid"},
		"HS256":              {head("alg", "HS256"), "set_invalid"},
		"another alg":        {head("alg", "RS256"), "set_key"},
		"a key of nobody":    {head("kid", "x"), "set_key"},
		"another issuer":     {set("iss", "https://other.example"), "set_issuer"},
		"no issuer":          {func(_ *forger, _, c claims) { delete(c, "iss") }, "set_issuer"},
		"another receiver":   {set("aud", clientID), "set_audience"},
		"no receiver":        {func(_ *forger, _, c claims) { delete(c, "aud") }, "set_audience"},
		"no jti":             {set("jti", ""), "set_invalid"},
		"no iat":             {func(_ *forger, _, c claims) { delete(c, "iat") }, "set_invalid"},
		"two hours old":      {set("iat", ago(2*time.Hour)), "set_invalid"},
		"five minutes early": {set("iat", ago(-5*time.Minute)), "set_invalid"},
		"absurd time":        {set("iat", 1e300), "set_invalid"},
		"unknown event":      {set("events", claims{"https://x/other": claims{}}), "set_invalid"},
		"two events":         {set("events", claims{consent.SessionRevoked: claims{}, consent.CredentialChange: claims{}}), "set_invalid"},
		"no event":           {set("events", claims{}), "set_invalid"},
		"event of no form":   {set("events", claims{consent.SessionRevoked: "x"}), "set_invalid"},
		"no subject":         {func(_ *forger, _, c claims) { delete(c, "sub_id") }, "set_invalid"},
		"subject by e-mail":  {subject("email", "/idp", "physician-7f3a"), "set_invalid"},
		"another's subject":  {subject("iss_sub", "/other", "physician-7f3a"), "set_invalid"},
		"subject of no form": {subject("iss_sub", "/idp", ""), "set_invalid"},
		"two subjects": {func(f *forger, _, c claims) {
			c["events"] = claims{consent.SessionRevoked: claims{"subject": claims{"format": "iss_sub", "iss": f.base + "/idp", "sub": "clerk"}}}
		}, "set_invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			_, f, read := receiver(t, nil)
			header, body := setHeader(), f.event()
			c.change(f, header, body)
			e, err := read(f.sign(header, body))
			if code, _ := consent.Refusal(err); code != c.code || (err == nil) != (c.code == "") {
				t.Fatalf("%q %v, want %q", code, err, c.code)
			}
			if err == nil && (e.User.Subject != "physician-7f3a" || !e.Counts || e.Type != consent.SessionRevoked || e.Expires.IsZero()) {
				t.Errorf("event %+v", e)
			}
		})
	}
}

func TestCredentialChangeCountsIfConfigured(t *testing.T) {
	for _, counts := range []bool{false, true} {
		_, f, read := receiver(t, func(e *consent.Events) { e.CredentialChange = counts })
		body := f.event()
		body["events"] = map[string]any{consent.CredentialChange: map[string]any{"change_type": "revoke"}}
		if e, err := read(f.sign(setHeader(), body)); err != nil || e.Counts != counts {
			t.Errorf("%v: %+v %v", counts, e, err)
		}
	}
}

// Anybody can send events: that must not become a flood of questions to the provider. A key that came new is found all the same.
func TestEventKeysAreKept(t *testing.T) {
	w, f, read := receiver(t, nil)
	var asked atomic.Int64
	f.asked = &asked
	clock := time.Now()
	w.now = func() time.Time { return clock }
	good := f.sign(setHeader(), f.event())
	bad := setHeader()
	bad["kid"] = "x"
	for range 20 {
		if _, err := read(good); err != nil {
			t.Fatal(err)
		}
		if _, err := read(f.sign(bad, f.event())); err == nil {
			t.Fatal("a key of nobody was accepted")
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("the provider was asked for keys %d times", n)
	}
	f.mu.Lock()
	f.keys = append(f.keys, jose.JSONWebKey{Key: &f.key.PublicKey, KeyID: "x", Use: "sig", Algorithm: "ES256"})
	f.mu.Unlock()
	clock = clock.Add(6 * time.Second)
	if _, err := read(f.sign(bad, f.event())); err != nil {
		t.Errorf("the new key: %v", err)
	}
	f.mu.Lock()
	f.keys = f.keys[1:]
	f.mu.Unlock()
	clock = clock.Add(2 * time.Minute)
	if _, err := read(good); err == nil {
		t.Error("a withdrawn key was accepted")
	}
}

// FuzzEvent: what is no token of a provider never becomes an event.
func FuzzEvent(f *testing.F) {
	f.Add("e30.e30.e30")
	f.Add("eyJhbGciOiJFUzI1NiIsInR5cCI6InNlY2V2ZW50K2p3dCJ9.eyJpc3MiOiJodHRwczovL2lkcC5leGFtcGxlIn0.AAAA")
	p, err := consent.NewProvider(consent.Config{
		Name: "idp", Issuer: "https://127.0.0.1:1", ClientID: clientID, RedirectURL: "https://s.example/v1/grants/callback/idp",
		Events: &consent.Events{Audience: "signet-events"}, Exchange: &consent.TokenExchange{Audience: "x", MaxAge: time.Minute}, Now: time.Now, Rand: rand.Reader,
	})
	if err != nil {
		f.Fatal(err)
	}
	all := []*consent.Provider{p}
	f.Fuzz(func(t *testing.T, set string) {
		if _, err := consent.ReadEvent(t.Context(), all, set); err == nil {
			t.Fatal("accepted without a provider")
		}
		if _, err := consent.Exchange(t.Context(), all, "lab", consent.TypeJWT, set, nil); err == nil {
			t.Fatal("exchanged without a provider")
		}
	})
}
