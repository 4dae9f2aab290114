package lint

import (
	"crypto/x509"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

const (
	tagDNS = asn1.Tag(2 | 0x80) // GeneralName, RFC 5280 §4.2.1.6
	tagURI = asn1.Tag(6 | 0x80)
	tagIP  = asn1.Tag(7 | 0x80)
)

// maxNames bounds the names of a certificate: verification compares each with each constraint.
const maxNames = 64

func ruleSAN() rule {
	return rule{
		id: "leaf_san", citation: "SPIFFE X509-SVID §2; design, certificate profile", kinds: []Kind{Agent, Service},
		check: func(cert *x509.Certificate, e Expect) string {
			ext := extension(cert, ceSubjectAltName)
			if ext == nil {
				return "there is no subject alternative name"
			}
			uri, detail := readNames(ext.Value, e.Kind == Service)
			if detail != "" {
				return detail
			}
			segments, detail := splitSPIFFE(uri, e.TrustDomain)
			if detail != "" {
				return detail
			}
			if e.Kind == Agent {
				return checkAgentPath(cert, segments)
			}
			if segments[0] == "agent" {
				return "a service has an agent's SPIFFE ID"
			}
			return ""
		},
	}
}

func checkAgentPath(cert *x509.Certificate, segments []string) string {
	if len(segments) != 3 || segments[0] != "agent" {
		return "the SPIFFE ID is not /agent/<type>/<id>"
	}
	if segments[2] != cert.Subject.CommonName {
		return "the SPIFFE ID does not end with the common name"
	}
	return ""
}

// readNames walks the raw names, because the parsed certificate drops the types that Go does not know. It wants
// exactly one URI and, unless hosts is set, nothing else.
func readNames(der []byte, hosts bool) (uri, detail string) {
	s := cryptobyte.String(der)
	var names cryptobyte.String
	if !s.ReadASN1(&names, asn1.SEQUENCE) || !s.Empty() {
		return "", "the subject alternative name is not DER"
	}
	for n := 0; !names.Empty(); n++ {
		var value cryptobyte.String
		var tag asn1.Tag
		if !names.ReadAnyASN1(&value, &tag) || n >= maxNames {
			return "", "the subject alternative name is not DER, or has more than 64 names"
		}
		switch {
		case tag == tagURI && uri == "" && len(value) > 0:
			uri = string(value)
		case tag == tagURI:
			return "", "there is more than one URI, or an empty one"
		case hosts && tag == tagDNS:
			if err := CheckHost(string(value)); err != nil {
				return "", "DNS name: " + err.Error()
			}
		case hosts && tag == tagIP:
		default:
			return "", "a name is of a type that this kind of certificate may not have"
		}
	}
	if uri == "" {
		return "", "there is no URI"
	}
	return uri, ""
}
