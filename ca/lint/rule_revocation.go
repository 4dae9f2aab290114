package lint

import (
	"bytes"
	"crypto/x509"
	"net/url"
)

func ruleRevocation() rule {
	return rule{
		id: "revocation", citation: "RFC 9608 §2, §3; RFC 5280 §4.2.1.13", kinds: allKinds(),
		check: func(cert *x509.Certificate, e Expect) string {
			if len(cert.OCSPServer) > 0 {
				return "an OCSP responder is named, and there is none"
			}
			noRevAvail := extension(cert, ceNoRevAvail)
			if noRevAvail != nil && !bytes.Equal(noRevAvail.Value, []byte{0x05, 0x00}) {
				return "noRevAvail is not NULL"
			}
			points := extension(cert, ceCRLPoints)
			if points != nil {
				return checkPoints(cert, e, noRevAvail != nil)
			}
			short := e.Kind == Agent && cert.NotAfter.Sub(cert.NotBefore) <= ShortLived
			if short != (noRevAvail != nil) {
				return "noRevAvail belongs to agents of at most ten minutes, and to all of those"
			}
			return ""
		},
	}
}

// checkPoints: one http URL, and never together with noRevAvail.
func checkPoints(cert *x509.Certificate, e Expect, noRevAvail bool) string {
	if noRevAvail {
		return "noRevAvail and a CRL pointer exclude one another"
	}
	if e.Kind == Agent && cert.NotAfter.Sub(cert.NotBefore) <= ShortLived {
		return "an agent of at most ten minutes has a CRL pointer"
	}
	if len(cert.CRLDistributionPoints) != 1 {
		return "there is not exactly one CRL pointer"
	}
	u, err := url.Parse(cert.CRLDistributionPoints[0])
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil {
		return "the CRL pointer is no http URL"
	}
	return ""
}
