package lint

import "crypto/x509"

// The purposes of an issuing CA bound those of its leaves in every common verifier, so an issuing CA signs no code and
// no mail. The root has none: it also signs the audit and attestation keys.
func ruleCAExtKeyUsage() rule {
	return rule{
		id: "ca_ext_key_usage", citation: "RFC 5280 §4.2.1.12; Mozilla Root Store Policy §5.3.1", kinds: caKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			if e.Kind == Root {
				if extension(cert, ceExtKeyUsage) != nil {
					return "the root has purposes"
				}
				return ""
			}
			if !clientAndServer(cert) {
				return "the purposes are not client and server authentication"
			}
			return ""
		},
	}
}
