package quote

import (
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// ErrEKCertificate means that a certificate is not one for this endorsement key from one of the given roots.
var ErrEKCertificate = errors.New("endorsement key certificate refused")

// Maker is what an EK certificate's subject alternative name says about the TPM (TCG EK Credential Profile 2.5, 3.2.9), in the
// profile's notation: "id:" and eight hexadecimal digits for manufacturer and version, and a model name.
type Maker struct{ Manufacturer, Model, Version string }

// EKRoots says whose certificates count.
type EKRoots struct {
	Roots         *x509.CertPool // of TPM manufacturers
	Intermediates *x509.CertPool // may be nil
	At            time.Time      // the moment at which the path must be valid
}

// ParseEK reads the TPMT_PUBLIC, or TPM2B_PUBLIC, of an endorsement key: RSA or ECC P-256 or P-384, a restricted decryption key
// that was made inside a TPM and can never leave it. Whether a TPM maker vouches for it is for [VerifyEK].
func ParseEK(public []byte) (crypto.PublicKey, error) {
	p, err := parsePublic(public)
	if err != nil {
		return nil, fmt.Errorf("quote: endorsement key: %w", err)
	}
	if err := p.checkEK(); err != nil {
		return nil, fmt.Errorf("quote: endorsement key: %w", err)
	}
	return p.key, nil
}

// VerifyEK checks that cert is an EK certificate for the key of ekPublic and that a path leads from it to one of roots. Only the
// subject alternative name may be a critical extension unknown to crypto/x509, and it is parsed here: it must name the TPM.
func VerifyEK(cert *x509.Certificate, ekPublic []byte, roots EKRoots) (Maker, error) {
	key, err := ParseEK(ekPublic)
	if err != nil {
		return Maker{}, err
	}
	if roots.Roots == nil || roots.At.IsZero() {
		return Maker{}, fmt.Errorf("quote: %w: no roots or no time to verify at", ErrEKCertificate)
	}
	if err := checkEKLeaf(cert, key); err != nil {
		return Maker{}, err
	}
	maker, err := makerOf(cert)
	if err != nil {
		return Maker{}, err
	}
	leaf := *cert // the caller's stays as it is
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(cert.UnhandledCriticalExtensions), oidSAN().Equal)
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots.Roots, Intermediates: roots.Intermediates, CurrentTime: roots.At,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}, // 2.23.133.8.1 is checked above
	})
	if err != nil {
		return Maker{}, fmt.Errorf("quote: %w: %w", ErrEKCertificate, err)
	}
	return maker, nil
}

func checkEKLeaf(cert *x509.Certificate, key crypto.PublicKey) error {
	if cert == nil {
		return fmt.Errorf("quote: %w: there is none", ErrEKCertificate)
	}
	if cert.IsCA {
		return fmt.Errorf("quote: %w: it is a CA's", ErrEKCertificate)
	}
	if !slices.ContainsFunc(cert.UnknownExtKeyUsage, oidEKCertificate().Equal) {
		return fmt.Errorf("quote: %w: extended key usage %v is missing", ErrEKCertificate, oidEKCertificate())
	}
	if public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key) {
		return fmt.Errorf("quote: %w: it is for another key", ErrEKCertificate)
	}
	return nil
}

// makerOf finds the TPM's attributes in the directory name of the subject alternative name.
func makerOf(cert *x509.Certificate) (Maker, error) {
	var maker Maker
	for _, extension := range cert.Extensions {
		if !extension.Id.Equal(oidSAN()) {
			continue
		}
		if !maker.readSAN(extension.Value) {
			return Maker{}, fmt.Errorf("quote: %w: %w subject alternative name", ErrEKCertificate, ErrMalformed)
		}
	}
	if maker.Manufacturer == "" || maker.Model == "" || maker.Version == "" {
		return Maker{}, fmt.Errorf("quote: %w: the subject alternative name does not name the TPM", ErrEKCertificate)
	}
	return maker, nil
}

// readSAN reads GeneralNames (RFC 5280, 4.2.1.6) and takes the TPM's attributes from every directoryName [4].
func (m *Maker) readSAN(der []byte) bool {
	input, names := cryptobyte.String(der), cryptobyte.String(nil)
	if !input.ReadASN1(&names, cbasn1.SEQUENCE) || !input.Empty() {
		return false
	}
	for !names.Empty() {
		var general cryptobyte.String
		var tag cbasn1.Tag
		if !names.ReadAnyASN1(&general, &tag) {
			return false
		}
		if tag == cbasn1.Tag(4).Constructed().ContextSpecific() && !m.readName(general) {
			return false
		}
	}
	return true
}

// readName reads a Name; makers put the attributes into one relative distinguished name or into three.
func (m *Maker) readName(name cryptobyte.String) bool {
	var rdns cryptobyte.String
	if !name.ReadASN1(&rdns, cbasn1.SEQUENCE) || !name.Empty() {
		return false
	}
	for !rdns.Empty() {
		var rdn cryptobyte.String
		if !rdns.ReadASN1(&rdn, cbasn1.SET) {
			return false
		}
		for !rdn.Empty() {
			if !m.readAttribute(&rdn) {
				return false
			}
		}
	}
	return true
}

func (m *Maker) readAttribute(rdn *cryptobyte.String) bool {
	var attribute, value cryptobyte.String
	var oid asn1.ObjectIdentifier
	var tag cbasn1.Tag
	if !rdn.ReadASN1(&attribute, cbasn1.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&oid) ||
		!attribute.ReadAnyASN1(&value, &tag) || !attribute.Empty() {
		return false
	}
	switch oid.String() { // TCG OID registry, 2.23.133.2
	case "2.23.133.2.1":
		m.Manufacturer = string(value)
	case "2.23.133.2.2":
		m.Model = string(value)
	case "2.23.133.2.3":
		m.Version = string(value)
	}
	return true
}

func oidSAN() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 29, 17} }

// oidEKCertificate is tcg-kp-EKCertificate.
func oidEKCertificate() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 23, 133, 8, 1} }
