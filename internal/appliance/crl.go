package appliance

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/signet-pki/signet/api"
	"github.com/signet-pki/signet/ca"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

const (
	crlLife    = time.Hour        // until nextUpdate
	crlRefresh = 10 * time.Minute // a list is signed anew when it is older, or when something was revoked
	crlSign    = 10 * time.Second
)

// crls keeps the newest list of each service CA. Anybody may ask for one, so asking must not cost a signature.
type crls struct {
	certifier *certifier
	domain    *delegation.Service
	now       func() time.Time

	mu    sync.Mutex
	lists map[string]crl
}

type crl struct {
	der     []byte
	made    time.Time
	entries int
}

func newCRLs(c *certifier, d *delegation.Service, now func() time.Time) *crls {
	return &crls{certifier: c, domain: d, now: now, lists: map[string]crl{}}
}

// list gives the DER of a service CA's list, such as service-ca-1. Agents never enter one (design §6).
func (c *crls) list(name string) ([]byte, error) {
	var issuer *ca.Issuer
	for i, s := range c.certifier.services {
		if fmt.Sprintf("service-ca-%d", i+1) == name {
			issuer = s
		}
	}
	if issuer == nil {
		return nil, api.ErrNotFound
	}
	revoked := c.revoked()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if l, ok := c.lists[name]; ok && l.entries == len(revoked) && now.Sub(l.made) < crlRefresh {
		return l.der, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), crlSign)
	defer cancel()
	// Milliseconds grow from one list to the next, across restarts too.
	der, err := issuer.CRL(ctx, revoked, big.NewInt(now.UnixMilli()), now, now.Add(crlLife))
	if err != nil {
		return nil, err
	}
	c.lists[name] = crl{der, now, len(revoked)}
	return der, nil
}

// revoked lists the revoked certificates. Serials are random in 126 bits, so one of another CA does no harm here.
func (c *crls) revoked() []x509.RevocationListEntry {
	var out []x509.RevocationListEntry
	for from := 0; ; {
		page := c.domain.Revocations(from, 1000)
		for _, r := range page {
			serial, ok := new(big.Int).SetString(r.ID, 16)
			if r.Kind == chain.RevCertificate && ok {
				out = append(out, x509.RevocationListEntry{SerialNumber: serial, RevocationTime: r.Time})
			}
		}
		if len(page) == 0 {
			return out
		}
		from += len(page)
	}
}
