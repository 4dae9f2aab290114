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
		Context:  v1.DecisionContext{DecisionID: d.ID, Reasons: d.Reasons, Checks: allChecks(d.Checks)},
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

func (s *Server) revoke(c *call, q *v1.RevocationRequest) (v1.Revocation, error) {
	req, err := revokeRequest(q)
	if err != nil {
		return v1.Revocation{}, err
	}
	req.Idempotency = c.idem
	v, err := s.cfg.Domain.Revoke(c.ctx, c.by, req)
	if err != nil {
		return v1.Revocation{}, err
	}
	return s.revocation(v), nil
}

func revokeRequest(q *v1.RevocationRequest) (delegation.RevokeRequest, error) {
	var none delegation.RevokeRequest
	kind, err := chain.ParseRevKind(q.Kind)
	if err != nil {
		return none, invalid(codeBadRevocation, "kind", "one of certificate, agent, task, grant, user, orchestrator")
	}
	out := delegation.RevokeRequest{Kind: kind, ID: q.ID, Reason: q.Reason}
	if kind != chain.RevUser {
		if q.User != nil || q.ID == "" {
			return none, invalid(codeBadRequest, "id", "what is revoked is named by id")
		}
		if !printable(q.ID, 256) {
			return none, invalid(codeBadRequest, "id", "at most 256 printable ASCII characters")
		}
		return out, nil
	}
	u := q.User
	if u == nil || q.ID != "" || u.Issuer == "" || u.Subject == "" {
		return none, invalid(codeBadRequest, "user", "a user is named by issuer and subject")
	}
	if strings.Contains(u.Issuer, "\x00") || strings.Contains(u.Subject, "\x00") {
		return none, invalid(codeBadRequest, "user", "neither part holds a zero byte")
	}
	out.ID = chain.UserID(u.Issuer, u.Subject)
	return out, nil
}

func (s *Server) revocation(v delegation.Revocation) v1.Revocation {
	out := v1.Revocation{
		Seq: v.Seq, Kind: v.Kind.String(), ID: v.ID, Reason: v.Reason, Time: wireTime(v.Time), AuditReceipt: s.receipt(v.Position),
	}
	if v.Kind == chain.RevUser {
		issuer, subject, _ := strings.Cut(v.ID, "\x00")
		out.ID, out.User = "", &v1.User{Issuer: issuer, Subject: subject}
	}
	return out
}

func (s *Server) listRevocations(c *call) (v1.RevocationPage, error) {
	from, limit, err := c.page()
	if err != nil {
		return v1.RevocationPage{}, err
	}
	if from > maxCursor {
		return v1.RevocationPage{}, invalid(codeBadParameter, "cursor", "next_cursor of an earlier page")
	}
	list := s.cfg.Domain.Revocations(int(from), limit)
	out := v1.RevocationPage{
		Revocations: make([]v1.Revocation, len(list)),
		NextCursor:  strconv.FormatUint(from+uint64(len(list)), 10),
	}
	for i, v := range list {
		out.Revocations[i] = s.revocation(v)
	}
	return out, nil
}
