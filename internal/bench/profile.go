package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/internal/dev"
)

// serveProfiled is the development appliance with a CPU profile that SIGUSR1 starts and stops. Each profile is a file of
// its own: FILE-1, FILE-2.
func serveProfiled(ctx context.Context, dir, file string) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var g errgroup.Group
	g.Go(func() error {
		defer stop()
		return dev.Run(ctx, dev.Options{Dir: dir, Listen: "127.0.0.1:0", Out: os.Stdout, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	})
	g.Go(func() error { return profiles(ctx, file) })
	return g.Wait()
}

func profiles(ctx context.Context, file string) error {
	toggle := make(chan os.Signal, 1)
	signal.Notify(toggle, syscall.SIGUSR1)
	defer signal.Stop(toggle)
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-toggle:
		}
		if err := profile(ctx, fmt.Sprintf("%s-%d", file, n), toggle); err != nil {
			return err
		}
	}
}

func profile(ctx context.Context, file string, toggle <-chan os.Signal) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	select {
	case <-ctx.Done():
	case <-toggle:
	}
	pprof.StopCPUProfile()
	return f.Close()
}
