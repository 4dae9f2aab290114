package ca

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cryptoasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/signet-pki/signet/ca/lint"
)

// Bounds of a request, in octets. Signet's verifier takes 12 KiB of delegation and 16 KiB of certificate: nothing is
// issued that it would refuse.
const (
	maxDelegation = 12 << 10
	maxTBS        = 16<<10 - 256
	maxURI        = 2048
	maxName       = 255 // UTF-8 of a common name, a DNS name
	maxNames      = 63  // besides the URI
)

// AgentRequest asks for an agent's certificate.
type AgentRequest struct {
	SPIFFEID   string    // spiffe://<trust domain>/agent/<type>/<UUIDv7>
	CommonName string    // the same UUIDv7
	SPKI       []byte    // SubjectPublicKeyInfo, DER
	NotAfter   time.Time // whole seconds; a fraction is cut off
	Delegation []byte    // the value of the delegation extension: one DER SEQUENCE
}

// ServiceRequest asks for the certificate of an orchestrator, a service, an operator or a listener.
type ServiceRequest struct {
	SPIFFEID   string // anything in the trust domain except /agent/…
	CommonName string // a dot is refused unless it is also one of DNSNames
	DNSNames   []string
	IPs        []net.IP
	SPKI       []byte
	NotAfter   time.Time
	CRLURL     string // overrides the profile's
}

// Prepared is a linted to-be-signed certificate and the right to have it signed once.
type Prepared struct {
	issuer *Issuer
	tbs    []byte
	hash   [32]byte
	digest []byte // what is signed
	leaf   *x509.Certificate
	used   atomic.Bool
}

// TBS is a copy of the exact bytes that will be signed: TBSCertificate, DER.
func (p *Prepared) TBS() []byte { return bytes.Clone(p.tbs) }

// Hash is the SHA-256 of TBS: the certificate's identity from now on.
func (p *Prepared) Hash() [32]byte { return p.hash }

// Serial is the serial number as 32 lower-case hexadecimal digits.
func (p *Prepared) Serial() string { return p.leaf.SerialNumber.Text(16) }

// NotBefore is the certificate's, in whole seconds.
func (p *Prepared) NotBefore() time.Time { return p.leaf.NotBefore }

// NotAfter is the certificate's, in whole seconds: the last second in which it is valid.
func (p *Prepared) NotAfter() time.Time { return p.leaf.NotAfter }

// PrepareAgent builds and lints an agent's certificate that starts 30 s before now. It signs nothing. Errors:
// [ErrKind], [ErrOutside], [ErrNotAfter], [ErrKey], [ErrTooLarge], *[ProfileError].
func (i *Issuer) PrepareAgent(req AgentRequest, now time.Time) (*Prepared, error) {
	if i.profile.Issues != lint.Agent {
		return nil, fmt.Errorf("ca: prepare agent: %w", ErrKind)
	}
	if len(req.Delegation) > maxDelegation {
		return nil, fmt.Errorf("ca: prepare agent: Delegation: %w", ErrTooLarge)
	}
	c := contents{commonName: req.CommonName, spki: req.SPKI, uri: req.SPIFFEID, delegation: req.Delegation}
	err := i.setValidity(&c, req.NotAfter, now)
	if err != nil {
		return nil, fmt.Errorf("ca: prepare agent: %w", err)
	}
	if c.notAfter.Sub(c.notBefore) <= lint.ShortLived {
		c.noRevAvail = true
	} else {
		c.crlURL = i.profile.CRLURL
	}
	return i.finish(c)
}

// PrepareService builds and lints a certificate of the service CA; otherwise as [Issuer.PrepareAgent].
func (i *Issuer) PrepareService(req ServiceRequest, now time.Time) (*Prepared, error) {
	if i.profile.Issues != lint.Service {
		return nil, fmt.Errorf("ca: prepare service: %w", ErrKind)
	}
	c := contents{
		commonName: req.CommonName, spki: req.SPKI, uri: req.SPIFFEID, dns: req.DNSNames, ips: req.IPs,
		crlURL: req.CRLURL,
	}
	if c.crlURL == "" {
		c.crlURL = i.profile.CRLURL
	}
	if err := i.setValidity(&c, req.NotAfter, now); err != nil {
		return nil, fmt.Errorf("ca: prepare service: %w", err)
	}
	return i.finish(c)
}

