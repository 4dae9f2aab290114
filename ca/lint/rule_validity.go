package lint

import "crypto/x509"

func ruleValidity() rule {
	return rule{
		id: "validity", citation: "RFC 5280 §4.1.2.5, §6.1.3", kinds: allKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			if !cert.NotBefore.Before(cert.NotAfter) {
				return "NotAfter is not after NotBefore"
			}
			if e.Issuer == nil {
				return ""
			}
			if cert.NotAfter.After(e.Issuer.NotAfter) {
				return "NotAfter is beyond the issuer's"
			}
			if cert.NotBefore.Before(e.Issuer.NotBefore) {
				return "NotBefore is before the issuer's"
			}
			return ""
		},
	}
}
