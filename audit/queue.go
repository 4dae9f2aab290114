package audit

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/store"
)

const (
	queueSize  = 2048
	maxBatch   = 1024
	batchFixed = 128 << 10 // head, and tiles of all levels that one batch can complete beside 32 bytes per entry
)

// limits are half of what one transaction may hold.
type limits struct{ bytes, keys int64 }

func limitsOf(db *store.DB) limits {
	return limits{bytes: db.MaxTxnBytes()/2 - batchFixed, keys: db.MaxTxnKeys()/2 - 64}
}

// pair is one of the log's own writes; a nil value deletes.
type pair struct{ key, value []byte }

// item is what waits for the committer: an entry, or mutations alone.
type item struct {
	entry    record.Entry // Envelope nil: mutations alone
	leaf     [32]byte
	terms    [][]byte // prefixes in the index
	raw      []pair
	stale    [][]byte                         // keys of state that go if what they hold still belongs to an entry before first
	first    uint64                           // of stale
	placed   func(index uint64) (pair, error) // what is written beside the entry, once its place is known
	room     int                              // for what placed gives
	change   *rotation.Proof                  // of the audit key, once it is placed
	internal bool                             // the log's own: seals and device events
	work     bool                             // makes the log busy
	own      string                           // the method that alone may write it: Erase or Prune
	cost     limits

	claimed atomic.Int32 // waiting, taken or cancelled
	done    chan result  // one result, when taken
	with    *item        // another of the log's own, which shares the transaction: neither is written without the other
	pos     Position     // the committer's
}

const (
	waiting int32 = iota
	taken
	cancelled
)

type result struct {
	pos Position
	err error
}

func (it *item) finish(r result) { it.done <- r }

func (it *item) isEntry() bool { return it.entry.Envelope != nil }

// Position is where an entry stands in the log.
type Position struct {
	Index    uint64
	LeafHash [32]byte
}

// newItem does everything that needs no store: parsing, hashing, keys of the index.
func (l *Log) newItem(e record.Entry) (*item, error) {
	env, err := e.Check()
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	it := &item{entry: e, leaf: record.LeafHash(e.Envelope), work: env.Type != record.TypeSeal, own: writerOf(env.Type), done: make(chan result, 1)}
	it.terms = make([][]byte, len(e.Terms))
	for i, t := range e.Terms {
		it.terms[i] = termPrefix(l.cfg.IndexKey, t)
	}
	it.measure()
	return it, l.limits.check(it)
}

// writerOf is the method that alone writes entries of a type, since it also does what they say.
func writerOf(t record.Type) string {
	switch t {
	case record.TypeRedact:
		return "Erase"
	case record.TypePrune:
		return "Prune"
	case record.TypeRotation:
		return "Rotate"
	default:
		return ""
	}
}

func (it *item) measure() {
	add := func(key, value int) {
		it.cost.bytes += store.TxnCost(key, value)
		it.cost.keys++
	}
	if it.isEntry() {
		add(len(prefixEntry)+8, len(it.entry.Envelope)+32)
		if it.entry.Salt != nil {
			add(len(prefixSealed)+8, boxOverhead+len(it.entry.Salt)+len(it.entry.Payload))
		}
	}
	for _, t := range it.terms {
		add(len(t)+8, 0)
	}
	for _, m := range it.entry.Mutations {
		add(len(prefixState)+len(m.Key), expirySize+indexSize+boxOverhead+len(m.Value))
	}
	for _, p := range it.raw {
		add(len(p.key), len(p.value))
	}
	if it.with != nil {
		it.with.measure()
		it.cost.bytes += it.with.cost.bytes
		it.cost.keys += it.with.cost.keys
	}
	for _, key := range it.stale {
		add(len(key), 0)
	}
	if it.placed != nil {
		add(len(keyPruned), it.room)
	}
}

func (a limits) check(it *item) error {
	if it.cost.bytes > a.bytes || it.cost.keys > a.keys {
		return fmt.Errorf("audit: %w: entry, payload and mutations have %d bytes, at most %d", record.ErrTooLarge, it.cost.bytes, a.bytes)
	}
	return nil
}

