package appliance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"sync/atomic"
	"time"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// listenerTTL is the life of the port's certificate.
const listenerTTL = 24 * time.Hour

// listener holds the port's certificate. Its key is made at each start and never leaves memory.
type listener struct {
	domain *delegation.Service
	names  Names
	td     string
	now    func() time.Time
	log    *slog.Logger
	cert   atomic.Pointer[tls.Certificate]
}

// renew makes a key and has it certified.
func (l *listener) renew(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	id, err := chain.NamedID(l.td, chain.Service, delegation.ListenerName)
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	issued, err := l.domain.IssueListener(ctx, delegation.Template{
		ID: id, SPKI: spki, NotAfter: l.now().Add(listenerTTL), DNSNames: l.names.DNS, IPs: l.names.addresses(),
	})
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	leaf, err := x509.ParseCertificate(issued.Chain[0])
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	l.cert.Store(&tls.Certificate{Certificate: issued.Chain, PrivateKey: key, Leaf: leaf})
	return nil
}

// Run renews the certificate when a third of its life is left, and in place of one that nobody can trust at once, until
// ctx ends. It looks at the clock again and again: one that was set, or that went on while the machine slept, counts.
func (l *listener) Run(ctx context.Context) error {
	tick := time.NewTicker(retryRenewal)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if !l.due() {
				continue
			}
			if err := l.renew(ctx); err != nil {
				l.log.Error("the listener's certificate was not renewed", slog.Any("error", err))
			}
		}
	}
}

// retryRenewal is how often Run looks, and so how soon a renewal that failed is tried again.
const retryRenewal = 10 * time.Second

// due says whether the present certificate should be replaced.
func (l *listener) due() bool {
	c := l.cert.Load()
	if c == nil || c.Leaf == nil {
		return true
	}
	third := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore) / 3
	return !l.now().Before(c.Leaf.NotAfter.Add(-third))
}

// begin gets the first certificate. An appliance that cannot issue one still answers, with a certificate that nobody can
// trust, so that /readyz can say why.
func (l *listener) begin(ctx context.Context) error {
	err := l.renew(ctx)
	if err == nil {
		return nil
	}
	l.log.Error("the listener has no certificate of its own and answers with a self-signed one", slog.Any("error", err))
	return l.selfSign()
}

func (l *listener) selfSign() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	now := l.now()
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Signet is not ready"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(listenerTTL), DNSNames: l.names.DNS, IPAddresses: l.names.addresses(),
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return fmt.Errorf("listener: %w", err)
	}
	l.cert.Store(&tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key})
	return nil
}

// tls is TLS 1.3 without tickets: a resumed session would skip the verification of a certificate that may be revoked.
func (l *listener) tls() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true,
		NextProtos:             []string{"h2", "http/1.1"},
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return l.cert.Load(), nil },
	}
}

func (n Names) addresses() []net.IP {
	var out []net.IP
	for _, s := range n.IPs {
		if ip := net.ParseIP(s); ip != nil {
			out = append(out, ip)
		}
	}
	return out
}
