package softhsmtest

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
	"github.com/go-jose/go-jose/v4"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/consent"
)

const (
	byKey    = chromedp.CSS(`button.key`)
	account  = "/account"
	accounts = "What you granted"
)

// signedIn is a window on the user's own page.
func (c *consents) signedIn(t testing.TB, user string) *window {
	t.Helper()
	w := c.browser.window(t)
	w.open(c.public + account)
	w.signIn(user)
	w.sees(accounts)
	return w
}

// authenticator gives the window a security key, which verifies its user or does not.
func (w *window) authenticator(verifies bool) webauthn.AuthenticatorID {
	w.t.Helper()
	_, err := chromedp.Call(w.ctx, webauthn.Enable, webauthn.EnableParams{})
	must(w.t, err)
	a, err := chromedp.Call(w.ctx, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
		Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportUsb,
		HasUserVerification: true, IsUserVerified: verifies, AutomaticPresenceSimulation: true,
	}})
	must(w.t, err)
	return a.AuthenticatorID
}

// press clicks a button that a script of the page enables.
func (w *window) press(selector chromedp.CSS) {
	w.t.Helper()
	w.do(chromedp.WaitEnabled(selector))
	w.click(selector)
}

// testSecurityKey registers a key on the user's page and approves with it, without a second login.
func (c *consents) testSecurityKey(t *testing.T) {
	w := c.signedIn(t, clerk)
	key := w.authenticator(true)
	w.press(byKey)
	w.do(chromedp.WaitVisible(chromedp.CSS(`button[value="forget"]`)))

	g := c.ask(t)
	w.open(g.ConsentURL) // the provider knows the user: this login asks nothing
	w.sees(asking)
	_, err := chromedp.Call(w.ctx, webauthn.SetUserVerified, webauthn.SetUserVerifiedParams{AuthenticatorID: key, IsUserVerified: false})
	must(t, err)
	w.press(byKey)
	w.do(chromedp.WaitVisible(chromedp.Search(`//p[@role="alert" and contains(., "did not do it")]`)))
	c.untouched(t, g)
	_, err = chromedp.Call(w.ctx, webauthn.SetUserVerified, webauthn.SetUserVerifiedParams{AuthenticatorID: key, IsUserVerified: true})
	must(t, err)
	w.press(byKey)
	w.sees("Approved")
	c.active(t, g)
	c.verifiesOffline(t, g, chain.WebAuthn)

	// A key that was removed signs no more, even on a page that was open before.
	g = c.ask(t)
	w.open(g.ConsentURL)
	w.sees(asking)
	other := c.signedIn(t, clerk)
	other.click(`button[value="forget"]`)
	other.do(chromedp.WaitNotPresent(chromedp.CSS(`button[value="forget"]`)))
	w.press(byKey)
	if code := w.refusal(); code != "assertion_invalid" {
		t.Errorf("refused with %s", code)
	}
	c.untouched(t, g)
}

// testWithdraw ends a grant on its user's page, and the task with it.
func (c *consents) testWithdraw(t *testing.T) {
	g := c.ask(t)
	w := c.asked(t, g)
	w.click(approving)
	w.signIn(physician)
	w.sees("Approved")
	task, err := c.orchestrator.OpenTask(t.Context(), v1.TaskRequest{GrantID: g.GrantID})
	must(t, err)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)

	stranger := c.signedIn(t, "stranger-0000")
	if text := stranger.sees(accounts); strings.Contains(text, g.TaskID) {
		t.Errorf("a stranger sees %s", text)
	}
	w.open(c.public + account) // a session is not enough
	w.signIn(physician)
	mine := chromedp.Search(`//section[contains(., "` + g.TaskID + `")]//button[@value="withdraw"]`)
	w.do(chromedp.Click(mine, chromedp.NodeVisible))
	w.do(chromedp.WaitVisible(chromedp.Search(`//section[contains(., "` + g.TaskID + `")]//*[contains(@class, "status") and contains(., "revoked")]`)))
	now, err := c.orchestrator.Grant(t.Context(), g.GrantID)
	must(t, err)
	if now.Status != "revoked" {
		t.Errorf("the grant is %s", now.Status)
	}
	within(t, 10*time.Second, "the decision to be no", func() error {
		d, err := decide(t.Context(), c.service, a)
		if err == nil && d.Decision {
			err = errAllowed
		}
		return err
	})
	if _, err := spawn(t.Context(), c.orchestrator, task); refusedWith(err, chain.CodeGrantRevoked) != nil {
		t.Errorf("a new agent: %v", orAllowed(err))
	}
}

