package lint

import "crypto/x509"

func ruleCAKeyUsage() rule {
	return rule{
		id: "ca_key_usage", citation: "RFC 5280 §4.2.1.3", kinds: caKinds(),
		check: func(cert *x509.Certificate, _ Expect) string {
			if extension(cert, ceKeyUsage) == nil || cert.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
				return "the key usage is not keyCertSign and cRLSign"
			}
			return ""
		},
	}
}
