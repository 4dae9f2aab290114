package lint

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const keyIDLen = 20

// SubjectKeyID is the leftmost 160 bits of the SHA-256 of the subjectPublicKey BIT STRING's value (RFC 7093 §2,
// method 1), or nil when spki is no SubjectPublicKeyInfo.
func SubjectKeyID(spki []byte) []byte {
	s := cryptobyte.String(spki)
	var info, algorithm, key cryptobyte.String
	var unused uint8
	if !s.ReadASN1(&info, asn1.SEQUENCE) || !s.Empty() || !info.ReadASN1(&algorithm, asn1.SEQUENCE) ||
		!info.ReadASN1(&key, asn1.BIT_STRING) || !info.Empty() || !key.ReadUint8(&unused) || unused != 0 {
		return nil
	}
	sum := sha256.Sum256(key)
	return sum[:keyIDLen]
}

func ruleKeyIDs() rule {
	return rule{
		id: "key_identifiers", citation: "RFC 5280 §4.2.1.1, §4.2.1.2; RFC 7093 §2", kinds: allKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			if len(cert.SubjectKeyId) == 0 || !bytes.Equal(cert.SubjectKeyId, SubjectKeyID(cert.RawSubjectPublicKeyInfo)) {
				return "the subject key identifier is not RFC 7093 method 1"
			}
			if e.Issuer == nil {
				return ""
			}
			if len(cert.AuthorityKeyId) == 0 || !bytes.Equal(cert.AuthorityKeyId, e.Issuer.SubjectKeyId) {
				return "the authority key identifier is not the issuer's"
			}
			if bytes.Equal(cert.SubjectKeyId, cert.AuthorityKeyId) {
				return "the subject's key is the issuer's"
			}
			return ""
		},
	}
}
