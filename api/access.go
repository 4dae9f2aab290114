package api

import (
	"crypto/x509"
	"strconv"
	"strings"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

func (s *Server) verify(_ *call, q *v1.VerifyRequest) (v1.VerifyReport, error) {
	req, err := verifyRequest(q)
	if err != nil {
		return v1.VerifyReport{}, err
	}
	r, err := s.cfg.Domain.Verify(req)
	if err != nil {
		return v1.VerifyReport{}, err
	}
	out := v1.VerifyReport{Valid: r.Valid, Checks: allChecks(r.Checks), Agent: r.Agent.String()}
	if r.Delegation != nil {
		d := wireDelegation(*r.Delegation)
		out.Delegation = &d
	}
	return out, nil
}

// parseChain reads PEM strings, leaf first.
func parseChain(field string, blocks []string) ([]*x509.Certificate, error) {
	if len(blocks) == 0 || len(blocks) > chain.MaxChain {
		return nil, invalid(codeBadCertificate, field, "1 to "+strconv.Itoa(chain.MaxChain)+" PEM certificates, leaf first")
	}
	certs, err := chain.ParsePEM([]byte(strings.Join(blocks, "\n")), chain.MaxChain)
	if err != nil {
		return nil, invalid(codeBadCertificate, field, err.Error())
	}
	return certs, nil
}

// evaluate is AuthZEN's Access Evaluation API. A denial is an answer, not a refusal; only a request that cannot be read
// or whose caller may not ask is refused.
func (s *Server) evaluate(c *call, q *v1.EvaluationRequest) (v1.EvaluationResponse, error) {
	req, err := decisionRequest(c, q)
	if err != nil {
		return v1.EvaluationResponse{}, err
	}
	d, err := s.cfg.Domain.Decide(c.ctx, c.by, req)
	if err != nil {
		return v1.EvaluationResponse{}, err
	}
	out := v1.EvaluationResponse{
		// A permission that is not recorded is none, whatever else went wrong.
		Decision: d.Allow && d.Position != nil,
		Context:  v1.DecisionContext{DecisionID: d.ID, Reasons: d.Reasons, Checks: allChecks(d.Checks), Advice: d.Advice},
	}
	if out.Decision {
		out.Context.Obligations = d.Obligations
	}
	if d.Position != nil {
		out.Context.AuditID = &d.Position.Index
	}
	return out, nil
}

func decisionRequest(c *call, q *v1.EvaluationRequest) (delegation.DecisionRequest, error) {
	var none delegation.DecisionRequest
	if f := missing(q); f != "" {
		return none, invalid(codeBadRequest, f, "this member is required")
	}
	req := delegation.DecisionRequest{
		SubjectID: q.Subject.ID, ResourceType: q.Resource.Type, ResourceID: q.Resource.ID, Action: q.Action.Name,
		Orchestrator: q.Context.ExpectedOrchestrator,
	}
	if q.Subject.Type != "agent" {
		// A well-formed question about somebody who has no certificate here: no SPIFFE ID equals this, so it is denied.
		req.SubjectID = q.Subject.Type + " " + q.Subject.ID
	}
	if u := q.Context.ExpectedUser; u != nil {
		req.Principal = &chain.User{Issuer: u.Issuer, Subject: u.Subject}
	}
	switch {
	case q.Context.CertificateChain != nil:
		certs, err := parseChain("context.certificate_chain", q.Context.CertificateChain)
		if err != nil {
			return none, err
		}
		req.Chain = certs
	case c.by.ID.Kind() == chain.Agent:
		req.Chain = c.by.Certs
	}
	return req, nil
}

// missing gives the first member that AuthZEN requires and the request has not.
func missing(q *v1.EvaluationRequest) string {
	for _, m := range [...]struct{ name, value string }{
		{"subject.type", q.Subject.Type},
		{"subject.id", q.Subject.ID},
		{"action.name", q.Action.Name},
		{"resource.type", q.Resource.Type},
		{"resource.id", q.Resource.ID},
	} {
		if m.value == "" {
			return m.name
		}
	}
	return ""
}

func (s *Server) accessConfiguration(*call) (v1.AccessConfiguration, error) {
	return v1.AccessConfiguration{
		PolicyDecisionPoint:      s.cfg.PublicURL,
		AccessEvaluationEndpoint: s.cfg.PublicURL + "/access/v1/evaluation",
	}, nil
}
