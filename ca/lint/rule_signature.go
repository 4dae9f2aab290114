package lint

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
)

func ruleSignature() rule {
	return rule{
		id: "signature_algorithm", citation: "RFC 5758 §3.2; NIST SP 800-57-1 §5.6", kinds: allKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			issuer := e.Issuer
			if issuer == nil {
				issuer = cert
			}
			if want := SignatureAlgorithm(issuer); want == x509.UnknownSignatureAlgorithm || cert.SignatureAlgorithm != want {
				return "it is not ECDSA with the hash of the issuer's curve"
			}
			return ""
		},
	}
}

// SignatureAlgorithm is the one algorithm that a CA with this certificate signs with: ECDSA with SHA-256 on P-256 and
// with SHA-384 on P-384. Any other key gives the unknown algorithm.
func SignatureAlgorithm(issuer *x509.Certificate) x509.SignatureAlgorithm {
	key, ok := issuer.PublicKey.(*ecdsa.PublicKey)
	switch {
	case !ok:
		return x509.UnknownSignatureAlgorithm
	case key.Curve == elliptic.P256():
		return x509.ECDSAWithSHA256
	case key.Curve == elliptic.P384():
		return x509.ECDSAWithSHA384
	default:
		return x509.UnknownSignatureAlgorithm
	}
}
