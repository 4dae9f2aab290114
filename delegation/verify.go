package delegation

import (
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// staleness is how old the revocations of a decision may be. They are this appliance's own, and hence never old.
const staleness = time.Minute

// Verify reports every check of a chain on its own (design §6), without a decision and without an entry. The check
// "logged" is evaluated where it is required: the appliance's own log answers it.
func (s *Service) Verify(q VerifyRequest) (chain.Report, error) {
	if len(q.Chain) == 0 {
		return chain.Report{}, refuse(Invalid, "bad_certificate", "certificate_chain", "at least the leaf is required")
	}
	in := chain.Input{
		Chain: q.Chain, Trust: s.cfg.Trust, RequiredScope: q.RequiredScope, ExpectUser: q.Principal, ExpectOrchestrator: q.Orchestrator,
		Origin: s.cfg.Origin, Delegations: q.Delegations, Keys: q.Keys, Links: q.Links, GrantDocument: q.GrantDocument,
		Require: append(slices.Clone(q.Require), chain.CheckRevocation),
	}
	if slices.Contains(q.Require, chain.CheckLogged) {
		in.Logged = s.logged
	}
	s.moment(&in, q)
	return chain.Verify(in), nil
}

// moment sets the time to judge at, and how fresh the revocations are then: what is known now is all that was known before,
// and less and less of what will be.
func (s *Service) moment(in *chain.Input, q VerifyRequest) {
	now := s.cfg.Now()
	in.Now, in.MaxStaleness = now, q.MaxStaleness
	if q.MaxStaleness == 0 && q.At.IsZero() {
		in.MaxStaleness = staleness
	}
	if !q.At.IsZero() {
		in.Now = q.At
	}
	if in.Now.Before(now) {
		now = in.Now
	}
	in.Revocation = current{s.revoked, now}
}

// logged says whether this log has the entry of a released certificate.
func (s *Service) logged(tbs [32]byte) error {
	_, ok, err := s.releasedAt(tbs)
	if err != nil {
		return err
	}
	if !ok {
		return errors.New("no certificate of this TBSCertificate was released by this appliance")
	}
	return nil
}

// verify runs all checks of a decision. An unknown resource requires no scope; the answer refuses it by itself.
func (s *Service) verify(certs []*x509.Certificate, required []chain.Token, q DecisionRequest) chain.Report {
	must := []chain.CheckName{chain.CheckRevocation}
	if len(required) > 0 {
		must = append(must, chain.CheckScope)
	}
	now := s.cfg.Now()
	return chain.Verify(chain.Input{
		Chain: certs, Known: q.Known, Trust: s.cfg.Trust, Now: now, RequiredScope: required,
		ExpectUser: q.Principal, ExpectOrchestrator: q.Orchestrator,
		Revocation: current{s.revoked, now}, MaxStaleness: staleness,
		Require: must,
	})
}
