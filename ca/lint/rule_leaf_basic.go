package lint

import "crypto/x509"

func ruleLeafBasic() rule {
	return rule{
		id: "leaf_not_ca", citation: "SPIFFE X509-SVID §4.1; RFC 5280 §4.2.1.9", kinds: leafKinds(),
		check: func(cert *x509.Certificate, _ Expect) string {
			if cert.IsCA {
				return "the certificate is a CA"
			}
			return ""
		},
	}
}
