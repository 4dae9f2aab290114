package delegation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Attest gives a registered orchestrator its certificate, against a proof of who it is.
func (s *Service) Attest(ctx context.Context, a Attestation) (Issued, error) {
	out, err := s.attest(ctx, a)
	if err == nil {
		return out, nil
	}
	// Anybody can fail here, so failures are recorded like malformed requests: a flood becomes one entry a minute.
	e := *AsError(err)
	if e.Kind != Internal && e.Kind != Unavailable && e.AuditIndex == nil {
		e.AuditIndex = s.RecordRefusal(ctx, Refusal{Operation: "attest", Caller: namedOrNone(a.Name), Code: e.Code, Field: e.Field})
	}
	return Issued{}, &e
}

func (s *Service) attest(ctx context.Context, a Attestation) (Issued, error) {
	if err := s.cfg.Ready(); err != nil {
		return Issued{}, notReady(err)
	}
	id, err := chain.NamedID(s.cfg.Trust.TrustDomain, chain.Orchestrator, a.Name)
	if err != nil {
		return Issued{}, errAttestation("attestation_failed")
	}
	var p proof
	switch a.Method {
	case "join_token":
		p, err = s.redeemJoin(a)
	case "x509pop":
		err = s.provePossession(id, a.Peer)
	default:
		return Issued{}, refuse(Invalid, "bad_attestation_method", "method", "one of join_token, x509pop")
	}
	if err != nil {
		return Issued{}, err
	}
	if s.revoked.has(chain.RevOrchestrator, id.Name()) {
		return Issued{}, errOrchestratorRevoked()
	}
	return s.issueAttested(ctx, id, a, p)
}

// proof is what an attestation leaves to be written with the certificate.
type proof struct {
	spend func(p Prepared, spki []byte) (record.Mutation, error) // nil: nothing is spent
	done  *joinState                                             // a token that was redeemed already
}

func errOrchestratorRevoked() *Error {
	return refuse(Forbidden, chain.CodeOrchestratorRevoked, "", "the orchestrator is revoked")
}

// issueAttested issues to an orchestrator that proved itself, or again to one whose first certificate was never signed.
func (s *Service) issueAttested(ctx context.Context, id chain.ID, a Attestation, p proof) (Issued, error) {
	csr, err := parseCSR(a.CSR)
	if err != nil {
		return Issued{}, err
	}
	still := must(record.Absent, revKey(chain.RevOrchestrator, id.Name()), errOrchestratorRevoked())
	o := order{
		template:  Template{ID: id, SPKI: csr.SPKI},
		env:       record.Envelope{Orchestrator: a.Name},
		body:      record.IssueBody{Attestation: a.Method},
		mutations: func(c Prepared) ([]record.Mutation, error) { return []record.Mutation{still, held(id, c)}, nil },
	}
	if p.done != nil {
		return s.redeemAgain(ctx, o, *p.done)
	}
	attested, err := s.attested(id, a.Method)
	if err != nil {
		return Issued{}, err
	}
	o.mutations = func(c Prepared) ([]record.Mutation, error) {
		m := []record.Mutation{still, attested, held(id, c)}
		if p.spend == nil {
			return m, nil
		}
		spent, err := p.spend(c, csr.SPKI)
		// The token first: of two redemptions at once the second is told so.
		return append([]record.Mutation{spent}, m...), err
	}
	return s.issueNamed(ctx, id, a.CSR, s.cfg.Limits.WorkloadTTL, o)
}

// redeemAgain lets a token be used once more by the same key if the first redemption got no certificate: a device that
// failed must not cost the name. Any other second use is a replay.
func (s *Service) redeemAgain(ctx context.Context, o order, done joinState) (Issued, error) {
	if !bytes.Equal(done.SPKI, o.template.SPKI) {
		return Issued{}, errAttestation("join_token_used")
	}
	if _, released, err := s.releasedAt(sha256.Sum256(done.TBS)); err != nil {
		return Issued{}, err
	} else if released {
		return Issued{}, errAttestation("join_token_used")
	}
	return s.issueAgain(ctx, o, done.TBS)
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

// namedOrNone keeps a caller's nonsense out of the log.
func namedOrNone(name string) string {
	if !nameForm.MatchString(name) {
		return ""
	}
	return name
}

func errAttestation(code string) *Error {
	return refuse(Unauthenticated, code, "", "the attestation does not prove this orchestrator")
}

// redeemJoin checks a token and gives the write that spends it, which only one of two redemptions at once can make. See
// redeemAgain about a token that was redeemed.
func (s *Service) redeemJoin(a Attestation) (proof, error) {
	key := joinKey(a.Token)
	old, ok, err := s.cfg.Log.Get(key)
	if err != nil {
		return proof{}, internal("read join token", err)
	}
	if !ok {
		return proof{}, errAttestation("join_token_unknown")
	}
	var st joinState
	if err := json.Unmarshal(old, &st); err != nil {
		return proof{}, internal("read join token", err)
	}
	switch {
	case st.Name != a.Name:
		return proof{}, errAttestation("join_token_unknown")
	case !s.cfg.Now().Before(st.Expires):
		return proof{}, errAttestation("join_token_expired")
	case st.Used:
		return proof{done: &st}, nil
	}
	return proof{spend: func(p Prepared, spki []byte) (record.Mutation, error) {
		st.Used, st.SPKI, st.TBS = true, spki, p.TBS()
		value, err := encode(st)
		return replace(key, old, value, st.Expires.Add(idemLife), errAttestation("join_token_used")), err
	}}, nil
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
