package appliance

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// checkEvery is how often the devices are asked, and checkWithin how long they may take: together they bound how late a
// vanished one is noticed.
const (
	checkEvery  = time.Second
	checkWithin = 3 * time.Second
	stale       = 3 * (checkEvery + checkWithin)
)

// probe is one thing that must hold for the appliance to issue.
type probe struct {
	name string
	// warn: its failure is shown and stops nothing.
	warn  bool
	check func(ctx context.Context) error
}

// condition is what a probe said last.
type condition struct {
	name   string
	warn   bool
	reason string // "" is good
	at     time.Time
}

// monitor asks the devices in the background, so that no request waits for one to find out that it is gone. Each probe
// has a loop of its own: one hung device neither hides nor delays what another says.
type monitor struct {
	watched []*watched
	log     *slog.Logger
}

// watched is a probe and what it said last.
type watched struct {
	probe
	last atomic.Pointer[condition]
}

// newMonitor starts out unhealthy: nothing was asked yet.
func newMonitor(log *slog.Logger, probes ...probe) *monitor {
	m := &monitor{log: log}
	for _, p := range probes {
		w := &watched{probe: p}
		w.last.Store(&condition{name: p.name, warn: p.warn, reason: "not checked yet"})
		m.watched = append(m.watched, w)
	}
	return m
}

// Run asks all probes again and again until ctx ends.
func (m *monitor) Run(ctx context.Context) error {
	var g errgroup.Group
	for _, w := range m.watched {
		g.Go(func() error { return m.watch(ctx, w) })
	}
	return g.Wait()
}

func (m *monitor) watch(ctx context.Context, w *watched) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		m.ask(ctx, w)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ask asks one probe, and logs what changed.
func (m *monitor) ask(ctx context.Context, w *watched) {
	bounded, cancel := context.WithTimeout(ctx, checkWithin)
	defer cancel()
	err := w.check(bounded)
	if ctx.Err() != nil {
		return // shutting down: what the probe said is about that
	}
	now := &condition{name: w.name, warn: w.warn, at: time.Now()}
	if err != nil {
		now.reason = err.Error()
	}
	before := w.last.Swap(now)
	switch {
	case now.reason != "" && now.reason != before.reason:
		m.log.Warn("not healthy", slog.String("condition", w.name), slog.String("reason", now.reason))
	case now.reason == "" && before.reason != "":
		m.log.Info("healthy", slog.String("condition", w.name))
	}
}

// now is what the probe said last, unless that is too long ago to be believed: a probe that hangs says nothing good.
func (w *watched) now() condition {
	c := *w.last.Load()
	if c.reason == "" && time.Since(c.at) > stale {
		c.reason = "no answer for " + time.Since(c.at).Round(time.Second).String()
	}
	return c
}

// conditions is what the probes said last.
func (m *monitor) conditions() []condition {
	out := make([]condition, len(m.watched))
	for i, w := range m.watched {
		out[i] = w.now()
	}
	return out
}

// ready is nil while everything that issuing needs was there when it was asked last.
func (m *monitor) ready() error {
	for _, w := range m.watched {
		if c := w.now(); c.reason != "" && !c.warn {
			return fmt.Errorf("%s: %s", c.name, c.reason)
		}
	}
	return nil
}
