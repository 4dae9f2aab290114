package lint

import (
	"crypto/x509"
	"slices"
)

func ruleLeafExtKeyUsage() rule {
	return rule{
		id: "leaf_ext_key_usage", citation: "RFC 5280 §4.2.1.12; RFC 9336; TCG Credential Profiles", kinds: leafKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			switch e.Kind {
			case AuditKey:
				if len(cert.ExtKeyUsage) != 0 || len(cert.UnknownExtKeyUsage) != 1 ||
					!cert.UnknownExtKeyUsage[0].Equal(DocumentSigning()) {
					return "the purpose is not documentSigning alone"
				}
			case AttestationKey:
				if len(cert.ExtKeyUsage) != 0 || len(cert.UnknownExtKeyUsage) != 1 ||
					!cert.UnknownExtKeyUsage[0].Equal(AttestationPurpose()) {
					return "the purpose is not tcg-kp-AIKCertificate alone"
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

func clientAndServer(cert *x509.Certificate) bool {
	return len(cert.ExtKeyUsage) == 2 && len(cert.UnknownExtKeyUsage) == 0 &&
		slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) &&
		slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
}
