package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// pruned is what the store says of entries that it no longer has. What proves it are the prune entries.
type pruned struct {
	Minimum uint64 `json:"minimum"` // entries from chunk up to it are gone, or going: they are not read any more
	Entry   uint64 `json:"entry"`   // the prune entry that says so
	// From, Next and NextEntry are of a prune entry that is not carried out yet; 0: none. Nothing is deleted before a seal covers it.
	From      uint64 `json:"from,omitempty"`
	Next      uint64 `json:"next,omitempty"`
	NextEntry uint64 `json:"next_entry,omitempty"`
}

// maxPruned bounds its encoding.
const maxPruned = 160

// pruneRetry is when a deletion that failed is tried again.
const pruneRetry = 10 * time.Second

func readPruned(db *store.DB) (p pruned, err error) {
	err = db.View(func(t *store.Txn) error {
		p, _, err = getJSON[pruned](t, []byte(keyPruned))
		return err
	})
	return p, err
}

func (p pruned) write() (pair, error) {
	value, err := json.Marshal(p)
	return pair{[]byte(keyPruned), value}, err
}

// check looks for the entries that must stand behind what the store says: without them entries are not pruned but missing.
func (p pruned) check(db *store.DB, snap *snapshot) error {
	for _, claim := range []struct{ to, entry uint64 }{{p.Minimum, p.Entry}, {p.Next, p.NextEntry}} {
		if claim.to == 0 {
			continue
		}
		if err := checkPrune(db, snap, claim.to, claim.entry); err != nil {
			return fmt.Errorf("entries %d to %d: %w", chunk, claim.to-1, err)
		}
	}
	return nil
}

// checkPrune reads a prune entry, which stands in the tree as it is.
func checkPrune(db *store.DB, snap *snapshot, to, index uint64) error {
	if index >= snap.tree.Size() {
		return fmt.Errorf("no entry %d says that they are pruned", index)
	}
	var envelope []byte
	err := db.View(func(t *store.Txn) (err error) {
		envelope, err = t.Get(numbered(prefixEntry, index))
		return err
	})
	if err != nil {
		return fmt.Errorf("prune entry %d: %w", index, err)
	}
	env, err := record.Check(envelope)
	if err != nil {
		return err
	}
	body, err := record.PruneOf(env, index)
	if err == nil && body.To != to {
		err = fmt.Errorf("entry %d prunes those up to %d", index, body.To)
	}
	if err != nil {
		return err
	}
	return checkLeaf(db, snap, index, envelope)
}

// Minimum is C2SP tlog-tiles' minimum index: entries from the second bundle of 256 up to it were pruned. 0: none were.
func (l *Log) Minimum() uint64 { return l.pruned.Load().Minimum }

// Pruning says whether a prune entry is not carried out yet.
func (l *Log) Pruning() bool { return l.pruned.Load().Next != 0 }

// Pruned gives the minimum index and the prune entry that is the reason for it; ok is false if nothing was pruned.
func (l *Log) Pruned() (minimum, entry uint64, ok bool) {
	p := l.pruned.Load()
	return p.Minimum, p.Entry, p.Minimum > 0
}

func (l *Log) isPruned(index uint64) bool { return index >= chunk && index < l.Minimum() }

// unpruned reads a range that has no pruned entries. A range that loses some while it is read has them.
func (l *Log) unpruned(from, to uint64, read func() error) error {
	has := func() bool { return from < to && to > chunk && from < l.Minimum() }
	if !has() {
		if err := read(); err == nil || !has() {
			return err
		}
	}
	return fmt.Errorf("%w: entries %d to %d of a log with minimum index %d", ErrPruned, from, to, l.Minimum())
}

// Held is private state that an entry must stay for.
type Held struct {
	Key   string
	Index uint64 // of the entry under whose key it is sealed
}

