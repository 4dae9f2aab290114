package audit

import (
	"context"
	"fmt"

	"github.com/signet-pki/signet/store"
)

// EnvelopeRange is [Log.Entries] without the payloads, which it does not touch.
func (l *Log) EnvelopeRange(ctx context.Context, from, to uint64, fn func(index uint64, envelope []byte) error) error {
	if from > to || to > l.Head().Size {
		return fmt.Errorf("%w: entries %d to %d of %d", ErrNotFound, from, to, l.Head().Size)
	}
	return l.unpruned(from, to, func() error {
		return eachEnvelope(ctx, l.db, from, to, func(_ *store.Txn, index uint64, envelope []byte) error { return fn(index, envelope) })
	})
}
