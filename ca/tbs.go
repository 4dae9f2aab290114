package ca

import (
	"crypto"
	"crypto/x509"
	encodingasn1 "encoding/asn1"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/signet-pki/signet/ca/lint"
)

// DER of what is the same in every certificate.
const (
	derVersion3   = "\xa0\x03\x02\x01\x02"
	derECDSA256   = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"                             // RFC 5758 §3.2
	derECDSA384   = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"                             //
	derCommonName = "\x06\x03\x55\x04\x03"                                                         // 2.5.4.3
	derKeyUsage   = "\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x07\x80"             // critical, digitalSignature
	derPurposes   = "\x30\x1d\x06\x03\x55\x1d\x25\x04\x16\x30\x14" + derServerAuth + derClientAuth // not critical
	derServerAuth = "\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x01"                                     // id-kp-serverAuth
	derClientAuth = "\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x02"                                     // id-kp-clientAuth
	derNoRevAvail = "\x30\x09\x06\x03\x55\x1d\x38\x04\x02\x05\x00"                                 // RFC 9608 §2
	derSubjectKey = "\x30\x1d\x06\x03\x55\x1d\x0e\x04\x16\x04\x14"                                 // then 20 octets
	derNullSig    = "\x03\x01\x00"                                                                 // an empty BIT STRING, for parsing
)

// Identifiers of extensions that are built for each certificate.
const (
	derOIDSubjectAltName = "\x06\x03\x55\x1d\x11"
	derOIDAuthorityKey   = "\x06\x03\x55\x1d\x23"
	derOIDCRLPoints      = "\x06\x03\x55\x1d\x1f"
)

const (
	tagDNS = asn1.Tag(2 | 0x80) // GeneralName, RFC 5280 §4.2.1.6
	tagURI = asn1.Tag(6 | 0x80)
	tagIP  = asn1.Tag(7 | 0x80)
)

// lastUTCYear: later times are GeneralizedTime (RFC 5280 §4.1.2.5).
const lastUTCYear = 2049

// fixedParts are computed once for an issuer.
type fixedParts struct {
	algorithm  []byte // AlgorithmIdentifier
	issuer     []byte // Name
	extensions []byte // key usage, purposes, authority key identifier
	delegation []byte // the extension's OBJECT IDENTIFIER
	capHint    int
}

func newFixedParts(cert *x509.Certificate, hash crypto.Hash, cfg Profile) (fixedParts, error) {
	f := fixedParts{algorithm: []byte(derECDSA256), issuer: cert.RawSubject}
	if hash == crypto.SHA384 {
		f.algorithm = []byte(derECDSA384)
	}
	b := cryptobyte.NewBuilder([]byte(derKeyUsage + derPurposes))
	addExtension(b, derOIDAuthorityKey, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.Tag(0).ContextSpecific(), func(b *cryptobyte.Builder) { b.AddBytes(cert.SubjectKeyId) })
		})
	})
	var err error
	if f.extensions, err = b.Bytes(); err != nil {
		return fixedParts{}, fmt.Errorf("fixed parts: %w", err)
	}
	if cfg.Issues == lint.Agent {
		if f.delegation, err = encodingasn1.Marshal(cfg.DelegationOID); err != nil {
			return fixedParts{}, fmt.Errorf("DelegationOID: %w", err)
		}
	}
	f.capHint = len(f.issuer) + len(f.extensions) + 512
	return f, nil
}

// contents are what differs between two certificates of one issuer.
type contents struct {
	serial              [serialLen]byte
	notBefore, notAfter time.Time
	commonName          string
	spki                []byte
	uri                 string
	dns                 []string
	ips                 []net.IP
	noRevAvail          bool
	crlURL              string
	delegation          []byte
}

// build encodes TBSCertificate (RFC 5280 §4.1).
func (f *fixedParts) build(c contents) ([]byte, error) {
	b := cryptobyte.NewBuilder(make([]byte, 0, f.capHint+len(c.delegation)))
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes([]byte(derVersion3))
		b.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) { b.AddBytes(c.serial[:]) })
		b.AddBytes(f.algorithm)
		b.AddBytes(f.issuer)
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			addTime(b, c.notBefore)
			addTime(b, c.notAfter)
		})
		addCommonName(b, c.commonName)
		b.AddBytes(c.spki)
		b.AddASN1(asn1.Tag(3).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) { f.addExtensions(b, c) })
		})
	})
	tbs, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("ca: build: %w", err)
	}
	return tbs, nil
}

func (f *fixedParts) addExtensions(b *cryptobyte.Builder, c contents) {
	b.AddBytes(f.extensions)
	b.AddBytes([]byte(derSubjectKey))
	b.AddBytes(lint.SubjectKeyID(c.spki))
	addExtension(b, derOIDSubjectAltName, func(b *cryptobyte.Builder) { addNames(b, c) })
	if c.noRevAvail {
		b.AddBytes([]byte(derNoRevAvail))
	}
	if c.crlURL != "" {
		addExtension(b, derOIDCRLPoints, func(b *cryptobyte.Builder) { addPoint(b, c.crlURL) })
	}
	if len(c.delegation) > 0 {
		addExtension(b, string(f.delegation), func(b *cryptobyte.Builder) { b.AddBytes(c.delegation) })
	}
}

// addExtension adds one that is not critical: DER leaves the default FALSE out.
func addExtension(b *cryptobyte.Builder, oid string, value cryptobyte.BuilderContinuation) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes([]byte(oid))
		b.AddASN1(asn1.OCTET_STRING, value)
	})
}

func addTime(b *cryptobyte.Builder, t time.Time) {
	if t.Year() <= lastUTCYear {
		b.AddASN1UTCTime(t)
		return
	}
	b.AddASN1GeneralizedTime(t)
}

func addCommonName(b *cryptobyte.Builder, cn string) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) {
			b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddBytes([]byte(derCommonName))
				b.AddASN1(asn1.UTF8String, func(b *cryptobyte.Builder) { b.AddBytes([]byte(cn)) })
			})
		})
	})
}

func addNames(b *cryptobyte.Builder, c contents) {
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(tagURI, func(b *cryptobyte.Builder) { b.AddBytes([]byte(c.uri)) })
		for _, name := range c.dns {
			b.AddASN1(tagDNS, func(b *cryptobyte.Builder) { b.AddBytes([]byte(name)) })
		}
		for _, ip := range c.ips {
			b.AddASN1(tagIP, func(b *cryptobyte.Builder) { b.AddBytes(shortIP(ip)) })
		}
	})
}

// shortIP: four octets for IPv4, sixteen for IPv6 (RFC 5280 §4.2.1.6).
func shortIP(ip net.IP) []byte {
	if v4 := ip.To4(); v4 != nil {
		return v4
	}
	return ip
}

// addPoint: CRLDistributionPoints with one point that has a fullName with one URI (RFC 5280 §4.2.1.13).
func addPoint(b *cryptobyte.Builder, url string) {
	zero := asn1.Tag(0).ContextSpecific().Constructed()
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(zero, func(b *cryptobyte.Builder) {
				b.AddASN1(zero, func(b *cryptobyte.Builder) {
					b.AddASN1(tagURI, func(b *cryptobyte.Builder) { b.AddBytes([]byte(url)) })
				})
			})
		})
	})
}
