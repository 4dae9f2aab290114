package appliance

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/big"
	"sync"
	"time"

	"github.com/signet-pki/signet/api"
	"github.com/signet-pki/signet/ca"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

const (
	crlSign = 10 * time.Second
	crlLook = 5 * time.Second // how late a revocation that the feed did not tell of is noticed
)

// crls keeps the newest list of each service CA. Anybody may ask for one, so asking costs no signature: they are signed
// in the background, and one that could not be renewed is served until it ends.
type crls struct {
	certifier *certifier
	domain    *delegation.Service
	life      time.Duration // until nextUpdate; a list is signed anew after a third of it, or when something was revoked
	now       func() time.Time
	log       *slog.Logger

	mu    sync.RWMutex
	lists map[string]crl
}

type crl struct {
	der    []byte
	made   time.Time
	newest uint64 // revocation in it
}

func newCRLs(c *certifier, d *delegation.Service, life time.Duration, now func() time.Time, log *slog.Logger) *crls {
	return &crls{certifier: c, domain: d, life: life, now: now, log: log, lists: map[string]crl{}}
}

// list gives the DER of a service CA's list, such as service-ca-1. A CA whose time has not come has none.
func (c *crls) list(name string) ([]byte, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	l, ok := c.lists[name]
	if !ok || !c.now().Before(l.made.Add(c.life)) {
		return nil, api.ErrNotFound
	}
	return l.der, nil
}

// Run signs the lists when something was revoked or they are getting old, until ctx ends.
func (c *crls) Run(ctx context.Context) error {
	tick := time.NewTicker(crlLook)
	defer tick.Stop()
	for {
		changed := c.domain.Revocations(delegation.Cursor{}, 0).Changed
		for i, issuer := range c.certifier.services {
			if err := c.renew(ctx, fmt.Sprintf("service-ca-%d", i+1), issuer); err != nil && ctx.Err() == nil {
				c.log.Warn("a CRL was not renewed", slog.Any("error", err))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

func (c *crls) renew(ctx context.Context, name string, issuer *ca.Issuer) error {
	now := c.now()
	if from, to := issuer.Validity(); now.Before(from) || now.After(to) {
		return nil
	}
	revoked, newest, err := c.revoked(ctx)
	if err != nil {
		return err
	}
	c.mu.RLock()
	l, ok := c.lists[name]
	c.mu.RUnlock()
	if ok && l.newest == newest && now.Sub(l.made) < c.life/3 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, crlSign)
	defer cancel()
	// Milliseconds grow from one list to the next, across restarts too.
	der, err := issuer.CRL(ctx, revoked, big.NewInt(now.UnixMilli()), now, now.Add(c.life))
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists[name] = crl{der, now, newest}
	return nil
}

// revoked lists the revoked certificates, those of a revoked orchestrator among them, and the number of the newest
// revocation that is in the list. Which service CA signed a serial is not known here; serials are random in 126 bits, so one
// of another CA is in the list and does no harm.
func (c *crls) revoked(ctx context.Context) (out []x509.RevocationListEntry, newest uint64, err error) {
	for from := (delegation.Cursor{}); ; {
		page := c.domain.Revocations(from, 1000)
		for _, r := range page.Revocations {
			serials, err := c.serials(ctx, r)
			if err != nil {
				return nil, 0, err
			}
			for _, text := range serials {
				if serial, ok := new(big.Int).SetString(text, 16); ok {
					out, newest = append(out, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: r.Time}), r.Seq
				}
			}
		}
		if len(page.Revocations) == 0 {
			return out, newest, nil
		}
		from = page.Next
	}
}

// serials are the certificates that a revocation ends and that stock software may be shown. Agents' are not among them: they
// say that no revocation is to be had (RFC 9608), and who believes them asks the feed. What is over names nobody any more.
func (c *crls) serials(ctx context.Context, r delegation.Revocation) ([]string, error) {
	if !r.Expires.IsZero() && !c.now().Before(r.Expires) {
		return nil, nil
	}
	switch r.Kind {
	case chain.RevCertificate:
		agents, err := c.domain.OfAgent(r.ID)
		if err != nil || agents {
			return nil, err
		}
		return []string{r.ID}, nil
	case chain.RevOrchestrator:
		return c.domain.CertificatesOf(ctx, r.ID)
	case chain.RevUnknown, chain.RevAgent, chain.RevSubtree, chain.RevTask, chain.RevGrant, chain.RevUser:
	}
	return nil, nil
}
