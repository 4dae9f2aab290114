package consent

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/evidence"
)

// UserCertificates says whose certificates are a provider's users': consent type jws.
type UserCertificates struct {
	Roots       []*x509.Certificate // CAs of users
	SubjectFrom string              // the certificate's field that is the user's sub; one of evidence.SubjectFields
}

// Signed verifies a grant document under the signature of a user's certificate. The document names the provider, which says
// which CAs and which field count.
func Signed(providers []*Provider, jws string) (Approval, error) {
	s, err := evidence.ParseSignature(jws)
	if err != nil {
		return Approval{}, refuse("signature_invalid", err)
	}
	for _, p := range providers {
		if p.cfg.Issuer == s.Grant.Issuer && p.cfg.Certificates != nil {
			return p.signed(s, jws)
		}
	}
	return Approval{}, refuse("issuer_unknown", errors.New("no configured provider has the grant's issuer and users with certificates"))
}

func (p *Provider) signed(s *evidence.Signed, jws string) (Approval, error) {
	now, certificates := p.cfg.Now(), p.cfg.Certificates
	root, err := s.Verify(certificates.Roots, now)
	if err != nil {
		return Approval{}, refuse("certificate_untrusted", err)
	}
	subject, err := s.Subject(certificates.SubjectFrom)
	if err != nil {
		return Approval{}, refuse("subject_invalid", err)
	}
	if err := p.checkSubject(subject); err != nil {
		return Approval{}, err
	}
	if s.Grant.Subject != subject {
		return Approval{}, refuse("other_user", errors.New("the grant is for another user than the certificate's"))
	}
	e := evidence.Evidence{JWS: jws, Root: base64.StdEncoding.EncodeToString(root.Raw), SubjectFrom: certificates.SubjectFrom}
	file, err := evidence.Encode(e, chain.JWS, s.Document, now)
	if err != nil {
		return Approval{}, fmt.Errorf("consent: %w", err)
	}
	return Approval{
		Type: chain.JWS, User: User{Issuer: p.cfg.Issuer, Subject: subject}, Document: s.Document, Evidence: file, EvidenceHash: sha256.Sum256(file),
	}, nil
}
