package lint

import (
	"crypto/x509"
	"net"
	"strings"
)

// The CA's own constraints are applied here as well, so that no certificate is logged and signed that no peer accepts.
func ruleIssuerConstraints() rule {
	return rule{
		id: "issuer_constraints", citation: "RFC 5280 §4.2.1.10, §6.1.3 (b), (c)", kinds: []Kind{Agent, Service},
		check: func(cert *x509.Certificate, e Expect) string {
			for _, uri := range cert.URIs {
				if uri.Host != e.TrustDomain || !contains(e.Issuer.PermittedURIDomains, uri.Host) {
					return "the URI's host is not permitted by the issuer"
				}
			}
			for _, name := range cert.DNSNames {
				if !under(e.Issuer.PermittedDNSDomains, name) {
					return "DNS name " + name + " is not permitted by the issuer"
				}
			}
			for _, ip := range cert.IPAddresses {
				if !within(e.Issuer.PermittedIPRanges, ip) {
					return "IP address " + ip.String() + " is not permitted by the issuer"
				}
			}
			return ""
		},
	}
}

// contains compares exactly, as OpenSSL does and RFC 5280 says: Go alone lets a URI constraint cover subdomains.
func contains(hosts []string, host string) bool {
	for _, h := range hosts {
		if h == host {
			return true
		}
	}
	return false
}

func under(domains []string, name string) bool {
	for _, d := range domains {
		if name == d || strings.HasSuffix(name, "."+d) {
			return true
		}
	}
	return false
}

func within(ranges []*net.IPNet, ip net.IP) bool {
	for _, r := range ranges {
		if r.Contains(ip) {
			return true
		}
	}
	return false
}
