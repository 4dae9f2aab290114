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

// serveProfiled is the development appliance with a CPU profile that SIGUSR1 starts and SIGUSR2 stops. Each profile is
// a file of its own: FILE-1, FILE-2.
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
	start, stop := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(start, syscall.SIGUSR1)
	signal.Notify(stop, syscall.SIGUSR2)
	defer signal.Stop(start)
	defer signal.Stop(stop)
	for n := 1; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-start:
		}
		if err := profile(ctx, fmt.Sprintf("%s-%d", file, n), stop); err != nil {
			return err
		}
	}
}

func profile(ctx context.Context, file string, stop <-chan os.Signal) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	select {
	case <-ctx.Done():
	case <-stop:
	}
	pprof.StopCPUProfile()
	return f.Close()
}
