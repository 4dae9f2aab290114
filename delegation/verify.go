package delegation

import (
	"crypto/x509"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// Verify reports every check of a chain on its own (design §6), without a decision and without an entry.
func (s *Service) Verify(q VerifyRequest) (chain.Report, error) {
	if len(q.Chain) == 0 {
		return chain.Report{}, refuse(Invalid, "bad_certificate", "certificate_chain", "at least the leaf is required")
	}
	now := s.cfg.Now()
	if !q.At.IsZero() {
		now = q.At
	}
	return chain.Verify(chain.Input{
		Chain: q.Chain, Trust: s.cfg.Trust, Now: now, RequiredScope: q.RequiredScope,
		Revocation: current{s.revoked, now}, MaxStaleness: time.Minute,
	}), nil
}

// verify runs all checks of a decision. An unknown resource requires no scope; the answer refuses it by itself.
func (s *Service) verify(certs []*x509.Certificate, required []chain.Token, q DecisionRequest) chain.Report {
	must := []chain.CheckName{chain.CheckRevocation}
	if len(required) > 0 {
		must = append(must, chain.CheckScope)
	}
	now := s.cfg.Now()
	return chain.Verify(chain.Input{
		Chain: certs, Trust: s.cfg.Trust, Now: now, RequiredScope: required,
		ExpectUser: q.Principal, ExpectOrchestrator: q.Orchestrator,
		Revocation: current{s.revoked, now}, MaxStaleness: time.Minute,
		Require: must,
	})
}
