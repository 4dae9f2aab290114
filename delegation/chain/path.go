package chain

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// failure is a cause with its code; nil means that nothing is wrong.
type failure struct{ code, detail string }

func failed(code, format string, args ...any) *failure {
	return &failure{code: code, detail: fmt.Sprintf(format, args...)}
}

// Identify authenticates an orchestrator, service or operator (and, as far as a stock TLS peer would, an agent) by its
// certificate alone: the check "path" and the leaf's own validity. The returned check is named path; the ID is the zero ID
// unless it passed. skew forgives a NotBefore in the future only.
func Identify(certs []*x509.Certificate, trust *Trust, now time.Time, skew time.Duration) (ID, Check) {
	if trust == nil {
		return ID{}, Check{Name: CheckPath, Code: CodeNoTrust, Required: true}
	}
	id, f := checkPath(certs, trust, now)
	if f == nil {
		switch leaf := certs[0]; {
		case now.Add(clampSkew(skew)).Before(leaf.NotBefore):
			f = failed(CodeCertificateNotYet, "the certificate is valid from %s", leaf.NotBefore.UTC().Format(time.RFC3339))
		case !now.Before(leaf.NotAfter):
			f = failed(CodeCertificateExpired, "the certificate was valid until %s", leaf.NotAfter.UTC().Format(time.RFC3339))
		}
	}
	c := verdict(CheckPath, f)
	c.Required = true
	if f != nil {
		return ID{}, c
	}
	return id, c
}

// checkPath returns the leaf's ID if nothing is wrong.
func checkPath(certs []*x509.Certificate, trust *Trust, now time.Time) (ID, *failure) {
	if f := checkBounds(certs); f != nil {
		return ID{}, f
	}
	leaf := certs[0]
	id, f := leafID(leaf)
	if f != nil {
		return ID{}, f
	}
	if id.TrustDomain() != trust.TrustDomain {
		return ID{}, failed(CodeTrustDomain, "the certificate is of trust domain %s", id.TrustDomain())
	}
	if f := checkLeaf(leaf); f != nil {
		return ID{}, f
	}
	// x509 would take the zero time for the wall clock.
	if now.IsZero() {
		return ID{}, failed(CodeClockMissing, "no time was given")
	}
	return id, checkSignatures(certs, trust, now)
}

func checkBounds(certs []*x509.Certificate) *failure {
	if len(certs) == 0 {
		return failed(CodeChainEmpty, "no certificate")
	}
	if len(certs) > MaxChain {
		return failed(CodeChainTooLong, "%d certificates; at most %d are allowed", len(certs), MaxChain)
	}
	for i, c := range certs {
		if c == nil {
			return failed(CodePathInvalid, "certificate %d is nil", i)
		}
		if len(c.Raw) > MaxCertificateBytes {
			return failed(CodeCertificateTooLarge, "certificate %d has %d bytes; at most %d are allowed", i, len(c.Raw), MaxCertificateBytes)
		}
	}
	return nil
}

// checkLeaf has the rules of X509-SVID §4 and §5 for leaves.
func checkLeaf(leaf *x509.Certificate) *failure {
	if leaf.IsCA {
		return failed(CodeLeafIsCA, "the leaf is a CA")
	}
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return failed(CodeLeafKeyUsage, "the leaf's key usage lacks digitalSignature or has keyCertSign or cRLSign")
	}
	// x509 takes an absent extension for any usage.
	if !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return failed(CodeLeafExtKeyUsage, "the leaf's extended key usage lacks clientAuth")
	}
	return nil
}

// checkSignatures finds an RFC 5280 path at the real time for CAs. The leaf's validity is taken out of the question: the
// check "deadline" owns it. A path through the bundle's own CAs is found once for a certificate and holds while all of
// its CAs are valid.
func checkSignatures(certs []*x509.Certificate, trust *Trust, now time.Time) *failure {
	if trust.paths.known(certs[0], now) {
		return nil
	}
	leaf := *certs[0]
	leaf.NotBefore, leaf.NotAfter = now, now
	// The check "format" owns the criticality of our extension.
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(leaf.UnhandledCriticalExtensions), func(oid asn1.ObjectIdentifier) bool {
		return oid.Equal(OID())
	})
	opts := x509.VerifyOptions{CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if len(trust.anchors) > 0 {
		opts.Roots, opts.Intermediates = trust.verifiedAt(now), x509.NewCertPool()
		if found, err := leaf.Verify(opts); err == nil && len(found[0]) > 1 {
			trust.paths.keep(certs[0], trust.life(found[0][1:]))
			return nil
		}
	}
	opts.Roots, opts.Intermediates = pool(trust.Roots), pool(trust.Intermediates)
	for _, c := range certs[1:] {
		// Keys that we never certify would only cost time.
		if CheckKey(c.PublicKey) == nil {
			opts.Intermediates.AddCert(c)
		}
	}
	if _, err := leaf.Verify(opts); err != nil {
		return pathFailure(err, now)
	}
	return nil
}

