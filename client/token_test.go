package client_test

import (
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/testrig/hospital"
)

// taker is a verifier that fetched the keys of access tokens.
func taker(t testing.TB, h *hospital.Hospital, cfg client.VerifierConfig) *client.Verifier {
	t.Helper()
	v := verifier(t, cfg)
	if err := v.Refresh(t.Context(), h.Appliance(t, h.JWT)); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAccessToken(t *testing.T) {
	h := hospital.New(t)
	v := taker(t, h, h.Config())
	creds := presented(t, h.Agent(t, time.Hour))
	token := h.AccessToken(t, creds.Certificates[0])
	// The leaf is enough: what it is bound to is compared, not verified again.
	creds.Certificates, creds.Authorization = creds.Certificates[:1], []string{"bearer " + h.Sign(t, token)}
	for range 2 {
		p, err := v.Verify(creds, reads(t))
		if err != nil {
			t.Fatal(err)
		}
		if p.User != hospital.User() || p.Agent.String() != hospital.AgentID || p.Orchestrator.String() != hospital.Orchestrator ||
			len(p.Parents) != 1 || p.Parents[0].String() != hospital.ParentID || p.TaskID != hospital.Task || p.GrantID != hospital.Grant ||
			p.Scope.String() != "database:read:patients" || !p.NotAfter.Equal(token.Expiry) {
			t.Errorf("%+v", p)
		}
	}
}

func TestAccessTokenRefused(t *testing.T) {
	h, foreign := hospital.New(t), hospital.New(t)
	agent, other := h.Agent(t, time.Hour), h.Agent(t, time.Hour)
	leaf := agent.Leaf
	kid, err := chain.KeyID(h.JWT.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	token := func(changes ...func(*chain.AccessToken)) []string {
		a := h.AccessToken(t, leaf)
		for _, change := range changes {
			change(&a)
		}
		return []string{"Bearer " + h.Sign(t, a)}
	}
	claims := func() []byte { a := h.AccessToken(t, leaf); c, _ := a.Claims(); return c }()
	signed := func(key jose.SigningKey, header map[jose.HeaderKey]any) []string {
		return []string{"Bearer " + hospital.Compact(t, key, header, claims)}
	}
	good := map[jose.HeaderKey]any{"typ": "at+jwt", "kid": kid}
	spki, err := x509.MarshalPKIXPublicKey(h.JWT.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	demandUser := client.Demand{AnyScope: true, User: &chain.User{Issuer: hospital.User().Issuer, Subject: "physician-y"}}
	for name, c := range map[string]struct {
		auth   []string
		cert   *tls.Certificate
		config func(*client.VerifierConfig)
		before func()
		demand client.Demand
		status int
		reason string
	}{
		"another audience": {auth: token(func(a *chain.AccessToken) { a.Audience = hospital.ID(t, hospital.Records+"2") }), status: 401, reason: chain.CodeTokenAudience},
		"another issuer":   {auth: token(func(a *chain.AccessToken) { a.Issuer = hospital.Origin + "/2" }), status: 401, reason: chain.CodeTokenIssuer},
		"expired": {auth: token(func(a *chain.AccessToken) {
			a.IssuedAt, a.Expiry = a.IssuedAt.Add(-6*time.Minute), a.IssuedAt.Add(-time.Minute)
		}), status: 401, reason: chain.CodeTokenExpired},
		"five minutes early":     {auth: token(), config: func(c *client.VerifierConfig) { c.Now = func() time.Time { return time.Now().Add(-5 * time.Minute) } }, status: 401, reason: chain.CodeTokenFuture},
		"alg none":               {auth: []string{"Bearer eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0Iiwia2lkIjoiYSJ9.e30."}, status: 401, reason: chain.CodeTokenMalformed},
		"HS256 under the key":    {auth: signed(jose.SigningKey{Algorithm: jose.HS256, Key: spki}, good), status: 401, reason: chain.CodeTokenMalformed},
		"another key, our kid":   {auth: signed(jose.SigningKey{Algorithm: jose.ES256, Key: hospital.Key(t, elliptic.P256())}, good), status: 401, reason: chain.CodeTokenSignature},
		"signed by the agent":    {auth: signed(jose.SigningKey{Algorithm: jose.ES256, Key: agent.PrivateKey}, good), status: 401, reason: chain.CodeTokenSignature},
		"foreign appliance":      {auth: []string{"Bearer " + foreign.Sign(t, h.AccessToken(t, leaf))}, status: 401, reason: chain.CodeTokenKey},
		"another type":           {auth: signed(jose.SigningKey{Algorithm: jose.HS256, Key: spki}, map[jose.HeaderKey]any{"typ": "secevent+jwt", "kid": kid}), status: 401, reason: chain.CodeTokenType},
		"replayed":               {auth: token(), cert: other, status: 401, reason: chain.CodeTokenBinding},
		"without certificate":    {auth: token(), cert: &tls.Certificate{}, status: 401, reason: chain.CodeTokenUnbound},
		"empty":                  {auth: []string{"Bearer "}, status: 401, reason: chain.CodeTokenMalformed},
		"word":                   {auth: []string{"Bearer"}, status: 401, reason: chain.CodeTokenMalformed},
		"two":                    {auth: append(token(), token()...), status: 401, reason: chain.CodeTokenMalformed},
		"oversized":              {auth: []string{"Bearer " + strings.Repeat("a", 64<<10)}, status: 401, reason: chain.CodeTokenMalformed},
		"scope of the agent":     {auth: token(), demand: client.Demand{Scope: hospital.Scope(t, "database:read:trials")}, status: 403, reason: chain.CodeScopeNotCovered},
		"wrong user":             {auth: token(), demand: demandUser, status: 403, reason: chain.CodePrincipal},
		"parent revoked":         {auth: token(), before: func() { h.Feed.Revoke(chain.RevAgent, hospital.Parent) }, status: 403, reason: chain.CodeParentRevoked},
		"certificate revoked":    {auth: token(), before: func() { h.Feed.Revoke(chain.RevCertificate, chain.Serial(leaf)) }, status: 403, reason: chain.CodeCertificateRevoked},
		"stale":                  {auth: token(), before: func() { h.Feed.Stop(time.Now().Add(-time.Hour)) }, status: 503, reason: chain.CodeRevocationsStale},
		"no certificate instead": {auth: []string{"Bearer x.y.z"}, status: 401, reason: chain.CodeTokenMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := h.Config()
			if c.config != nil {
				c.config(&cfg)
			}
			v := taker(t, h, cfg)
			if c.cert == nil {
				c.cert = agent
			}
			creds := presented2(t, c.cert)
			creds.Authorization = c.auth
			if len(c.demand.Scope) == 0 && !c.demand.AnyScope {
				c.demand = reads(t)
			}
			if c.before != nil { // what was let through before is not let through now
				if _, err := v.Verify(creds, c.demand); err != nil {
					t.Fatal(err)
				}
				c.before()
				defer h.Feed.Forget()
				defer h.Feed.Stop(time.Time{})
			}
			for range 2 {
				_, err := v.Verify(creds, c.demand)
				refusedFor(t, err, c.status, c.reason)
			}
		})
	}
}

// Who takes no tokens looks at none, and who takes them lets nobody in by one before the keys are there.
func TestAccessTokenConfiguration(t *testing.T) {
	h := hospital.New(t)
	creds := presented(t, h.Agent(t, time.Hour))
	creds.Authorization = []string{"Bearer " + h.Sign(t, h.AccessToken(t, creds.Certificates[0]))}
	_, err := verifier(t, h.Config()).Verify(creds, reads(t))
	refusedFor(t, err, http.StatusServiceUnavailable, "token_keys_missing")
	cfg := h.Config()
	cfg.Tokens = nil
	p, err := verifier(t, cfg).Verify(creds, client.Demand{Scope: hospital.Scope(t, "database:read:trials")})
	if err != nil || p.Scope.String() == "database:read:patients" {
		t.Errorf("%+v %v", p, err)
	}
	_, err = verifier(t, cfg).Verify(client.Credentials{Authorization: creds.Authorization}, reads(t))
	refusedFor(t, err, http.StatusUnauthorized, "client_certificate_required")
	creds.Authorization = []string{"Basic YTpi"}
	if _, err := taker(t, h, h.Config()).Verify(creds, reads(t)); err != nil {
		t.Errorf("another scheme stands in the way: %v", err)
	}
}

// A key set counts as far as a root vouches for it, for this purpose and this trust domain.
func TestKeySetIsPinned(t *testing.T) {
	h, foreign := hospital.New(t), hospital.New(t)
	for name, keys := range map[string][]*x509.Certificate{
		"foreign":      {foreign.JWT},
		"one of two":   {h.JWT, foreign.JWT},
		"an agent's":   {h.Agent(t, time.Hour).Leaf},
		"the CA's":     {h.CA},
		"the root's":   {h.Root},
		"nothing":      nil,
		"too many":     make17(h.JWT),
		"a listener's": {h.Listener(t).Leaf},
	} {
		v := verifier(t, h.Config())
		if err := v.Refresh(t.Context(), h.Appliance(t, keys...)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func make17(c *x509.Certificate) []*x509.Certificate {
	out := make([]*x509.Certificate, 17)
	for i := range out {
		out[i] = c
	}
	return out
}

// Over the wire, with the header in its place, and one so large that the server itself refuses it.
func TestAccessTokenOverTheWire(t *testing.T) {
	h := hospital.New(t)
	agent := h.Agent(t, time.Hour)
	w := openWard(t, h, true, nil)
	if err := w.verifier.Refresh(t.Context(), h.Appliance(t, h.JWT)); err != nil {
		t.Fatal(err)
	}
	c := w.as(t, agent, nil)
	good := http.Header{"Authorization": {"Bearer " + h.Sign(t, h.AccessToken(t, agent.Leaf))}}
	w.answers(t, c, good, 200, "")
	if got := w.answers(t, w.as(t, h.Agent(t, time.Hour), nil), good, 401, chain.CodeTokenBinding); got.Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
		t.Errorf("%q", got.Get("WWW-Authenticate"))
	}
	w.answers(t, c, http.Header{"Authorization": {"Bearer " + strings.Repeat("a", 64<<10)}}, 401, chain.CodeTokenMalformed)
	resp, err := w.ask(t, c, "/who", http.Header{"Authorization": {"Bearer " + strings.Repeat("a", 2<<20)}})
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("2 MiB of header: %s", resp.Status)
		}
	}
	h.Feed.Revoke(chain.RevGrant, hospital.Grant)
	w.answers(t, c, good, 403, chain.CodeGrantRevoked)
}

func BenchmarkVerifyToken(b *testing.B) {
	h := hospital.New(b)
	v := taker(b, h, h.Config())
	creds, demand := presented(b, fourHops(b, h)), reads(b)
	creds.Authorization = []string{"Bearer " + h.Sign(b, h.AccessToken(b, creds.Certificates[0]))}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(creds, demand); err != nil {
			b.Fatal(err)
		}
	}
}
