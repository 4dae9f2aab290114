// Command records is an example of a service that agents call: it serves records to whoever holds the scope for them. It
// verifies every caller itself, follows the appliance's revocations, takes access tokens, and asks the appliance for a
// decision where it is told to. README.md tells how to run it.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
)

// options are the command line.
type options struct {
	appliance, roots, cert, key, listen string
	staleness                           time.Duration
	decisions                           bool
}

func main() {
	var o options
	flag.StringVar(&o.appliance, "appliance", "https://127.0.0.1:8443", "URL of the appliance")
	flag.StringVar(&o.roots, "roots", "root.pem", "PEM file of the trust domain's roots, got on a way that is trusted")
	flag.StringVar(&o.cert, "cert", "records.pem", "PEM file of this service's certificate with its CA")
	flag.StringVar(&o.key, "key", "records.key", "PEM file of its key")
	flag.StringVar(&o.listen, "listen", "127.0.0.1:9443", "HOST:PORT to serve at")
	flag.DurationVar(&o.staleness, "max-staleness", 15*time.Second, "with revocations older than this nobody is let through")
	flag.BoolVar(&o.decisions, "decisions", false, "ask the appliance for a decision on every read, besides")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := o.run(ctx)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "records:", err)
		os.Exit(1)
	}
}

func (o options) run(ctx context.Context) error {
	own, err := tls.LoadX509KeyPair(o.cert, o.key)
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(o.roots)
	if err != nil {
		return err
	}
	roots, err := chain.ParsePEM(pem, 0)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	appliance, err := client.New(client.Config{URL: o.appliance, Roots: pool, Certificate: &own})
	if err != nil {
		return err
	}
	defer appliance.Close()
	feed, verifier, err := o.trust(ctx, appliance, roots, own.Leaf)
	if err != nil {
		return err
	}
	var decisions client.Evaluator
	if o.decisions {
		decisions = appliance
	}
	server := &http.Server{
		Handler: handler(verifier, decisions), ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 64 << 10,
		TLSConfig: client.ServerTLS(func() (*tls.Certificate, error) { return &own, nil }),
	}
	return o.serve(ctx, server, feed, func(ctx context.Context) error { return verifier.Run(ctx, appliance) })
}

// trust is who this service believes, and from whom it learns what is revoked.
func (o options) trust(ctx context.Context, appliance *client.Client, roots []*x509.Certificate, own *x509.Certificate) (*client.Feed, *client.Verifier, error) {
	if len(own.URIs) != 1 {
		return nil, nil, errors.New("the certificate has no SPIFFE ID")
	}
	id, err := chain.ParseID(own.URIs[0].String())
	if err != nil {
		return nil, nil, err
	}
	origin, err := appliance.Origin(ctx)
	if err != nil {
		return nil, nil, err
	}
	feed, err := appliance.NewFeed(client.FeedConfig{Origin: origin, TrustDomain: id.TrustDomain()})
	if err != nil {
		return nil, nil, err
	}
	verifier, err := client.NewVerifier(client.VerifierConfig{
		TrustDomain: id.TrustDomain(), Roots: roots, Revocations: feed, MaxStaleness: o.staleness,
		Tokens: &client.TokenConfig{Issuer: origin, Audience: id.String()},
	})
	return feed, verifier, err
}

// serve runs until ctx ends. Until the feed was read once, everybody is refused.
func (o options) serve(ctx context.Context, server *http.Server, feed *client.Feed, refresh func(context.Context) error) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return err
	}
	fmt.Printf("records at https://%s\n", ln.Addr())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return feed.Run(ctx) })
	g.Go(func() error { return refresh(ctx) })
	g.Go(func() error { return server.ServeTLS(ln, "", "") })
	g.Go(func() error {
		<-ctx.Done()
		return errors.Join(ctx.Err(), server.Close())
	})
	return g.Wait()
}
