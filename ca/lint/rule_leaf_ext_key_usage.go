package lint

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
)

func ruleLeafExtKeyUsage() rule {
	return rule{
		id: "leaf_ext_key_usage", citation: "RFC 5280 §4.2.1.12; RFC 9336; RFC 9509; TCG Credential Profiles", kinds: leafKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			switch e.Kind {
			case AuditKey:
				if !solePurpose(cert, DocumentSigning()) {
					return "the purpose is not documentSigning alone"
				}
			case AttestationKey:
				if !solePurpose(cert, AttestationPurpose()) {
					return "the purpose is not tcg-kp-AIKCertificate alone"
				}
			case JWTKey:
				if !solePurpose(cert, JWTSigning()) {
					return "the purpose is not id-kp-jwt alone"
				}
			default:
				if !clientAndServer(cert) {
					return "the purposes are not client and server authentication"
				}
			}
			return ""
		},
	}
}

func solePurpose(cert *x509.Certificate, purpose asn1.ObjectIdentifier) bool {
	return len(cert.ExtKeyUsage) == 0 && len(cert.UnknownExtKeyUsage) == 1 && cert.UnknownExtKeyUsage[0].Equal(purpose)
}

func clientAndServer(cert *x509.Certificate) bool {
	return len(cert.ExtKeyUsage) == 2 && len(cert.UnknownExtKeyUsage) == 0 &&
		slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) &&
		slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
}
