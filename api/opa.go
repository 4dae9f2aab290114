package api

import (
	"net/http"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// The documents that OPA's Data API shows here. Every other is undefined, which OPA answers without a result.
const (
	opaAccess = "signet/access"
	opaAllow  = opaAccess + "/allow"
)

// opaData answers as OPA's Data API does: a denial is a result. An undefined document is no question, and nothing is
// decided or recorded.
func (s *Server) opaData(c *call, q *v1.OPARequest) (v1.OPAResponse, error) {
	document := c.param("*")
	if document != opaAccess && document != opaAllow {
		return v1.OPAResponse{}, nil
	}
	req, err := opaQuestion(c, &q.Input)
	if err != nil {
		return v1.OPAResponse{}, err
	}
	req.Bare = document == opaAllow
	d, err := s.cfg.Domain.Decide(c.ctx, c.by, req)
	if err != nil {
		return v1.OPAResponse{}, err
	}
	// A permission that is not recorded is none.
	out := v1.OPAAccess{Allow: d.Allow && d.Position != nil, DenyReasons: d.Reasons, Advice: d.Advice}
	if document == opaAllow {
		return v1.OPAResponse{Result: out.Allow, DecisionID: d.ID}, nil
	}
	if out.DenyReasons == nil {
		out.DenyReasons = []string{}
	}
	if out.Allow {
		out.Obligations = d.Obligations
	}
	out.Checks = allChecks(d.Checks)
	if d.Position != nil {
		out.AuditID = &d.Position.Index
	}
	return v1.OPAResponse{Result: out, DecisionID: d.ID}, nil
}

// opaQuestion reads the input. An agent that names no chain asks about itself.
func opaQuestion(c *call, in *v1.OPAInput) (delegation.DecisionRequest, error) {
	var none delegation.DecisionRequest
	for _, m := range [...]struct{ name, value string }{
		{"input.resource.type", in.Resource.Type}, {"input.resource.id", in.Resource.ID}, {"input.action.name", in.Action.Name},
	} {
		if m.value == "" {
			return none, invalid(codeBadRequest, m.name, "this member is required")
		}
	}
	req := delegation.DecisionRequest{
		ResourceType: in.Resource.Type, ResourceID: in.Resource.ID, Action: in.Action.Name, Orchestrator: in.ExpectedOrchestrator,
	}
	if u := in.ExpectedUser; u != nil {
		req.Principal = &chain.User{Issuer: u.Issuer, Subject: u.Subject}
	}
	switch {
	case in.CertificateChain != nil:
		certs, err := parseChain("input.certificate_chain", in.CertificateChain)
		if err != nil {
			return none, err
		}
		req.Chain = certs
	case c.by.ID.Kind() == chain.Agent:
		req.Chain = c.by.Certs
	}
	return req, nil
}

// opaRoute is the row: the document stands in the path.
func opaRoute() route {
	return take("opaData", "/opa/v1/data/{path}", service|agent, http.StatusOK,
		"A decision in the shape of OPA's Data API: signet/access, or signet/access/allow as a boolean", (*Server).opaData).
		with(func(r *route) { r.pattern, r.own = "/opa/v1/data/*", "agents: about themselves" })
}
