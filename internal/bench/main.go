// Command bench measures what an appliance costs: spawns and decisions over TLS on a development appliance in a process
// of its own, decisions by OPA's own server beside them, durable entries of the log, verification by a relying service and of
// an evidence bundle, signatures of a token. Every row names its floor, the least that the same work could cost, measured on the same machine in the same run.
//
// It makes its appliance in a temporary directory, talks over loopback alone, and removes what it made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	quick   bool
	only    string
	dir     string
	signetd string
	against string
	profile string

	// What a child of the benchmark runs instead.
	echo  bool
	serve string
	fill  string
	to    int
}

func main() {
	o := options{}
	flag.BoolVar(&o.quick, "quick", false, "fewer operations: sooner done, less exact")
	flag.StringVar(&o.only, "only", "", "only these, by comma: spawn, keys, decide, opa (with decide), log, history, bundle, decisions, sign, verify")
	flag.StringVar(&o.dir, "dir", "", "where to make the appliance and the logs; the disk matters (default: the temporary directory)")
	flag.StringVar(&o.signetd, "signetd", "", "a built signetd (default: go build)")
	flag.StringVar(&o.against, "against", "", "another built signetd: only compare what a spawn costs the two, in turn on the same machine")
	flag.StringVar(&o.profile, "profile", "", "write CPU profiles of the server to FILE-1 (spawns) and FILE-2 (decisions); rates are then lower")
	flag.BoolVar(&o.echo, "echo", false, "be the floor's server (used by the benchmark itself)")
	flag.StringVar(&o.serve, "serve", "", "be the appliance in this directory, profiled between SIGUSR1 and SIGUSR2 (used by the benchmark itself)")
	flag.StringVar(&o.fill, "fill", "", "fill the log in this directory and wait to be killed (used by the benchmark itself)")
	flag.IntVar(&o.to, "entries", 0, "with -fill: up to so many")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := o.run(ctx)
	stop()
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (o options) run(ctx context.Context) error {
	switch {
	case o.echo:
		return serveEcho(ctx)
	case o.fill != "":
		return fillLog(ctx, o.fill, o.to)
	case o.serve != "":
		return serveProfiled(ctx, o.serve, o.profile)
	}
	return o.measure(ctx)
}

// bench is one run of the benchmark.
type bench struct {
	options
	tmp    string
	runs   int // of each row
	scale  int // operations are divided by it
	floors floors
	table  table
	facts  []fact

	entries int // of the appliance's log in the end
}

func (o options) measure(ctx context.Context) (err error) {
	tmp, err := os.MkdirTemp(o.dir, "sg")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if tmp, err = filepath.Abs(tmp); err != nil {
		return err
	}
	b := &bench{options: o, tmp: tmp, runs: 3, scale: 1}
	if o.quick {
		b.scale = 5
	}
	if o.against != "" {
		return b.compare(ctx)
	}
	started := time.Now()
	before := loadAverage()
	if err := b.all(ctx); err != nil {
		return err
	}
	b.table.print(os.Stdout)
	printFacts(os.Stdout, b.facts)
	b.floors.print(os.Stdout)
	fmt.Printf("\n%s. %d runs of each row. Load average %s before, %s after; %s in all.\n",
		machine(), b.runs, before, loadAverage(), time.Since(started).Round(time.Second))
	return nil
}

func (b *bench) all(ctx context.Context) error {
	if err := b.measureFloors(ctx); err != nil {
		return fmt.Errorf("floors: %w", err)
	}
	if b.wants("sign") {
		if err := b.signRows(ctx); err != nil {
			return fmt.Errorf("sign: %w", err)
		}
	}
	if b.wants("verify") {
		if err := b.verifyRows(ctx); err != nil {
			return fmt.Errorf("verify: %w", err)
		}
	}
	if b.wants("log") {
		if err := b.logRows(ctx); err != nil {
			return fmt.Errorf("log: %w", err)
		}
	}
	if b.wants("decisions") {
		if err := b.decisionsRow(ctx); err != nil {
			return fmt.Errorf("decisions: %w", err)
		}
	}
	if b.wants("history") {
		if err := b.historyRows(ctx); err != nil {
			return fmt.Errorf("history: %w", err)
		}
	}
	if b.wants("keys") {
		if err := b.keysRows(ctx); err != nil {
			return fmt.Errorf("keys: %w", err)
		}
	}
	if b.wants("spawn") || b.wants("decide") || b.wants("opa") || b.wants("bundle") {
		return b.applianceRows(ctx)
	}
	return nil
}

func (b *bench) wants(what string) bool {
	if b.only == "" {
		return true
	}
	for w := range strings.SplitSeq(b.only, ",") {
		if strings.TrimSpace(w) == what {
			return true
		}
	}
	return false
}

// progress tells a person at the terminal what takes so long.
func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
