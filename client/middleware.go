package client

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"

	v1 "github.com/signet-pki/signet/api/v1"
)

// Evaluator asks for access decisions; a *Client that authenticates as a service is one.
type Evaluator interface {
	Evaluate(ctx context.Context, q v1.EvaluationRequest) (v1.EvaluationResponse, error)
}

// Access says what a request wants: which resource, which action, and whom the agent must act for, if that matters.
type Access struct {
	Resource v1.Resource
	Action   string
	User     *v1.User
}

// RequireDecision lets a request through to next only if the appliance allows the agent of this TLS connection the
// access. The server must ask for client certificates; what they are worth is the appliance's to say, so
// tls.RequestClientCert is enough. Without a certificate that names somebody it is 401, denied 403, and without an
// answer 503: it never fails open. The answer of a refusal is {"reasons": […], "decision_id": …}.
func RequireDecision(e Evaluator, access func(*http.Request) (Access, error), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 || len(r.TLS.PeerCertificates[0].URIs) != 1 {
			refuse(w, http.StatusUnauthorized, v1.DecisionContext{Reasons: []string{"client_certificate_required"}})
			return
		}
		a, err := access(r)
		if err != nil {
			refuse(w, http.StatusBadRequest, v1.DecisionContext{Reasons: []string{"bad_request"}})
			return
		}
		answer, err := e.Evaluate(r.Context(), evaluation(r.TLS.PeerCertificates, a))
		switch {
		case err != nil:
			refuse(w, http.StatusServiceUnavailable, v1.DecisionContext{Reasons: []string{"no_decision"}})
		case !answer.Decision:
			refuse(w, http.StatusForbidden, answer.Context)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func evaluation(peer []*x509.Certificate, a Access) v1.EvaluationRequest {
	q := v1.EvaluationRequest{
		Subject: v1.Subject{Type: "agent", ID: peer[0].URIs[0].String()}, Action: v1.Action{Name: a.Action}, Resource: a.Resource,
		Context: v1.EvaluationContext{ExpectedUser: a.User},
	}
	for _, c := range peer {
		q.Context.CertificateChain = append(q.Context.CertificateChain, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
	}
	return q
}

func refuse(w http.ResponseWriter, status int, c v1.DecisionContext) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The status says it already; a client that is gone needs no body.
	_ = json.NewEncoder(w).Encode(c) //nolint:errchkjson // plain data
}
