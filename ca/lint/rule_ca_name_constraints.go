package lint

import (
	"crypto/x509"
	"slices"
)

func ruleCANameConstraints() rule {
	return rule{
		id: "ca_name_constraints", citation: "RFC 5280 §4.2.1.10; docs/formats/certificates.md", kinds: caKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			if e.Kind == Root {
				if extension(cert, ceNameConstraints) != nil {
					return "the root has name constraints"
				}
				return ""
			}
			if extension(cert, ceNameConstraints) == nil || !slices.Equal(cert.PermittedURIDomains, []string{e.TrustDomain}) {
				return "the permitted URI host is not the trust domain alone"
			}
			if len(cert.PermittedEmailAddresses)+len(cert.ExcludedEmailAddresses)+len(cert.ExcludedURIDomains) > 0 {
				return "there are constraints on mail addresses or excluded URIs, which peers read differently"
			}
			if e.Kind == AgentCA {
				return checkAgentCA(cert)
			}
			return checkServiceCA(cert)
		},
	}
}

// GnuTLS applies any DNS constraint to CN=<uuid>, and would refuse every agent.
func checkAgentCA(cert *x509.Certificate) string {
	if len(cert.PermittedDNSDomains)+len(cert.ExcludedDNSDomains)+len(cert.PermittedIPRanges)+len(cert.ExcludedIPRanges) > 0 {
		return "an agent CA constrains URIs only"
	}
	return ""
}

// checkServiceCA: a type of name that is not limited is excluded whole, since RFC 5280 leaves what is not mentioned free.
func checkServiceCA(cert *x509.Certificate) string {
	if len(cert.PermittedDNSDomains) == 0 && !slices.Equal(cert.ExcludedDNSDomains, []string{""}) {
		return "DNS names are neither limited nor excluded"
	}
	if len(cert.PermittedIPRanges) == 0 && !excludesAllIPs(cert) {
		return "IP addresses are neither limited nor excluded"
	}
	return ""
}

func excludesAllIPs(cert *x509.Certificate) bool {
	var v4, v6 bool
	for _, r := range cert.ExcludedIPRanges {
		ones, bits := r.Mask.Size()
		v4 = v4 || (ones == 0 && bits == 32)
		v6 = v6 || (ones == 0 && bits == 128)
	}
	return v4 && v6
}
