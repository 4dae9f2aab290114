package delegation

import (
	"context"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// The methods of attestation.
const (
	MethodJoinToken = "join_token" // a token that an operator was given once
	MethodX509Pop   = "x509pop"    // a certificate of another CA, over the connection
	MethodOIDC      = "oidc_jwt"   // a token of the platform that runs the workload
	MethodTPM       = "tpm_devid"  // a key that a known TPM holds

	methodRenew = "renew" // the present certificate: no attestation, but asked for in the same place
)

// Methods lists every method of attestation.
func Methods() []string { return []string{MethodJoinToken, MethodX509Pop, MethodOIDC, MethodTPM} }

// method verifies one kind of proof. It refuses, or says what is established and what must be written so that the same
// proof is not used again. It changes nothing itself.
type method func(s *Service, id chain.ID, reg *identityState, a Attestation) (proof, error)

func methodOf(word string) (method, bool) {
	switch word {
	case MethodJoinToken:
		return (*Service).redeemJoin, true
	case MethodX509Pop:
		return (*Service).provePossession, true
	case MethodOIDC:
		return (*Service).redeemJWT, true
	case MethodTPM:
		return (*Service).answerChallenge, true
	}
	return nil, false
}

// proof is what a method established.
type proof struct {
	body    *record.ProofBody // for the envelope: nothing about people
	payload any
	// spend gives the writes by which one of two uses at once loses; nil: nothing is spent.
	spend  func(p Prepared, spki []byte) ([]record.Mutation, error)
	done   *joinState // a token that was redeemed already
	pod    string     // state key of the pod that the certificate is bound to
	device bool       // the key is known to live in a TPM, which a renewal must not change
}

// Attest gives a registered orchestrator its certificate, against a proof of who it is.
func (s *Service) Attest(ctx context.Context, a Attestation) (Issued, error) {
	out, err := s.attest(ctx, a)
	if err != nil {
		return Issued{}, s.knocked(ctx, "attest", a.Name, err)
	}
	return out, nil
}

// knocked records a refusal where anybody can fail: like a malformed request, so that a flood becomes one entry a minute.
func (s *Service) knocked(ctx context.Context, operation, name string, err error) error {
	e := *AsError(err)
	if e.Kind != Internal && e.Kind != Unavailable && e.AuditIndex == nil {
		e.AuditIndex = s.RecordRefusal(ctx, Refusal{Operation: operation, Caller: namedOrNone(name), Code: e.Code, Field: e.Field})
	}
	return &e
}

func (s *Service) attest(ctx context.Context, a Attestation) (Issued, error) {
	if err := s.cfg.Ready(); err != nil {
		return Issued{}, notReady(err)
	}
	if a.Method == methodRenew {
		return s.renewOver(ctx, a)
	}
	verify, ok := methodOf(a.Method)
	if !ok {
		return Issued{}, refuse(Invalid, "bad_attestation_method", "method", "one of join_token, x509pop, oidc_jwt, tpm_devid, renew")
	}
	id, reg, err := s.attestable(a.Name, a.Method)
	if err != nil {
		return Issued{}, err
	}
	p, err := verify(s, id, reg, a)
	if err != nil {
		return Issued{}, err
	}
	if s.revoked.has(chain.RevOrchestrator, id.Name()) {
		return Issued{}, errOrchestratorRevoked()
	}
	return s.issueAttested(ctx, id, reg, a, p)
}

// attestable finds the registration that a proof is to be for, and asks it whether the method will do.
func (s *Service) attestable(name, method string) (chain.ID, *identityState, error) {
	id, err := chain.NamedID(s.cfg.Trust.TrustDomain, chain.Orchestrator, name)
	if err != nil {
		return chain.ID{}, nil, errAttestation("attestation_failed")
	}
	reg, ok, err := load[identityState](s.cfg.Log, identityKey(id.Kind(), id.Name()))
	switch {
	case err != nil:
		return chain.ID{}, nil, internal("read registration", err)
	case !ok && method == MethodJoinToken:
		return id, &identityState{}, nil // whose token no token is: names are not to be found out by trying
	case !ok:
		return chain.ID{}, nil, errAttestation("attestation_failed")
	case !reg.attests(method):
		return chain.ID{}, nil, refuse(Forbidden, "attestation_not_allowed", "method", "this orchestrator was registered without this method")
	}
	return id, reg, nil
}

func errOrchestratorRevoked() *Error {
	return refuse(Forbidden, chain.CodeOrchestratorRevoked, "", "the orchestrator is revoked")
}

// issueAttested issues to an orchestrator that proved itself, or again to one whose first certificate was never signed.
func (s *Service) issueAttested(ctx context.Context, id chain.ID, reg *identityState, a Attestation, p proof) (Issued, error) {
	csr, err := parseCSR(a.CSR)
	if err != nil {
		return Issued{}, err
	}
	still := must(record.Absent, revKey(chain.RevOrchestrator, id.Name()), errOrchestratorRevoked())
	o := order{
		template:  Template{ID: id, SPKI: csr.SPKI},
		env:       record.Envelope{Orchestrator: a.Name},
		body:      record.IssueBody{Attestation: a.Method, Proof: p.body},
		payload:   p.payload,
		until:     s.cfg.Now().Add(s.cfg.Limits.AttestationAge),
		mutations: func(c Prepared) ([]record.Mutation, error) { return []record.Mutation{still, held(id, c)}, nil },
	}
	if p.done != nil {
		return s.redeemAgain(ctx, o, *p.done)
	}
	attested, err := s.attested(id, reg.Registration, a.Method)
	if err != nil {
		return Issued{}, err
	}
	o.mutations = func(c Prepared) ([]record.Mutation, error) {
		m := []record.Mutation{still, attested, held(id, c)}
		if p.spend == nil {
			return m, nil
		}
		spent, err := p.spend(c, csr.SPKI)
		// The proof first: of two uses at once the second is told so.
		return append(spent, m...), err
	}
	line := lineState{Registration: reg.Registration, Method: a.Method, At: s.cfg.Now().UTC(), Pod: p.pod, Device: p.device}
	return s.issueNamed(ctx, id, a.CSR, s.cfg.Limits.WorkloadTTL, line, o)
}

// attested notes the method in the registration, where policy finds it. It holds at commit that the registration is still
// the one that the proof was held against.
func (s *Service) attested(id chain.ID, registration, method string) (record.Mutation, error) {
	changed := refuse(Conflict, "registration_changed", "", "the registration changed meanwhile; retry")
	key := identityKey(id.Kind(), id.Name())
	st, err := s.registration(key)
	switch {
	case err != nil:
		return record.Mutation{}, err
	case st.identityState == nil:
		return record.Mutation{}, errAttestation("attestation_failed")
	case st.Registration != registration:
		return record.Mutation{}, changed
	case st.Attestation == method: // many replicas at once need not wait for each other
		return record.Mutation{Key: key, CheckOnly: true, Pre: record.Precondition{Op: record.Equal, Value: st.value, Err: changed}}, nil
	}
	next := *st.identityState
	next.Attestation = method
	value, err := encode(next)
	if err != nil {
		return record.Mutation{}, err
	}
	return replace(key, st.value, value, time.Time{}, changed), nil
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
