package consent_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/consent"
	"github.com/signet-pki/signet/delegation/evidence"
	"github.com/signet-pki/signet/internal/devkit/idp"
)

// realWorld runs against zitadel/oidc.
func realWorld(t *testing.T, stopped *atomic.Bool) *world {
	t.Helper()
	return newWorld(t, func(base string) http.Handler {
		p, err := idp.New(idp.Config{
			Issuer: base + "/idp", ClientID: clientID, RedirectURIs: []string{base + "/v1/grants/callback/idp"},
			Stopped: stopped.Load, Now: time.Now,
		})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}, nil)
}

// signIn answers the provider's login page.
func (b *browser) signIn(p page, login string) page {
	b.w.t.Helper()
	return b.post("/idp/login", url.Values{"id": {p.field(b.w.t, "id")}, "login": {login}})
}

func decision(p page, t *testing.T, what string) url.Values {
	t.Helper()
	return url.Values{"csrf": {p.field(t, "csrf")}, "decision": {what}}
}

func TestConsentEndToEnd(t *testing.T) {
	w := realWorld(t, &atomic.Bool{})
	b := w.browser(true)
	review := b.signIn(b.get("/consent/"+grantID), "physician")
	for _, shown := range []string{"physician-7f3a", lab, "read the cardiology cohort", "database:read:patients", "2 January 2040"} {
		if !strings.Contains(review.body, shown) {
			t.Errorf("the review page does not show %q", shown)
		}
	}
	csp := review.header.Get("Content-Security-Policy")
	if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || review.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers of the review page: %v", review.header)
	}
	// The provider has a session by now; prompt=login must bring its form again.
	again := b.post("/consent/"+grantID, decision(review, t, "approve"))
	if !strings.Contains(again.body, "Development sign-in") {
		t.Fatalf("the second login was skipped: %s", again.body)
	}
	w.domain.nothing(t)
	done := b.signIn(again, "physician")
	if done.status != http.StatusOK || !strings.Contains(done.body, "<h1>Approved</h1>") {
		t.Fatalf("status %d: %s", done.status, done.body)
	}
	if len(w.domain.approved) != 1 {
		t.Fatalf("%d approvals", len(w.domain.approved))
	}
	checkApproval(t, w, w.domain.approved[0])
	b.get("/consent/"+grantID).want(t, http.StatusGone, "grant_not_pending")
	for _, secret := range []string{"id_token", "eyJ", "state=", "csrf="} {
		if strings.Contains(w.logged.String(), secret) {
			t.Errorf("the log holds %q: %s", secret, w.logged.String())
		}
	}
}

// checkApproval verifies the evidence as an auditor would: with nothing but its bytes.
func checkApproval(t *testing.T, w *world, a consent.Approval) {
	t.Helper()
	if a.User != (consent.User{Issuer: w.url + "/idp", Subject: "physician-7f3a"}) ||
		!slices.Equal(a.Roles, []string{"physician", "analyst"}) || !slices.Equal(a.Groups, []string{"cardiology"}) ||
		a.ACR != idp.ACR || !slices.Equal(a.AMR, []string{idp.AMR}) || time.Since(a.AuthTime) > time.Minute || time.Since(a.SignedIn) > time.Minute {
		t.Errorf("approval %+v", a)
	}
	if a.EvidenceHash != sha256.Sum256(a.Evidence) {
		t.Error("the evidence hash is not that of the evidence")
	}
	var e evidence.Evidence
	d := json.NewDecoder(bytes.NewReader(a.Evidence))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		t.Fatal(err)
	}
	document, err := base64.RawURLEncoding.DecodeString(e.Grant)
	if err != nil || !bytes.Equal(document, a.Document) || e.Version != 1 || e.ConsentType != "oidc_nonce" || len(e.JWKS.Keys) != 1 {
		t.Fatalf("evidence %s: %v", a.Evidence, err)
	}
	grant, err := chain.ParseGrantDocument(document)
	if err != nil {
		t.Fatal(err)
	}
	var key jose.JSONWebKey
	if err := json.Unmarshal(e.JWKS.Keys[0], &key); err != nil {
		t.Fatal(err)
	}
	jws, err := jose.ParseSignedCompact(e.IDToken, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		t.Fatal(err)
	}
	payload, err := jws.Verify(&key)
	if err != nil {
		t.Fatal(err)
	}
	var c struct{ Nonce, Sub string }
	if err := json.Unmarshal(payload, &c); err != nil {
		t.Fatal(err)
	}
	want, err := grant.Nonce()
	if err != nil || c.Nonce != want || c.Sub != grant.Subject {
		t.Errorf("nonce %q sub %q, want %q %q: %v", c.Nonce, c.Sub, want, grant.Subject, err)
	}
}

func TestRefusing(t *testing.T) {
	w := realWorld(t, &atomic.Bool{})
	b := w.browser(true)
	review := b.signIn(b.get("/consent/"+grantID), "clerk")
	done := b.post("/consent/"+grantID, decision(review, t, "refuse"))
	if done.status != http.StatusOK || !strings.Contains(done.body, "<h1>Refused</h1>") {
		t.Fatalf("status %d: %s", done.status, done.body)
	}
	if len(w.domain.approved) != 0 || len(w.domain.refused) != 1 || w.domain.refused[0].Subject != "clerk-19c2" {
		t.Errorf("approved %v refused %v", w.domain.approved, w.domain.refused)
	}
	b.post("/consent/"+grantID, decision(review, t, "approve")).want(t, http.StatusBadRequest, "flow_missing")
}

func TestOtherUserAtSecondLogin(t *testing.T) {
	w := realWorld(t, &atomic.Bool{})
	b := w.browser(true)
	review := b.signIn(b.get("/consent/"+grantID), "physician")
	again := b.post("/consent/"+grantID, decision(review, t, "approve"))
	b.signIn(again, "clerk").want(t, http.StatusForbidden, "other_user")
	w.domain.nothing(t)
}

// The provider stops at each step in turn: a clear answer, nothing granted, and all goes on when it is back.
func TestProviderDown(t *testing.T) {
	stopped := &atomic.Bool{}
	w := realWorld(t, stopped)
	stopped.Store(true)
	down := w.browser(true).get("/consent/" + grantID)
	down.want(t, http.StatusServiceUnavailable, "idp_unavailable")
	if down.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	stopped.Store(false)
	w.now = func() time.Time { return time.Now().Add(3 * time.Second) } // past the pause between attempts

	follow := w.browser(true)
	review := follow.signIn(follow.get("/consent/"+grantID), "physician")
	again := follow.post("/consent/"+grantID, decision(review, t, "approve"))
	follow.client.CheckRedirect = func(r *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(r.URL.Path, "/v1/grants/callback/idp") {
			return http.ErrUseLastResponse
		}
		return nil
	}
	callback := follow.signIn(again, "physician").location
	stopped.Store(true)
	follow.get(callback.String()).want(t, http.StatusServiceUnavailable, "idp_unavailable")
	w.domain.nothing(t)
	stopped.Store(false)
	follow.get(callback.String()).want(t, http.StatusBadRequest, "flow_missing") // the flow was spent: state is single-use
	w.domain.nothing(t)
}
