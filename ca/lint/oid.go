package lint

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
)

// DocumentSigning is the purpose of the audit key (RFC 9336): no TLS stack takes it for a peer.
func DocumentSigning() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 36}
}

// JWTSigning is the purpose of the JWT key, id-kp-jwt (RFC 9509 §3.1): it keeps it apart from the audit key.
func JWTSigning() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 37}
}

// AttestationPurpose is the purpose of the attestation key (TCG, tcg-kp-AIKCertificate).
func AttestationPurpose() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 23, 133, 8, 3} }

// idCE tells the last arc of an identifier below id-ce (2.5.29), or 0. It spares the making of text on the issuing path.
func idCE(oid asn1.ObjectIdentifier) int {
	if len(oid) == 4 && oid[0] == 2 && oid[1] == 5 && oid[2] == 29 {
		return oid[3]
	}
	return 0
}

// extension finds the extension with that last arc below id-ce.
func extension(cert *x509.Certificate, arc int) *pkix.Extension {
	for i := range cert.Extensions {
		if idCE(cert.Extensions[i].Id) == arc {
			return &cert.Extensions[i]
		}
	}
	return nil
}

// The last arcs below id-ce.
const (
	ceSubjectKeyID     = 14
	ceKeyUsage         = 15
	ceSubjectAltName   = 17
	ceBasicConstraints = 19
	ceNameConstraints  = 30
	ceCRLPoints        = 31
	ceAuthorityKeyID   = 35
	ceExtKeyUsage      = 37
	ceNoRevAvail       = 56
)
