package api

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// TLS 1.3 without tickets, whatever configuration was handed in.
func TestTheListener(t *testing.T) {
	w := newWorld(t)
	addr := strings.TrimPrefix(w.base, "https://")
	old := &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12} //nolint:gosec // to see it refused
	if c, err := (&tls.Dialer{Config: old}).DialContext(t.Context(), "tcp", addr); err == nil {
		c.Close()
		t.Error("TLS 1.2 was taken")
	}
	cache := tls.NewLRUClientSessionCache(4)
	cfg := w.as(operator).http.Transport.(*http.Transport).TLSClientConfig.Clone() //nolint:errcheck,forcetypeassert // made above
	cfg.ClientSessionCache = cache
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}}
	for range 2 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.base+"/livez", nil)
		must(t, err)
		resp, err := hc.Do(req)
		must(t, err)
		resp.Body.Close()
		if resp.TLS.DidResume {
			t.Error("a session was resumed")
		}
	}
	anything := func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("another configuration") }
	loose := &tls.Config{ClientAuth: tls.NoClientCert, GetConfigForClient: anything}
	if got := listenerTLS(loose); got.MinVersion != tls.VersionTLS13 || got.ClientAuth != tls.RequestClientCert || !got.SessionTicketsDisabled || got.GetConfigForClient != nil {
		t.Errorf("%+v", got)
	}
	if err := w.server.Run(t.Context(), nil, &tls.Config{MinVersion: tls.VersionTLS13}); err == nil {
		t.Error("a listener without a certificate was served")
	}
}

// blocking is a domain whose Verify waits.
type blocking struct {
	Domain
	entered, release chan struct{}
	panics           bool
}

func (b *blocking) Verify(delegation.VerifyRequest) (chain.Report, error) {
	if b.panics {
		panic("a secret in a panic")
	}
	b.entered <- struct{}{}
	<-b.release
	return chain.Report{Checks: []chain.Check{}}, nil
}

func (w *world) verifyBody() v1.VerifyRequest {
	return v1.VerifyRequest{CertificateChain: w.as(operator).chainPEM()}
}

// One more than there are places is told to come back; who only asks for health is answered.
func TestAFullServer(t *testing.T) {
	b := &blocking{entered: make(chan struct{}), release: make(chan struct{})}
	w := newWorld(t, func(c *Config) { b.Domain, c.Domain = c.Domain, b; c.Limits.Concurrency = 1 })
	first := make(chan answer, 1)
	op := w.as(operator)
	go func() { first <- w.send(op, "POST", "/v1/verify", w.verifyBody()) }()
	<-b.entered
	a := w.send(op, "POST", "/v1/verify", w.verifyBody())
	w.refused(a, 503, codeOverloaded)
	if a.header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	if a := w.send(op, "GET", "/livez", nil); a.status != 200 {
		t.Errorf("livez: %d", a.status)
	}
	close(b.release)
	if a := <-first; a.status != 200 {
		t.Errorf("the first: %d %s", a.status, a.body)
	}
}

