package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// checkEvery is how often the devices are asked, and so how late a vanished one may be noticed.
const checkEvery = time.Second

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
}

// monitor asks the devices in the background, so that no request waits for one to find out that it is gone.
type monitor struct {
	probes []probe
	last   atomic.Pointer[[]condition]
	log    *slog.Logger
}

// newMonitor starts out unhealthy: nothing was asked yet.
func newMonitor(log *slog.Logger, probes ...probe) *monitor {
	m := &monitor{probes: probes, log: log}
	first := make([]condition, len(probes))
	for i, p := range probes {
		first[i] = condition{name: p.name, warn: p.warn, reason: "not checked yet"}
	}
	m.last.Store(&first)
	return m
}

// Run asks all probes again and again until ctx ends.
func (m *monitor) Run(ctx context.Context) error {
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		m.ask(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// ask runs the probes side by side: one hung device must not hide another.
func (m *monitor) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	results := make(chan int, len(m.probes))
	now := make([]condition, len(m.probes))
	for i, p := range m.probes {
		go func() {
			now[i] = condition{name: p.name, warn: p.warn}
			if err := p.check(ctx); err != nil {
				now[i].reason = err.Error()
			}
			results <- i
		}()
	}
	for range m.probes {
		<-results
	}
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return // shutting down: what the probes said is about that
	}
	m.report(*m.last.Load(), now)
	m.last.Store(&now)
}

// report logs changes only.
func (m *monitor) report(before, now []condition) {
	for i, c := range now {
		switch {
		case c.reason != "" && c.reason != before[i].reason:
			m.log.Warn("not healthy", slog.String("condition", c.name), slog.String("reason", c.reason))
		case c.reason == "" && before[i].reason != "":
			m.log.Info("healthy", slog.String("condition", c.name))
		}
	}
}

// conditions is what the probes said last.
func (m *monitor) conditions() []condition { return slices.Clone(*m.last.Load()) }

// ready is nil while everything that issuing needs was there when it was asked last.
func (m *monitor) ready() error {
	for _, c := range *m.last.Load() {
		if c.reason != "" && !c.warn {
			return fmt.Errorf("%s: %s", c.name, c.reason)
		}
	}
	return nil
}
