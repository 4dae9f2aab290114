package lint

import "crypto/x509"

func ruleVersion() rule {
	return rule{
		id: "version", citation: "RFC 5280 §4.1.2.1", kinds: allKinds(),
		check: func(cert *x509.Certificate, _ Expect) string {
			if cert.Version != 3 {
				return "extensions need version 3"
			}
			return ""
		},
	}
}
