package lint

import "crypto/x509"

// The only forms of SubjectPublicKeyInfo that are accepted, as DER up to the key's own octets: named curves with
// uncompressed points (RFC 5480 §2) and Ed25519 without parameters (RFC 8410 §3).
const (
	spkiP256 = "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07" +
		"\x03\x42\x00\x04"
	spkiP384 = "\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22" +
		"\x03\x62\x00\x04"
	spkiEd25519 = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"

	keyP256, keyP384, keyEd25519 = 64, 96, 32 // octets after the prefix
)

// KeyForm names a SubjectPublicKeyInfo (DER) that is in the one accepted form of its type: "P-256", "P-384", "Ed25519",
// or "" for anything else. That the point is on its curve is checked by parsing.
func KeyForm(spki []byte) string {
	switch {
	case hasForm(spki, spkiP256, keyP256):
		return "P-256"
	case hasForm(spki, spkiP384, keyP384):
		return "P-384"
	case hasForm(spki, spkiEd25519, keyEd25519):
		return "Ed25519"
	}
	return ""
}

func hasForm(spki []byte, prefix string, key int) bool {
	return len(spki) == len(prefix)+key && string(spki[:len(prefix)]) == prefix
}

func rulePublicKey() rule {
	return rule{
		id: "public_key", citation: "RFC 5480 §2; RFC 8410 §3", kinds: allKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			form := KeyForm(cert.RawSubjectPublicKeyInfo)
			switch e.Kind {
			case Root, AgentCA, ServiceCA:
				if form != "P-256" && form != "P-384" {
					return "the key is not P-256 or P-384"
				}
			case AttestationKey, JWTKey:
				if form != "P-256" {
					return "the key is not P-256"
				}
			default:
				if form == "" {
					return "the key is not P-256, P-384 or Ed25519 in its one DER form"
				}
			}
			return ""
		},
	}
}
