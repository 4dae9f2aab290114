package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/client/workload"
	"github.com/signet-pki/signet/delegation/chain"
)

// serveCommand runs beside an agent and is its Workload API. With a token it makes the agent's key itself, keeps it in memory alone,
// and replaces it in time; else it serves what the files of --cert, --key and --root hold.
type serveCommand struct {
	Socket    string        `name:"socket" required:"" placeholder:"PATH" help:"The Unix socket, in a directory of its owner alone, which is made if it is not there."`
	Every     time.Duration `name:"every" default:"5s" help:"How often to look whether the files of --cert, --key and --root changed."`
	ID        string        `name:"id" placeholder:"UUID" and:"token" help:"Redeem the token of this agent instead of reading files: the key is made and kept in memory, and replaced in time."`
	TokenFile string        `name:"token-file" placeholder:"FILE" and:"token" help:"The file with that token."`
}

// Run serves until it is interrupted.
func (q serveCommand) Run(ctx context.Context, s *session) error {
	if q.Every <= 0 {
		return errors.New("--every: a positive duration")
	}
	// First, since a token is redeemed once.
	ln, err := workload.Listen(ctx, q.Socket)
	if err != nil {
		return err
	}
	server := workload.New()
	keep, err := q.source(ctx, s, server)
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx, ln) })
	g.Go(func() error { return keep(ctx) })
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("agent: %w", err)
	}
	return nil // interrupted, as it is meant to end
}

// source gets the first certificate, and what gives the server that and all that follow.
func (q serveCommand) source(ctx context.Context, s *session, server *workload.Server) (func(context.Context) error, error) {
	if q.ID != "" {
		return q.enroll(ctx, s, server)
	}
	if s.Cert == "" || s.Key == "" || s.Root == "" {
		return nil, errors.New("--cert, --key, --root, or --id, --token-file: required for this")
	}
	files := workload.Files{Cert: s.Cert, Key: s.Key, Roots: s.Root}
	first, err := files.Load(s.now())
	if err != nil {
		return nil, err
	}
	s.serving(first.ID(), q.Socket)
	return func(ctx context.Context) error {
		return files.Follow(ctx, server, q.Every, func(err error) { s.say("signet: still serving the earlier certificate: %v", err) })
	}, nil
}

func (s *session) serving(id chain.ID, socket string) {
	s.say("signet: serving %s at unix://%s", id, socket)
}

// enroll redeems the token. The key is nobody else's, and nowhere else.
func (q serveCommand) enroll(ctx context.Context, s *session, server *workload.Server) (func(context.Context) error, error) {
	token, err := readToken(q.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("--token-file: %w", err)
	}
	text, err := readFile(s.Root, maxFile)
	if err != nil {
		return nil, fmt.Errorf("--root: %w", err)
	}
	roots, err := chain.ParsePEM(text, chain.MaxChain)
	if err != nil {
		return nil, fmt.Errorf("--root: %s: %w", s.Root, err)
	}
	c, err := s.connectAs(nil)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert, err := redeem(ctx, key, func(csr string) (v1.Spawned, error) { return c.Enroll(ctx, q.ID, token, csr) })
	if err != nil {
		return nil, err
	}
	first, err := workload.NewIdentity(cert, roots, s.now())
	if err != nil {
		return nil, err
	}
	s.serving(first.ID(), q.Socket)
	return s.renewal(server, cert, roots, first.ID().AgentID()), nil
}

// redeem asks again after an answer that may have been lost: the same key gets the same certificate, and no other key ever does.
func redeem(ctx context.Context, key crypto.Signer, ask func(csr string) (v1.Spawned, error)) (*tls.Certificate, error) {
	for again := 4; ; again-- {
		cert, err := pairFor(key, ask)
		if err == nil || again == 0 || !ambiguous(err) {
			return cert, err
		}
		timer := time.NewTimer(time.Second)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// renewal replaces the agent's key again and again.
func (s *session) renewal(server *workload.Server, cert *tls.Certificate, roots []*x509.Certificate, agent string) func(context.Context) error {
	var pending crypto.Signer // asked for, with an answer that was lost: only for the same key it is given again
	r := workload.Renewal{
		Roots: roots, Warn: func(err error) { s.say("signet: no next certificate yet: %v", err) },
		Next: func(ctx context.Context, current *tls.Certificate) (*tls.Certificate, error) {
			if pending == nil {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					return nil, err
				}
				pending = key
			}
			next, err := s.rekey(ctx, current, agent, pending)
			if err == nil {
				pending = nil
			}
			return next, err
		},
	}
	return func(ctx context.Context) error { return r.Run(ctx, server, cert) }
}

func (s *session) rekey(ctx context.Context, current *tls.Certificate, agent string, key crypto.Signer) (*tls.Certificate, error) {
	c, err := s.connectAs(current)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	origin, err := c.Origin(ctx)
	if err != nil {
		return nil, err
	}
	link, err := client.SignRekey(current, origin, key.Public())
	if err != nil {
		return nil, err
	}
	return pairFor(key, func(csr string) (v1.Spawned, error) { return c.Rekey(ctx, agent, link, csr) })
}

// pairFor has a key certified.
func pairFor(key crypto.Signer, ask func(csr string) (v1.Spawned, error)) (*tls.Certificate, error) {
	csr, err := client.CSR(key)
	if err != nil {
		return nil, err
	}
	out, err := ask(csr)
	if err != nil {
		return nil, err
	}
	return client.Certificate(out.CertificateChain, key)
}
