package delegation

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/workload"
)

// redeemJWT (oidc_jwt) accepts a token of the issuer and the subject that the orchestrator was registered with. A token
// serves one key. So does a pod, for as long as its certificate is valid: a token stolen from a pod that has attested is
// worth nothing. The pod of a thief who comes first is refused instead, which somebody will see.
func (s *Service) redeemJWT(_ chain.ID, reg *identityState, a Attestation) (proof, error) {
	issuer, ok := s.cfg.Workloads[reg.OIDCIssuer]
	if !ok {
		return proof{}, refuse(Forbidden, "attestation_not_allowed", "method", "the token's issuer is not configured any more")
	}
	c, err := issuer.Verify(a.Token, s.cfg.Now())
	var refused *workload.Error
	if errors.As(err, &refused) {
		return proof{}, errAttestation(refused.Code)
	}
	if err != nil {
		return proof{}, internal("verify token", err)
	}
	if c.Subject != reg.OIDCSubject {
		return proof{}, errAttestation(workload.CodeSubject)
	}
	p := proof{
		body: &record.ProofBody{
			Issuer: issuer.Name(), TokenHash: hexOf(c.Hash), TokenExpires: c.Expires, Pod: c.Pod, Node: c.Node,
		},
		payload: record.ProofPayload{Issuer: issuer.URL(), Subject: c.Subject},
	}
	if c.Pod != "" {
		p.pod = keyProof + "pod/" + issuer.Name() + "/" + hexOf(sha256.Sum256([]byte(c.Pod)))
	}
	p.spend = func(cert Prepared, spki []byte) ([]record.Mutation, error) { return s.spendJWT(c, p.pod, cert, spki) }
	return p, nil
}

// spendJWT ties the token, and the pod if there is one, to the key.
func (s *Service) spendJWT(c workload.Claims, pod string, cert Prepared, spki []byte) ([]record.Mutation, error) {
	own := keyState{SPKI: hexOf(spkiHash(spki)), Serial: cert.Facts().Serial, NotAfter: cert.Facts().NotAfter}
	token, err := s.bind(keyProof+"jwt/"+hexOf(c.Hash), own, c.Expires.Add(grace), errAttestation("token_replayed"),
		func(keyState) bool { return false })
	if err != nil || pod == "" {
		return []record.Mutation{token}, err
	}
	bound, err := s.bindPod(pod, own)
	return []record.Mutation{token, bound}, err
}

// bindPod gives a pod to a key, if no other key has it with a certificate that is still good.
func (s *Service) bindPod(pod string, own keyState) (record.Mutation, error) {
	over := func(st keyState) bool {
		return !s.cfg.Now().Before(st.NotAfter) || s.revoked.has(chain.RevCertificate, st.Serial)
	}
	taken := refuse(Conflict, "pod_bound", "", "this pod has a valid certificate for another key; revoke that first if the pod lost its key")
	return s.bind(pod, own, own.NotAfter.Add(grace), taken, over)
}

// bind writes which key something serves. Another key's is taken over where free says so, else refused.
func (s *Service) bind(key string, own keyState, expires time.Time, taken *Error, free func(keyState) bool) (record.Mutation, error) {
	value, err := encode(own)
	if err != nil {
		return record.Mutation{}, err
	}
	old, ok, err := s.cfg.Log.Get(key)
	if err != nil {
		return record.Mutation{}, internal("read proof", err)
	}
	if !ok {
		return create(key, value, expires, taken), nil
	}
	var st keyState
	if err := json.Unmarshal(old, &st); err != nil {
		return record.Mutation{}, internal("read proof", err)
	}
	if st.SPKI != own.SPKI && !free(st) {
		return record.Mutation{}, taken
	}
	return replace(key, old, value, expires, taken), nil
}
