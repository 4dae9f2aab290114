package softhsmtest

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/consent"
	proof "github.com/signet-pki/signet/delegation/evidence"
	"github.com/signet-pki/signet/internal/appliance"
)

const (
	physician = "physician-7f3a"
	clerk     = "clerk-19c2"
	asking    = "May software agents act for you?"
	callback  = "/v1/grants/callback/npm"
	approving = `button[value="approve"]`
)

// consents is an appliance, a provider that nobody here wrote, and a browser.
type consents struct {
	*cast
	inside   *inside
	public   string // how browsers reach the appliance: by a name, which WebAuthn wants
	dir      string
	provider *provider
	users    users
	browser  *chromium
}

func newConsents(t *testing.T) *consents {
	t.Helper()
	p, dir, users := newProvider(t), made(t), newUsers(t)
	var public string
	i := runInside(t, dir, func(c *appliance.Config) {
		public = strings.Replace(c.PublicURL, "127.0.0.1", "localhost", 1)
		c.PublicURL = public
		c.IdentityProviders = []appliance.IdentityProvider{{
			Name: "npm", Issuer: p.issuer, ClientID: "signet-consent", CAFile: p.ca,
			Events:           &appliance.IdentityEvents{Audience: "signet-events"},
			UserCertificates: &appliance.UserCertificates{CAFile: users.file, Subject: proof.FromSerialNumber},
		}}
	})
	p.config.Clients = []providerClient{{ID: "signet-consent", Redirects: []string{public + callback}}}
	p.configure()
	c := newCast(t, dir, i.url)
	return &consents{c, i, public, dir, p, users, newChromium(t, p.cert, c.serverCA())}
}

// serverCA is the CA that the appliance's port shows, after verification.
func (c *cast) serverCA() *x509.Certificate {
	c.t.Helper()
	dialer := tls.Dialer{Config: &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS13}}
	conn, err := dialer.DialContext(c.t.Context(), "tcp", strings.TrimPrefix(c.url, "https://"))
	must(c.t, err)
	defer conn.Close()
	shown := conn.(*tls.Conn).ConnectionState().PeerCertificates //nolint:errcheck,forcetypeassert // what the dialer makes
	return shown[len(shown)-1]
}

// ask has the orchestrator ask for a grant.
func (c *consents) ask(t testing.TB) v1.Grant {
	t.Helper()
	g, err := c.orchestrator.RequestGrant(t.Context(), grantRequest())
	must(t, err)
	return g
}

// asked is a window in which the physician has signed in and sees what they are asked.
func (c *consents) asked(t testing.TB, g v1.Grant) *window {
	t.Helper()
	w := c.browser.window(t)
	w.open(g.ConsentURL)
	w.signIn(physician)
	w.sees(asking)
	return w
}

// untouched checks that the grant still waits, and that the log does not know it.
func (c *consents) untouched(t testing.TB, g v1.Grant) {
	t.Helper()
	now, err := c.orchestrator.Grant(t.Context(), g.GrantID)
	must(t, err)
	if now.Status != "pending" {
		t.Errorf("the grant is %s", now.Status)
	}
	c.unlogged(t, g)
}

func (c *consents) unlogged(t testing.TB, g v1.Grant) {
	t.Helper()
	page, err := c.auditor.Entries(t.Context(), url.Values{"grant": {g.GrantID}})
	must(t, err)
	if len(page.Entries) != 0 {
		t.Errorf("%d entries name the grant: %s", len(page.Entries), page.Entries[0].Entry)
	}
}

func (c *consents) active(t testing.TB, g v1.Grant) {
	t.Helper()
	now, err := c.orchestrator.Grant(t.Context(), g.GrantID)
	must(t, err)
	if now.Status != "active" {
		t.Errorf("the grant is %s", now.Status)
	}
}