func pathFailure(err error, now time.Time) *failure {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return failed(CodePathUntrusted, "no path to a trusted root")
	}
	if _, ok := errors.AsType[x509.UnhandledCriticalExtension](err); ok {
		return failed(CodePathCritical, "a certificate has an unknown critical extension")
	}
	invalid, ok := errors.AsType[x509.CertificateInvalidError](err)
	if !ok {
		return failed(CodePathInvalid, "%v", err)
	}
	switch invalid.Reason { //nolint:exhaustive // the rest has no code of its own
	case x509.Expired:
		if invalid.Cert != nil && now.Before(invalid.Cert.NotBefore) {
			return failed(CodeCANotYetValid, "a CA certificate is valid from %s", invalid.Cert.NotBefore.UTC().Format(time.RFC3339))
		}
		return failed(CodeCAExpired, "a CA certificate has expired")
	case x509.CANotAuthorizedForThisName, x509.UnconstrainedName, x509.TooManyConstraints, x509.NameConstraintsWithoutSANs:
		return failed(CodePathNameConstraint, "%v", err)
	case x509.IncompatibleUsage, x509.CANotAuthorizedForExtKeyUsage:
		return failed(CodePathKeyUsage, "%v", err)
	}
	return failed(CodePathInvalid, "%v", err)
}

func isSAN(oid asn1.ObjectIdentifier) bool { return oid.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) }

// Tags of GeneralName (RFC 5280 §4.2.1.6).
const (
	tagDNS = cbasn1.Tag(0x82)
	tagURI = cbasn1.Tag(0x86)
	tagIP  = cbasn1.Tag(0x87)
)

// leafID reads the SAN itself: x509 drops the kinds of names that it does not know, and re-spells URIs. There is exactly one
// URI; an agent has no other name, the other kinds of callers may have DNS names and addresses. The ID is returned also when
// only the other names are wrong.
func leafID(leaf *x509.Certificate) (ID, *failure) {
	names, f := readSAN(leaf)
	if f != nil {
		return ID{}, f
	}
	if names.uris != 1 {
		return ID{}, failed(CodeSANMultiple, "%d URIs; exactly one is expected", names.uris)
	}
	id, err := ParseID(names.uri)
	if err != nil {
		return ID{}, failed(CodeSPIFFEID, "%v", err)
	}
	if names.addresses && id.Kind() == Agent {
		return id, failed(CodeSANOther, "an agent's certificate has a name besides its URI")
	}
	if names.others {
		return id, failed(CodeSANOther, "the certificate has a name that is no URI, DNS name or address")
	}
	return id, nil
}

// generalNames is what a SAN holds.
type generalNames struct {
	uri       string
	uris      int
	addresses bool // DNS names, IP addresses
	others    bool
}

func readSAN(leaf *x509.Certificate) (names generalNames, f *failure) {
	at := slices.IndexFunc(leaf.Extensions, func(e pkix.Extension) bool { return isSAN(e.Id) })
	if at < 0 {
		return names, failed(CodeSANMissing, "the certificate has no subject alternative name")
	}
	input := cryptobyte.String(leaf.Extensions[at].Value)
	var list cryptobyte.String
	if !input.ReadASN1(&list, cbasn1.SEQUENCE) || !input.Empty() {
		return names, failed(CodeSANMalformed, "the subject alternative name is not DER")
	}
	for !list.Empty() {
		var value cryptobyte.String
		var tag cbasn1.Tag
		if !list.ReadAnyASN1(&value, &tag) {
			return names, failed(CodeSANMalformed, "the subject alternative name is not DER")
		}
		switch tag {
		case tagURI:
			names.uri, names.uris = string(value), names.uris+1
		case tagDNS, tagIP:
			names.addresses = true
		default:
			names.others = true
		}
	}
	return names, nil
}
