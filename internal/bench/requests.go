package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
)

// loads are the numbers of callers and of the requests of one run.
var loads = []struct{ callers, spawns, decisions int }{{1, 1000, 2000}, {8, 3500, 6000}, {32, 4500, 8000}}

// applianceRows are what is measured on a whole appliance.
func (b *bench) applianceRows(ctx context.Context) error {
	dir := filepath.Join(b.tmp, "dev")
	server, err := b.startAppliance(ctx, dir)
	if err != nil {
		return err
	}
	if err := joined(b.ask(ctx, server, dir), server.stop()); err != nil || !b.wants("bundle") {
		return err
	}
	return b.restart(ctx, dir)
}

// restart starts an appliance again that has a log by now, and notes how long that takes until it serves.
func (b *bench) restart(ctx context.Context, dir string) error {
	started := time.Now()
	server, err := b.startAppliance(ctx, dir)
	if err != nil {
		return err
	}
	b.facts = append(b.facts, fact{"Start of an appliance, its software devices too", fmt.Sprintf("%d entries", b.entries), fmt.Sprintf("%.2f s", time.Since(started).Seconds()), ""})
	return server.stop()
}

// ask measures what an appliance answers.
func (b *bench) ask(ctx context.Context, server *child, dir string) error {
	w, err := newWorld(ctx, server.url, dir)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	if b.wants("spawn") {
		if err := b.profiled(server, func() error { return b.spawnRows(ctx, server, w) }); err != nil {
			return fmt.Errorf("spawn: %w", err)
		}
	}
	if b.wants("decide") || b.wants("opa") || b.wants("bundle") {
		if err := b.profiled(server, func() error { return b.decideRows(ctx, server, w) }); err != nil {
			return fmt.Errorf("decide: %w", err)
		}
	}
	if b.wants("bundle") {
		if err := b.bundleRow(ctx, server, w); err != nil {
			return fmt.Errorf("bundle: %w", err)
		}
	}
	return nil
}

// startAppliance runs signetd, or with a profile this program as the appliance.
func (b *bench) startAppliance(ctx context.Context, dir string) (*child, error) {
	log := filepath.Join(b.tmp, "signetd.log")
	if b.profile != "" {
		program, err := os.Executable()
		if err != nil {
			return nil, err
		}
		return startChild(ctx, log, program, "-serve", dir, "-profile", b.profile)
	}
	program, err := b.build(ctx)
	if err != nil {
		return nil, err
	}
	return startChild(ctx, log, program, "dev", "--dir", dir, "--listen", "127.0.0.1:0")
}

// profiled has the server's CPU profile written while do runs, where that is asked for.
func (b *bench) profiled(server *child, do func() error) error {
	if b.profile == "" {
		return do()
	}
	if err := server.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return err
	}
	err := do()
	return joined(err, server.cmd.Process.Signal(syscall.SIGUSR2))
}

// spawnKind is one way of asking for an agent.
type spawnKind struct {
	name           string
	confirm, http2 bool
}

var spawnKinds = []spawnKind{{"Spawn", false, false}, {"Spawn, delegator's JWS", true, false}, {"Spawn, delegator's JWS, HTTP/2", true, true}}

