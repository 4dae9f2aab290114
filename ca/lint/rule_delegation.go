package lint

import (
	"crypto/x509"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// A critical delegation would make Go, OpenSSL, GnuTLS and nginx refuse the certificate. What the extension says is
// checked by whoever made it; here it is one DER SEQUENCE.
func ruleDelegation() rule {
	return rule{
		id: "delegation", citation: "docs/formats/certificates.md", kinds: []Kind{Agent},
		check: func(cert *x509.Certificate, e Expect) string {
			count := 0
			for _, ext := range cert.Extensions {
				if !ext.Id.Equal(e.DelegationOID) {
					continue
				}
				count++
				value := cryptobyte.String(ext.Value)
				var body cryptobyte.String
				if ext.Critical || !value.ReadASN1(&body, asn1.SEQUENCE) || !value.Empty() || body.Empty() {
					return "the delegation is critical or not one DER SEQUENCE"
				}
			}
			if count != 1 {
				return "there is not exactly one delegation extension"
			}
			return ""
		},
	}
}
