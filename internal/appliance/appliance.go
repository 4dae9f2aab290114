package appliance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/api"
	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// Options are what only the caller knows.
type Options struct {
	Mounts map[string]http.Handler // extra handlers by path prefix: the development provider
	Now    func() time.Time        // nil: the system's clock
	Log    *slog.Logger
}

// Appliance is an opened appliance. Run uses it once.
type Appliance struct {
	cfg      Config
	devices  devices
	log      *audit.Log
	domain   *delegation.Service
	listener *listener
	monitor  *monitor
	archive  *archive // nil: nothing is pruned
	crls     *crls
	puller   *puller // nil: nothing is pulled
	senders  senders
	idps     providers
	server   *api.Server
	scenario *conformance // nil outside conformance tests
	logger   *slog.Logger

	witnesses *witnesses
	witness   *cosigner // nil: it is none
}

// New opens the devices, the log and the policy, and checks that they belong together. On an error nothing stays open.
func New(ctx context.Context, c Config, o Options) (a *Appliance, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if err := c.checkRestored(); err != nil {
		return nil, err
	}
	a = &Appliance{cfg: c, logger: o.Log}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if a.devices, err = c.openDevices(ctx, o.Log); err != nil {
		return a, err
	}
	if c.Development {
		o.Log.Warn("development appliance: software devices protect nothing")
	}
	indexKey, err := os.ReadFile(c.indexKey())
	if err != nil {
		return a, fmt.Errorf("index key: %w", err)
	}
	if err := a.openLog(ctx, indexKey, o.Now); err != nil {
		return a, err
	}
	return a, a.assemble(ctx, indexKey, o)
}

func (a *Appliance) openLog(ctx context.Context, indexKey []byte, now func() time.Time) error {
	key, err := a.devices.audit.key(ctx, "audit")
	if err != nil {
		return fmt.Errorf("audit key: %w", err)
	}
	cfg := a.cfg.auditConfig(key, quoter{a.devices.tpm}, indexKey, now, a.logger.With(slog.String("part", "audit")))
	cfg.Keys = auditKeys(a.devices.audit)
	a.log, err = audit.Open(ctx, cfg)
	return err
}

// policyTimeout bounds one evaluation by the wall clock. With 50 ms, permitted requests were denied on two busy cores;
// a hostile policy is cut off in a quarter of a second all the same.
const policyTimeout = 150 * time.Millisecond

// assemble makes the parts that hold no resource.
func (a *Appliance) assemble(ctx context.Context, indexKey []byte, o Options) error {
	t, err := a.cfg.loadTrust()
	if err != nil {
		return err
	}
	if err := a.cfg.checkCeremony(ctx, a.log, t, a.devices.binding); err != nil {
		return err
	}
	certifier, err := a.cfg.newCertifier(ctx, t, a.devices.issuing, o.Now)
	if err != nil {
		return err
	}
	keys, err := a.cfg.policyKeys(t)
	if err != nil {
		return err
	}
	engine := newPolicies(keys)
	statements, err := a.cfg.newStatements(ctx, t, a.devices.issuing)
	if err != nil {
		return err
	}
	if a.senders, err = a.cfg.newSenders(a.log, a.logger); err != nil {
		return err
	}
	a.monitor = newMonitor(a.logger, a.probes(certifier, o.Now)...)
	if a.idps, err = a.cfg.newProviders(o.Now); err != nil {
		return err
	}
	if a.domain, err = a.newDomain(ctx, t, certifier, statements, engine, indexKey, o.Now); err != nil {
		return err
	}
	if a.puller, err = a.cfg.newPuller(a.domain.ReceiveBundle, a.logger.With(slog.String("part", "policy"))); err != nil {
		return err
	}
	a.listener = &listener{domain: a.domain, names: a.cfg.Names, td: a.cfg.TrustDomain, now: o.Now, log: a.logger}
	if a.scenario, err = a.cfg.newConformance(ctx, o.Now, a.logger); err != nil {
		return err
	}
	return a.newServer(ctx, t, certifier, engine, indexKey, o)
}