func (b *bench) spawnRows(ctx context.Context, server *child, w *world) error {
	for _, kind := range spawnKinds {
		for _, l := range loads {
			if kind.http2 && l.callers != 8 {
				continue
			}
			if err := b.spawnRow(ctx, server, w, kind, l.callers, l.spawns/b.scale); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) spawnRow(ctx context.Context, server *child, w *world, kind spawnKind, callers, n int) error {
	run, done := spawner(ctx, server, w, kind, callers)
	defer done()
	// The handshakes and whatever is made once.
	if _, err := run(10 * callers); err != nil {
		return err
	}
	samples, err := b.repeat(fmt.Sprintf("%s, %d callers", kind.name, callers), func() (sample, error) { return run(n) })
	if err != nil {
		return err
	}
	b.table.add(row{what: kind.name, at: fmt.Sprint(callers), samples: samples, floor: b.floors.spawnFloor(kind.confirm)})
	return nil
}

// spawner gives what runs n spawns over connections of its own, until done.
func spawner(ctx context.Context, server *child, w *world, kind spawnKind, callers int) (run func(n int) (sample, error), done func()) {
	posters := newPosters(callers, w.tls(w.orchestrator), kind.http2)
	run = func(n int) (sample, error) {
		bodies, err := w.spawnBodies(ctx, n, kind.confirm)
		if err != nil {
			return sample{}, err
		}
		return load(ctx, callers, n, server, func(ctx context.Context, worker, i int) error {
			status, answer, err := posters[worker].post(ctx, w.url+"/v1/agents", bodies[i], 0)
			if err == nil && status != http.StatusCreated {
				err = unexpected(status, answer)
			}
			return err
		})
	}
	return run, func() { closePosters(posters) }
}

// decider is a server that is asked for decisions, each a permission, and what it is asked.
type decider struct {
	what   string
	server *child
	tls    *tls.Config // the callers' side
	url    string
	bodies [][]byte
	yes    string // stands in each answer
}

// decideRows ask about agents in turn, each allowed: the appliance, and beside it OPA's own server.
func (b *bench) decideRows(ctx context.Context, server *child, w *world) (err error) {
	bodies, err := w.decisionBodies(ctx, 64)
	if err != nil {
		return err
	}
	deciders := []decider{{"Decision, chain in the body", server, w.tls(w.service), w.url + "/access/v1/evaluation", bodies, `"decision":true`}}
	if b.wants("opa") {
		other, failed := b.opaDecider(ctx, w, bodies)
		if failed != nil {
			return fmt.Errorf("OPA: %w", failed)
		}
		defer func() { err = joined(err, other.server.stop()) }()
		deciders = append(deciders, other)
	}
	for _, l := range loads {
		for _, d := range deciders {
			if err := b.decideRow(ctx, d, l.callers, l.decisions/b.scale); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) decideRow(ctx context.Context, d decider, callers, n int) error {
	posters := newPosters(callers, d.tls, false)
	defer closePosters(posters)
	do := func(ctx context.Context, worker, i int) error {
		status, answer, err := posters[worker].post(ctx, d.url, d.bodies[i%len(d.bodies)], 0)
		if err == nil && (status != http.StatusOK || !bytes.Contains(answer, []byte(d.yes))) {
			err = unexpected(status, answer)
		}
		return err
	}
	if _, err := load(ctx, callers, 10*callers, d.server, do); err != nil {
		return err
	}
	samples, err := b.repeat(fmt.Sprintf("%s, %d callers", d.what, callers), func() (sample, error) { return load(ctx, callers, n, d.server, do) })
	if err != nil {
		return err
	}
	b.table.add(row{what: d.what, at: fmt.Sprint(callers), samples: samples, floor: b.floors.decideFloor()})
	return nil
}

// decisionBodies are requests about n agents.
func (w *world) decisionBodies(ctx context.Context, n int) ([][]byte, error) {
	c, err := w.connect(w.orchestrator)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	out := make([][]byte, n)
	for i := range out {
		_, q, err := w.spawnRequest(true)
		if err != nil {
			return nil, err
		}
		agent, err := c.Spawn(ctx, q)
		if err != nil {
			return nil, err
		}
		if until := time.Until(agent.NotAfter); until < 5*time.Minute {
			return nil, fmt.Errorf("the agent would live for %s only", until)
		}
		out[i], err = json.Marshal(v1.EvaluationRequest{
			Subject: v1.Subject{Type: "agent", ID: agent.SPIFFEID}, Action: v1.Action{Name: "read"},
			Resource: v1.Resource{Type: "database", ID: "patients"},
			Context:  v1.EvaluationContext{CertificateChain: agent.CertificateChain},
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
