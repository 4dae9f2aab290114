package chain

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// ErrTrust is wrapped by every refusal of a trust bundle.
var ErrTrust = errors.New("invalid trust bundle")

// Trust is what a relying party trusts. A literal works; one from NewTrust verifies faster.
type Trust struct {
	TrustDomain   string // compared exactly
	Roots         []*x509.Certificate
	Intermediates []*x509.Certificate // issuing CAs known in advance, besides those that a chain brings along

	anchors []anchor
	paths   paths
}

// anchor is an issuing CA whose path to a root was verified when the bundle was made. The root's signature, P-384 as a rule,
// costs eight times the rest of a path.
type anchor struct{ ca, root *x509.Certificate }

// NewTrust checks a bundle: at least one root, all of them CAs, every intermediate with a path to a root.
func NewTrust(trustDomain string, roots, intermediates []*x509.Certificate) (*Trust, error) {
	if err := CheckTrustDomain(trustDomain); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTrust, err)
	}
	if len(roots) == 0 {
		return nil, fmt.Errorf("%w: no root", ErrTrust)
	}
	for i, root := range roots {
		if !root.IsCA {
			return nil, fmt.Errorf("%w: root %d is no CA", ErrTrust, i)
		}
	}
	t := &Trust{TrustDomain: trustDomain, Roots: roots, Intermediates: intermediates}
	for i, ca := range intermediates {
		if !ca.IsCA {
			return nil, fmt.Errorf("%w: intermediate %d is no CA", ErrTrust, i)
		}
		paths, err := ca.Verify(x509.VerifyOptions{
			Roots: pool(roots), Intermediates: pool(intermediates), CurrentTime: ca.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if err != nil {
			return nil, fmt.Errorf("%w: intermediate %d: %w", ErrTrust, i, err)
		}
		for _, path := range paths {
			if len(path) == 2 && transparent(path[1]) {
				t.anchors = append(t.anchors, anchor{ca: ca, root: path[1]})
			}
		}
	}
	return t, nil
}

// transparent says that a root adds no rule of RFC 5280 §6 to paths through a CA directly below it, apart from its own
// validity and signature.
func transparent(root *x509.Certificate) bool {
	constrained := len(root.PermittedDNSDomains)+len(root.ExcludedDNSDomains)+len(root.PermittedURIDomains)+len(root.ExcludedURIDomains)+
		len(root.PermittedIPRanges)+len(root.ExcludedIPRanges)+len(root.PermittedEmailAddresses)+len(root.ExcludedEmailAddresses) > 0
	usages := len(root.ExtKeyUsage) + len(root.UnknownExtKeyUsage)
	return !constrained && usages == 0 && root.MaxPathLen != 0 && len(root.UnhandledCriticalExtensions) == 0
}

// verifiedAt returns the issuing CAs that need no further look at their root at this time.
func (t *Trust) verifiedAt(now time.Time) *x509.CertPool {
	p := x509.NewCertPool()
	for _, a := range t.anchors {
		if !now.Before(a.root.NotBefore) && !now.After(a.root.NotAfter) {
			p.AddCert(a.ca)
		}
	}
	return p
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range certs {
		p.AddCert(c)
	}
	return p
}
