package delegation

import (
	"context"
	"crypto/x509"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Attest gives a registered orchestrator its certificate, against a proof of who it is.
func (s *Service) Attest(ctx context.Context, a Attestation) (Issued, error) {
	out, err := s.attest(ctx, a)
	if err != nil {
		return Issued{}, s.denied(ctx, "attest", Caller{}, record.Envelope{}, err)
	}
	return out, nil
}

func (s *Service) attest(ctx context.Context, a Attestation) (Issued, error) {
	if err := s.cfg.Ready(); err != nil {
		return Issued{}, notReady(err)
	}
	id, err := chain.NamedID(s.cfg.Trust.TrustDomain, chain.Orchestrator, a.Name)
	if err != nil {
		return Issued{}, errAttestation("attestation_failed")
	}
	var spend []record.Mutation
	switch a.Method {
	case "join_token":
		spend, err = s.redeemJoin(a)
	case "x509pop":
		err = s.provePossession(id, a.Peer)
	default:
		return Issued{}, refuse(Invalid, "bad_attestation_method", "method", "one of join_token, x509pop")
	}
	if err != nil {
		return Issued{}, err
	}
	if s.revoked.has(chain.RevOrchestrator, id.Name()) {
		return Issued{}, refuse(Forbidden, "orchestrator_revoked", "", "the orchestrator is revoked")
	}
	attested, err := s.attested(id, a.Method)
	if err != nil {
		return Issued{}, err
	}
	spend = append(spend, attested, must(record.Absent, revKey(chain.RevOrchestrator, id.Name()), refuse(Forbidden, "orchestrator_revoked", "", "the orchestrator is revoked")))
	return s.issueNamed(ctx, id, a.CSR, s.cfg.Limits.WorkloadTTL, order{
		env:       record.Envelope{Orchestrator: a.Name},
		body:      record.IssueBody{Attestation: a.Method},
		mutations: func(Prepared) ([]record.Mutation, error) { return spend, nil },
	})
}

// attested notes the method in the registration, where policy finds it.
func (s *Service) attested(id chain.ID, method string) (record.Mutation, error) {
	key := identityKey(id.Kind(), id.Name())
	old, ok, err := s.cfg.Log.Get(key)
	if err != nil {
		return record.Mutation{}, internal("read registration", err)
	}
	st, _, err := load[identityState](s.cfg.Log, key)
	if err != nil {
		return record.Mutation{}, internal("read registration", err)
	}
	if !ok {
		return record.Mutation{}, errAttestation("attestation_failed")
	}
	st.Attestation = method
	value, err := encode(st)
	if err != nil {
		return record.Mutation{}, err
	}
	return replace(key, old, value, time.Time{}, refuse(Conflict, "registration_changed", "", "the registration changed meanwhile; retry")), nil
}

func errAttestation(code string) *Error {
	return refuse(Unauthenticated, code, "", "the attestation does not prove this orchestrator")
}

// redeemJoin checks a token and gives the write that spends it, which only one of two redemptions at once can make.
func (s *Service) redeemJoin(a Attestation) ([]record.Mutation, error) {
	key := joinKey(a.Token)
	old, ok, err := s.cfg.Log.Get(key)
	if err != nil {
		return nil, internal("read join token", err)
	}
	if !ok {
		return nil, errAttestation("join_token_unknown")
	}
	st, _, err := load[joinState](s.cfg.Log, key)
	if err != nil {
		return nil, internal("read join token", err)
	}
	switch {
	case st.Used:
		return nil, errAttestation("join_token_used")
	case st.Name != a.Name:
		return nil, errAttestation("join_token_unknown")
	case !s.cfg.Now().Before(st.Expires):
		return nil, errAttestation("join_token_expired")
	}
	st.Used = true
	value, err := encode(st)
	if err != nil {
		return nil, err
	}
	return []record.Mutation{replace(key, old, value, st.Expires.Add(idemLife), errAttestation("join_token_used"))}, nil
}

// provePossession accepts a certificate from a CA that was named when the orchestrator was registered. The TLS
// handshake proved the key. Its common name or one of its DNS names must be the orchestrator's name.
func (s *Service) provePossession(id chain.ID, peer []*x509.Certificate) error {
	if len(peer) == 0 {
		return refuse(Unauthenticated, "client_certificate_required", "", "x509pop takes the client certificate of this connection")
	}
	st, err := s.registered(id)
	if err != nil {
		return errAttestation("attestation_failed")
	}
	if len(st.PopRoots) == 0 {
		return refuse(Forbidden, "attestation_not_allowed", "method", "this orchestrator was registered without x509pop")
	}
	roots, err := chain.ParsePEM(st.PopRoots, 16)
	if err != nil {
		return internal("read x509pop roots", err)
	}
	return s.verifyPop(id.Name(), peer, roots)
}

func (s *Service) verifyPop(name string, peer, trusted []*x509.Certificate) error {
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range trusted {
		roots.AddCert(c)
	}
	for _, c := range peer[1:] {
		inter.AddCert(c)
	}
	_, err := peer[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: inter, CurrentTime: s.cfg.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return errAttestation("x509pop_untrusted")
	}
	if peer[0].Subject.CommonName == name {
		return nil
	}
	for _, n := range peer[0].DNSNames {
		if n == name {
			return nil
		}
	}
	return errAttestation("x509pop_wrong_name")
}
