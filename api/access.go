package api

import (
	"crypto/x509"
	"strconv"
	"strings"

	v1 "github.com/signet-pki/signet/api/v1"
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
