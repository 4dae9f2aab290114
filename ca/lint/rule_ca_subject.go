package lint

import (
	"bytes"
	"crypto/x509"
)

func ruleCASubject() rule {
	return rule{
		id: "ca_subject", citation: "RFC 5280 §3.2, §4.1.2.6", kinds: caKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			if cert.Subject.CommonName == "" {
				return "the subject has no common name"
			}
			if detail := checkCommonName(cert.Subject.CommonName); detail != "" {
				return detail
			}
			if self := bytes.Equal(cert.RawSubject, cert.RawIssuer); self != (e.Kind == Root) {
				return "the root alone is issued by itself"
			}
			return ""
		},
	}
}
