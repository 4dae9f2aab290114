package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/client/workload"
)

// serveCommand runs beside an agent and is its Workload API. What it serves it takes from the files of --cert, --key and --root.
type serveCommand struct {
	Socket string        `name:"socket" required:"" placeholder:"PATH" help:"The Unix socket, in a directory of its owner alone, which is made if it is not there."`
	Every  time.Duration `name:"every" default:"5s" help:"How often to look whether the files changed."`
}

// Run serves until it is interrupted.
func (q serveCommand) Run(ctx context.Context, s *session) error {
	if s.Cert == "" || s.Key == "" || s.Root == "" {
		return errors.New("--cert, --key, --root: required for this")
	}
	if q.Every <= 0 {
		return errors.New("--every: a positive duration")
	}
	files := workload.Files{Cert: s.Cert, Key: s.Key, Roots: s.Root}
	first, err := files.Load(s.now())
	if err != nil {
		return err
	}
	ln, err := workload.Listen(ctx, q.Socket)
	if err != nil {
		return err
	}
	server := workload.New()
	server.Set(first)
	s.say("signet: serving %s at unix://%s", first.ID(), q.Socket)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return server.Run(ctx, ln) })
	g.Go(func() error {
		return files.Follow(ctx, server, q.Every, func(err error) { s.say("signet: still serving the earlier certificate: %v", err) })
	})
	if err := g.Wait(); !errors.Is(err, context.Canceled) {
		return fmt.Errorf("agent: %w", err)
	}
	return nil // interrupted, as it is meant to end
}
