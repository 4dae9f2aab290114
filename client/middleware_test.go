package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

// oracle answers with what it is told.
type oracle struct {
	answer v1.EvaluationResponse
	err    error
	asked  *v1.EvaluationRequest
}

func (o *oracle) Evaluate(_ context.Context, q v1.EvaluationRequest) (v1.EvaluationResponse, error) {
	o.asked = &q
	return o.answer, o.err
}

func wanted(*http.Request) (client.Access, error) {
	return client.Access{
		Resource: v1.Resource{Type: "database", ID: "patients"}, Action: "read",
		User: &v1.User{Issuer: "https://idp.test.example", Subject: "u-1"},
	}, nil
}

func TestRequireDecision(t *testing.T) {
	agent := identity(t, "spiffe://"+testDomain+"/agent/research/"+testSpawn).Leaf
	index := uint64(4)
	denied := v1.EvaluationResponse{Context: v1.DecisionContext{DecisionID: "d", Reasons: []string{"scope_not_covered"}, AuditID: &index}}
	for name, c := range map[string]struct {
		peer    []*x509.Certificate
		noTLS   bool
		oracle  oracle
		access  func(*http.Request) (client.Access, error)
		status  int
		reasons []string
		unasked bool
	}{
		"allowed": {peer: []*x509.Certificate{agent}, oracle: oracle{answer: v1.EvaluationResponse{Decision: true}}, status: http.StatusOK},
		"denied":  {peer: []*x509.Certificate{agent}, oracle: oracle{answer: denied}, status: http.StatusForbidden, reasons: []string{"scope_not_covered"}},
		"obligations": {
			peer: []*x509.Certificate{agent}, oracle: oracle{answer: v1.EvaluationResponse{
				Decision: true, Context: v1.DecisionContext{DecisionID: "d", Obligations: []json.RawMessage{[]byte(`{"id":"mask"}`)}},
			}},
			status: http.StatusForbidden, reasons: []string{"obligations_unsupported"},
		},
		"zero answer":    {peer: []*x509.Certificate{agent}, status: http.StatusForbidden},
		"no answer":      {peer: []*x509.Certificate{agent}, oracle: oracle{err: errors.New("down")}, status: http.StatusServiceUnavailable, reasons: []string{"no_decision"}},
		"error and yes":  {peer: []*x509.Certificate{agent}, oracle: oracle{answer: v1.EvaluationResponse{Decision: true}, err: errors.New("late")}, status: http.StatusServiceUnavailable, reasons: []string{"no_decision"}},
		"no certificate": {oracle: oracle{answer: v1.EvaluationResponse{Decision: true}}, status: http.StatusUnauthorized, reasons: []string{"client_certificate_required"}, unasked: true},
		"no name": {
			peer: []*x509.Certificate{identity(t, "").Leaf}, oracle: oracle{answer: v1.EvaluationResponse{Decision: true}},
			status: http.StatusUnauthorized, reasons: []string{"client_certificate_required"}, unasked: true,
		},
		"no TLS": {noTLS: true, oracle: oracle{answer: v1.EvaluationResponse{Decision: true}}, status: http.StatusUnauthorized, reasons: []string{"client_certificate_required"}, unasked: true},
		"bad request": {
			peer: []*x509.Certificate{agent}, oracle: oracle{answer: v1.EvaluationResponse{Decision: true}},
			access: func(*http.Request) (client.Access, error) { return client.Access{}, errors.New("what?") },
			status: http.StatusBadRequest, reasons: []string{"bad_request"}, unasked: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c.access == nil {
				c.access = wanted
			}
			passed := false
			h := client.RequireDecision(&c.oracle, c.access, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { passed = true }))
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/patients", http.NoBody)
			if !c.noTLS {
				r.TLS = &tls.ConnectionState{PeerCertificates: c.peer}
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if passed != (c.status == http.StatusOK) || w.Code != c.status {
				t.Fatalf("passed %v with status %d", passed, w.Code)
			}
			if c.unasked != (c.oracle.asked == nil) {
				t.Errorf("asked: %v", c.oracle.asked)
			}
			if passed {
				return
			}
			var out v1.DecisionContext
			if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil || !reflect.DeepEqual(out.Reasons, c.reasons) {
				t.Errorf("reasons %v, %v", out.Reasons, err)
			}
		})
	}
}

// What the appliance is asked is what the connection and the service say, and nothing that the agent claims.
func TestRequireDecisionAsks(t *testing.T) {
	agent := identity(t, "spiffe://"+testDomain+"/agent/research/"+testSpawn).Leaf
	issuing := identity(t, "").Leaf
	o := &oracle{}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/patients", http.NoBody)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{agent, issuing}}
	client.RequireDecision(o, wanted, http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
	text := func(c *x509.Certificate) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	}
	want := &v1.EvaluationRequest{
		Subject:  v1.Subject{Type: "agent", ID: "spiffe://" + testDomain + "/agent/research/" + testSpawn},
		Action:   v1.Action{Name: "read"},
		Resource: v1.Resource{Type: "database", ID: "patients"},
		Context: v1.EvaluationContext{
			CertificateChain: []string{text(agent), text(issuing)},
			ExpectedUser:     &v1.User{Issuer: "https://idp.test.example", Subject: "u-1"},
		},
	}
	if !reflect.DeepEqual(o.asked, want) {
		t.Errorf("asked %+v", o.asked)
	}
}

// The whole way: an appliance that is gone, slow in dying or confused lets nobody through.
func TestRequireDecisionOverTheWire(t *testing.T) {
	agent := identity(t, "spiffe://"+testDomain+"/agent/research/"+testSpawn).Leaf
	for name, c := range map[string]struct {
		h      http.HandlerFunc
		status int
	}{
		"problem": {func(w http.ResponseWriter, _ *http.Request) {
			answer(t, w, 503, v1.Problem{Code: "not_ready", Status: 503})
		}, 503},
		"not JSON":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("true")) }, 503},
		"no content": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }, 503},
		"empty":      {func(w http.ResponseWriter, _ *http.Request) { answer(t, w, 200, struct{}{}) }, 403},
		"cut off":    {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 503},
	} {
		t.Run(name, func(t *testing.T) {
			h := client.RequireDecision(connect(t, c.h), wanted, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("let through") }))
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/patients", http.NoBody)
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{agent}}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != c.status {
				t.Errorf("status %d, want %d", w.Code, c.status)
			}
		})
	}
}
