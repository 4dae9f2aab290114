package delegation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// identity is what a client certificate proved. Time and revocation are asked again at each use.
type identity struct {
	id        chain.ID
	serial    string
	notBefore time.Time
	notAfter  time.Time
	deleg     *chain.Delegation
	line      lineState // named identities
}

// Authenticate tells who holds the private key of certs[0], which the TLS handshake proved. The signatures are checked
// once for a certificate; its time, its revocation and its registration at every call.
func (s *Service) Authenticate(certs []*x509.Certificate) (Caller, error) {
	if len(certs) == 0 {
		return Caller{}, refuse(Unauthenticated, "client_certificate_required", "", "present a client certificate")
	}
	key := sha256.Sum256(certs[0].Raw)
	id, ok := s.callers.get(key)
	if !ok || !bearable(certs) {
		var err error
		if id, err = s.identify(certs); err != nil {
			return Caller{}, err
		}
		s.callers.put(key, id)
	}
	return s.admit(id, certs)
}

// bearable says whether a chain has the size of one. What comes behind a leaf that is known is not looked at otherwise, and
// recorded with each decision all the same.
func bearable(certs []*x509.Certificate) bool {
	large := func(c *x509.Certificate) bool { return len(c.Raw) > chain.MaxCertificateBytes }
	return len(certs) <= chain.MaxChain && !slices.ContainsFunc(certs, large)
}

// identify checks what never changes about a certificate.
func (s *Service) identify(certs []*x509.Certificate) (identity, error) {
	leaf := certs[0]
	if len(leaf.URIs) != 1 {
		return identity{}, refuse(Unauthenticated, "client_certificate_untrusted", "", "the certificate has not exactly one URI name")
	}
	id, err := chain.ParseID(leaf.URIs[0].String())
	if err != nil || id.TrustDomain() != s.cfg.Trust.TrustDomain {
		return identity{}, refuse(Unauthenticated, "client_certificate_untrusted", "", "the certificate names no identity of this trust domain")
	}
	out := identity{id: id, serial: hex.EncodeToString(leaf.SerialNumber.Bytes()), notBefore: leaf.NotBefore, notAfter: leaf.NotAfter}
	if id.Kind() == chain.Agent {
		return s.identifyAgent(out, certs)
	}
	if _, c := chain.Identify(certs, s.cfg.Trust, insideLife(leaf), 0); c.Status != chain.Pass {
		return identity{}, &Error{Kind: Unauthenticated, Code: "client_certificate_untrusted", Detail: "the certificate does not verify", Checks: []chain.Check{c}}
	}
	line, ok, err := load[lineState](s.cfg.Log, lineKey(leaf))
	if err != nil {
		return identity{}, internal("read certificate", err)
	}
	if ok {
		out.line = *line
	}
	return out, nil
}

func (s *Service) identifyAgent(out identity, certs []*x509.Certificate) (identity, error) {
	r := chain.Verify(chain.Input{Chain: certs, Trust: s.cfg.Trust, Now: insideLife(certs[0])})
	if failed := r.Failed(); len(failed) > 0 || !r.Valid {
		return identity{}, &Error{Kind: Unauthenticated, Code: "client_certificate_untrusted", Detail: "the agent's certificate does not verify", Checks: r.Checks}
	}
	out.deleg = r.Delegation
	return out, nil
}

// insideLife is a time at which the certificate itself is valid: admit owns the present.
func insideLife(c *x509.Certificate) time.Time { return c.NotAfter.Add(-time.Second) }

// admit checks what changes: time, revocation, registration.
func (s *Service) admit(id identity, certs []*x509.Certificate) (Caller, error) {
	now := s.cfg.Now()
	if now.Before(id.notBefore) || !now.Before(id.notAfter) {
		return Caller{}, refuse(Unauthenticated, "client_certificate_expired", "", "the certificate is outside its validity")
	}
	for _, serial := range append([]string{id.serial}, id.line.Serials...) {
		if s.revoked.has(chain.RevCertificate, serial) {
			return Caller{}, refuse(Unauthenticated, "certificate_revoked", "", "the certificate, or one that it was renewed over, is revoked")
		}
	}
	c := Caller{ID: id.id, Certs: certs, deleg: id.deleg, registration: id.line.Registration}
	if id.deleg != nil {
		return c, s.checkLineage(*id.deleg)
	}
	var err error
	if c.reg, err = s.registered(id.id); err != nil {
		return Caller{}, err
	}
	if id.id.Kind() == chain.Orchestrator && c.reg.Registration != id.line.Registration {
		return Caller{}, errReplaced()
	}
	c.Role = c.reg.Role
	return c, nil
}

// registered reads the registration of a named identity.
func (s *Service) registered(id chain.ID) (*identityState, error) {
	if id.Kind() == chain.Orchestrator && s.revoked.has(chain.RevOrchestrator, id.Name()) {
		return nil, refuse(Unauthenticated, "orchestrator_revoked", "", "the orchestrator is revoked")
	}
	st, err := s.registration(identityKey(id.Kind(), id.Name()))
	if err != nil {
		return nil, err
	}
	if st.identityState == nil {
		return nil, refuse(Unauthenticated, "not_registered", "", "the identity is not registered")
	}
	return st.identityState, nil
}

// registration is what the state says of a named identity, and the value that says it; without a state if it says nothing.
type registration struct {
	*identityState // shared: not to be changed
	value          []byte
}

// registration reads the state, and decodes a value once.
func (s *Service) registration(key string) (registration, error) {
	value, ok, err := s.cfg.Log.Get(key)
	if err != nil {
		return registration{}, internal("read registration", err)
	}
	if !ok {
		return registration{}, nil
	}
	if known, ok := s.registrations.get(key); ok && bytes.Equal(known.value, value) {
		return known, nil
	}
	st, err := read[identityState](key, value)
	if err != nil {
		return registration{}, internal("read registration", err)
	}
	out := registration{identityState: st, value: value}
	s.registrations.put(key, out)
	return out, nil
}

func identityKey(k chain.Kind, name string) string { return keyIdentity + k.String() + "/" + name }

// checkLineage refuses an agent when anything that its chain names is revoked.
func (s *Service) checkLineage(d chain.Delegation) error {
	if code := s.revoked.lineage(d); code != "" {
		return refuse(Forbidden, code, "", "a part of the delegation chain is revoked")
	}
	return nil
}

// RecordRefusal notes a request that failed before the domain saw it. A flood becomes one entry a minute.
func (s *Service) RecordRefusal(ctx context.Context, r Refusal) *uint64 {
	if !s.malformed.admit(r, s.cfg.Now()) {
		return nil
	}
	pos, err := s.append(ctx, draft{
		env:  record.Envelope{Type: record.TypeMalformed, Code: r.Code},
		body: record.MalformedBody{Operation: r.Operation, Field: r.Field, Caller: r.Caller, Count: 1},
	})
	if err != nil {
		return nil
	}
	return &pos.Index
}
