package lint

import (
	"crypto/x509"
	"slices"
	"strings"
	"unicode"
)

const maxCommonName = 64 // ub-common-name, RFC 5280 appendix A.1

func ruleLeafSubject() rule {
	return rule{
		id: "leaf_subject", citation: "RFC 5280 §4.1.2.6, appendix A.1", kinds: leafKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			if len(cert.Subject.Names) != 1 || cert.Subject.CommonName == "" {
				return "the subject is not a common name alone"
			}
			cn := cert.Subject.CommonName
			if detail := checkCommonName(cn); detail != "" {
				return detail
			}
			// OpenSSL takes a common name with a dot for a DNS name and applies DNS constraints to it, unless there is
			// a DNS name in the SAN.
			host := e.Kind == Agent || e.Kind == Service
			if host && strings.Contains(cn, ".") && !slices.Contains(cert.DNSNames, cn) {
				return "the common name has a dot and is no DNS name of the certificate"
			}
			if e.Kind == Agent && !isUUIDv7(cn) {
				return "the common name is not the agent's UUIDv7"
			}
			return ""
		},
	}
}

func checkCommonName(cn string) string {
	n := 0
	for _, r := range cn {
		if n++; r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return "the common name has a character that cannot be printed"
		}
	}
	if n > maxCommonName {
		return "the common name is longer than 64 characters"
	}
	return ""
}