// Holding lists, at most limit, the private state in force that belongs to entries before an index and that no archive holds: it would be
// lost with the key of its entry.
func (l *Log) Holding(ctx context.Context, before uint64, limit int) ([]Held, error) {
	var out []Held
	now := l.cfg.Now()
	err := l.eachState(ctx, func(key string, value []byte) (more bool, err error) {
		index, belongs := belongsBefore(value, before)
		if !belongs || l.cfg.Archived(key) {
			return true, nil
		}
		_, ok, err := l.vault.decodeState(key, value, now)
		if ok && err == nil {
			out = append(out, Held{Key: key, Index: index})
		}
		return len(out) < limit, err
	})
	return out, err
}

// eachState goes through all domain state as it is stored.
func (l *Log) eachState(ctx context.Context, fn func(key string, value []byte) (more bool, err error)) error {
	for after := ""; ; {
		more := true
		last, seen, err := scanChunk(l.db, "", after, func(key string, value []byte) error {
			var err error
			if more, err = fn(key, value); err == nil && !more {
				return store.Stop
			}
			return err
		})
		if err != nil || !more || seen < chunk {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("audit: scan: %w", err)
		}
		after = last
	}
}

// Prune appends a prune entry, and returns when that is durable. Once a seal covers it, Run deletes what it names: entries, payloads,
// their keys, and what of the index and of private state belongs to them. Tiles stay. That the archive is there and holds them was
// verified by the caller.
//
// The range begins where the last one ended, since one prefix can be told by one number; it ends below the last seal, so that what is
// gone was sealed. No private state in force may belong to it ([Log.Holding]): its key goes. [ErrNotPrunable] says what stands
// against it; other errors are those of Append.
func (l *Log) Prune(ctx context.Context, e record.Entry) (Position, error) {
	if !l.pruning.TryLock() {
		return Position{}, fmt.Errorf("%w: another one is on its way", ErrNotPrunable)
	}
	defer l.pruning.Unlock()
	it, body, err := l.newPrune(e)
	if err != nil {
		return Position{}, err
	}
	if err := l.prunable(ctx, body); err != nil {
		return Position{}, err
	}
	next := *l.pruned.Load()
	next.From, next.Next = body.From, body.To
	it.room = maxPruned
	it.placed = func(index uint64) (pair, error) {
		next.NextEntry = index
		return next.write()
	}
	it.measure()
	if err := errors.Join(l.limits.check(it), l.offer(ctx, it)); err != nil {
		return Position{}, err
	}
	// Once queued it is not abandoned: what is believed of the store must be what it holds.
	pos, err := it.wait(context.WithoutCancel(ctx))
	if err != nil {
		return Position{}, err
	}
	l.pruned.Store(&next)
	select {
	case l.toPrune <- struct{}{}:
	default: // it will look anyway
	}
	return pos, nil
}

func (l *Log) newPrune(e record.Entry) (*item, record.PruneBody, error) {
	it, err := l.newItem(e)
	if err != nil {
		return nil, record.PruneBody{}, err
	}
	env, err := e.Check()
	if err != nil {
		return nil, record.PruneBody{}, fmt.Errorf("audit: %w", err)
	}
	body, err := record.PruneOf(env, l.Head().Size)
	if err != nil {
		return nil, body, fmt.Errorf("audit: %w", err)
	}
	return it, body, nil
}

// prunable says what stands against it.
func (l *Log) prunable(ctx context.Context, body record.PruneBody) error {
	p := l.pruned.Load()
	last := l.state.lastSeal()
	switch {
	case p.Next != 0:
		return fmt.Errorf("%w: entries up to %d are being pruned", ErrNotPrunable, p.Next)
	case body.From != p.Minimum || body.Previous != nil && *body.Previous != p.Entry:
		return fmt.Errorf("%w: the log begins at %d, by prune entry %d", ErrNotPrunable, p.Minimum, p.Entry)
	case last == nil || body.To > last.seal.Size:
		return fmt.Errorf("%w: no seal covers entry %d", ErrNotPrunable, body.To-1)
	}
	held, err := l.Holding(ctx, body.To, 1)
	if err == nil && len(held) > 0 {
		err = fmt.Errorf("%w: state that is in force belongs to entry %d", ErrNotPrunable, held[0].Index)
	}
	return err
}

