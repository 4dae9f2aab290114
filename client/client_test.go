package client_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

func TestNewRefuses(t *testing.T) {
	roots := x509.NewCertPool()
	for _, u := range []string{"", "http://a:1", "a:1", "https://", "https://u:p@a:1", "https://a:1?x=1", "https://a:1#f", "https://a b"} {
		if _, err := client.New(client.Config{URL: u, Roots: roots}); err == nil {
			t.Errorf("%q: taken", u)
		}
	}
	if _, err := client.New(client.Config{URL: "https://a:1"}); err == nil {
		t.Error("taken without roots: the system's would be trusted")
	}
}

// The one root is trusted, and neither another nor the system's.
func TestRoots(t *testing.T) {
	reached := false
	srv, roots := appliance(t, func(w http.ResponseWriter, _ *http.Request) {
		reached = true
		answer(t, w, http.StatusOK, v1.Grant{GrantID: "g"})
	})
	other := x509.NewCertPool()
	other.AddCert(identity(t, "spiffe://"+testDomain+"/service/s").Leaf)
	for _, pool := range []*x509.CertPool{other, x509.NewCertPool()} {
		c, err := client.New(client.Config{URL: srv.URL, Roots: pool})
		if err != nil {
			t.Fatal(err)
		}
		var unknown x509.UnknownAuthorityError
		if _, err := c.Grant(t.Context(), "g"); !errors.As(err, &unknown) || reached {
			t.Errorf("reached %v: %v", reached, err)
		}
		c.Close()
	}
	c, err := client.New(client.Config{URL: srv.URL, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if g, err := c.Grant(t.Context(), "g"); err != nil || g.GrantID != "g" {
		t.Errorf("%v, %v", g, err)
	}
}

func TestOldTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.TLS = &tls.Config{MaxVersion: tls.VersionTLS12} //nolint:gosec // the old version is what is tested
	srv.StartTLS()
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	c, err := client.New(client.Config{URL: srv.URL, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Grant(t.Context(), "g"); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("want a refusal of TLS 1.2, got %v", err)
	}
}

func TestIdentityIsPresented(t *testing.T) {
	const id = "spiffe://" + testDomain + "/orchestrator/o"
	srv, roots := appliance(t, func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 || r.TLS.PeerCertificates[0].URIs[0].String() != id {
			t.Error("another certificate or none")
		}
		answer(t, w, http.StatusOK, v1.Grant{})
	})
	c, err := client.New(client.Config{URL: srv.URL + "/", Roots: roots, Certificate: identity(t, id)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Grant(t.Context(), "g"); err != nil {
		t.Error(err)
	}
}

// AuthZEN's endpoints refuse with a text, which reads the same.
func TestRefusalText(t *testing.T) {
	for text, want := range map[string]v1.Problem{
		"bad_request (resource.id): this member is required": {Status: 400, Code: "bad_request", Field: "resource.id", Detail: "this member is required"},
		"service_required: by services: alone":               {Status: 400, Code: "service_required", Detail: "by services: alone"},
		"internal":                                           {Status: 400, Code: "internal"},
	} {
		c := connect(t, func(w http.ResponseWriter, _ *http.Request) { answer(t, w, http.StatusBadRequest, text) })
		_, err := c.EvaluateAll(t.Context(), v1.EvaluationsRequest{})
		var p *client.Problem
		if !errors.As(err, &p) || !reflect.DeepEqual(p.Problem, want) || p.Error() != text {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestProblem(t *testing.T) {
	index := uint64(7)
	want := v1.Problem{
		Type: "about:blank", Title: "Forbidden", Status: 403, Detail: "too much", Code: "scope_exceeds_parent", Field: "scope[1]",
		Checks: map[string]v1.Check{"scope": {Status: "fail", Code: "scope_not_covered", Required: true}}, AuditID: &index,
	}
	c := connect(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", v1.ProblemType)
		answer(t, w, http.StatusForbidden, want)
	})
	_, err := c.Spawn(t.Context(), v1.SpawnRequest{})
	var p *client.Problem
	if !errors.As(err, &p) || !reflect.DeepEqual(p.Problem, want) {
		t.Fatalf("got %v", err)
	}
	if got := err.Error(); got != "scope_exceeds_parent (scope[1]): too much" {
		t.Errorf("reads %q", got)
	}
	// The ways that do not go through JSON tell the same.
	if err := c.Export(t.Context(), io.Discard); !errors.As(err, &p) {
		t.Errorf("export: %v", err)
	}
	if _, err := c.Receipt(t.Context(), 1, false); !errors.As(err, &p) {
		t.Errorf("receipt: %v", err)
	}
}

// What is no answer of an appliance is an error, and never an empty success.
func TestBadAnswers(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"not JSON":           func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") },
		"empty":              func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) },
		"no problem":         func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "bad gateway", http.StatusBadGateway) },
		"problem of no code": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "{}", http.StatusForbidden) },
		"oversized": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"decision":true,"x":"`+strings.Repeat("a", 8<<20)+`"}`)
		},
		"cut short": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"decision":true}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := connect(t, h)
			out, err := c.Evaluate(t.Context(), v1.EvaluationRequest{})
			var p *client.Problem
			if err == nil || errors.As(err, &p) || out.Decision {
				t.Errorf("got %v, %v", out, err)
			}
		})
	}
}

// Bytes have no form by which one could tell that they were cut.
func TestOversizedBytes(t *testing.T) {
	c := connect(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 8<<20+1)) })
	if got, err := c.Receipt(t.Context(), 1, false); err == nil || got != nil {
		t.Errorf("%d bytes", len(got))
	}
}

func TestRedirect(t *testing.T) {
	var elsewhere *httptest.Server
	paths := 0
	srv, roots := appliance(t, func(w http.ResponseWriter, r *http.Request) {
		paths++
		http.Redirect(w, r, elsewhere.URL+"/v1/grants/g", http.StatusTemporaryRedirect)
	})
	elsewhere, _ = appliance(t, func(w http.ResponseWriter, _ *http.Request) {
		t.Error("followed")
		answer(t, w, http.StatusOK, v1.Grant{})
	})
	roots.AddCert(elsewhere.Certificate())
	c, err := client.New(client.Config{URL: srv.URL, Roots: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Grant(t.Context(), "g"); err == nil || !strings.Contains(err.Error(), "307") {
		t.Errorf("got %v", err)
	}
	if err := c.Export(t.Context(), io.Discard); err == nil {
		t.Error("a redirect is no export")
	}
	if paths != 2 {
		t.Errorf("%d requests", paths)
	}
}

func TestTimeout(t *testing.T) {
	srv, roots := appliance(t, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		// Returning would be an empty 200, which may still reach a client that is just giving up.
		panic(http.ErrAbortHandler)
	})
	c, err := client.New(client.Config{URL: srv.URL, Roots: roots, Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var timeout interface{ Timeout() bool }
	if _, err := c.Grant(t.Context(), "g"); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Grant(ctx, "g"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Each call asks what the API's table says.
func TestRequests(t *testing.T) {
	var got string
	c := connect(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || len(body) > 0 && (r.Header.Get("Content-Type") != "application/json" || !json.Valid(body)) {
			t.Errorf("%s: %q, %v", r.URL, body, err)
		}
		got = r.Method + " " + r.URL.RequestURI()
		answer(t, w, http.StatusOK, v1.Ready{Status: "ready"})
	})
	ctx := t.Context()
	for want, call := range map[string]func() error{
		"POST /v1/orchestrators":                      func() error { _, err := c.RegisterOrchestrator(ctx, v1.OrchestratorRegistration{}); return err },
		"POST /v1/orchestrators/a%2Fb/certificate":    func() error { _, err := c.Attest(ctx, "a/b", v1.Attestation{}); return err },
		"POST /v1/orchestrators/a/challenge":          func() error { _, err := c.Challenge(ctx, "a", v1.ChallengeRequest{}); return err },
		"POST /v1/orchestrators/lab/certificate":      func() error { _, err := c.RenewOrchestrator(ctx, "lab", ""); return err },
		"POST /v1/services/r/certificate":             func() error { _, err := c.RenewService(ctx, "r", ""); return err },
		"POST /v1/services":                           func() error { _, err := c.RegisterService(ctx, v1.ServiceRegistration{}); return err },
		"POST /v1/operators":                          func() error { _, err := c.RegisterOperator(ctx, v1.OperatorRegistration{}); return err },
		"POST /v1/grants":                             func() error { _, err := c.RequestGrant(ctx, v1.GrantRequest{}); return err },
		"GET /v1/grants/g%3Fx":                        func() error { _, err := c.Grant(ctx, "g?x"); return err },
		"POST /v1/tasks":                              func() error { _, err := c.OpenTask(ctx, v1.TaskRequest{}); return err },
		"GET /v1/tasks/t":                             func() error { _, err := c.Task(ctx, "t"); return err },
		"POST /v1/tasks/t/complete":                   func() error { _, err := c.CompleteTask(ctx, "t"); return err },
		"POST /v1/agents":                             func() error { _, err := c.Spawn(ctx, v1.SpawnRequest{}); return err },
		"POST /v1/agents/p/delegations":               func() error { _, err := c.Delegate(ctx, "p", v1.SpawnRequest{}); return err },
		"POST /v1/agents:batch":                       func() error { _, err := c.SpawnBatch(ctx, nil); return err },
		"POST /v1/agents/a/certificate":               func() error { _, err := c.Enroll(ctx, "a", "t", "c"); return err },
		"POST /v1/agents/b/certificate":               func() error { _, err := c.Rekey(ctx, "b", "l", "c"); return err },
		"GET /v1/agents/a/chain":                      func() error { _, err := c.AgentChain(ctx, "a"); return err },
		"POST /v1/verify":                             func() error { _, err := c.Verify(ctx, v1.VerifyRequest{}); return err },
		"POST /access/v1/evaluations":                 func() error { _, err := c.EvaluateAll(ctx, v1.EvaluationsRequest{}); return err },
		"POST /v1/agents?wait=sealed":                 func() error { _, err := c.Spawn(ctx, v1.SpawnRequest{}, client.WaitSealed()); return err },
		"POST /access/v1/evaluation?wait=sealed":      func() error { _, err := c.EvaluateSealed(ctx, v1.EvaluationRequest{}); return err },
		"POST /access/v1/evaluation":                  func() error { _, err := c.Evaluate(ctx, v1.EvaluationRequest{}); return err },
		"POST /v1/revocations":                        func() error { _, err := c.Revoke(ctx, v1.RevocationRequest{}); return err },
		"GET /v1/revocations?cursor=1.5":              func() error { _, err := c.Revocations(ctx, "1.5"); return err },
		"POST /v1/revocations/poll?wait=7":            func() error { _, err := c.PollFeed(ctx, v1.FeedPoll{}); return err },
		"POST /v1/erasures":                           func() error { _, err := c.Erase(ctx, v1.ErasureRequest{}); return err },
		"GET /v1/jwks":                                func() error { _, err := c.Keys(ctx); return err },
		"GET /v1/audit/entries/3":                     func() error { _, err := c.Entry(ctx, 3); return err },
		"GET /v1/audit/entries?task=t":                func() error { _, err := c.Entries(ctx, url.Values{"task": {"t"}}); return err },
		"GET /v1/audit/entries/3/receipt":             func() error { _, err := c.Receipt(ctx, 3, false); return err },
		"GET /v1/audit/receipts?serial=0a":            func() error { _, err := c.Receipts(ctx, url.Values{"serial": {"0a"}}); return err },
		"GET /v1/audit/entries/3/proof":               func() error { _, err := c.Proof(ctx, 3); return err },
		"GET /v1/audit/entries/3/receipt?wait=sealed": func() error { _, err := c.Receipt(ctx, 3, true); return err },
		"GET /checkpoint":                             func() error { _, err := c.Checkpoint(ctx); return err },
		"GET /v1/audit/export":                        func() error { return c.Export(ctx, io.Discard) },
		"POST /v1/audit/export":                       func() error { return c.ExportSelection(ctx, v1.ExportRequest{}, io.Discard) },
		"GET /readyz":                                 func() error { _, err := c.Ready(ctx); return err },
	} {
		if err := call(); err != nil || got != want {
			t.Errorf("want %s, got %s, %v", want, got, err)
		}
	}
}

func TestIdempotent(t *testing.T) {
	c := connect(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Idempotency-Key"); got != "k-1" {
			t.Errorf("key %q", got)
		}
		answer(t, w, http.StatusCreated, v1.Spawned{AgentID: "a"})
	})
	if out, err := c.Spawn(t.Context(), v1.SpawnRequest{}, client.Idempotent("k-1")); err != nil || out.AgentID != "a" {
		t.Errorf("%v, %v", out, err)
	}
}

// A not ready appliance is an answer; something else in its place is not.
func TestReady(t *testing.T) {
	c := connect(t, func(w http.ResponseWriter, _ *http.Request) {
		answer(t, w, http.StatusServiceUnavailable, v1.Ready{Status: "not_ready", Conditions: []v1.Condition{{Name: "tpm", Severity: "error"}}})
	})
	if out, err := c.Ready(t.Context()); err != nil || out.Status != "not_ready" || len(out.Conditions) != 1 {
		t.Errorf("%v, %v", out, err)
	}
	for _, body := range []string{"{}", "<html>", `{"status":"` + strings.Repeat("a", 8<<20) + `"}`} {
		c := connect(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		if out, err := c.Ready(t.Context()); err == nil {
			t.Errorf("%.10s: got %.10v", body, out)
		}
	}
}

func TestExport(t *testing.T) {
	want := bytes.Repeat([]byte("tar"), 4<<20) // more than a JSON answer may have
	c := connect(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(want) })
	var got bytes.Buffer
	if err := c.Export(t.Context(), &got); err != nil || !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes, %v", got.Len(), err)
	}
}

func TestCSRAndCertificate(t *testing.T) {
	cert := identity(t, "spiffe://"+testDomain+"/service/s")
	key, ok := cert.PrivateKey.(crypto.Signer)
	if !ok {
		t.Fatal("no signer")
	}
	csr, err := client.CSR(key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := chain.ParseCSR([]byte(csr)); err != nil {
		t.Error(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
	got, err := client.Certificate([]string{text, text}, key)
	if err != nil || got.Leaf == nil || len(got.Certificate) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	for name, bad := range map[string][]string{
		"empty": nil, "no PEM": {"x"}, "two in one": {text + text}, "a CSR": {csr},
		"no certificate": {string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}))},
	} {
		if _, err := client.Certificate(bad, key); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := client.Certificate([]string{text}, newKey(t)); err == nil {
		t.Error("taken with another key")
	}
}