// Append writes an entry with its mutations, and returns when both are durable.
//
// [PreconditionError], [ErrClock], [ErrDiskFull], [ErrReadOnly], [ErrClosed], record.ErrMalformed and record.ErrTooLarge:
// nothing was written. [ErrUnknown]: the commit failed, or ctx ended while it was under way. When ctx ends before that,
// nothing was written and the error is ctx's alone.
func (l *Log) Append(ctx context.Context, e record.Entry) (Position, error) {
	it, err := l.newItem(e)
	if err == nil && it.own != "" {
		err = fmt.Errorf("audit: %w: such an entry is %s's", record.ErrMalformed, it.own)
	}
	if err == nil {
		err = l.offer(ctx, it)
	}
	if err != nil {
		return Position{}, err
	}
	return it.wait(ctx)
}

// Put changes state without an entry, and returns when later reads see it. It rides with the entries that are queued; in
// a crash of the machine it may be lost. Preconditions and errors are those of Append.
func (l *Log) Put(ctx context.Context, m []record.Mutation) error {
	it, err := l.newPut(m)
	if err != nil {
		return err
	}
	if err := l.offer(ctx, it); err != nil {
		return err
	}
	_, err = it.wait(ctx)
	return err
}

// newPut is newItem for mutations alone.
func (l *Log) newPut(m []record.Mutation) (*item, error) {
	it := &item{entry: record.Entry{Mutations: m}, done: make(chan result, 1)}
	if len(m) > record.MaxMutations {
		return nil, fmt.Errorf("audit: %w: %d mutations", record.ErrTooLarge, len(m))
	}
	for i := range m {
		if err := m[i].Check(); err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
	}
	it.measure()
	return it, l.limits.check(it)
}

// offer queues an item of a caller.
func (l *Log) offer(ctx context.Context, it *item) error {
	if err := l.state.refusal(); err != nil {
		return err
	}
	l.intake.RLock()
	defer l.intake.RUnlock()
	if l.shut {
		return ErrClosed
	}
	select {
	case l.queue <- it:
		return nil
	case <-l.closing:
		return ErrClosed
	case <-ctx.Done():
		return fmt.Errorf("audit: append: nothing was written: %w", ctx.Err())
	}
}

func (it *item) wait(ctx context.Context) (Position, error) {
	select {
	case r := <-it.done:
		return r.pos, r.err
	case <-ctx.Done():
	}
	if it.claimed.CompareAndSwap(waiting, cancelled) {
		return Position{}, fmt.Errorf("audit: append: nothing was written: %w", ctx.Err())
	}
	select {
	case r := <-it.done:
		return r.pos, r.err
	default:
		return Position{}, fmt.Errorf("%w: %w", ErrUnknown, ctx.Err())
	}
}

// own queues one of the log's own items while Run's committer runs, and waits for it. Once queued it is not abandoned:
// what the sealer believes must be what was stored.
func (l *Log) own(ctx context.Context, it *item) error {
	it.internal = true
	it.done = make(chan result, 1)
	it.measure()
	select {
	case l.queue <- it:
		return (<-it.done).err
	case <-ctx.Done():
		return fmt.Errorf("audit: %w", ctx.Err())
	}
}

// collect waits for an item and adds whatever else is queued, without lingering. What does not fit is returned as next.
// It returns nothing when stop is closed and the queue empty.
func (l *Log) collect(first *item, stop <-chan struct{}) (batch []*item, next *item) {
	if first == nil {
		if first = l.receive(stop); first == nil {
			return nil, nil
		}
	}
	batch = append(make([]*item, 0, 64), first)
	sum := first.cost
	for len(batch) < maxBatch {
		select {
		case it := <-l.queue:
			sum.bytes += it.cost.bytes
			sum.keys += it.cost.keys
			if sum.bytes > l.limits.bytes || sum.keys > l.limits.keys {
				return batch, it
			}
			batch = append(batch, it)
		default:
			return batch, nil
		}
	}
	return batch, nil
}

func (l *Log) receive(stop <-chan struct{}) *item {
	select {
	case it := <-l.queue:
		return it
	case <-stop:
	}
	select {
	case it := <-l.queue:
		return it
	default:
		return nil
	}
}

// errNothing ends a transaction in which every item was rejected.
var errNothing = errors.New("audit: nothing to commit")
