package client_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/testrig/hospital"
)

func verifier(t testing.TB, c client.VerifierConfig) *client.Verifier {
	t.Helper()
	v, err := client.NewVerifier(c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func presented(t testing.TB, c *tls.Certificate) client.Credentials {
	t.Helper()
	certs, err := chain.ParseDER(c.Certificate, 0)
	if err != nil {
		t.Fatal(err)
	}
	return client.Credentials{Certificates: certs}
}

func reads(t testing.TB) client.Demand {
	t.Helper()
	return client.Demand{Scope: hospital.Scope(t, "database:read:patients")}
}

// refusedFor wants a refusal with this status and these reasons, no more and no fewer.
func refusedFor(t testing.TB, err error, status int, reasons ...string) {
	t.Helper()
	r, ok := errors.AsType[*client.Refusal](err)
	if !ok || r.Status != status || !slices.Equal(r.Reasons, reasons) {
		t.Errorf("want %d %v, got %+v", status, reasons, err)
	}
}

func TestVerifierPrincipal(t *testing.T) {
	h := hospital.New(t)
	v := verifier(t, h.Config())
	agent := h.Agent(t, time.Hour)
	for range 2 { // the second time much of it is remembered
		p, err := v.Verify(presented(t, agent), reads(t))
		if err != nil {
			t.Fatal(err)
		}
		if p.User != hospital.User() || p.Agent.String() != hospital.AgentID || p.Orchestrator.String() != hospital.Orchestrator ||
			len(p.Parents) != 1 || p.Parents[0].String() != hospital.ParentID || p.TaskID != hospital.Task || p.GrantID != hospital.Grant ||
			p.Scope.String() != "database:read:patients database:read:trials" || !p.NotAfter.Equal(agent.Leaf.NotAfter) {
			t.Errorf("%+v", p)
		}
	}
}

// Each way in which a caller fails, alone, and with the certificate unknown and known.
func TestVerifierRefuses(t *testing.T) {
	h, foreign := hospital.New(t), hospital.New(t)
	agent := h.Agent(t, time.Hour)
	other := chain.User{Issuer: hospital.User().Issuer, Subject: "physician-y"}
	for name, c := range map[string]struct {
		cert    *tls.Certificate
		config  func(*client.VerifierConfig)
		demand  client.Demand
		revoke  chain.RevKind
		id      string
		stop    time.Time
		status  int
		reasons []string
	}{
		"no certificate": {cert: &tls.Certificate{}, status: 401, reasons: []string{"client_certificate_required"}},
		"another root":   {cert: foreign.Agent(t, time.Hour), status: 403, reasons: []string{chain.CodePathUntrusted}},
		"no delegation": {
			cert:   h.Agent(t, time.Hour, func(d *chain.Delegation, _ *x509.Certificate) { d.Hops = nil }),
			status: 403, reasons: []string{chain.CodeExtensionMissing, chain.CodeFormatFailed, chain.CodeFormatFailed, chain.CodeFormatFailed, chain.CodeFormatFailed, chain.CodeFormatFailed},
		},
		"scope wider than the parent's": {
			cert: h.Agent(t, time.Hour, func(d *chain.Delegation, _ *x509.Certificate) {
				d.Hops[2].Scope = hospital.Scope(t, "database:read:patients", "database:write:patients")
			}),
			status: 403, reasons: []string{chain.CodeHopScope},
		},
		"another's key": {
			cert:   h.Agent(t, time.Hour, func(d *chain.Delegation, _ *x509.Certificate) { d.Hops[2].SPKIHash = [32]byte{9} }),
			status: 403, reasons: []string{chain.CodeBindingKey},
		},
		"expired":                       {cert: h.Agent(t, -time.Second), status: 403, reasons: []string{chain.CodeDeadlinePassed}},
		"later":                         {config: func(c *client.VerifierConfig) { c.Now = func() time.Time { return agent.Leaf.NotAfter } }, stop: agent.Leaf.NotAfter, status: 403, reasons: []string{chain.CodeDeadlinePassed}},
		"user revoked":                  {revoke: chain.RevUser, id: chain.UserID(hospital.User().Issuer, hospital.User().Subject), status: 403, reasons: []string{chain.CodeUserRevoked}},
		"grant revoked":                 {revoke: chain.RevGrant, id: hospital.Grant, status: 403, reasons: []string{chain.CodeGrantRevoked}},
		"task revoked":                  {revoke: chain.RevTask, id: hospital.Task, status: 403, reasons: []string{chain.CodeTaskRevoked}},
		"orchestrator revoked":          {revoke: chain.RevOrchestrator, id: "langgraph", status: 403, reasons: []string{chain.CodeOrchestratorRevoked}},
		"parent revoked":                {revoke: chain.RevAgent, id: hospital.Parent, status: 403, reasons: []string{chain.CodeParentRevoked}},
		"agent revoked":                 {revoke: chain.RevAgent, id: hospital.Agent, status: 403, reasons: []string{chain.CodeAgentRevoked}},
		"certificate revoked":           {revoke: chain.RevCertificate, id: chain.Serial(agent.Leaf), status: 403, reasons: []string{chain.CodeCertificateRevoked}},
		"feed silent":                   {stop: time.Now().Add(-2 * time.Minute), status: 503, reasons: []string{chain.CodeRevocationsStale}},
		"feed never heard":              {stop: time.Unix(1, 0), status: 503, reasons: []string{chain.CodeRevocationsStale}},
		"feed from the future":          {stop: time.Now().Add(time.Hour), status: 503, reasons: []string{chain.CodeRevocationsFuture}},
		"feed silent and task revoked":  {stop: time.Now().Add(-2 * time.Minute), revoke: chain.RevTask, id: hospital.Task, status: 403, reasons: []string{chain.CodeTaskRevoked, chain.CodeRevocationsStale}},
		"scope":                         {demand: client.Demand{Scope: hospital.Scope(t, "database:read:patients", "database:read:billing")}, status: 403, reasons: []string{chain.CodeScopeNotCovered}},
		"nothing demanded":              {demand: client.Demand{User: &other}, status: 500, reasons: []string{"no_demand"}},
		"user":                          {demand: client.Demand{AnyScope: true, User: &other}, status: 403, reasons: []string{chain.CodePrincipal}},
		"user of the service":           {config: func(c *client.VerifierConfig) { c.User = &other }, status: 403, reasons: []string{chain.CodePrincipal}},
		"orchestrator":                  {demand: client.Demand{AnyScope: true, Orchestrator: hospital.Orchestrator + "2"}, status: 403, reasons: []string{chain.CodeOrchestratorMismatch}},
		"orchestrator of the service":   {config: func(c *client.VerifierConfig) { c.Orchestrator = hospital.Orchestrator + "2" }, status: 403, reasons: []string{chain.CodeOrchestratorMismatch}},
		"two users":                     {config: func(c *client.VerifierConfig) { c.User = &other }, demand: client.Demand{AnyScope: true, User: ptr(hospital.User())}, status: 403, reasons: []string{chain.CodePrincipal}},
		"two orchestrators":             {config: func(c *client.VerifierConfig) { c.Orchestrator = hospital.Orchestrator + "2" }, demand: client.Demand{AnyScope: true, Orchestrator: hospital.Orchestrator}, status: 403, reasons: []string{chain.CodeOrchestratorMismatch}},
		"user must be named and is not": {config: func(c *client.VerifierConfig) { c.Require = []chain.CheckName{chain.CheckPrincipal} }, status: 403, reasons: []string{chain.CodeNotRequested}},
	} {
		t.Run(name, func(t *testing.T) {
			if c.cert == nil {
				c.cert = agent
			}
			if len(c.demand.Scope) == 0 && !c.demand.AnyScope && c.demand.User == nil {
				c.demand = reads(t)
			}
			cfg := h.Config()
			cold := verifier(t, cfg)
			warm := cold
			creds := presented2(t, c.cert)
			if c.config == nil { // its verdict comes after one that let the same certificate through
				if _, err := warm.Verify(creds, reads(t)); err != nil && c.cert == agent {
					t.Fatal(err)
				}
			} else {
				c.config(&cfg)
				cold = verifier(t, cfg)
			}
			h.Feed.Stop(c.stop)
			defer h.Feed.Stop(time.Time{})
			if c.revoke != chain.RevUnknown {
				h.Feed.Revoke(c.revoke, c.id)
				defer h.Feed.Forget()
			}
			for range 2 {
				p, err := cold.Verify(creds, c.demand)
				refusedFor(t, err, c.status, c.reasons...)
				if p.Agent != (chain.ID{}) {
					t.Errorf("a principal all the same: %+v", p)
				}
			}
			if _, err := verifier(t, cfg).Verify(creds, c.demand); err == nil {
				t.Error("let through by a verifier that met nobody yet")
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func presented2(t testing.TB, c *tls.Certificate) client.Credentials {
	t.Helper()
	if len(c.Certificate) == 0 {
		return client.Credentials{}
	}
	return presented(t, c)
}

// A certificate that differs in its last byte from one that is known is not known.
func TestVerifierKnowsCertificatesByAllTheirBytes(t *testing.T) {
	h := hospital.New(t)
	v := verifier(t, h.Config())
	creds := presented(t, h.Agent(t, time.Hour))
	if _, err := v.Verify(creds, reads(t)); err != nil {
		t.Fatal(err)
	}
	raw := slices.Clone(creds.Certificates[0].Raw)
	raw[len(raw)-1] ^= 1
	forged, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Verify(client.Credentials{Certificates: []*x509.Certificate{forged, h.CA}}, reads(t))
	refusedFor(t, err, http.StatusForbidden, chain.CodePathUntrusted)
}

// Of the demand's and the service's expectations both hold when they agree.
func TestVerifierExpects(t *testing.T) {
	h := hospital.New(t)
	cfg := h.Config()
	cfg.User, cfg.Orchestrator, cfg.Require = ptr(hospital.User()), hospital.Orchestrator, []chain.CheckName{chain.CheckPrincipal, chain.CheckScope}
	v := verifier(t, cfg)
	creds := presented(t, h.Agent(t, time.Hour))
	d := reads(t)
	d.User, d.Orchestrator = ptr(hospital.User()), hospital.Orchestrator
	for _, d := range []client.Demand{reads(t), d} {
		if _, err := v.Verify(creds, d); err != nil {
			t.Error(err)
		}
	}
}

func TestNewVerifierRefuses(t *testing.T) {
	h := hospital.New(t)
	for name, change := range map[string]func(*client.VerifierConfig){
		"no revocations":       func(c *client.VerifierConfig) { c.Revocations = nil },
		"no staleness":         func(c *client.VerifierConfig) { c.MaxStaleness = 0 },
		"no root":              func(c *client.VerifierConfig) { c.Roots = nil },
		"no trust domain":      func(c *client.VerifierConfig) { c.TrustDomain = "" },
		"unknown check":        func(c *client.VerifierConfig) { c.Require = []chain.CheckName{"Path"} },
		"evidence":             func(c *client.VerifierConfig) { c.Require = []chain.CheckName{chain.CheckLogged} },
		"foreign intermediate": func(c *client.VerifierConfig) { c.Intermediates = []*x509.Certificate{hospital.New(t).CA} },
		"no audience":          func(c *client.VerifierConfig) { c.Tokens = &client.TokenConfig{Issuer: hospital.Origin} },
		"agent as audience": func(c *client.VerifierConfig) {
			c.Tokens = &client.TokenConfig{Issuer: hospital.Origin, Audience: hospital.AgentID}
		},
		"audience of another domain": func(c *client.VerifierConfig) {
			c.Tokens = &client.TokenConfig{Issuer: hospital.Origin, Audience: "spiffe://a.example/service/records"}
		},
		"no issuer": func(c *client.VerifierConfig) { c.Tokens = &client.TokenConfig{Audience: hospital.Records} },
	} {
		cfg := h.Config()
		change(&cfg)
		if _, err := client.NewVerifier(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// CAs that no root vouches for change nothing; those that it vouches for need not be presented any more.
func TestVerifierRefresh(t *testing.T) {
	h, foreign := hospital.New(t), hospital.New(t)
	cfg := h.Config()
	cfg.Intermediates, cfg.Tokens = nil, nil
	v := verifier(t, cfg)
	agent := presented(t, h.Agent(t, time.Hour))
	alone := client.Credentials{Certificates: agent.Certificates[:1]}
	if _, err := v.Verify(agent, reads(t)); err != nil {
		t.Errorf("a chain that brings its CA along: %v", err)
	}
	if err := v.Refresh(t.Context(), foreign.Appliance(t)); err == nil {
		t.Error("another trust domain's CAs were taken")
	}
	_, err := v.Verify(alone, reads(t))
	refusedFor(t, err, http.StatusForbidden, chain.CodePathUntrusted)
	if err := v.Refresh(t.Context(), h.Appliance(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(alone, reads(t)); err != nil {
		t.Error(err)
	}
}

// The memory is bounded, and what no longer is in it is verified anew.
func TestVerifierBounded(t *testing.T) {
	h := hospital.New(t)
	v := verifier(t, h.Config())
	creds := presented(t, h.Agent(t, time.Hour))
	for i := range 10 {
		// A stranger with as many certificates as it likes.
		leaf := *creds.Certificates[0]
		leaf.Raw = append(slices.Clone(leaf.Raw), byte(i))
		leaf.SerialNumber = big.NewInt(int64(i))
		if _, err := v.Verify(client.Credentials{Certificates: []*x509.Certificate{&leaf}}, client.Demand{Scope: hospital.Scope(t, "x")}); err == nil {
			t.Fatal("let through")
		}
	}
	if n := v.Known(); n != 0 {
		t.Errorf("%d refused certificates are remembered", n)
	}
	if _, err := v.Verify(creds, reads(t)); err != nil || v.Known() != 1 {
		t.Errorf("%d are remembered, %v", v.Known(), err)
	}
}

func BenchmarkVerify(b *testing.B) {
	h := hospital.New(b)
	cfg := h.Config()
	creds, demand := presented(b, fourHops(b, h)), reads(b)
	b.Run("cached", func(b *testing.B) {
		v := verifier(b, cfg)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Verify(creds, demand); err != nil {
				b.Fatal(err)
			}
		}
	})
	trust := verifier(b, cfg)
	b.Run("cold", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			trust.Forget()
			b.StartTimer()
			if _, err := trust.Verify(presented(b, &tls.Certificate{Certificate: [][]byte{creds.Certificates[0].Raw, h.CA.Raw}}), demand); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func fourHops(t testing.TB, h *hospital.Hospital) *tls.Certificate {
	t.Helper()
	return h.Agent(t, time.Hour, func(d *chain.Delegation, _ *x509.Certificate) {
		between := d.Hops[1]
		between.ID, between.SPKIHash = "spiffe://"+hospital.Domain+"/agent/research/01926f5e-7c05-7abc-8def-0123456789ab", [32]byte{7}
		between.MaxDepth = 1
		d.Hops = slices.Insert(d.Hops, 2, between)
	})
}