func (a *Appliance) newDomain(ctx context.Context, t trust, cert *certifier, statements *statements, engine *policies, indexKey []byte, now func() time.Time) (*delegation.Service, error) {
	bundle, err := t.chain(a.cfg.TrustDomain)
	if err != nil {
		return nil, err
	}
	resources, err := chain.ParseCatalogue(a.cfg.Resources)
	if err != nil {
		return nil, err
	}
	workloads, err := a.cfg.newWorkloads()
	if err != nil {
		return nil, err
	}
	tpms, err := a.cfg.newTPMs(now)
	if err != nil {
		return nil, err
	}
	var archive delegation.Archive
	if r := a.cfg.Retention; r != nil {
		a.archive = newArchive(*r, a.log, a.senders, now)
		archive = a.archive
	}
	limits := a.cfg.Limits.domain()
	limits.Quotas = a.cfg.Quotas.limits()
	limits.OperatorTTL, limits.Heartbeat = operatorTTL, a.cfg.Revocation.Heartbeat
	return delegation.New(ctx, delegation.Config{
		Origin: a.cfg.Origin, Trust: bundle, Log: domainLog{a.log}, Records: domainLog{a.log}, Archive: archive, Certifier: cert, Statements: statements, Policy: &engine.active, Bundles: engine, Resources: resources,
		Ready: a.monitor.ready, Signing: a.devices.issuing.Ready, Provider: a.idps.available, Proofs: a.idps, Pseudonym: pseudonyms(indexKey), Clients: a.cfg.clients(),
		Workloads: workloads, TPM: tpms, Limits: limits, Now: now, Rand: rand.Reader, Logger: a.logger,
	})
}

// ErrReopen is Run's error where the log ended in order to be opened again: see [audit.ErrReopen].
var ErrReopen = audit.ErrReopen

// Run serves on ln until ctx ends or the log does, then stops in order: the requests, what they left to do, the last checkpoint and
// seal, the log, the keys.
func (a *Appliance) Run(ctx context.Context, ln net.Listener) error {
	// The log outlives what appends to it.
	logCtx, stopLog := context.WithCancel(context.WithoutCancel(ctx))
	defer stopLog()
	var log errgroup.Group
	serveCtx, stopServing := context.WithCancel(ctx)
	defer stopServing()
	log.Go(func() error {
		defer stopServing()
		return a.log.Run(logCtx)
	})
	err := a.serve(serveCtx, ln)
	stopLog()
	return errors.Join(err, log.Wait(), a.close())
}

func (a *Appliance) serve(ctx context.Context, ln net.Listener) error {
	if err := a.domain.Recover(ctx); err != nil {
		// The log takes nothing now: what a crash left open is reported at the next start.
		a.logger.Error("open issuances were not reported", slog.Any("error", err))
	}
	if err := a.domain.KeepPolicy(ctx); err != nil {
		// Everything is denied until the probe, which tries again, finds it loaded.
		a.logger.Error("policy not loaded", slog.Any("error", err))
	}
	// The domain ends after the server: what drained requests leave to do is done.
	domainCtx, stopDomain := context.WithCancel(context.WithoutCancel(ctx))
	defer stopDomain()
	var domain errgroup.Group
	domain.Go(func() error { return a.domain.Run(domainCtx) })
	err := a.listen(ctx, ln)
	stopDomain()
	return errors.Join(err, domain.Wait())
}

func (a *Appliance) listen(ctx context.Context, ln net.Listener) error {
	if err := a.listener.begin(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	if err := a.scenario.run(ctx, g, a.listener); err != nil {
		return err
	}
	g.Go(func() error { return a.monitor.Run(ctx) })
	g.Go(func() error { return a.crls.Run(ctx) })
	g.Go(func() error { return a.puller.Run(ctx) })
	g.Go(func() error { return a.senders.Run(ctx) })
	g.Go(func() error { return a.witnesses.Run(ctx) })
	g.Go(func() error { return a.runBackups(ctx) })
	g.Go(func() error { return a.listener.Run(ctx) })
	g.Go(func() error { return a.server.Run(ctx, ln, a.listener.tls()) })
	return g.Wait()
}

// WaitReady returns when the appliance may issue, or with the reason why it may not when ctx ends.
func (a *Appliance) WaitReady(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := a.monitor.ready()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// close closes the log, then the keys.
func (a *Appliance) close() error {
	var err error
	if a.log != nil {
		err = a.log.Close()
	}
	return errors.Join(err, a.devices.Close())
}

// Serve is the daemon: New and Run on the configured address.
func Serve(ctx context.Context, c Config, log *slog.Logger) error {
	debug.SetMemoryLimit(c.Limits.Memory)
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	a, err := New(ctx, c, Options{Log: log})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	return a.Run(ctx, ln)
}
