package lint

import "crypto/x509"

func ruleCABasic() rule {
	return rule{
		id: "ca_path_length", citation: "RFC 5280 §4.2.1.9", kinds: caKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			if !cert.BasicConstraintsValid || !cert.IsCA {
				return "the certificate is no CA"
			}
			want := 0
			if e.Kind == Root {
				want = 1
			}
			if cert.MaxPathLen != want || (want == 0 && !cert.MaxPathLenZero) {
				return "the path length is not 1 for the root and 0 for the others"
			}
			return ""
		},
	}
}
