package appliance

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/signet-pki/signet/ca"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// certifier chooses the issuing CA: the newest of the pre-signed ones whose time has come, so that the overlap of two is
// used and no certificate is cut short by the end of the older one.
type certifier struct {
	agents   []*ca.Issuer // by NotBefore
	services []*ca.Issuer
	now      func() time.Time
}

var _ delegation.Certifier = (*certifier)(nil)

// prepared remembers whose it is.
type prepared struct {
	*ca.Prepared
	issuer *ca.Issuer
}

// Facts are the certificate's.
func (p prepared) Facts() delegation.Facts {
	return delegation.Facts{
		Serial: p.Serial(), NotBefore: p.NotBefore(), NotAfter: p.NotAfter(), IssuerSPKIHash: chain.SPKIHash(p.issuer.Certificate()),
	}
}

var errNoCA = errors.New("no issuing CA is valid now: pre-sign more of them in a ceremony")

func (c *certifier) issuers(k chain.Kind) []*ca.Issuer {
	if k == chain.Agent {
		return c.agents
	}
	return c.services
}

// current is the CA that issues now.
func (c *certifier) current(k chain.Kind) (*ca.Issuer, error) { return c.at(k, c.now()) }

func (c *certifier) at(k chain.Kind, now time.Time) (*ca.Issuer, error) {
	for _, i := range slices.Backward(c.issuers(k)) {
		from, to := i.Validity()
		if !now.Before(from) && now.Before(to) {
			return i, nil
		}
	}
	return nil, errNoCA
}

// Limit is the end of the CA that issues now; the zero time when there is none.
func (c *certifier) Limit(k chain.Kind) time.Time {
	i, err := c.current(k)
	if err != nil {
		return time.Time{}
	}
	_, to := i.Validity()
	return to
}

// Prepare makes the to-be-signed certificate of t.
func (c *certifier) Prepare(t delegation.Template) (delegation.Prepared, error) {
	now := c.now() // once: the CA must be valid when it prepares
	i, err := c.at(t.ID.Kind(), now)
	if err != nil {
		return nil, err
	}
	var p *ca.Prepared
	if t.ID.Kind() == chain.Agent {
		p, err = i.PrepareAgent(ca.AgentRequest{
			SPIFFEID: t.ID.String(), CommonName: t.ID.AgentID(), SPKI: t.SPKI, NotAfter: t.NotAfter, Delegation: t.Delegation,
		}, now)
	} else {
		p, err = i.PrepareService(ca.ServiceRequest{
			SPIFFEID: t.ID.String(), CommonName: commonName(t.ID), SPKI: t.SPKI, NotAfter: t.NotAfter, DNSNames: t.DNSNames, IPs: t.IPs,
		}, now)
	}
	if err != nil {
		return nil, err
	}
	return prepared{p, i}, nil
}

// commonName avoids dots, which OpenSSL would hold against the CA's name constraint.
func commonName(id chain.ID) string {
	out := []byte(id.Name())
	for i, b := range out {
		if b == '.' {
			out[i] = '-'
		}
	}
	return string(out)
}

// Resume finds the CA of stored bytes.
func (c *certifier) Resume(k chain.Kind, tbs []byte) (delegation.Prepared, error) {
	for _, i := range c.issuers(k) {
		p, err := i.Resume(tbs)
		if errors.Is(err, ca.ErrForeign) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return prepared{p, i}, nil
	}
	return nil, fmt.Errorf("resume: %w", ca.ErrForeign)
}

// Issue signs with the CA that prepared.
func (c *certifier) Issue(ctx context.Context, p delegation.Prepared) ([][]byte, error) {
	own, ok := p.(prepared)
	if !ok {
		return nil, ca.ErrForeign
	}
	cert, err := own.issuer.Issue(ctx, own.Prepared)
	if err != nil {
		return nil, err
	}
	return cert.Chain, nil
}

// trust is the bundle that relying parties and the appliance itself verify with.
type trust struct {
	root     *x509.Certificate
	jwt      *x509.Certificate
	agents   []*x509.Certificate
	services []*x509.Certificate
}

func (t trust) chain(domain string) (*chain.Trust, error) {
	return chain.NewTrust(domain, []*x509.Certificate{t.root}, slices.Concat(t.agents, t.services))
}
