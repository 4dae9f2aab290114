package audit

import (
	"errors"
	"fmt"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// ttlSlack is how long the store keeps expired state: whether it counts is decided by the log's clock, not the store's.
const ttlSlack = time.Minute

// commits is the committer: one batch after the other until stop is closed and the queue empty.
func (l *Log) commits(stop <-chan struct{}) {
	var next *item
	for {
		var batch []*item
		if batch, next = l.collect(next, stop); batch == nil {
			return
		}
		l.commit(batch)
	}
}

// plan is a batch on its way into one transaction.
type plan struct {
	now      time.Time
	accepted []*item
	rejected []*item
	errs     []error // of rejected
	leaves   []merkle.Hash
	work     bool
	next     *snapshot
}

func (p *plan) reject(it *item, err error) {
	p.rejected = append(p.rejected, it)
	p.errs = append(p.errs, err)
}

// commit writes a batch and answers its items: store, sync, heads.log, sync, acknowledge.
func (l *Log) commit(batch []*item) {
	p := &plan{now: l.cfg.Now()}
	live := l.admit(batch, p)
	var err error
	if len(live) > 0 {
		err = l.write(live, p)
	}
	for i, it := range p.rejected {
		it.finish(result{err: p.errs[i]})
	}
	for _, it := range p.accepted {
		if err != nil {
			it.finish(result{err: err})
			continue
		}
		it.finish(result{pos: it.pos})
	}
}

// admit takes the items that are still wanted and that the log may write now.
func (l *Log) admit(batch []*item, p *plan) []*item {
	refused := l.refusal(p.now)
	live := batch[:0:0]
	for _, it := range batch {
		if !it.claimed.CompareAndSwap(waiting, taken) {
			continue
		}
		err := refused.all
		if err == nil && !it.internal {
			err = refused.callers
		}
		if err == nil && it.entry.Time.After(p.now.Add(l.cfg.ClockTolerance)) {
			err = fmt.Errorf("%w: the entry is dated %s, it is %s", ErrClock, it.entry.Time.Format(time.RFC3339), p.now.UTC().Format(time.RFC3339))
		}
		if err != nil {
			p.reject(it, err)
			continue
		}
		if live = append(live, it); it.with != nil {
			live = append(live, it.with)
		}
	}
	return live
}

// refusals are the reasons for not writing, for the log's own items and for callers'.
type refusals struct{ all, callers error }

func (l *Log) refusal(now time.Time) refusals {
	if err := l.state.broken(); err != nil {
		return refusals{all: err}
	}
	if err := l.state.refusal(); err != nil {
		return refusals{callers: err} // the device event that settles it may be written
	}
	if last := l.snap.Load().head.at; now.Before(last.Add(-l.cfg.ClockTolerance)) {
		return refusals{all: fmt.Errorf("%w: it is %s, the last entry was committed at %s", ErrClock, now.UTC().Format(time.RFC3339), last.Format(time.RFC3339))}
	}
	free, watermark, err := l.space()
	switch {
	case err != nil:
		return refusals{all: fmt.Errorf("%w: %w", ErrDiskFull, err)}
	case free < watermark/2:
		return refusals{all: fmt.Errorf("%w: %d bytes free, %d wanted", ErrDiskFull, free, watermark)}
	case free < watermark:
		// Seals and device events go on a little longer: they are what proves that nothing else was written.
		return refusals{callers: fmt.Errorf("%w: %d bytes free, %d wanted", ErrDiskFull, free, watermark)}
	}
	return refusals{}
}

// write returns an error only when the accepted items' outcome is unknown or they were not written.
func (l *Log) write(live []*item, p *plan) error {
	if err := l.cfg.hooks.reach("commit"); err != nil {
		p.accepted = live
		return l.failed(err)
	}
	before := len(p.rejected)
	err := l.db.Update(func(t *store.Txn) error { return l.fillTxn(t, live, p) })
	switch {
	case errors.Is(err, errNothing):
		return nil
	case errors.Is(err, store.ErrUnknown):
		return l.failed(err)
	case err != nil:
		// A read failed (a checksum), or the batch was larger than measured. Nothing was written.
		p.accepted, p.rejected, p.errs = live, p.rejected[:before], p.errs[:before]
		l.state.fault("store_error", err)
		return l.state.refusal()
	}
	if err := l.cfg.hooks.reach("committed"); err != nil {
		return l.failed(err)
	}
	if p.next == nil {
		return nil
	}
	c := p.next.head.checkpoint
	if err := l.heads.append(line{size: c.Size, root: c.Root}); err != nil {
		return l.failed(err)
	}
	if err := l.cfg.hooks.reach("headed"); err != nil {
		return l.failed(err)
	}
	l.publish(p)
	return nil
}

func (l *Log) failed(err error) error {
	l.state.doubt(err)
	l.rouse()
	return fmt.Errorf("%w: %w", ErrUnknown, err)
}

// publish makes a durable head visible.
func (l *Log) publish(p *plan) {
	l.takeRotations(p.accepted)
	l.snap.Store(p.next)
	if p.work {
		l.work.Store(p.next.tree.Size())
	}
	l.rouse()
}

// rouse has the background look at what changed.
func (l *Log) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// fillTxn evaluates and writes each item in order.
func (l *Log) fillTxn(t *store.Txn, live []*item, p *plan) error {
	base := l.snap.Load()
	known := knowledge{vault: l.vault, t: t, now: p.now, state: map[string]found{}}
	for _, it := range live {
		err := known.check(it.entry.Mutations)
		var refused *PreconditionError
		if errors.As(err, &refused) {
			p.reject(it, refused)
			continue
		}
		if err != nil {
			return err
		}
		if err := l.writeItem(t, it, base.tree.Size()+uint64(len(p.leaves)), p.now); err != nil {
			return err
		}
		known.forget(it.entry.Mutations)
		if it.isEntry() {
			p.leaves = append(p.leaves, it.leaf)
			p.work = p.work || it.work
		}
		p.accepted = append(p.accepted, it)
	}
	if len(p.accepted) == 0 {
		return errNothing
	}
	if len(p.leaves) == 0 {
		return nil
	}
	return l.writeTree(t, base, p)
}

func (l *Log) writeTree(t *store.Txn, base *snapshot, p *plan) error {
	tree, full := base.tree.Append(p.leaves)
	for _, f := range full {
		if err := t.Set(tileKey(f.Level, f.Index), f.Data); err != nil {
			return err
		}
	}
	at := p.now.UTC()
	if at.Before(base.head.at) {
		at = base.head.at // within the tolerance; the recorded time never falls
	}
	c := checkpoint.Checkpoint{Origin: l.cfg.Origin, Size: tree.Size(), Root: tree.Root()}
	p.next = &snapshot{head: head{checkpoint: c, at: at}, tree: tree}
	return t.Set([]byte(keyHead), p.next.head.marshal())
}

func (l *Log) writeItem(t *store.Txn, it *item, index uint64, now time.Time) error {
	if it.isEntry() {
		it.pos = Position{Index: index, LeafHash: it.leaf}
		if err := l.vault.writeEntry(t, it, index); err != nil {
			return err
		}
	}
	for _, m := range it.entry.Mutations {
		if err := l.writeMutation(t, m, index, it.isEntry(), now); err != nil {
			return err
		}
	}
	return it.writeRaw(t, index)
}

// writeRaw writes what is the log's own.
func (it *item) writeRaw(t *store.Txn, index uint64) error {
	raw := it.raw
	if it.placed != nil {
		p, err := it.placed(index)
		if err != nil {
			return err
		}
		raw = append(raw[:len(raw):len(raw)], p)
	}
	for _, w := range raw {
		var err error
		if w.value == nil {
			err = t.Delete(w.key)
		} else {
			err = t.Set(w.key, w.value)
		}
		if err != nil {
			return err
		}
	}
	return it.dropStale(t)
}

// dropStale deletes state that was found to belong to pruned entries, unless it was written anew since.
func (it *item) dropStale(t *store.Txn) error {
	for _, key := range it.stale {
		value, err := t.Get(key)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if _, before := belongsBefore(value, it.first); before {
			if err := t.Delete(key); err != nil {
				return err
			}
		}
	}
	return nil
}

func (v *vault) writeEntry(t *store.Txn, it *item, index uint64) error {
	if err := t.Set(numbered(prefixEntry, index), it.entry.Envelope); err != nil {
		return err
	}
	if it.entry.Salt != nil {
		// A key of its own, so that it can go while the envelope stays.
		value := append(append(make([]byte, 0, record.SaltSize+len(it.entry.Payload)), it.entry.Salt...), it.entry.Payload...)
		aead, err := v.of(index)
		if err != nil {
			return err
		}
		key := numbered(prefixSealed, index)
		if err := t.Set(key, conceal(aead, key, value)); err != nil {
			return err
		}
	}
	for _, prefix := range it.terms {
		if err := t.Set(numbered(string(prefix), index), nil); err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) writeMutation(t *store.Txn, m record.Mutation, index uint64, entry bool, now time.Time) error {
	switch {
	case m.CheckOnly:
		return nil
	case m.Delete:
		return t.Delete(stateKey(m.Key))
	}
	value, flags := m.Value, uint64(0)
	if m.Of != nil {
		index = *m.Of
	}
	if l.cfg.Private(m.Key) && (entry || m.Of != nil) {
		var err error
		if value, err = l.vault.sealState(m.Key, value, index); errors.Is(err, errErased) {
			return t.Delete(stateKey(m.Key)) // it was erased before it was kept
		}
		if err != nil {
			return err
		}
		flags = sealedState
	}
	value = encodeState(value, m.Expires, flags)
	if m.Expires.IsZero() {
		return t.Set(stateKey(m.Key), value)
	}
	return t.SetTTL(stateKey(m.Key), value, max(m.Expires.Sub(now), 0)+ttlSlack)
}
