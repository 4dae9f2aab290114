package evidence

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/chain"
)

// SignatureType is the typ of a user's signature under a grant; nothing else that a key signs can pass for one.
const SignatureType = "agent-grant+jws"

// Bounds of a user's signature.
const (
	MaxSignature = 60 << 10 // bytes of the compact JWS
	maxX5C       = 5
)

// The fields of a user's certificate that can name its user.
const (
	FromCommonName   = "common_name"   // of the subject, exactly one
	FromSerialNumber = "serial_number" // of the subject (X.520 serialNumber), exactly one
	FromURI          = "uri"           // exactly one name of that type
)

// SubjectFields lists them.
func SubjectFields() []string { return []string{FromCommonName, FromSerialNumber, FromURI} }

// Signed is a grant document under a signature that verified with the key of the first certificate. Whose certificate that
// is, Verify tells.
type Signed struct {
	Document []byte
	Grant    chain.GrantDocument
	certs    []*x509.Certificate
}

type signatureHeader struct {
	Algorithm string   `json:"alg"`
	Type      string   `json:"typ"`
	X5C       []string `json:"x5c"`
}

// ParseSignature reads a compact JWS whose protected header has exactly alg, typ and x5c (RFC 7515 §4.1.6), and whose payload is
// a canonical grant document. The certificate's key decides which algorithms can be.
func ParseSignature(compact string) (*Signed, error) {
	if len(compact) > MaxSignature {
		return nil, fmt.Errorf("%d bytes; at most %d are allowed", len(compact), MaxSignature)
	}
	certs, err := header(compact)
	if err != nil {
		return nil, err
	}
	algs, err := keyAlgorithms(certs[0].PublicKey)
	if err != nil {
		return nil, err
	}
	jws, err := jose.ParseSignedCompact(compact, algs)
	if err != nil {
		return nil, err
	}
	payload, err := jws.Verify(certs[0].PublicKey)
	if err != nil {
		return nil, errors.New("the certificate's key does not verify the signature")
	}
	grant, err := chain.ParseGrantDocument(payload)
	if err != nil {
		return nil, err
	}
	return &Signed{Document: payload, Grant: grant, certs: certs}, nil
}

// header checks the spelling of the three parts, of which go-jose is laxer, and gives the certificates.
func header(compact string) ([]*x509.Certificate, error) {
	parts := strings.Split(compact, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("%d parts; 3 expected", len(parts))
	}
	var first []byte
	for i, part := range parts {
		decoded, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || strings.ContainsAny(part, "\r\n") {
			return nil, fmt.Errorf("part %d is not base64url", i+1)
		}
		if i == 0 {
			first = decoded
		}
	}
	var h signatureHeader
	if err := strict(first, &h); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if h.Type != SignatureType {
		return nil, fmt.Errorf("header: typ is not %s", SignatureType)
	}
	if len(h.X5C) == 0 || len(h.X5C) > maxX5C {
		return nil, fmt.Errorf("header: x5c has %d certificates; 1 to %d are allowed", len(h.X5C), maxX5C)
	}
	var out []*x509.Certificate
	for i, text := range h.X5C {
		c, err := certificate(text)
		if err != nil {
			return nil, fmt.Errorf("header: x5c[%d]: %w", i, err)
		}
		out = append(out, c)
	}
	return out, nil
}

func certificate(text string) (*x509.Certificate, error) {
	der, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("not base64")
	}
	if len(der) > chain.MaxCertificateBytes {
		return nil, fmt.Errorf("%d bytes; at most %d are allowed", len(der), chain.MaxCertificateBytes)
	}
	return x509.ParseCertificate(der)
}

// keyAlgorithms are the signatures that a user's key may make.
func keyAlgorithms(key crypto.PublicKey) ([]jose.SignatureAlgorithm, error) {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return []jose.SignatureAlgorithm{jose.ES256}, nil
		case elliptic.P384():
			return []jose.SignatureAlgorithm{jose.ES384}, nil
		}
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits >= minRSABits && bits <= maxRSABits {
			return []jose.SignatureAlgorithm{jose.RS256, jose.PS256}, nil
		}
	case ed25519.PublicKey:
		return []jose.SignatureAlgorithm{jose.EdDSA}, nil
	}
	return nil, errors.New("the certificate's key is neither P-256, P-384, RSA of 2048 to 8192 bits nor Ed25519")
}

// Verify finds an RFC 5280 path for client authentication from the signer to one of the roots at that time, and gives that root.
func (s *Signed) Verify(roots []*x509.Certificate, at time.Time) (*x509.Certificate, error) {
	leaf := s.certs[0]
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, errors.New("the certificate is a CA's, or not for signatures")
	}
	// x509 takes an absent extension for any usage.
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return nil, errors.New("the certificate is not for client authentication")
	}
	if at.IsZero() { // x509 would take the wall clock
		return nil, errors.New("no time was given")
	}
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: at,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, c := range roots {
		opts.Roots.AddCert(c)
	}
	for _, c := range s.certs[1:] {
		opts.Intermediates.AddCert(c)
	}
	paths, err := leaf.Verify(opts)
	if err != nil {
		return nil, fmt.Errorf("no path to an accepted CA: %w", err)
	}
	return paths[0][len(paths[0])-1], nil
}

// Subject is the user's subject as the field of the signer's certificate says it.
func (s *Signed) Subject(field string) (string, error) {
	leaf := s.certs[0]
	var found []string
	switch field {
	case FromCommonName:
		found = attribute(leaf, asn1.ObjectIdentifier{2, 5, 4, 3})
	case FromSerialNumber:
		found = attribute(leaf, asn1.ObjectIdentifier{2, 5, 4, 5})
	case FromURI:
		for _, u := range leaf.URIs {
			found = append(found, u.String())
		}
	default:
		return "", fmt.Errorf("no field %.32q", field)
	}
	if len(found) != 1 || found[0] == "" {
		return "", fmt.Errorf("the certificate has %d fields %s; one is expected", len(found), field)
	}
	return found[0], nil
}

func attribute(c *x509.Certificate, oid asn1.ObjectIdentifier) []string {
	var out []string
	for _, a := range c.Subject.Names {
		if a.Type.Equal(oid) {
			s, _ := a.Value.(string) // another type is no name
			out = append(out, s)
		}
	}
	return out
}

// signature checks the JWS, its certificate at the time of the entry, and that both are about this grant and its user.
func (p *Parsed) signature(at time.Time) error {
	signed, err := ParseSignature(p.evidence.JWS)
	if err != nil {
		return fmt.Errorf("jws: %w", err)
	}
	if string(signed.Document) != string(p.Document) {
		return errors.New("jws: it signs another document than the grant")
	}
	root, err := certificate(p.evidence.Root)
	if err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if _, err := signed.Verify([]*x509.Certificate{root}, at); err != nil {
		return fmt.Errorf("jws: %w", err)
	}
	subject, err := signed.Subject(p.evidence.SubjectFrom)
	if err != nil {
		return fmt.Errorf("jws: %w", err)
	}
	if subject != p.Grant.Subject {
		return errors.New("jws: the certificate is another user's")
	}
	return nil
}
