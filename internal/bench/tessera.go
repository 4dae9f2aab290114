package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// appender is a log that takes the same entries: Signet's, or Tessera's POSIX driver.
type appender struct {
	name string
	// add returns the entry's index when the entry is durable, and in the tree.
	add        func(ctx context.Context, e record.Entry) (uint64, error)
	checkpoint func(ctx context.Context) ([]byte, error) // the newest signed one; fs.ErrNotExist before the first
	close      func() error
}

// Tessera's options at their fastest. A batch is written when every writer has an entry in it, or after a millisecond; the
// driver refuses a shorter interval between checkpoints.
const (
	tesseraBatchAge   = time.Millisecond
	tesseraCheckpoint = 100 * time.Millisecond
)

// openTessera makes a log of Tessera's below the same directory, with the same key and kind of signature.
func (b *bench) openTessera(ctx context.Context, name string, writers int) (appender, error) {
	signer, err := checkpoint.NewSigner(logOrigin, b.floors.key)
	if err != nil {
		return appender{}, err
	}
	driver, err := posix.New(ctx, posix.Config{Path: filepath.Join(b.tmp, name)})
	if err != nil {
		return appender{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	a, shutdown, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithBatching(uint(writers), tesseraBatchAge).
		WithCheckpointInterval(tesseraCheckpoint).
		WithGarbageCollectionInterval(0))
	if err != nil {
		cancel()
		return appender{}, err
	}
	return appender{
		name: "Tessera POSIX",
		add: func(ctx context.Context, e record.Entry) (uint64, error) {
			i, err := a.Add(ctx, tessera.NewEntry(flat(e)))()
			return i.Index, err
		},
		checkpoint: reader.ReadCheckpoint,
		close: func() error {
			defer cancel()
			return shutdown(ctx)
		},
	}, nil
}

// flat is everything that an entry hands to the log, as one leaf.
func flat(e record.Entry) []byte {
	parts := [][]byte{e.Envelope, e.Salt, e.Payload}
	for _, m := range e.Mutations {
		parts = append(parts, m.Value)
	}
	return bytes.Join(parts, nil)
}

// pollEvery is how often either log is asked for its newest checkpoint by those who wait for one.
const pollEvery = time.Millisecond

// awaiter makes of add one that returns when a signed checkpoint covers the entry. Tessera's own awaiter serves both logs.
func (c appender) awaiter(ctx context.Context) func(context.Context, record.Entry) (uint64, error) {
	w := tessera.NewPublicationAwaiter(ctx, c.checkpoint, pollEvery)
	return func(ctx context.Context, e record.Entry) (uint64, error) {
		i, _, err := w.Await(ctx, func() (tessera.Index, error) {
			index, err := c.add(ctx, e)
			return tessera.Index{Index: index}, err
		})
		return i.Index, err
	}
}

// duel is the runs of both logs under the same load.
type duel struct {
	what    string
	kind    kind
	writers int
	await   bool // until a checkpoint covers the entry
	ours    []sample
	theirs  []sample
}

var errNoCheckpoint = fmt.Errorf("no checkpoint yet: %w", fs.ErrNotExist)
