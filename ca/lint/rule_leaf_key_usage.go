package lint

import "crypto/x509"

func ruleLeafKeyUsage() rule {
	return rule{
		id: "leaf_key_usage", citation: "SPIFFE X509-SVID §4.3; RFC 5280 §4.2.1.3", kinds: leafKinds(),
		check: func(cert *x509.Certificate, _ Expect) string {
			if extension(cert, ceKeyUsage) == nil || cert.KeyUsage != x509.KeyUsageDigitalSignature {
				return "the key usage is not digitalSignature alone"
			}
			return ""
		},
	}
}