// Callers without an identity cannot take the places of those with one, nor those who send bodies the places of readers.
func TestNobodyStarvesTheKnown(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, func(c *Config) {
		c.Limits.Concurrency = 1
		c.Mounts = map[string]http.Handler{"/hold/": says(func(*http.Request) string {
			entered <- struct{}{}
			<-release
			return "held"
		})}
	})
	held, op, nobody := make(chan answer, 1), w.as(operator), w.as(anyone)
	go func() { held <- w.send(nobody, "GET", "/hold/on", nil) }()
	<-entered
	w.refused(w.send(nobody, "GET", "/hold/on", nil), 503, codeOverloaded)
	if a := w.send(nobody, "GET", "/v1/trust-bundle", nil); a.status != 200 {
		t.Errorf("whoever sends bodies keeps readers out: %d %s", a.status, a.body)
	}
	if a := w.send(op, "POST", "/v1/verify", w.verifyBody()); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	close(release)
	if a := <-held; string(a.body) != "held" {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// What runs when the appliance stops is finished.
func TestShutdownDrains(t *testing.T) {
	b := &blocking{entered: make(chan struct{}), release: make(chan struct{})}
	w := newWorld(t, func(c *Config) { b.Domain, c.Domain = c.Domain, b })
	cert, roots := listenerCertificate(t)
	w.roots = roots
	l := newListener(t)
	w.base = "https://" + l.Addr().String()
	op := w.as(operator)
	op = w.person(op.key, op.cert.Certificate)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- w.server.Run(ctx, l, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13})
	}()
	got := make(chan answer, 1)
	go func() { got <- w.send(op, "POST", "/v1/verify", w.verifyBody()) }()
	<-b.entered
	stop()
	for refused := false; !refused; {
		c, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if refused = err != nil; !refused {
			c.Close()
		}
	}
	select {
	case err := <-done:
		t.Fatalf("Run returned with a request running: %v", err)
	default:
	}
	close(b.release)
	if a := <-got; a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A fault of ours says nothing about itself to the caller, and goes on serving.
func TestFaultsSayNothing(t *testing.T) {
	b := &blocking{panics: true}
	w := newWorld(t, func(c *Config) { b.Domain, c.Domain = c.Domain, b })
	a := w.do(operator, "POST", "/v1/verify", w.verifyBody())
	p := w.refused(a, 500, codeInternal)
	if p.Detail != "" || strings.Contains(string(a.body), "secret") || p.AuditID != nil {
		t.Errorf("%s", a.body)
	}
	if !strings.Contains(w.logged.String(), "a secret in a panic") {
		t.Error("the operator's log does not say what happened")
	}
}

// A broken export must not look whole.
func TestABrokenExport(t *testing.T) {
	w := newWorld(t)
	w.log.broken = errors.New("a tile is unreadable")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.base+"/v1/audit/export", nil)
	must(t, err)
	resp, err := w.as(auditor).http.Do(req)
	if err == nil {
		var sink [64]byte
		for err == nil {
			_, err = resp.Body.Read(sink[:])
		}
		resp.Body.Close()
	}
	if err == nil || err.Error() == "EOF" {
		t.Errorf("the export ended as if it were whole: %v", err)
	}
	if a := w.do(auditor, "GET", "/livez", nil); a.status != 200 {
		t.Errorf("livez afterwards: %d", a.status)
	}
}

// forgetful is a domain that permits what it did not record.
type forgetful struct{ Domain }

func (forgetful) Decide(context.Context, delegation.Caller, delegation.DecisionRequest) (delegation.Decision, error) {
	return delegation.Decision{ID: "x", Allow: true}, nil
}

func TestWhatIsNotRecordedIsDenied(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Domain = forgetful{c.Domain} })
	q := v1.EvaluationRequest{Subject: v1.Subject{Type: "agent", ID: "x"}, Action: v1.Action{Name: "read"}, Resource: v1.Resource{Type: "a", ID: "b"}}
	if d := decodeAs[v1.EvaluationResponse](w, w.do(service, "POST", "/access/v1/evaluation", q), 200); d.Decision {
		t.Error("allowed")
	}
}

// silent is a domain whose log takes no entry.
type silent struct{ Domain }

func (silent) RecordRefusal(context.Context, delegation.Refusal) *uint64 { return nil }

// A refusal that cannot be recorded, or is counted with others, is still a refusal.
func TestARefusalWithoutAnEntry(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Domain = silent{c.Domain} })
	if p := w.refused(w.do(operator, "POST", "/v1/orchestrators", "{"), 400, codeBadJSON); p.AuditID != nil {
		t.Errorf("%+v", p)
	}
}

