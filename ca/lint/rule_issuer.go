package lint

import (
	"bytes"
	"crypto/x509"
)

func ruleIssuer() rule {
	return rule{
		id: "issuer", citation: "RFC 5280 §4.1.2.4, §6.1.3 (a)", kinds: allKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			if e.Issuer != nil && !bytes.Equal(cert.RawIssuer, e.Issuer.RawSubject) {
				return "the issuer's name is not the subject of the signing CA, byte by byte"
			}
			return ""
		},
	}
}
