package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/api"
	"github.com/signet-pki/signet/policy/opa"
)

// conformance is the port of AuthZEN's certification scenario. It is made of nothing that decides about agents: it has the
// appliance's TLS certificate and a policy of its own.
type conformance struct {
	scenario *opa.Scenario
	listen   string
	now      func() time.Time
	log      *slog.Logger
}

// newConformance is nil where the configuration asks for none.
func (c *Config) newConformance(ctx context.Context, now func() time.Time, log *slog.Logger) (*conformance, error) {
	if c.Conformance == nil {
		return nil, nil //nolint:nilnil // none is a value here
	}
	// The configuration's check says so too; whoever made a Config in another way is told here.
	if !c.Development || !c.Conformance.loopback() {
		return nil, errors.New("conformance: allowed with development: true and on a loopback address only")
	}
	s, err := opa.NewScenario(ctx)
	if err != nil {
		return nil, fmt.Errorf("conformance: %w", err)
	}
	return &conformance{scenario: s, listen: c.Conformance.Listen, now: now, log: log}, nil
}

// run serves the scenario until the group's context ends.
func (p *conformance) run(ctx context.Context, g *errgroup.Group, l *listener) error {
	if p == nil {
		return nil
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", p.listen)
	if err != nil {
		return fmt.Errorf("conformance: %w", err)
	}
	url := "https://" + ln.Addr().String()
	server, err := api.NewConformance(api.ConformanceConfig{URL: url, Permits: p.scenario.Permits, Now: p.now, Logger: p.log})
	if err != nil {
		return errors.Join(err, ln.Close())
	}
	p.log.Warn("conformance profile: its answers are about made-up subjects and decide nothing", slog.String("url", url))
	g.Go(func() error { return server.Run(ctx, ln, l.tls()) })
	return nil
}

func (c Conformance) loopback() bool {
	at, err := netip.ParseAddrPort(c.Listen)
	return err == nil && at.Addr().IsLoopback()
}
