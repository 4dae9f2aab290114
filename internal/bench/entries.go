package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/record"
)

// logRows are durable entries: each writer waits for its own.
func (b *bench) logRows(ctx context.Context) error {
	for _, c := range []struct{ writers, ops int }{{1, 1500}, {16, 20000}, {128, 40000}} {
		if err := b.logRow(ctx, c.writers, c.ops/b.scale); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) logRow(ctx context.Context, writers, ops int) (err error) {
	l, err := b.openLog(ctx, writers)
	if err != nil {
		return err
	}
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.Run(run) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended, l.Close())
	}()
	var serial atomic.Int64
	do := func(ctx context.Context, _, _ int) error {
		e, err := entry(serial.Add(1))
		if err != nil {
			return err
		}
		_, err = l.Append(ctx, e)
		return err
	}
	samples, err := b.repeat(fmt.Sprintf("durable entries, %d writers", writers), func() (sample, error) {
		return load(ctx, writers, ops, self{}, do)
	})
	if err != nil {
		return err
	}
	sync, err := b.appendSync(ctx, entrySize*writers, 200)
	if err != nil {
		return err
	}
	b.table.add(row{
		what: "Durable audit entry (4 KiB with state and indexes)", at: fmt.Sprint(writers), samples: samples,
		floor: floor{name: fmt.Sprintf("append + fsync of %d × 4 KiB, shared", writers), cost: perOp(sync, writers), wall: true},
	})
	return nil
}

// openLog makes a log on a signer in software and a TPM that answers at once: the devices have rows of their own.
func (b *bench) openLog(ctx context.Context, writers int) (*audit.Log, error) {
	cfg := audit.Config{
		Dir: filepath.Join(b.tmp, fmt.Sprint("log", writers)), Origin: "bench.signet.example/log", Signer: b.floors.key, Quoter: &instant{}, PCRs: []int{0},
		IndexKey: make([]byte, 32), Now: time.Now, Log: slog.New(slog.DiscardHandler), SealInterval: time.Second, MinFree: 256 << 20,
	}
	first, err := record.New(record.Envelope{Type: record.TypeCeremony, Time: time.Now(), Body: []byte(`{}`)}, nil, [32]byte{})
	if err != nil {
		return nil, err
	}
	if err := audit.Create(ctx, cfg, []record.Entry{first}); err != nil {
		return nil, err
	}
	return audit.Open(ctx, cfg)
}

// entrySize is about what entry writes, in bytes.
const entrySize = 4096

// entry is like that of an issuance: envelope and payload of 1 KiB each, four terms, four changes of state.
func entry(n int64) (record.Entry, error) {
	var salt [32]byte
	if _, err := rand.Read(salt[:]); err != nil {
		return record.Entry{}, err
	}
	now := time.Now()
	body := fmt.Appendf(nil, `{"filler":"%0900d"}`, n)
	e, err := record.New(record.Envelope{Type: record.TypeIssue, Time: now, Body: body}, fmt.Sprintf("%01000d", n), salt)
	if err != nil {
		return e, err
	}
	for _, kind := range []string{"user", "agent", "task", "serial"} {
		e.Terms = append(e.Terms, record.Term{Kind: kind, ID: fmt.Sprint(n)})
	}
	absent := record.Precondition{Op: record.Absent}
	e.Mutations = []record.Mutation{
		{Key: fmt.Sprint("agent/", n), Value: make([]byte, 1500), Expires: now.Add(time.Hour), Pre: absent},
		{Key: fmt.Sprint("spki/", n), Value: []byte{1}, Expires: now.Add(time.Hour), Pre: absent},
		{Key: fmt.Sprint("idem/", n), Value: make([]byte, 64), Expires: now.Add(time.Hour), Pre: absent},
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