// TestConsentInBrowser goes the user's way, and an attacker's, in a real browser with an independent provider.
func TestConsentInBrowser(t *testing.T) {
	c := newConsents(t)
	t.Run("approve", c.testApprove)
	t.Run("decline", c.testDecline)
	t.Run("security key", c.testSecurityKey)
	t.Run("withdraw", c.testWithdraw)
	t.Run("session revoked", c.testSessionRevoked)
	t.Run("barred", c.testBarred)
	t.Run("signature of a card", c.testSignature)
	t.Run("phone", c.testPhone)
	t.Run("rotated keys", c.testRotation)
	t.Run("silent provider", c.testSilent)
	t.Run("clocks apart", c.testClocks)
	t.Run("nonce of another grant", c.testForeignNonce)
	t.Run("redirect of another provider", c.testMixUp)
	t.Run("planted redirect", c.testPlantedRedirect)
	t.Run("planted cookie", c.testPlantedCookie)
	t.Run("form of another site", c.testForeignForm)
	t.Run("other user at the second login", c.testOtherUser)
	c.inside.stop()
	fsck(t, c.dir)
}

func (c *consents) testApprove(t *testing.T) {
	g := c.ask(t)
	w := c.browser.window(t)
	w.open(g.ConsentURL)
	w.signIn(physician)
	text := w.sees(asking)
	for _, want := range []string{
		physician, c.provider.issuer, "Compare outcomes", patients, trials, "research", "reader", c.orchestrator.cert.Leaf.URIs[0].String(),
		g.NotAfter.UTC().Format("2 January 2006, 15:04"), "Nothing is granted",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page does not say %q:\n%s", want, text)
		}
	}
	c.untouched(t, g) // signing in is no consent
	w.click(approving)
	w.signIn(physician) // although they have a session
	w.sees("Approved")
	c.active(t, g)
	page, err := c.auditor.Entries(t.Context(), url.Values{"grant": {g.GrantID}})
	must(t, err)
	if len(page.Entries) != 1 {
		t.Errorf("%d entries record the grant", len(page.Entries))
	}
	c.verifiesOffline(t, g, chain.OIDCNonce)
	w.open(g.ConsentURL)
	if code := w.refusal(); code != "grant_not_pending" {
		t.Errorf("the answered request: %s", code)
	}
}

// verifiesOffline checks the evidence of everything so far.
func (c *consents) verifiesOffline(t testing.TB, g v1.Grant, kind chain.ConsentType) {
	t.Helper()
	page, err := c.auditor.Entries(t.Context(), url.Values{"grant": {g.GrantID}})
	must(t, err)
	_, err = c.auditor.Receipt(t.Context(), page.Entries[0].Index, true) // a bundle ends with the last seal
	must(t, err)
	path := filepath.Join(t.TempDir(), "bundle.tar")
	f, err := os.Create(path)
	must(t, err)
	must(t, errors.Join(c.auditor.Export(t.Context(), f), f.Close()))
	out := succeed(t, program("signet-verify"), "bundle", path)
	if !strings.Contains(out, "consent_"+kind.String()) {
		t.Errorf("the consent by %s was not verified: %s", kind, out)
	}
}

// testSignature has a user sign the grant with their card, without any page.
func (c *consents) testSignature(t *testing.T) {
	g := c.ask(t)
	doc, err := c.orchestrator.GrantDocument(t.Context(), g.GrantID, c.provider.issuer, physician)
	must(t, err)
	anybody := c.person(nil)
	_, err = anybody.SignGrant(t.Context(), g.GrantID, v1.GrantSignature{JWS: c.users.sign(t, clerk, doc)})
	if err := refusedWith(err, "other_user"); err != nil {
		t.Error(err)
	}
	other := newUsers(t)
	_, err = anybody.SignGrant(t.Context(), g.GrantID, v1.GrantSignature{JWS: other.sign(t, physician, doc)})
	if err := refusedWith(err, "certificate_untrusted"); err != nil {
		t.Error(err)
	}
	c.untouched(t, g)
	signed := c.users.sign(t, physician, doc)
	out, err := anybody.SignGrant(t.Context(), g.GrantID, v1.GrantSignature{JWS: signed})
	must(t, err)
	if out.Status != "active" {
		t.Errorf("the grant is %s", out.Status)
	}
	c.active(t, g)
	_, err = anybody.SignGrant(t.Context(), g.GrantID, v1.GrantSignature{JWS: signed})
	if err := refusedWith(err, "grant_not_pending"); err != nil {
		t.Error(err)
	}
	_, err = c.orchestrator.ExchangeToken(t.Context(), c.ask(t).GrantID, v1.TokenExchange{SubjectToken: signed, SubjectTokenType: consent.TypeJWT})
	if err := refusedWith(err, "token_invalid", "issuer_unknown"); err != nil {
		t.Error(err)
	}
	c.verifiesOffline(t, g, chain.JWS)
}

