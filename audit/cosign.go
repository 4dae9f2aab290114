package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/store"
)

// prefixCosigned is w/<number of a seal>: witnesses' signature lines over its checkpoint.
const prefixCosigned = "w/"

// maxCosigned bounds the lines beside one seal, in bytes.
const maxCosigned = 12 << 10

// NextSeal waits for a finished seal with a number above after, and gives the newest. It fails with [ErrClosed] when Run ends
// before.
func (l *Log) NextSeal(ctx context.Context, after uint64) (checkpoint.Sealed, error) {
	for {
		l.state.mu.Lock()
		ref, next := l.state.last, l.state.sealed
		l.state.mu.Unlock()
		if ref != nil && ref.seal.Number > after {
			return ref.sealed, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return checkpoint.Sealed{}, fmt.Errorf("audit: wait for a seal: %w", ctx.Err())
		case <-l.ended:
			return checkpoint.Sealed{}, ErrClosed
		}
	}
}

// Cosignatures gives what KeepCosignatures kept for a seal; nil where there is nothing.
func (l *Log) Cosignatures(number uint64) (lines []byte, err error) {
	err = l.db.View(func(t *store.Txn) error {
		lines, err = t.Get(numbered(prefixCosigned, number))
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("audit: cosignatures of seal %d: %w", number, err)
	}
	return lines, nil
}

// KeepCosignatures replaces the signature lines beside a finished seal. Whether they are valid is the caller's business: they
// are no evidence of the log's. In a crash of the machine they may be lost. Errors are those of [Log.Put].
func (l *Log) KeepCosignatures(ctx context.Context, number uint64, lines []byte) error {
	if ref := l.state.lastSeal(); ref == nil || number == 0 || number > ref.seal.Number {
		return fmt.Errorf("%w: seal %d", ErrNotFound, number)
	}
	if len(lines) == 0 || len(lines) > maxCosigned {
		return fmt.Errorf("audit: %d bytes of cosignatures, at most %d", len(lines), maxCosigned)
	}
	it := &item{raw: []pair{{numbered(prefixCosigned, number), lines}}, done: make(chan result, 1)}
	it.measure()
	if err := l.offer(ctx, it); err != nil {
		return err
	}
	_, err := it.wait(ctx)
	return err
}
