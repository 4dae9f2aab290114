package api

import (
	"crypto/x509"
	"strconv"
	"strings"
	"sync"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// evaluate is AuthZEN's Access Evaluation API. A denial is an answer, not a refusal; only a request that cannot be read
// or whose caller may not ask is refused.
func (s *Server) evaluate(c *call, q *v1.EvaluationRequest) (v1.EvaluationResponse, error) {
	return s.decide(c, q, new(presented))
}

func (s *Server) decide(c *call, q *v1.EvaluationRequest, p *presented) (v1.EvaluationResponse, error) {
	req, err := decisionRequest(c, q, p)
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
		Context:  v1.DecisionContext{DecisionID: d.ID, Reasons: d.Reasons, Checks: wireChecks(d.Checks), Advice: d.Advice},
	}
	if out.Decision {
		out.Context.Obligations = d.Obligations
	}
	if d.Position != nil {
		out.Context.AuditID = &d.Position.Index
	}
	return out, nil
}

// decisionRequest takes from the caller what it asks and about which chain. What the subject is, that chain alone says:
// subject.properties is not looked at.
func decisionRequest(c *call, q *v1.EvaluationRequest, p *presented) (delegation.DecisionRequest, error) {
	var none delegation.DecisionRequest
	if err := complete(q); err != nil {
		return none, err
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
	shown := p.of(c, q.Context.CertificateChain)
	req.Chain, req.Known = shown.certs, shown.known
	return req, shown.err
}

// maxChainText bounds a chain, in bytes of PEM or of the connection's own certificates, to what a single evaluation can bring:
// each of several is recorded with it.
const maxChainText = 64 << 10

// presented are the chains that one request shows. Each is parsed and examined once, however many evaluations are about it.
type presented struct {
	mu sync.Mutex
	m  map[string]presentation
}

type presentation struct {
	certs []*x509.Certificate
	known *chain.Known
	err   error
}

// of gives the chain of an evaluation: the one that it brings or, if it brings none, that of an agent's own connection.
func (p *presented) of(c *call, blocks []string) presentation {
	key := "own"
	if blocks != nil {
		key = strings.Join(blocks, "\n") + "\n"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if out, ok := p.m[key]; ok {
		return out
	}
	var out presentation
	switch {
	case len(key) > maxChainText:
		out.err = invalid(codeBadCertificate, "context.certificate_chain", "at most "+strconv.Itoa(maxChainText)+" bytes of PEM")
	case blocks != nil:
		out.certs, out.err = parseChain("context.certificate_chain", blocks)
	case c.by.ID.Kind() == chain.Agent && rawSize(c.by.Certs) > maxChainText:
		out.err = invalid(codeBadCertificate, "", "the connection's certificates have more than "+strconv.Itoa(maxChainText)+" bytes")
	case c.by.ID.Kind() == chain.Agent:
		out.certs = c.by.Certs
	}
	out.known = chain.ExamineChain(out.certs)
	if p.m == nil {
		p.m = make(map[string]presentation)
	}
	p.m[key] = out
	return out
}

func rawSize(certs []*x509.Certificate) (n int) {
	for _, c := range certs {
		n += len(c.Raw)
	}
	return n
}

// complete refuses a request without a member that AuthZEN requires.
func complete(q *v1.EvaluationRequest) error {
	for _, m := range [...]struct{ name, value string }{
		{"subject.type", q.Subject.Type},
		{"subject.id", q.Subject.ID},
		{"action.name", q.Action.Name},
		{"resource.type", q.Resource.Type},
		{"resource.id", q.Resource.ID},
	} {
		if m.value == "" {
			return invalid(codeBadRequest, m.name, "this member is required")
		}
	}
	return nil
}