func TestPublicMissesAreNoRefusals(t *testing.T) {
	w := newWorld(t)
	before := w.log.count(record.TypeMalformed, "")
	w.refused(w.do(anyone, "GET", "/tile/0/001", nil), 404, codeNotFound)
	w.refused(w.do(anyone, "GET", "/crl/x.crl", nil), 404, codeNotFound)
	if n := w.log.count(record.TypeMalformed, ""); n != before {
		t.Errorf("%d entries", n-before)
	}
}

func TestProblems(t *testing.T) {
	for _, tc := range []struct {
		e      delegation.Error
		status int
		code   string
	}{
		{delegation.Error{}, 500, "internal"},
		{delegation.Error{Code: "body_too_large", Detail: "secret"}, 500, "internal"},
		{delegation.Error{Kind: 99, Code: "x"}, 500, "internal"},
		{delegation.Error{Kind: delegation.Exhausted, Code: "too_many"}, 429, "too_many"},
		{delegation.Error{Kind: delegation.Conflict, Code: "idempotency_race"}, 409, "idempotency_race"},
	} {
		p := problemOf(&tc.e)
		if p.Status != tc.status || p.Code != tc.code || p.Detail != "" || p.Title != http.StatusText(tc.status) {
			t.Errorf("%+v: %+v", tc.e, p)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	w := newWorld(t)
	for name, change := range map[string]func(*Config){
		"domain": func(c *Config) { c.Domain = nil }, "log": func(c *Config) { c.Log = nil }, "roots": func(c *Config) { c.Trust.Roots = nil },
		"crl": func(c *Config) { c.Trust.CRL = nil }, "url": func(c *Config) { c.PublicURL = "http://x" }, "slash": func(c *Config) { c.PublicURL += "/" },
		"mount": func(c *Config) { c.Mounts = map[string]http.Handler{"idp": http.NotFoundHandler()} }, "health": func(c *Config) { c.Health = nil },
	} {
		cfg := w.server.cfg
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// The hot path without TLS and domain: what the server itself costs for one spawn.
func BenchmarkSpawn(b *testing.B) {
	id, err := chain.NamedID(testDomain, chain.Orchestrator, "lab")
	if err != nil {
		b.Fatal(err)
	}
	d := &stub{caller: delegation.Caller{ID: id}}
	d.spawned.Chain = [][]byte{make([]byte, 900), make([]byte, 600)}
	d.spawned.Position.LeafHash[0] = 1
	s, err := New(stubConfig(b, d))
	if err != nil {
		b.Fatal(err)
	}
	body, err := json.Marshal(v1.SpawnRequest{
		TaskID: "0198c0de-0000-7000-8000-000000000001", SpawnID: "0198c0de-0000-7000-8000-000000000002", AgentType: "research",
		Scope: []string{"database:read:patients"}, TTL: 300, CSR: strings.Repeat("A", 500), Confirmation: strings.Repeat("b", 700),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		req := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/v1/agents", strings.NewReader(string(body)))
		req.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		s.Handler().ServeHTTP(rec, req)
		if rec.Code != http.StatusCreated {
			b.Fatal(rec.Body.String())
		}
	}
}

// stub answers at once.
type stub struct {
	Domain
	Log
	caller  delegation.Caller
	spawned delegation.Spawned
}

func (s *stub) Authenticate([]*x509.Certificate) (delegation.Caller, error) { return s.caller, nil }

func (s *stub) Spawn(context.Context, delegation.Caller, delegation.SpawnRequest) (delegation.Spawned, error) {
	return s.spawned, nil
}

func stubConfig(b *testing.B, d *stub) Config {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	root := &x509.Certificate{PublicKey: key.Public()}
	return Config{
		Trust:  Trust{TrustDomain: testDomain, Roots: []*x509.Certificate{root}, JWT: []*x509.Certificate{root}, CRL: func(string) ([]byte, error) { return nil, ErrNotFound }},
		Domain: d, Log: d, Health: func(context.Context) []Condition { return nil }, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
		PublicURL: publicURL,
	}
}
