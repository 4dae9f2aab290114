package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/record"
)

// logRows are entries under writers that each wait for their own: until it is durable, and until a signed checkpoint covers it.
func (b *bench) logRows(ctx context.Context) error {
	for _, writers := range []int{1, 16, 128} {
		for _, await := range []bool{false, true} {
			if err := b.duel(ctx, duel{kind: issuances, writers: writers, await: await}); err != nil {
				return err
			}
		}
	}
	return b.duel(ctx, duel{kind: decisions, writers: 128, await: true})
}

// kind is what entries are like.
type kind struct {
	name string
	size int // about what one hands to the log, in bytes
	make func() (record.Entry, error)
}

// Most entries of an appliance are decisions; those with their certificates are as long as issuances.
var (
	issuances = kind{"issuance, 4 KiB with its state", 4096, entry}
	decisions = kind{"decision without certificates, 3.3 KiB", 3400, decision}
)

// ops are how many entries a run of ours has, and one of Tessera's, which is slower and keeps each partial bundle that it wrote.
func ops(writers int, await bool) (ours, theirs int) {
	switch {
	case writers == 1:
		ours, theirs = 1500, 300
	case writers < 100:
		ours, theirs = 20000, 3000
	default:
		ours, theirs = 40000, 12000
	}
	if await {
		theirs = min(theirs, 50*writers) // not much more than ten checkpoints a second
	}
	return ours, theirs
}

// duel measures both logs, in turn.
func (b *bench) duel(ctx context.Context, d duel) (err error) {
	place := fmt.Sprintf("%d-%d-%t", d.writers, d.kind.size, d.await)
	ours, err := b.openSignet(ctx, "signet-"+place, d.await)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ours.close()) }()
	theirs, err := b.openTessera(ctx, "tessera-"+place, d.writers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, theirs.close()) }()
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	d.what = "Durable audit entry"
	if d.await {
		d.what = "Audit entry under a signed checkpoint"
		ours.add, theirs.add = ours.awaiter(waiting), theirs.awaiter(waiting)
	}
	n, m := ops(d.writers, d.await)
	for i := range b.runs {
		progress("%s (%s), %d writers: run %d of %d", d.what, d.kind.name, d.writers, i+1, b.runs)
		if d.ours, err = ours.run(ctx, d.ours, d, n/b.scale); err != nil {
			return fmt.Errorf("%s: %w", ours.name, err)
		}
		if d.theirs, err = theirs.run(ctx, d.theirs, d, m/b.scale); err != nil {
			return fmt.Errorf("%s: %w", theirs.name, err)
		}
	}
	return b.addDuel(ctx, d)
}

func (b *bench) addDuel(ctx context.Context, d duel) error {
	sync, err := b.appendSync(ctx, d.kind.size*d.writers, 200)
	if err != nil {
		return err
	}
	f := floor{name: fmt.Sprintf("append + fsync of %d × %d bytes, shared", d.writers, d.kind.size), cost: perOp(sync, d.writers), wall: true}
	at := fmt.Sprint(d.writers)
	b.table.add(row{what: fmt.Sprintf("%s (%s)", d.what, d.kind.name), at: at, samples: d.ours, floor: f})
	b.table.add(row{what: fmt.Sprintf("%s, Tessera POSIX (%s, in one leaf)", d.what, d.kind.name), at: at, samples: d.theirs, floor: f})
	aim := ""
	if d.writers == 128 && d.await {
		aim = "≥ 10"
	}
	ours, theirs := medianOf(d.ours, sample.rate).mid, medianOf(d.theirs, sample.rate).mid
	b.facts = append(b.facts, fact{fmt.Sprintf("%s (%s), rate over Tessera POSIX's", d.what, d.kind.name), fmt.Sprintf("%d writers", d.writers), fmt.Sprintf("%.1f", ours/theirs), aim})
	return nil
}

// run adds one run to those before.
func (c appender) run(ctx context.Context, before []sample, d duel, ops int) ([]sample, error) {
	s, err := load(ctx, d.writers, ops, self{}, func(ctx context.Context, _, _ int) error {
		e, err := d.kind.make()
		if err != nil {
			return err
		}
		_, err = c.add(ctx, e)
		return err
	})
	return append(before, s), err
}

// logOrigin is the name of the logs that are measured.
const logOrigin = "bench.signet.example/log"

