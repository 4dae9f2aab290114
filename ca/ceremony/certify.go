package ceremony

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strconv"
	"time"

	"github.com/signet-pki/signet/ca/lint"
)

const day = 24 * time.Hour

// request is one certificate to be made.
type request struct {
	name     string
	kind     lint.Kind
	template *x509.Certificate
	key      crypto.PublicKey
	uri      string // where the key is; empty when it was not made here
}

// certify signs, lints, verifies, keeps and records one certificate. For the root the issuer has a signer alone.
func (r *run) certify(q request, issuer authority) (Certificate, error) {
	cert, err := r.kept(q)
	made := err == nil && cert == nil
	if made {
		cert, err = r.sign(q, issuer)
	}
	if err != nil {
		return Certificate{}, fmt.Errorf("%s: %w", q.name, err)
	}
	expect := lint.Expect{Kind: q.kind, TrustDomain: r.plan.trustDomain, Issuer: issuer.made.Leaf}
	if found := lint.Run(cert, expect); len(found) > 0 {
		return Certificate{}, fmt.Errorf("%s: the certificate breaks its profile: %v", q.name, found)
	}
	if _, err := cert.Verify(r.path(cert, issuer)); err != nil {
		return Certificate{}, fmt.Errorf("%s: verify: %w", q.name, err)
	}
	id := string(cert.SubjectKeyId)
	if other, taken := r.seen[id]; taken {
		return Certificate{}, fmt.Errorf("%s: the key is that of %s", q.name, other)
	}
	r.seen[id] = q.name
	if made {
		if err := r.records.Keep(q.name, cert.Raw); err != nil {
			return Certificate{}, fmt.Errorf("%s: %w", q.name, err)
		}
	}
	c := Certificate{Name: q.name, KeyURI: q.uri, DER: cert.Raw, Leaf: cert}
	r.result.Transcript = append(r.result.Transcript, certified(c, issuer.made.Name))
	return c, nil
}

// kept is the certificate of an earlier run, if there is one; lint and verification follow as for a new one.
func (r *run) kept(q request) (*x509.Certificate, error) {
	der, err := r.records.Certificate(q.name)
	if err != nil || der == nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("kept: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(q.key)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	t := q.template
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, spki) || !cert.NotBefore.Equal(t.NotBefore) || !cert.NotAfter.Equal(t.NotAfter) ||
		cert.Subject.String() != t.Subject.String() {
		return nil, errors.New("kept: not the certificate that this ceremony makes")
	}
	return cert, nil
}

func (r *run) sign(q request, issuer authority) (*x509.Certificate, error) {
	spki, err := x509.MarshalPKIXPublicKey(q.key)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if q.template.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	q.template.SubjectKeyId = lint.SubjectKeyID(spki)
	parent := issuer.made.Leaf
	if parent == nil {
		parent = q.template
	}
	// CreateCertificate verifies the signature it got.
	der, err := x509.CreateCertificate(rand.Reader, q.template, parent, q.key, issuer.signer)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(cert.RawSubjectPublicKeyInfo, spki) {
		return nil, errors.New("read back: another key than the one certified")
	}
	return cert, nil
}

// newSerial has the shape that package lint asks for: 16 octets, positive, 32 hexadecimal digits, 126 bits of chance.
func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("serial: %w", err)
	}
	b[0] = b[0]&0x7f | 0x10
	return new(big.Int).SetBytes(b), nil
}

func rootTemplate(p rootPlan, start time.Time) *x509.Certificate {
	return &x509.Certificate{
		Subject: p.subject, NotBefore: start, NotAfter: start.Add(p.validity),
		IsCA: true, BasicConstraintsValid: true, MaxPathLen: 1,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
}

// issuingTemplate is the n-th CA of its series, counted from 0: it starts when the one before it has only the overlap
// left.
func issuingTemplate(plan Plan, p series, n int, start time.Time) *x509.Certificate {
	from := start.Add(time.Duration(n) * (p.validity - p.overlap))
	return &x509.Certificate{
		Subject:   pkix.Name{CommonName: p.title + " " + strconv.Itoa(n+1), Organization: plan.root.subject.Organization},
		NotBefore: from, NotAfter: from.Add(p.validity),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},

		// The field makes the whole extension critical, whatever types of names it holds.
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{plan.trustDomain},
		PermittedDNSDomains:         p.dns, ExcludedDNSDomains: p.noDNS,
		PermittedIPRanges: p.ips, ExcludedIPRanges: p.noIPs,
	}
}

// keyTemplate certifies a key that signs statements. Its purpose keeps TLS peers from accepting it.
func keyTemplate(cn string, from, to time.Time, purpose asn1.ObjectIdentifier) *x509.Certificate {
	return &x509.Certificate{
		Subject: pkix.Name{CommonName: cn}, NotBefore: from, NotAfter: to,
		KeyUsage: x509.KeyUsageDigitalSignature, UnknownExtKeyUsage: []asn1.ObjectIdentifier{purpose},
	}
}

func operatorTemplate(plan Plan, start time.Time) *x509.Certificate {
	o := plan.operator
	t := &x509.Certificate{
		Subject: pkix.Name{CommonName: o.name}, NotBefore: start, NotAfter: start.Add(o.validity),
		URIs:        []*url.URL{{Scheme: "spiffe", Host: plan.trustDomain, Path: "/operator/" + o.name}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if o.crlURL != "" {
		t.CRLDistributionPoints = []string{o.crlURL}
	}
	return t
}

func certified(c Certificate, issuer string) Step {
	if issuer == "" {
		issuer = c.Name
	}
	key, whole := sha256.Sum256(c.Leaf.RawSubjectPublicKeyInfo), sha256.Sum256(c.DER)
	return Step{
		Act: ActCertify, Name: c.Name, KeyURI: c.KeyURI, Issuer: issuer, Subject: c.Leaf.Subject.String(),
		Serial:    c.Leaf.SerialNumber.Text(16),
		NotBefore: c.Leaf.NotBefore.Format(time.RFC3339), NotAfter: c.Leaf.NotAfter.Format(time.RFC3339),
		KeyHash: hex.EncodeToString(key[:]), CertificateHash: hex.EncodeToString(whole[:]),
	}
}
