package appliance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// listenerTTL is the life of the port's certificate; it is renewed when a third of it is left.
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
	l.cert.Store(&tls.Certificate{Certificate: issued.Chain, PrivateKey: key})
	return nil
}

// Run renews the certificate in good time, until ctx ends.
func (l *listener) Run(ctx context.Context) error {
	tick := time.NewTicker(listenerTTL * 2 / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := l.renew(ctx); err != nil {
				l.log.Error("the listener's certificate was not renewed", slog.Any("error", err))
				tick.Reset(time.Minute)
				continue
			}
			tick.Reset(listenerTTL * 2 / 3)
		}
	}
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
