package api

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/ca"
	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/ca/lint"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/quota"
)

const (
	testDomain = "test.signet.example"
	issuerURL  = "https://idp.example"
	publicURL  = "https://signet.example:8443"
)

// world is a Server on a real TLS port over a real domain.
type world struct {
	t      *testing.T
	dial   func(ctx context.Context, network, addr string) (net.Conn, error) // nil: over loopback
	http1  bool
	stop   context.CancelFunc // ends the server
	log    *memoryLog
	domain *delegation.Service
	server *Server
	base   string
	roots  *x509.CertPool
	health []Condition
	ready  error
	// signing is why nothing could be signed.
	signing error
	idp     error
	people  map[role]*person
	trust   Trust
	schema  *contract
	logged  *lockedBuffer
	quotas  *quota.Limits // nil: as in a fresh appliance

	obliges bool // policy permits under an obligation
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// person is a client with an identity, or without one.
type person struct {
	key  *ecdsa.PrivateKey
	cert *tls.Certificate
	http *http.Client
	name string // agents: their id
}

func newWorld(t *testing.T, change ...func(*Config)) *world {
	t.Helper()
	w := &world{t: t}
	w.start(newListener(t), change...)
	return w
}

func (w *world) start(listener net.Listener, change ...func(*Config)) {
	w.t.Helper()
	w.log, w.people, w.logged = &memoryLog{state: map[string][]byte{}, sealing: make(chan struct{})}, map[role]*person{}, new(lockedBuffer)
	w.health = []Condition{{Name: "hsm", OK: true}, {Name: "ca", OK: false, Reason: "two CAs left", Severity: Warning}}
	operatorKey := newKey(w.t)
	result := w.open(operatorKey)
	w.base = "https://" + listener.Addr().String()
	w.serve(listener, change...)
	w.people[anyone] = w.person(nil, nil)
	w.people[operator] = w.person(operatorKey, [][]byte{result.Operator.DER, result.ServiceCAs[0].DER})
}

// open makes the domain.
func (w *world) open(operatorKey *ecdsa.PrivateKey) ceremony.Result {
	t := w.t
	keys := softKeys{}
	result := runCeremony(t, keys, operatorKey)
	root := result.Root.Leaf
	c := &certifier{
		agents:   newIssuer(t, result.AgentCAs[0], keys, root, lint.Agent),
		services: newIssuer(t, result.ServiceCAs[0], keys, root, lint.Service),
	}
	first, err := delegation.FirstOperator(result.Operator.Leaf, result.ServiceCAs[0].Leaf, time.Now())
	must(t, err)
	_, err = w.log.Append(t.Context(), first)
	must(t, err)
	issuing := []*x509.Certificate{result.AgentCAs[0].Leaf, result.ServiceCAs[0].Leaf}
	trust, err := chain.NewTrust(testDomain, []*x509.Certificate{root}, issuing)
	must(t, err)
	resources, err := chain.ParseCatalogue([]string{"database:read:patients", "database:read:billing"})
	must(t, err)
	limits := delegation.DefaultLimits()
	limits.MalformedBurst = 10_000
	if w.quotas != nil {
		limits.Quotas = *w.quotas
	}
	w.domain, err = delegation.New(t.Context(), delegation.Config{
		Origin: testDomain + "/log", Trust: trust, Log: w.log, Certifier: c, Statements: statements{keys["jwt"]}, Policy: permit{w},
		Resources: resources,
		Ready:     func() error { return w.ready },
		Signing:   func() error { return w.signing },
		Provider:  func(context.Context) error { return w.idp },
		Proofs:    noProofs{},
		Pseudonym: func(iss, sub string) string { s := sha256.Sum256([]byte(iss + sub)); return hex.EncodeToString(s[:]) },
		Clients:   map[string]string{issuerURL: "consent"}, Limits: limits, Now: time.Now, Rand: rand.Reader, Logger: slog.New(slog.NewTextHandler(w.logged, nil)),
	})
	must(t, err)
	w.trust = Trust{TrustDomain: testDomain, Roots: []*x509.Certificate{root}, Issuing: issuing, JWT: []*x509.Certificate{result.JWT.Leaf}, CRL: func(name string) ([]byte, error) {
		if name != "service-1" {
			return nil, ErrNotFound
		}
		return []byte{0x30, 0}, nil
	}}
	return result
}

func (w *world) serve(l net.Listener, change ...func(*Config)) {
	t := w.t
	cfg := Config{
		Domain: w.domain, Log: shownLog{w.log}, Reviews: newReviews(t, w.log), Trust: w.trust, Now: time.Now, PublicURL: publicURL,
		Health: func(context.Context) []Condition { return w.health }, Logger: slog.New(slog.NewTextHandler(w.logged, nil)),
		Consent: says(func(*http.Request) string { return "<p>consent</p>" }),
		Mounts:  map[string]http.Handler{"/idp/": says(func(r *http.Request) string { return r.URL.Path })},
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	w.server, err = New(cfg)
	must(t, err)
	w.schema = newContract(t, w.server)
	cert, roots := listenerCertificate(t)
	w.roots = roots
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	done := make(chan error, 1)
	go func() { done <- w.server.Run(ctx, l, &tls.Config{Certificates: []tls.Certificate{cert}}) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// says is a handler that writes a text.
type says func(*http.Request) string

func (f says) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	io.WriteString(w, f(r)) //nolint:errcheck // the client tells
}

func newListener(t *testing.T) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	must(t, err)
	return l
}

func (w *world) person(key *ecdsa.PrivateKey, ders [][]byte) *person {
	cfg := &tls.Config{RootCAs: w.roots, MinVersion: tls.VersionTLS13}
	p := &person{key: key}
	if key != nil {
		p.cert = &tls.Certificate{Certificate: ders, PrivateKey: key}
		cfg.Certificates = []tls.Certificate{*p.cert}
	}
	tr := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: !w.http1, DialContext: w.dial}
	w.t.Cleanup(tr.CloseIdleConnections)
	p.http = &http.Client{Transport: tr, Timeout: 20 * time.Second}
	return p
}

// as gives the client of a role, and gets its identity through the API when it is asked for first.
func (w *world) as(r role) *person {
	w.t.Helper()
	if p, ok := w.people[r]; ok {
		return p
	}
	var p *person
	switch r {
	case orchestrator:
		p = w.orchestrator("lab")
	case agent:
		p = w.agent(w.task())
	case service:
		key := newKey(w.t)
		cert := decodeAs[v1.Certificate](w, w.do(operator, "POST", "/v1/services", v1.ServiceRegistration{Name: "records", CSR: csr(w.t, key)}), 201)
		p = w.person(key, ders(w.t, cert.CertificateChain))
	default:
		key := newKey(w.t)
		q := v1.OperatorRegistration{Name: strings.ReplaceAll(r.String(), "_", "-"), Role: r.String(), CSR: csr(w.t, key)}
		cert := decodeAs[v1.Certificate](w, w.do(operator, "POST", "/v1/operators", q), 201)
		p = w.person(key, ders(w.t, cert.CertificateChain))
	}
	w.people[r] = p
	return p
}

// orchestrator registers and attests one by join token.
func (w *world) orchestrator(name string) *person {
	w.t.Helper()
	reg := decodeAs[v1.OrchestratorRegistered](w, w.do(operator, "POST", "/v1/orchestrators",
		v1.OrchestratorRegistration{Name: name, AgentTypes: []string{"research", "reader"}}), 201)
	key := newKey(w.t)
	cert := decodeAs[v1.Certificate](w, w.do(anyone, "POST", "/v1/orchestrators/"+name+"/certificate",
		v1.Attestation{Method: v1.MethodJoinToken, Token: reg.JoinToken, CSR: csr(w.t, key)}), 201)
	return w.person(key, ders(w.t, cert.CertificateChain))
}

// task gets a consented grant and opens its task.
func (w *world) task() v1.Task {
	w.t.Helper()
	g := decodeAs[v1.Grant](w, w.do(orchestrator, "POST", "/v1/grants", v1.GrantRequest{
		Task: "look into outcomes", Scope: []string{"database:read:*"}, NotAfter: time.Now().Add(time.Hour), MaxDepth: 3,
		AgentTypes: []string{"research", "reader"},
	}), 201)
	w.approve(g.GrantID)
	return decodeAs[v1.Task](w, w.do(orchestrator, "POST", "/v1/tasks", v1.TaskRequest{GrantID: g.GrantID}), 201)
}

func (w *world) approve(id string) {
	w.t.Helper()
	doc, err := w.domain.GrantDocument(id, issuerURL, "physician-1")
	must(w.t, err)
	must(w.t, w.domain.Approve(w.t.Context(), id, delegation.Approval{
		Type: chain.OIDCNonce,
		User: delegation.User{Issuer: issuerURL, Subject: "physician-1", Roles: []string{"analyst"}}, Document: doc, Evidence: []byte("evidence"),
	}))
}

// spawn is a request that succeeds.
func (w *world) spawn(task v1.Task, key *ecdsa.PrivateKey) v1.SpawnRequest {
	return v1.SpawnRequest{
		TaskID: task.TaskID, SpawnID: newID(w.t), AgentType: "research", Scope: []string{"database:read:patients"}, TTL: 300, MaxDepth: 1,
		CSR: csr(w.t, key),
	}
}

func (w *world) agent(task v1.Task) *person {
	w.t.Helper()
	key := newKey(w.t)
	out := decodeAs[v1.Spawned](w, w.do(orchestrator, "POST", "/v1/agents", w.spawn(task, key)), 201)
	p := w.person(key, ders(w.t, out.CertificateChain))
	p.name = out.AgentID
	return p
}

// answer is a read response.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// do sends v as JSON, or as it is when it is bytes.
func (w *world) do(r role, method, path string, v any, header ...string) answer {
	w.t.Helper()
	return w.send(w.as(r), method, path, v, header...)
}

func (w *world) send(p *person, method, path string, v any, header ...string) answer {
	w.t.Helper()
	var body io.Reader
	switch b := v.(type) {
	case nil:
	case io.Reader:
		body = b
	case string:
		body = strings.NewReader(b)
	default:
		raw, err := json.Marshal(v)
		must(w.t, err)
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(w.t.Context(), method, w.base+path, body)
	must(w.t, err)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := p.http.Do(req)
	must(w.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	must(w.t, err)
	a := answer{resp.StatusCode, resp.Header, raw}
	w.schema.check(w.t, method, path, a)
	return a
}

func decodeAs[T any](w *world, a answer, status int) T {
	w.t.Helper()
	var out T
	if a.status != status {
		w.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	must(w.t, json.Unmarshal(a.body, &out))
	return out
}

// refused checks a problem's status and code, and that its entry says the same.
func (w *world) refused(a answer, status int, code string) v1.Problem {
	w.t.Helper()
	p := decodeAs[v1.Problem](w, a, status)
	if a.header.Get("Content-Type") != v1.ProblemType || p.Code != code || p.Status != status || !strings.HasSuffix(p.Type, "#"+code) {
		w.t.Fatalf("want %d %s, got %s", status, code, a.body)
	}
	if p.AuditID != nil {
		if env := w.log.at(w.t, *p.AuditID); env.Code != code {
			w.t.Errorf("entry %d says %q, the problem %q", *p.AuditID, env.Code, code)
		}
	}
	return p
}

func runCeremony(t *testing.T, keys softKeys, operatorKey *ecdsa.PrivateKey) ceremony.Result {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(operatorKey.Public())
	must(t, err)
	plan, err := ceremony.ParsePlan(ceremony.Config{
		TrustDomain: testDomain, Origin: testDomain + "/log",
		Root:       ceremony.RootConfig{CommonName: "test root", ValidityDays: 100},
		AgentCAs:   ceremony.SeriesConfig{Count: 1, ValidityDays: 50, OverlapDays: 10},
		ServiceCAs: ceremony.ServiceCAsConfig{SeriesConfig: ceremony.SeriesConfig{Count: 1, ValidityDays: 50, OverlapDays: 40}},
		Operator: ceremony.OperatorConfig{
			Name: "admin", ValidityDays: 30, PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})),
		},
	})
	must(t, err)
	result, err := ceremony.Run(t.Context(), plan, keys, newKey(t).Public(), time.Now())
	must(t, err)
	return result
}

func newIssuer(t *testing.T, c ceremony.Certificate, keys softKeys, root *x509.Certificate, kind lint.Kind) *ca.Issuer {
	t.Helper()
	p := ca.Profile{Issues: kind, TrustDomain: testDomain, MaxLifetime: 40 * 24 * time.Hour}
	if kind == lint.Agent {
		p.DelegationOID = chain.OID()
	}
	i, err := ca.NewIssuer(c.Leaf, keys[c.Name], []*x509.Certificate{root}, p)
	must(t, err)
	return i
}