// prunes carries out prune entries, those that a crash has left too, until ctx ends.
func (l *Log) prunes(ctx context.Context) {
	for {
		wait := make(<-chan time.Time)
		if err := l.carryOut(ctx); err != nil && ctx.Err() == nil {
			l.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "pruned entries are not deleted yet", slog.Any("error", err))
			wait = time.After(pruneRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-wait:
		case <-l.toPrune:
		}
	}
}

// carryOut deletes what a prune entry names, once that is sealed: until then it is not said for good that it is gone. What is done
// twice does no harm.
func (l *Log) carryOut(ctx context.Context) error {
	p := *l.pruned.Load()
	if p.Next == 0 {
		return nil
	}
	if _, err := l.WaitSealed(ctx, p.NextEntry); err != nil {
		return err
	}
	if err := l.cfg.hooks.reach("prune"); err != nil {
		return err
	}
	p.Minimum, p.Entry = p.Next, p.NextEntry
	// From here on nobody reads them: a reader would otherwise find some of them and miss others.
	if err := l.keepPruned(ctx, p); err != nil {
		return err
	}
	for n := p.From; n < p.Minimum; n += chunk {
		if err := l.deleteBundle(ctx, n); err != nil {
			return err
		}
		if err := l.cfg.hooks.reach("pruning"); err != nil {
			return err
		}
	}
	if err := l.deleteState(ctx, p.Minimum); err != nil {
		return err
	}
	return l.endPrune(ctx, p)
}

func (l *Log) keepPruned(ctx context.Context, p pruned, with ...pair) error {
	value, err := p.write()
	if err != nil {
		return err
	}
	if err := l.own(ctx, &item{raw: append(with, value)}); err != nil {
		return err
	}
	l.pruned.Store(&p)
	return nil
}

// deleteBundle deletes 256 entries and what belongs to them; of the first 256, which stay, the payloads alone.
func (l *Log) deleteBundle(ctx context.Context, first uint64) error {
	it := &item{}
	err := l.db.View(func(t *store.Txn) error {
		for index := first; index < first+chunk; index++ {
			it.raw = append(it.raw, pair{numbered(prefixSealed, index), nil}, pair{numbered(prefixPayload, index), nil})
			envelope, err := t.Get(numbered(prefixEntry, index))
			if first == 0 || errors.Is(err, store.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			env, err := record.Check(envelope)
			if err != nil {
				return err
			}
			keys, err := l.cfg.termKeys(env, index)
			if err != nil {
				return err
			}
			for _, key := range append(keys, numbered(prefixEntry, index)) {
				it.raw = append(it.raw, pair{key, nil})
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("audit: prune: %w", err)
	}
	return l.own(ctx, it)
}

// deleteState deletes the private state of pruned entries: what has expired, and what the archive holds.
func (l *Log) deleteState(ctx context.Context, before uint64) error {
	it := &item{first: before}
	flush := func() error {
		err := l.own(ctx, it)
		it = &item{first: before}
		return err
	}
	err := l.eachState(ctx, func(key string, value []byte) (bool, error) {
		if _, belongs := belongsBefore(value, before); belongs {
			it.stale = append(it.stale, stateKey(key))
		}
		if len(it.stale) == maxBatch {
			return true, flush()
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// endPrune destroys the keys: what the store still holds of what it has deleted is unreadable then, and stays erasable.
func (l *Log) endPrune(ctx context.Context, p pruned) error {
	l.erasing.Lock()
	defer l.erasing.Unlock()
	if err := l.catchUp(ctx); err != nil {
		return err
	}
	next := erasuresOf(l.vault.tree.Load())
	next.Generation++
	marker, err := next.write()
	if err != nil {
		return err
	}
	p.From, p.Next, p.NextEntry = 0, 0, 0
	if err := l.keepPruned(ctx, p, marker); err != nil {
		return err
	}
	if err := l.cfg.hooks.reach("pruned"); err != nil {
		return err
	}
	return l.vault.destroy(nil, p.Minimum, next.Generation)
}