func (c *consents) testDecline(t *testing.T) {
	g := c.ask(t)
	w := c.asked(t, g)
	w.click(`button[value="refuse"]`)
	w.sees("Refused")
	_, err := c.orchestrator.Grant(t.Context(), g.GrantID)
	var p *client.Problem
	if !errors.As(err, &p) || p.Status != 404 {
		t.Errorf("the refused grant: %v", orAllowed(err))
	}
	c.unlogged(t, g)
	w.open(g.ConsentURL)
	if code := w.refusal(); code != "grant_not_pending" {
		t.Errorf("the refused request: %s", code)
	}
}

// testPhone: nothing is beyond a small screen's edge.
func (c *consents) testPhone(t *testing.T) {
	w := c.asked(t, c.ask(t))
	w.do(chromedp.EmulateViewport(320, 568, chromedp.EmulateMobile))
	if wide := look(w, chromedp.Evaluate[float64](`document.documentElement.scrollWidth - window.innerWidth`)); wide > 0 {
		t.Errorf("the page is %v pixels wider than the screen", wide)
	}
}

func (c *consents) testRotation(t *testing.T) {
	g := c.ask(t)
	w := c.asked(t, g)
	c.provider.change(t, func(p *providerConfig) { p.JWKS, p.Alg = signingKeys(t, "ES256"), "ES256" })
	w.click(approving)
	w.signIn(physician)
	// Which algorithms a provider has is asked once an hour; which keys, each time.
	if code := w.refusal(); code != "token_invalid" {
		t.Errorf("another algorithm than discovery named: %s", code)
	}
	c.untouched(t, g)
	c.provider.change(t, func(p *providerConfig) { p.JWKS, p.Alg = signingKeys(t, "RS256"), "RS256" })
	w = c.asked(t, g)
	c.provider.change(t, func(p *providerConfig) { p.JWKS = signingKeys(t, "RS256") })
	w.click(approving)
	w.signIn(physician)
	w.sees("Approved")
	c.active(t, g)
}

// testSilent has a provider that answers from its session although a new login was demanded.
func (c *consents) testSilent(t *testing.T) {
	c.provider.change(t, func(p *providerConfig) { p.Silent = true })
	g := c.ask(t)
	w := c.asked(t, g)
	w.click(approving)
	if code := w.refusal(); code != "auth_time_stale" {
		t.Errorf("refused with %s", code)
	}
	c.untouched(t, g)
}

func (c *consents) testClocks(t *testing.T) {
	for name, skew := range map[string]time.Duration{"fast": 5 * time.Minute, "slow": -5 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			g := c.ask(t)
			w := c.asked(t, g)
			c.provider.change(t, func(p *providerConfig) { p.SkewMS, p.Keep = skew.Milliseconds(), true })
			w.click(approving)
			w.signIn(physician)
			if code := w.refusal(); code != "token_invalid" {
				t.Errorf("refused with %s", code)
			}
			c.untouched(t, g)
		})
	}
}

// testForeignNonce has the user sign in for another request than the one that they saw.
func (c *consents) testForeignNonce(t *testing.T) {
	g, other := c.ask(t), c.ask(t)
	seen := make(chan string, 1)
	w := c.asked(t, other)
	w.detour(c.provider.issuer+"/auth", func(q url.Values) { seen <- q.Get("nonce") })
	w.click(approving)
	nonce := <-seen
	w = c.asked(t, g)
	w.detour(c.provider.issuer+"/auth", func(q url.Values) { q.Set("nonce", nonce) })
	w.click(approving)
	w.signIn(physician)
	if code := w.refusal(); code != "nonce_mismatch" {
		t.Errorf("refused with %s", code)
	}
	c.untouched(t, g)
	c.untouched(t, other)
}