// push sends a Security Event Token about a user as the provider would, and gives what was answered.
func (c *consents) push(t testing.TB, user string, keys jose.JSONWebKeySet) (status int, body string) {
	t.Helper()
	claims, err := json.Marshal(map[string]any{
		"iss": c.provider.issuer, "aud": "signet-events", "iat": time.Now().Unix(), "jti": rand.Text(),
		"sub_id": map[string]string{"format": "iss_sub", "iss": c.provider.issuer, "sub": user},
		"events": map[string]any{consent.SessionRevoked: map[string]any{}},
	})
	must(t, err)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: keys.Keys[0]}, (&jose.SignerOptions{}).WithType("secevent+jwt"))
	must(t, err)
	jws, err := signer.Sign(claims)
	must(t, err)
	set, err := jws.CompactSerialize()
	must(t, err)
	q, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url+"/v1/events", strings.NewReader(set))
	must(t, err)
	q.Header.Set("Content-Type", "application/secevent+jwt")
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS13}}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(q)
	must(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(b)
}

// testSessionRevoked: the provider logs the physician out, and their tasks end; nobody else's do, and they can consent again.
func (c *consents) testSessionRevoked(t *testing.T) {
	give := func() v1.Grant {
		g := c.ask(t)
		w := c.asked(t, g)
		w.click(approving)
		w.signIn(physician)
		w.sees("Approved")
		return g
	}
	mine := c.signedIn(t, physician)
	then := time.Now().Unix()
	g := give()
	task, err := c.orchestrator.OpenTask(t.Context(), v1.TaskRequest{GrantID: g.GrantID})
	must(t, err)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	if status, body := c.push(t, physician, signingKeys(t, "RS256")); status != 400 || !strings.Contains(body, `"err":"invalid_key"`) {
		t.Errorf("a forged event: %d %s", status, body)
	}
	if status, body := c.push(t, clerk, c.provider.config.JWKS); status != 202 || body != "" {
		t.Errorf("another user's: %d %s", status, body)
	}
	c.active(t, g)
	within(t, 10*time.Second, "another second than that of the sign-in", func() error { // tokens count seconds
		if time.Now().Unix() == then {
			return errors.New("not yet")
		}
		return nil
	})
	if status, body := c.push(t, physician, c.provider.config.JWKS); status != 202 || body != "" {
		t.Fatalf("the event: %d %s", status, body)
	}
	if now, err := c.orchestrator.Grant(t.Context(), g.GrantID); err != nil || now.Status != "revoked" {
		t.Errorf("the grant is %s, %v", now.Status, err)
	}
	if d, err := decide(t.Context(), c.service, a); err == nil && d.Decision {
		t.Error("the agent may still read")
	}
	mine.open(c.public + account)
	if code := mine.refusal(); code != "session_ended" {
		t.Errorf("their page: %s", code)
	}
	mine.open(c.public + account)
	mine.signIn(physician)
	mine.sees(accounts)
	c.active(t, give())
}

// testBarred: who was barred gives nothing and sees nothing, is told so, and the log says that they tried.
func (c *consents) testBarred(t *testing.T) {
	const barred = "barred-0001"
	g := c.ask(t)
	w := c.browser.window(t)
	w.open(g.ConsentURL)
	w.signIn(barred)
	w.sees(asking)
	mine := c.signedIn(t, barred)
	_, err := c.operator.Revoke(t.Context(), v1.RevocationRequest{Kind: "user", User: &v1.User{Issuer: c.provider.issuer, Subject: barred}, Reason: "left"})
	must(t, err)
	w.click(approving)
	w.signIn(barred)
	if code := w.refusal(); code != chain.CodeUserRevoked {
		t.Errorf("the consent page: %s", code)
	}
	page, err := c.auditor.Entries(t.Context(), url.Values{"grant": {g.GrantID}})
	must(t, err)
	if len(page.Entries) != 1 || !strings.Contains(string(page.Entries[0].Entry), `"type":"deny"`) || !strings.Contains(string(page.Entries[0].Entry), chain.CodeUserRevoked) {
		t.Errorf("%d entries: %+v", len(page.Entries), page.Entries)
	}
	mine.open(c.public + account)
	if code := mine.refusal(); code != chain.CodeUserRevoked {
		t.Errorf("their page: %s", code)
	}
}
