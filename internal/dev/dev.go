// Package dev runs a whole development appliance in one process: SoftHSM and swtpm as devices, an OpenID provider, the
// appliance itself, and on request the demonstration. It protects nothing and says so.
//
// A directory is made whole or not at all and belongs to one process at a time; run again on it, the appliance
// continues its log and its identity.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/demo"
	"github.com/signet-pki/signet/internal/devkit"
	"github.com/signet-pki/signet/internal/devkit/idp"
	"github.com/signet-pki/signet/internal/durable"
)

// Options say where and what to run.
type Options struct {
	Dir    string // of the appliance; made on the first run
	Listen string // host:port; port 0 takes a free one
	Demo   bool   // run the demonstration once the appliance is ready
	Exit   bool   // stop after it
	// TPMKeys keeps all keys in the software TPM, and TokensOverTPM in tokens of tpm2-pkcs11 over another one. They are for the
	// first run, later ones find them there.
	TPMKeys, TokensOverTPM bool
	// Conformance is where to serve AuthZEN's certification scenario, a loopback host:port; nowhere by default.
	Conformance string
	Out         io.Writer
	Log         *slog.Logger
}

// readyWithin is how long the appliance may take to become ready.
const readyWithin = 30 * time.Second

// Run serves until ctx ends, or with Exit until the demonstration is over, whose failure is the error.
func Run(ctx context.Context, o Options) (err error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	unlock, err := claim(dir)
	if err != nil {
		return err
	}
	defer unlock()
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen)
	if err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	defer func() { _ = ln.Close() }() // the server closes it too
	if err := provision(ctx, dir, ln.Addr().String(), o); err != nil {
		return err
	}
	devices, err := devkit.Start(ctx, devicesDir(dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, devices.Stop()) }()
	return serve(ctx, dir, ln, devices, o)
}

// claim makes sure that no other process uses dir.
func claim(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o750); err != nil {
		return nil, fmt.Errorf("dev: %w", err)
	}
	unlock, err = durable.Lock(dir + ".lock")
	if err != nil {
		return nil, fmt.Errorf("dev: another signetd dev uses %s: %w", dir, err)
	}
	return unlock, nil
}

// provision makes devices and holds the ceremony in a directory beside dir, which then takes dir's name.
func provision(ctx context.Context, dir, addr string, o Options) error {
	if _, err := os.Stat(dir); err == nil {
		if !devkit.Provisioned(devicesDir(dir)) {
			return fmt.Errorf("dev: %s exists and is no development appliance", dir)
		}
		if o.TPMKeys && !keysInTPM(dir) {
			return fmt.Errorf("dev: the keys of %s are in tokens", dir)
		}
		if o.TokensOverTPM && devkit.TokensOf(devicesDir(dir)) != devkit.OverTPM {
			return fmt.Errorf("dev: the tokens of %s are not over a TPM", dir)
		}
		return nil
	}
	o.Log.Info("making a development appliance", slog.String("dir", dir))
	half := dir + ".half"
	// What an interrupted first run left was never used.
	if err := os.RemoveAll(half); err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	if err := os.Mkdir(half, 0o700); err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	if err := holdCeremony(ctx, half, addr, o); err != nil {
		return err
	}
	if err := os.Rename(half, dir); err != nil {
		return fmt.Errorf("dev: %w", err)
	}
	return durable.SyncDir(filepath.Dir(dir))
}

func holdCeremony(ctx context.Context, dir, addr string, o Options) (err error) {
	tokens := devkit.InSoftHSM
	if o.TokensOverTPM {
		tokens = devkit.OverTPM
	}
	if err := devkit.Make(ctx, devicesDir(dir), tokens); err != nil {
		return err
	}
	public, err := makeKey(dir, operatorKey)
	if err != nil {
		return err
	}
	if err := makePolicyKey(dir); err != nil {
		return err
	}
	devices, err := devkit.Start(ctx, devicesDir(dir))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, devices.Stop()) }()
	cfg, err := config(dir, addr, devices, o.TPMKeys)
	if err != nil {
		return err
	}
	cfg.Ceremony.Operator.PublicKey = public
	return appliance.Init(ctx, cfg, o.Log)
}

// serve runs the appliance, and the demonstration beside it.
func serve(ctx context.Context, dir string, ln net.Listener, devices *devkit.Devices, o Options) error {
	addr := ln.Addr().String()
	cfg, err := config(dir, addr, devices, keysInTPM(dir))
	if err != nil {
		return err
	}
	if o.Conformance != "" {
		cfg.Conformance = &appliance.Conformance{Listen: o.Conformance}
	}
	if err := saveConfig(dir, cfg); err != nil {
		return err
	}
	provider, err := idp.New(idp.Config{
		Issuer: cfg.IdentityProviders[0].Issuer, ClientID: cfg.IdentityProviders[0].ClientID,
		RedirectURIs: []string{cfg.PublicURL + "/v1/grants/callback/" + cfg.IdentityProviders[0].Name},
		Stopped:      func() bool { return exists(filepath.Join(dir, "idp.stopped")) }, Now: time.Now,
	})
	if err != nil {
		return err
	}
	a, err := appliance.New(ctx, cfg, appliance.Options{Mounts: map[string]http.Handler{"/idp/": provider}, Log: o.Log})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.Run(ctx, ln) })
	g.Go(func() error { return guide(ctx, a, dir, cfg, o, stop) })
	return g.Wait()
}

// guide waits until the appliance is ready, runs the demonstration, and tells what there is.
func guide(ctx context.Context, a *appliance.Appliance, dir string, cfg appliance.Config, o Options, stop func()) error {
	wait, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := a.WaitReady(wait); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("dev: not ready within %s: %w", readyWithin, err)
	}
	if o.Demo {
		err := demo.Run(ctx, demo.Config{Dir: dir, URL: cfg.PublicURL, Out: o.Out})
		if err != nil || o.Exit {
			stop()
			return err
		}
	}
	_, _ = fmt.Fprintf(o.Out, "Signet (development) serves at %s\n  root certificate  %s\n  operator          %s, %s\nCtrl-C stops it.\n",
		cfg.PublicURL, filepath.Join(dir, "pki", "root.pem"), filepath.Join(dir, "pki", "operator.pem"), filepath.Join(dir, operatorKey))
	if o.Exit {
		stop()
	}
	return nil
}

// keysInTPM tells by the directory that the ceremony makes.
func keysInTPM(dir string) bool { return exists(filepath.Join(dir, "keys")) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