// logConfig is a log on a signer in software and a TPM that answers at once: the devices have rows of their own.
func (b *bench) logConfig(name string) audit.Config {
	return audit.Config{
		Dir: filepath.Join(b.tmp, name), Origin: logOrigin, Signer: b.floors.key, Quoter: &instant{}, PCRs: []int{0},
		IndexKey: make([]byte, 32), Now: time.Now, Log: slog.New(slog.DiscardHandler), SealInterval: time.Second, MinFree: 256 << 20,
	}
}

// createLog makes one with its first entry.
func createLog(ctx context.Context, cfg audit.Config) error {
	body, err := record.EncodeBody(record.Ceremony{Origin: logOrigin, PCRs: "sha256:0"})
	if err != nil {
		return err
	}
	first, err := record.New(record.Envelope{Type: record.TypeCeremony, Time: time.Now(), Body: body}, nil, [32]byte{})
	if err != nil {
		return err
	}
	return audit.Create(ctx, cfg, []record.Entry{first})
}

// openSignet makes a log and runs it. With eager it signs each batch's checkpoint at once.
func (b *bench) openSignet(ctx context.Context, name string, eager bool) (appender, error) {
	cfg := b.logConfig(name)
	if eager {
		cfg.CheckpointInterval = time.Nanosecond
	}
	if err := createLog(ctx, cfg); err != nil {
		return appender{}, err
	}
	l, err := runLog(ctx, cfg)
	if err != nil {
		return appender{}, err
	}
	return appender{
		name: "Signet",
		add: func(ctx context.Context, e record.Entry) (uint64, error) {
			p, err := l.Append(ctx, e)
			return p.Index, err
		},
		checkpoint: func(context.Context) ([]byte, error) {
			if note := l.SignedCheckpoint(); note != nil {
				return note, nil
			}
			return nil, errNoCheckpoint
		},
		close: l.close,
	}, nil
}

// running is a log whose Run runs.
type running struct {
	*audit.Log
	stop  context.CancelFunc
	ended chan error
}

func runLog(ctx context.Context, cfg audit.Config) (*running, error) {
	l, err := audit.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	r := &running{Log: l, stop: stop, ended: make(chan error, 1)}
	go func() { r.ended <- l.Run(ctx) }()
	return r, nil
}

func (r *running) close() error {
	r.stop()
	return errors.Join(<-r.ended, r.Close())
}

// entry is like that of an issuance: envelope and payload of 1 KiB each, four terms, four changes of state. What fills it
// does not become shorter by packing, as keys, digests and signatures do not.
func entry() (record.Entry, error) {
	var random [2304]byte
	if _, err := rand.Read(random[:]); err != nil {
		return record.Entry{}, err
	}
	id, salt, body, payload, state := random[:16], random[16:48], random[48:723], random[723:1473], random[1473:]
	now, name := time.Now(), hex.EncodeToString(id)
	env := record.Envelope{Type: record.TypeIssue, Time: now, Body: fmt.Appendf(nil, `{"filler":"%s"}`, base64.StdEncoding.EncodeToString(body))}
	e, err := record.New(env, base64.StdEncoding.EncodeToString(payload), [32]byte(salt))
	if err != nil {
		return e, err
	}
	for _, kind := range []string{"user", "agent", "task", "serial"} {
		e.Terms = append(e.Terms, record.Term{Kind: kind, ID: name})
	}
	absent := record.Precondition{Op: record.Absent}
	e.Mutations = []record.Mutation{
		{Key: "agent/" + name, Value: append(state[:len(state):len(state)], body...), Expires: now.Add(time.Hour), Pre: absent},
		{Key: "spki/" + name, Value: []byte{1}, Expires: now.Add(time.Hour), Pre: absent},
		{Key: "idem/" + name, Value: payload[:64], Expires: now.Add(time.Hour), Pre: absent},
		{Key: "revoked/x", CheckOnly: true, Pre: absent},
	}
	return e, nil
}

// instant is a TPM that answers at once and proves nothing.
type instant struct{ counter uint64 }

// State gives the counter.
func (q *instant) State(context.Context) (audit.Anchor, error) {
	return audit.Anchor{Counter: q.counter}, nil
}

// Increment moves the counter.
func (q *instant) Increment(context.Context) (uint64, error) {
	q.counter++
	return q.counter, nil
}

// Quote gives a statement of no worth.
func (q *instant) Quote(context.Context, [32]byte) (audit.Statement, error) {
	return audit.Statement{Attest: []byte("none"), Signature: []byte("none"), PCRs: make([]byte, 32)}, nil
}

// CertifyCounter likewise.
func (q *instant) CertifyCounter(context.Context, [32]byte) (audit.Statement, error) {
	return audit.Statement{Attest: []byte("none"), Signature: []byte("none")}, nil
}
