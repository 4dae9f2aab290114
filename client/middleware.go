package client

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"sync"
	"time"

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

// ReasonObligations refuses a permission under obligations where nobody would act on them.
const ReasonObligations = "obligations_unsupported"

// RequireDecision lets a request through to next only if the appliance allows the agent of this TLS connection the
// access. The server must ask for client certificates; what they are worth is the appliance's to say, so
// tls.RequestClientCert is enough. Without a certificate that names somebody it is 401, denied 403, and without an
// answer 503: it never fails open. A permission under obligations is a denial here: a service that knows its policy's
// obligations asks and acts by itself. The answer of a refusal is {"reasons": […], "decision_id": …}.
func RequireDecision(e Evaluator, access func(*http.Request) (Access, error), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var peer []*x509.Certificate
		if r.TLS != nil {
			peer = r.TLS.PeerCertificates
		}
		a, err := access(r)
		q, named := Evaluation(peer, a)
		switch {
		case !named:
			refuse(w, http.StatusUnauthorized, v1.DecisionContext{Reasons: []string{reasonNoCertificate}})
			return
		case err != nil:
			refuse(w, http.StatusBadRequest, v1.DecisionContext{Reasons: []string{"bad_request"}})
			return
		}
		answer, err := e.Evaluate(r.Context(), q)
		switch {
		case err != nil:
			refuse(w, http.StatusServiceUnavailable, v1.DecisionContext{Reasons: []string{"no_decision"}})
		case !answer.Decision:
			refuse(w, http.StatusForbidden, answer.Context)
		case len(answer.Context.Obligations) > 0:
			answer.Context.Reasons = []string{ReasonObligations}
			refuse(w, http.StatusForbidden, answer.Context)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// Evaluation is the question whether the agent of a connection may do that. False means that its certificates, leaf first,
// name nobody.
func Evaluation(peer []*x509.Certificate, a Access) (v1.EvaluationRequest, bool) {
	if len(peer) == 0 || peer[0] == nil || len(peer[0].URIs) != 1 {
		return v1.EvaluationRequest{}, false
	}
	q := v1.EvaluationRequest{
		Subject: v1.Subject{Type: "agent", ID: peer[0].URIs[0].String()}, Action: v1.Action{Name: a.Action}, Resource: a.Resource,
		Context: v1.EvaluationContext{ExpectedUser: a.User},
	}
	for _, c := range peer {
		q.Context.CertificateChain = append(q.Context.CertificateChain, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})))
	}
	return q, true
}

// RequireDelegation lets a request through to next only if v verifies the caller of this TLS connection for what demand says.
// The handler's context ends with the caller's identity; from then on it can neither read nor write any more, so a
// connection that is hijacked has to be served before the handler returns. Without credentials it is 401, with checks
// that failed 403, with stale revocations 503: it never fails open. The answer of a refusal is {"reasons": […], "checks": …}.
func RequireDelegation(v *Verifier, demand func(*http.Request) (Demand, error), next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := Credentials{Authorization: r.Header.Values("Authorization")}
		if r.TLS != nil {
			c.Certificates = r.TLS.PeerCertificates
		}
		d, err := demand(r)
		if err != nil {
			refuse(w, http.StatusBadRequest, v1.DecisionContext{Reasons: []string{"bad_request"}})
			return
		}
		s, err := v.Open(r.Context(), c, d)
		if err != nil {
			refuseWith(w, err)
			return
		}
		defer s.Close()
		defer cutOff(s.Context(), http.NewResponseController(w))() //nolint:contextcheck // made from the request's
		next.ServeHTTP(w, r.WithContext(s.Context()))              //nolint:contextcheck // likewise
	})
}

// cutOff keeps a handler that does not look at its context from going on after the caller's identity ended. The function
// that it returns ends that; the response belongs to the server again afterwards.
func cutOff(ctx context.Context, rc *http.ResponseController) func() {
	var mu sync.Mutex
	served := false
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if _, refused := errors.AsType[*Refusal](context.Cause(ctx)); refused && !served {
			// A writer without deadlines, such as a test's, has the context alone.
			_ = rc.SetWriteDeadline(time.Unix(1, 0))
			_ = rc.SetReadDeadline(time.Unix(1, 0))
		}
	})
	return func() {
		stop()
		mu.Lock()
		defer mu.Unlock()
		served = true
	}
}

func refuseWith(w http.ResponseWriter, err error) {
	r, ok := errors.AsType[*Refusal](err)
	if !ok {
		r = refusal500("internal")
	}
	switch r.Status {
	case http.StatusUnauthorized:
		challenge := "Bearer" // RFC 9110 §15.5.2 wants one; there is no name for a client certificate
		if r.Reasons[0] != reasonNoCertificate {
			challenge += ` error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	refuse(w, r.Status, v1.DecisionContext{Reasons: r.Reasons, Checks: r.Checks})
}

func refuse(w http.ResponseWriter, status int, c v1.DecisionContext) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The status says it already; a client that is gone needs no body.
	_ = json.NewEncoder(w).Encode(c) //nolint:errchkjson // plain data
}
