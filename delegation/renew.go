package delegation

import (
	"context"
	"crypto/x509"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// maxRenewals bounds the certificates that one attestation can lead to in a row. Each names those before it, so that
// revoking one ends all that were renewed from it.
const maxRenewals = 256

// Renew gives a service a new certificate over its present one, without an operator.
func (s *Service) Renew(ctx context.Context, by Caller, name string, csr []byte) (Issued, error) {
	out, err := s.renewReady(ctx, by, chain.Service, name, csr)
	if err != nil {
		return Issued{}, s.denied(ctx, "renew", by, record.Envelope{}, err)
	}
	return out, nil
}

func (s *Service) renewReady(ctx context.Context, by Caller, kind chain.Kind, name string, csr []byte) (Issued, error) {
	if err := s.cfg.Ready(); err != nil {
		return Issued{}, notReady(err)
	}
	return s.renew(ctx, by, kind, name, csr)
}

// renewOver is an orchestrator's renewal, which comes where attestations come: with any certificate or none.
func (s *Service) renewOver(ctx context.Context, a Attestation) (Issued, error) {
	by, err := s.Authenticate(a.Peer)
	if err != nil {
		return Issued{}, err
	}
	return s.renew(ctx, by, chain.Orchestrator, a.Name, a.CSR)
}

// renew is for whom Authenticate admitted just now: the certificate is in its time, unrevoked, and of a registration that
// stands.
func (s *Service) renew(ctx context.Context, by Caller, kind chain.Kind, name string, csr []byte) (Issued, error) {
	id, err := chain.NamedID(s.cfg.Trust.TrustDomain, kind, name)
	if err != nil || by.ID != id {
		return Issued{}, refuse(Forbidden, "renewal_not_yours", "name", "a certificate is renewed by the one whose it is")
	}
	req, err := parseCSR(csr)
	if err != nil {
		return Issued{}, err
	}
	line, err := s.renewable(by, req)
	if err != nil {
		return Issued{}, err
	}
	present := chain.Serial(by.Certs[0])
	next := line
	next.Serials = append(append([]string(nil), line.Serials...), present)
	if err := s.roomToRenew(ctx, next.Serials[0]); err != nil {
		return Issued{}, err
	}
	o := order{
		env:       record.Envelope{},
		body:      record.IssueBody{Attestation: line.Method, Renews: present},
		mutations: func(p Prepared) ([]record.Mutation, error) { return s.renewMutations(id, next, p, req.SPKI) },
	}
	nameCaller(&o.env, by)
	o.first = next.Serials[0]
	ttl := bounded(s.cfg.Now().Add(s.cfg.Limits.WorkloadTTL), line.At.Add(s.cfg.Limits.AttestationAge)).Sub(s.cfg.Now())
	return s.issueNamed(ctx, id, csr, ttl, next, o)
}

// renewable finds what the present certificate stands on, and refuses what asks for a new attestation.
func (s *Service) renewable(by Caller, req *chain.CSR) (lineState, error) {
	line, ok, err := load[lineState](s.cfg.Log, lineKey(by.Certs[0]))
	if err != nil {
		return lineState{}, internal("read certificate", err)
	}
	if !ok {
		return lineState{}, refuse(Forbidden, "attestation_required", "", "nothing is known about the attestation behind this certificate; attest again")
	}
	st, err := s.registered(by.ID)
	switch {
	case err != nil:
		return lineState{}, err
	case st.Registration != line.Registration:
		return lineState{}, errReplaced()
	case !s.cfg.Now().Before(line.At.Add(s.cfg.Limits.AttestationAge)):
		return lineState{}, refuse(Forbidden, "attestation_too_old", "", "the attestation behind this certificate is too old; attest again")
	case len(line.Serials) >= maxRenewals:
		return lineState{}, refuse(Forbidden, "attestation_too_old", "", "renewed too often since the attestation; attest again")
	case line.Device && spkiHash(req.SPKI) != chain.SPKIHash(by.Certs[0]):
		return lineState{}, refuse(Forbidden, "renewal_key_changed", "csr", "the TPM vouched for the present key alone; attest again for another")
	}
	return *line, nil
}

// renewMutations asks again at commit for what could have been revoked or replaced, notes over what the certificate is renewed,
// and moves the pod to the new key. line is that of the new certificate.
func (s *Service) renewMutations(id chain.ID, line lineState, p Prepared, spki []byte) ([]record.Mutation, error) {
	present := line.Serials[len(line.Serials)-1]
	revoked := refuse(Forbidden, chain.CodeCertificateRevoked, "", "the certificate is revoked")
	listed, err := s.renewedMutation(line, p)
	if err != nil {
		return nil, err
	}
	m := []record.Mutation{must(record.Absent, revKey(chain.RevCertificate, present), revoked), listed}
	if id.Kind() == chain.Orchestrator {
		m = append(m, must(record.Absent, revKey(chain.RevOrchestrator, id.Name()), errOrchestratorRevoked()), held(id, p))
	}
	same, err := s.unchanged(id, line.Registration)
	if err != nil {
		return nil, err
	}
	m = append(m, same)
	if line.Pod == "" {
		return m, nil
	}
	own := keyState{SPKI: hexOf(spkiHash(spki)), Serial: p.Facts().Serial, NotAfter: p.Facts().NotAfter}
	// The present key proved itself just now, so the pod follows it wherever it goes, unless another has the pod by now.
	pod, err := s.bind(line.Pod, own, own.NotAfter.Add(grace), errPodMoved(), func(st keyState) bool { return st.Serial == present })
	return append(m, pod), err
}

func errPodMoved() *Error {
	return refuse(Conflict, "pod_bound", "", "the pod was given to another key meanwhile")
}

// unchanged is the check at commit that a registration is the one that it was.
func (s *Service) unchanged(id chain.ID, registration string) (record.Mutation, error) {
	key := identityKey(id.Kind(), id.Name())
	st, err := s.registration(key)
	if err != nil {
		return record.Mutation{}, err
	}
	if st.identityState == nil || st.Registration != registration {
		return record.Mutation{}, errReplaced()
	}
	return record.Mutation{Key: key, CheckOnly: true, Pre: record.Precondition{
		Op: record.Equal, Value: st.value, Err: refuse(Conflict, "registration_changed", "", "the registration changed meanwhile; retry"),
	}}, nil
}

func errReplaced() *Error {
	return refuse(Unauthenticated, "registration_replaced", "", "an operator replaced the registration that this certificate is of; attest again")
}

func lineKey(c *x509.Certificate) string { return keyLine + hexOf(tbsHash(c)) }

// recordLine writes what a certificate stands on, for as long as it could be shown.
func recordLine(line lineState, p Prepared) (record.Mutation, error) {
	value, err := encode(line)
	if err != nil {
		return record.Mutation{}, err
	}
	return record.Mutation{Key: keyLine + hexOf(p.Hash()), Value: value, Expires: p.Facts().NotAfter.Add(grace)}, nil
}
