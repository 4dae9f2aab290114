package lint

import (
	"crypto/x509"
	"crypto/x509/pkix"
)

func ruleExtensions() rule {
	return rule{
		id: "extensions", citation: "RFC 5280 §4.2", kinds: allKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			if len(cert.UnhandledCriticalExtensions) > 0 {
				return "a critical extension is unknown"
			}
			for _, ext := range cert.Extensions {
				if detail := checkExtension(ext, e); detail != "" {
					return detail
				}
			}
			return ""
		},
	}
}

// checkExtension refuses what the profile does not name on a leaf, since whatever a relying party reads into it was not
// meant; and criticality other than the profile's. A CA may carry further extensions that are not critical.
func checkExtension(ext pkix.Extension, e Expect) string {
	if e.Kind == Agent && ext.Id.Equal(e.DelegationOID) {
		return "" // its own rule
	}
	critical, known := false, true
	switch arc := idCE(ext.Id); arc {
	case ceKeyUsage:
		critical = true
	case ceBasicConstraints, ceNameConstraints:
		critical, known = true, e.Kind == Root || e.Kind == AgentCA || e.Kind == ServiceCA
	case ceSubjectKeyID, ceAuthorityKeyID, ceExtKeyUsage:
	case ceSubjectAltName:
		known = e.Kind == Agent || e.Kind == Service
	case ceCRLPoints, ceNoRevAvail: // their own rule
	default:
		known = e.Kind == Root || e.Kind == AgentCA || e.Kind == ServiceCA
	}
	if !known {
		return "extension " + ext.Id.String() + " has no place on a certificate of this kind"
	}
	if ext.Critical != critical {
		return "extension " + ext.Id.String() + " has the wrong criticality"
	}
	return ""
}