// setValidity starts no earlier than the CA; that the end is not beyond it is checked on the encoded result.
func (i *Issuer) setValidity(c *contents, notAfter, now time.Time) error {
	if now.Before(i.from) || now.After(i.to) {
		return fmt.Errorf("%w: it lives from %s to %s", ErrOutside, stamp(i.from), stamp(i.to))
	}
	c.notBefore = later(now.Add(-lint.Backdate).UTC().Truncate(time.Second), i.from.UTC())
	c.notAfter = notAfter.UTC().Truncate(time.Second)
	switch {
	case !c.notAfter.After(now):
		return fmt.Errorf("%w: it is past", ErrNotAfter)
	case c.notAfter.Sub(now) > i.profile.MaxLifetime:
		return fmt.Errorf("%w: it is more than %s ahead", ErrNotAfter, i.profile.MaxLifetime)
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// checkSizes bounds the work; what the values mean is judged by lint on the encoded result.
func (c *contents) checkSizes() error {
	tooLong := func(s string) bool { return len(s) > maxName }
	switch {
	// The key's exact form is checked before it is copied between other fields.
	case lint.KeyForm(c.spki) == "":
		return fmt.Errorf("SPKI: %w: it is not P-256, P-384 or Ed25519 in its one DER form", ErrKey)
	case len(c.uri) > maxURI:
		return fmt.Errorf("SPIFFEID: %w", ErrTooLarge)
	case len(c.crlURL) > maxURI:
		return fmt.Errorf("CRLURL: %w", ErrTooLarge)
	case tooLong(c.commonName):
		return fmt.Errorf("CommonName: %w", ErrTooLarge)
	case len(c.dns)+len(c.ips) > maxNames || slices.ContainsFunc(c.dns, tooLong):
		return fmt.Errorf("DNSNames, IPs: %w", ErrTooLarge)
	}
	return nil
}

func (i *Issuer) finish(c contents) (*Prepared, error) {
	err := c.checkSizes()
	if err != nil {
		return nil, fmt.Errorf("ca: prepare: %w", err)
	}
	if c.serial, err = newSerial(i.profile.Random); err != nil {
		return nil, err
	}
	tbs, err := i.fixed.build(c)
	if err != nil {
		return nil, err
	}
	return i.prepare(tbs)
}

// Resume makes stored TBS bytes ready to be signed again: for a retry after a failed or lost signature. The bytes are
// linted anew and have to be this issuer's ([ErrForeign]); whether they are still wanted is the caller's knowledge.
func (i *Issuer) Resume(tbs []byte) (*Prepared, error) {
	if len(tbs) > maxTBS { // before it is copied
		return nil, fmt.Errorf("ca: resume: %w", ErrTooLarge)
	}
	return i.prepare(bytes.Clone(tbs))
}

// prepare parses and lints the bytes themselves, not what they were made from. It owns tbs.
func (i *Issuer) prepare(tbs []byte) (*Prepared, error) {
	if len(tbs) > maxTBS {
		return nil, fmt.Errorf("ca: prepare: %w", ErrTooLarge)
	}
	if err := checkShape(tbs); err != nil {
		return nil, err
	}
	leaf, err := i.parseUnsigned(tbs)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(leaf.RawIssuer, i.cert.RawSubject) || !bytes.Equal(leaf.AuthorityKeyId, i.cert.SubjectKeyId) {
		return nil, ErrForeign
	}
	if leaf.NotAfter.After(i.to) {
		return nil, fmt.Errorf("%w: the issuing CA ends %s", ErrNotAfter, stamp(i.to))
	}
	if err := findings(i.linter.Run(leaf)); err != nil {
		return nil, err
	}
	p := &Prepared{issuer: i, tbs: tbs, leaf: leaf, hash: sha256.Sum256(tbs)}
	p.digest = p.hash[:]
	if i.hash == crypto.SHA384 {
		sum := sha512.Sum384(tbs)
		p.digest = sum[:]
	}
	return p, nil
}

// parseUnsigned wraps tbs into a certificate with an empty signature, which the parser does not look at.
func (i *Issuer) parseUnsigned(tbs []byte) (*x509.Certificate, error) {
	der, err := wrap(tbs, i.fixed.algorithm, []byte(derNullSig))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if !bytes.Equal(leaf.RawTBSCertificate, tbs) {
		return nil, fmt.Errorf("%w: it is more than one element", ErrMalformed)
	}
	return leaf, nil
}

// wrap is Certificate ::= SEQUENCE { tbs, algorithm, signature } (RFC 5280 §4.1), of three encoded parts.
func wrap(tbs, algorithm, signature []byte) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, len(tbs)+len(algorithm)+len(signature)+8))
	b.AddASN1(cryptoasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddBytes(algorithm)
		b.AddBytes(signature)
	})
	return b.Bytes()
}

// checkShape wants the eight elements of TBSCertificate and nothing between or after them: unique identifiers and
// trailing bytes, which parsers tolerate, would be signed unread.
func checkShape(tbs []byte) error {
	s := cryptobyte.String(tbs)
	var body, element cryptobyte.String
	if !s.ReadASN1(&body, cryptoasn1.SEQUENCE) || !s.Empty() {
		return ErrMalformed
	}
	explicit := func(n uint8) cryptoasn1.Tag { return cryptoasn1.Tag(n).ContextSpecific().Constructed() }
	for _, tag := range [...]cryptoasn1.Tag{
		explicit(0), cryptoasn1.INTEGER, cryptoasn1.SEQUENCE, cryptoasn1.SEQUENCE, cryptoasn1.SEQUENCE,
		cryptoasn1.SEQUENCE, cryptoasn1.SEQUENCE, explicit(3),
	} {
		if !body.ReadASN1(&element, tag) {
			return ErrMalformed
		}
	}
	var extensions cryptobyte.String
	if !element.ReadASN1(&extensions, cryptoasn1.SEQUENCE) || !element.Empty() || !body.Empty() {
		return ErrMalformed
	}
	return nil
}