// testMixUp sends the code back as if from another provider (RFC 9207).
func (c *consents) testMixUp(t *testing.T) {
	for name, change := range map[string]func(url.Values){
		"other issuer": func(q url.Values) { q.Set("iss", "https://other.example") },
		"no issuer":    func(q url.Values) { q.Del("iss") },
	} {
		t.Run(name, func(t *testing.T) {
			g := c.ask(t)
			w := c.asked(t, g)
			w.detour(c.public+callback, change)
			w.click(approving)
			w.signIn(physician)
			if code := w.refusal(); code != "issuer_mismatch" {
				t.Errorf("refused with %s", code)
			}
			c.untouched(t, g)
		})
	}
}

// testPlantedRedirect has a victim's browser finish what an attacker's began.
func (c *consents) testPlantedRedirect(t *testing.T) {
	g := c.ask(t)
	attacker, victim := c.browser.window(t), c.browser.window(t)
	sent := make(chan string, 1)
	attacker.detour(c.public+callback, func(q url.Values) {
		sent <- q.Encode()
		q.Set("state", "x") // keeps the code unspent
	})
	attacker.open(g.ConsentURL)
	attacker.signIn(clerk)
	if code := attacker.refusal(); code != "state_mismatch" {
		t.Errorf("the attacker's own browser: %s", code)
	}
	victim.open(c.public + callback + "?" + <-sent)
	if code := victim.refusal(); code != "flow_missing" {
		t.Errorf("refused with %s", code)
	}
	c.untouched(t, g)
}

// testPlantedCookie has a victim sign in under a cookie that an attacker knows.
func (c *consents) testPlantedCookie(t *testing.T) {
	g := c.ask(t)
	attacker, victim := c.browser.window(t), c.browser.window(t)
	sent := make(chan string, 1)
	attacker.detour(c.provider.issuer+"/auth", func(q url.Values) { sent <- q.Encode() })
	attacker.open(g.ConsentURL)
	attacker.do(chromedp.WaitVisible(loginField))
	cookie := attacker.cookie(c.public)
	_, err := chromedp.Call(victim.ctx, network.SetCookie, network.SetCookieParams{
		Name: cookie.Name, Value: cookie.Value, URL: c.public, Secure: new(true),
	})
	must(t, err)
	victim.open(c.provider.issuer + "/auth?" + <-sent)
	victim.signIn(physician)
	victim.sees(asking)
	if now := victim.cookie(c.public); now.Value == cookie.Value {
		t.Error("the cookie did not change at login")
	}
	attacker.open(g.ConsentURL)
	attacker.do(chromedp.WaitVisible(loginField))
	c.untouched(t, g)
}

// testForeignForm submits the form from a page of another site, with the user's browser.
func (c *consents) testForeignForm(t *testing.T) {
	g := c.ask(t)
	w := c.asked(t, g)
	token := look(w, chromedp.Value(chromedp.CSS(`input[name="csrf"]`))) // even one who could read it
	w.open("data:text/html," + url.PathEscape(`<form method="post" action="`+g.ConsentURL+`"><input name="csrf" value="`+token+
		`"><button name="decision" value="approve">Win</button></form>`))
	w.click("button")
	if code := w.refusal(); code != "csrf_mismatch" {
		t.Errorf("refused with %s", code)
	}
	c.untouched(t, g)
	w.open(g.ConsentURL)
	w.sees(asking)
	w.do(chromedp.SetValue(chromedp.CSS(`input[name="csrf"]`), "forged"))
	w.click(approving)
	if code := w.refusal(); code != "csrf_mismatch" {
		t.Errorf("refused with %s", code)
	}
	c.untouched(t, g)
}

func (c *consents) testOtherUser(t *testing.T) {
	g := c.ask(t)
	w := c.asked(t, g)
	w.click(approving)
	w.signIn(clerk)
	if code := w.refusal(); code != "other_user" {
		t.Errorf("refused with %s", code)
	}
	c.untouched(t, g)
}
