package delegation

import (
	"crypto/sha256"
	"crypto/x509"
	"slices"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// provePossession (x509pop) accepts a certificate from a CA that was named when the orchestrator was registered. The TLS
// handshake proved the key. Its common name or one of its DNS names must be the orchestrator's name.
func (s *Service) provePossession(id chain.ID, reg *identityState, a Attestation) (proof, error) {
	if len(a.Peer) == 0 {
		return proof{}, refuse(Unauthenticated, "client_certificate_required", "", "x509pop takes the client certificate of this connection")
	}
	roots, err := chain.ParsePEM(reg.PopRoots, 16)
	if err != nil {
		return proof{}, internal("read x509pop roots", err)
	}
	if err := s.verifyPop(id.Name(), a.Peer, roots); err != nil {
		return proof{}, err
	}
	return proof{body: &record.ProofBody{Certificate: hexOf(sha256.Sum256(a.Peer[0].Raw))}}, nil
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
	switch {
	case err != nil:
		return errAttestation("x509pop_untrusted")
	case peer[0].Subject.CommonName == name, slices.Contains(peer[0].DNSNames, name):
		return nil
	}
	return errAttestation("x509pop_wrong_name")
}
