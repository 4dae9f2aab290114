package audit

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// chunk is how many entries or keys one snapshot of the store serves: long snapshots hold back its compaction.
// It is also an entry bundle, of which the first is never pruned.
const chunk = record.PruneWidth

// Head is the newest durable head.
func (l *Log) Head() checkpoint.Checkpoint { return l.snap.Load().head.checkpoint }

// SignedCheckpoint is the newest signed note; it may lag behind Head. It is nil before the first signature.
func (l *Log) SignedCheckpoint() []byte {
	if p := l.signed.Load(); p != nil {
		return *p
	}
	return nil
}

// Get reads domain state. Expired keys are absent.
func (l *Log) Get(key string) (value []byte, ok bool, err error) {
	now := l.cfg.Now()
	err = l.db.View(func(t *store.Txn) error {
		value, ok, err = l.vault.getState(t, key, now)
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("audit: get: %w", err)
	}
	return value, ok, nil
}

// Scan calls fn for the keys of domain state with the prefix that come after the key after ("" = from the first), in
// order, at most limit (0 = all). An error of fn ends it and is returned.
func (l *Log) Scan(ctx context.Context, prefix, after string, limit int, fn func(key string, value []byte) error) error {
	now := l.cfg.Now()
	for n := 0; ; {
		last, seen, err := scanChunk(l.db, prefix, after, func(key string, value []byte) error {
			value, ok, err := l.vault.decodeState(key, value, now)
			if err != nil || !ok {
				return err
			}
			if n++; limit > 0 && n > limit {
				return store.Stop
			}
			return fn(key, value)
		})
		if err != nil || seen < chunk || limit > 0 && n >= limit {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("audit: scan: %w", err)
		}
		after = last
	}
}

// Each calls fn for all live keys of domain state with the prefix, in order, and says when they expire (zero: never). An error of fn
// ends it and is returned.
func (l *Log) Each(ctx context.Context, prefix string, fn func(key string, value []byte, expires time.Time) error) error {
	now := l.cfg.Now()
	for after := ""; ; {
		last, seen, err := scanChunk(l.db, prefix, after, func(key string, stored []byte) error {
			value, ok, err := l.vault.decodeState(key, stored, now)
			if err != nil || !ok {
				return err
			}
			return fn(key, value, expiryOf(stored))
		})
		if err != nil || seen < chunk {
			return err
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("audit: scan: %w", err)
		}
		after = last
	}
}

// expiryOf reads what encodeState wrote.
func expiryOf(stored []byte) time.Time {
	at := binary.BigEndian.Uint64(stored) &^ sealedState
	if at == 0 {
		return time.Time{}
	}
	return time.UnixMilli(int64(at)).UTC() //nolint:gosec // G115: written by encodeState
}

func scanChunk(db *store.DB, prefix, after string, fn func(key string, value []byte) error) (last string, seen int, err error) {
	from := stateKey(after)
	if after != "" {
		from = append(from, 0)
	}
	err = db.View(func(t *store.Txn) error {
		return t.Iterate(stateKey(prefix), from, func(key, value []byte) error {
			last = string(key[len(prefixState):])
			if err := fn(last, value); err != nil {
				return err
			}
			if seen++; seen == chunk {
				return store.Stop
			}
			return nil
		})
	})
	return last, seen, err
}

// Lookup returns up to limit indexes ≥ from of entries with the term, ascending. The index is derived: no evidence.
func (l *Log) Lookup(ctx context.Context, term record.Term, from uint64, limit int) ([]uint64, error) {
	if limit <= 0 {
		return nil, nil
	}
	prefix := termPrefix(l.cfg.IndexKey, term)
	size := l.Head().Size
	var out []uint64
	err := l.db.View(func(t *store.Txn) error {
		return t.Iterate(prefix, numbered(string(prefix), from), func(key, _ []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			// A batch becomes readable in the store a moment before it is acknowledged.
			index := binary.BigEndian.Uint64(key[len(prefix):])
			if index >= size || len(out) == limit {
				return store.Stop
			}
			if l.isPruned(index) { // its key goes in a moment
				return nil
			}
			out = append(out, index)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("audit: lookup: %w", err)
	}
	return out, nil
}

// Read returns one entry.
func (l *Log) Read(ctx context.Context, index uint64) (record.Stored, error) {
	var out record.Stored
	err := l.Entries(ctx, index, index+1, func(s record.Stored) error {
		out = s
		return nil
	})
	return out, err
}

// Entries calls fn for the entries from ≤ index < to, in order. An error of fn ends it and is returned. A range beyond
// the head is [ErrNotFound], one that has entries which are no longer here [ErrPruned].
func (l *Log) Entries(ctx context.Context, from, to uint64, fn func(record.Stored) error) error {
	if from > to || to > l.Head().Size {
		return fmt.Errorf("%w: entries %d to %d of %d", ErrNotFound, from, to, l.Head().Size)
	}
	return l.unpruned(from, to, func() error { return l.vault.readEntries(ctx, l.db, from, to, fn) })
}

// Envelopes calls fn for all envelopes up to the head as it is now that were not pruned, in order, without their payloads. An error
// of fn ends it and is returned.
func (l *Log) Envelopes(ctx context.Context, fn func(index uint64, envelope []byte) error) error {
	size := l.Head().Size
	each := func(_ *store.Txn, index uint64, envelope []byte) error { return fn(index, envelope) }
	if err := eachEnvelope(ctx, l.db, 0, min(chunk, size), each); err != nil {
		return err
	}
	from := min(max(chunk, l.Minimum()), size)
	return l.unpruned(from, size, func() error { return eachEnvelope(ctx, l.db, from, size, each) })
}

func (v *vault) readEntries(ctx context.Context, db *store.DB, from, to uint64, fn func(record.Stored) error) error {
	return eachEnvelope(ctx, db, from, to, func(t *store.Txn, index uint64, envelope []byte) error {
		s := record.Stored{Index: index, Envelope: envelope}
		var err error
		if s.Salt, s.Payload, err = v.readPayload(t, index); err != nil {
			return err
		}
		return fn(s)
	})
}

func eachEnvelope(ctx context.Context, db *store.DB, from, to uint64, fn func(t *store.Txn, index uint64, envelope []byte) error) error {
	for from < to {
		end := min(from+chunk, to)
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("audit: read entries: %w", err)
		}
		err := db.View(func(t *store.Txn) error {
			for ; from < end; from++ {
				envelope, err := t.Get(numbered(prefixEntry, from))
				if err != nil {
					return fmt.Errorf("audit: entry %d: %w", from, err)
				}
				if err := fn(t, from, envelope); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readPayload gives salt and payload; nothing if there never was one, or if it was erased.
func (v *vault) readPayload(t *store.Txn, index uint64) (salt, payload []byte, err error) {
	both, err := v.openPayload(t, index)
	if err == nil && both != nil && len(both) < record.SaltSize {
		err = fmt.Errorf("%d bytes", len(both))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("audit: payload %d: %w", index, err)
	}
	if both == nil {
		return nil, nil, nil
	}
	return both[:record.SaltSize:record.SaltSize], both[record.SaltSize:], nil
}

func (v *vault) openPayload(t *store.Txn, index uint64) ([]byte, error) {
	key := numbered(prefixSealed, index)
	box, err := t.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return orNothing(t.Get(numbered(prefixPayload, index)))
	}
	if err != nil {
		return nil, err
	}
	aead, err := v.of(index)
	if errors.Is(err, errErased) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return reveal(aead, key, box)
}

func orNothing(value []byte, err error) ([]byte, error) {
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return value, err
}

// Tile returns the first width hashes of a C2SP tlog-tiles hash tile, 32 bytes each, 1 ≤ width ≤ 256. Width 256 is the
// complete tile. What the tree does not have yet is [ErrNotFound].
func (l *Log) Tile(ctx context.Context, level int, index uint64, width int) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("audit: tile: %w", err)
	}
	return tiles{db: l.db, snap: l.snap.Load()}.Tile(level, index, width)
}

// Inclusion proves that the entry is in the tree of that size.
func (l *Log) Inclusion(ctx context.Context, index, size uint64) ([][32]byte, error) {
	snap := l.snap.Load()
	if size > snap.tree.Size() || index >= size {
		return nil, fmt.Errorf("%w: entry %d in a tree of size %d", ErrNotFound, index, size)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("audit: inclusion: %w", err)
	}
	p, err := merkle.Inclusion(tiles{db: l.db, snap: snap}, index, size)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return p, nil
}

// Consistency proves that the tree of size from is a prefix of the tree of size to.
func (l *Log) Consistency(ctx context.Context, from, to uint64) ([][32]byte, error) {
	snap := l.snap.Load()
	if to > snap.tree.Size() || from > to {
		return nil, fmt.Errorf("%w: trees of size %d and %d", ErrNotFound, from, to)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("audit: consistency: %w", err)
	}
	p, err := merkle.Consistency(tiles{db: l.db, snap: snap}, from, to)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return p, nil
}

// Seal returns seal n, counted from 1.
func (l *Log) Seal(ctx context.Context, n uint64) (checkpoint.Sealed, error) {
	if err := ctx.Err(); err != nil {
		return checkpoint.Sealed{}, fmt.Errorf("audit: seal: %w", err)
	}
	if ref := l.state.lastSeal(); ref == nil || n > ref.seal.Number {
		return checkpoint.Sealed{}, fmt.Errorf("%w: seal %d", ErrNotFound, n)
	}
	sealed, ok, err := readSeal(l.db, n)
	if err == nil && !ok {
		err = fmt.Errorf("%w: seal %d", ErrNotFound, n)
	}
	return sealed, err
}

func readSeal(db *store.DB, n uint64) (sealed checkpoint.Sealed, ok bool, err error) {
	err = db.View(func(t *store.Txn) error {
		sealed, ok, err = getJSON[checkpoint.Sealed](t, numbered(prefixSeal, n))
		return err
	})
	return sealed, ok, err
}

// LastSeal returns the newest finished seal and its time; ok is false when there is none.
func (l *Log) LastSeal() (sealed checkpoint.Sealed, at time.Time, ok bool) {
	ref := l.state.lastSeal()
	if ref == nil {
		return checkpoint.Sealed{}, time.Time{}, false
	}
	return ref.sealed, ref.seal.Time, true
}

// tiles reads hash tiles: complete ones from the store, the others from the snapshot's edge. Without a snapshot they are
// computed from entries and complete tiles.
type tiles struct {
	db   *store.DB
	snap *snapshot // may be nil
}

func (r tiles) Tile(level int, index uint64, width int) ([]byte, error) {
	if level < 0 || level > 63/merkle.TileHeight || index > merkle.MaxSize || width < 1 || width > merkle.TileWidth {
		return nil, fmt.Errorf("%w: tile %d/%d of width %d", ErrNotFound, level, index, width)
	}
	if r.snap != nil {
		if data, ok := r.snap.tree.Tile(level, index, width); ok {
			return data, nil
		}
		if index >= r.snap.tree.Size()>>(merkle.TileHeight*(level+1)) {
			return nil, fmt.Errorf("%w: tile %s", ErrNotFound, merkle.Path(level, index, width))
		}
	}
	data, err := r.full(level, index)
	if err == nil {
		return data[:width*merkle.HashSize], nil
	}
	if !errors.Is(err, ErrNotFound) || r.snap != nil {
		return nil, err
	}
	if level == 0 {
		return r.fromEntries(index*merkle.TileWidth, width)
	}
	return r.fromTiles(level-1, index*merkle.TileWidth, width)
}

func (r tiles) full(level int, index uint64) ([]byte, error) {
	var data []byte
	err := r.db.View(func(t *store.Txn) (err error) {
		data, err = t.Get(tileKey(level, index))
		return err
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, fmt.Errorf("%w: tile %s", ErrNotFound, merkle.Path(level, index, merkle.TileWidth))
	case err != nil:
		return nil, fmt.Errorf("audit: tile: %w", err)
	case len(data) != merkle.TileWidth*merkle.HashSize:
		return nil, fmt.Errorf("audit: tile %s has %d bytes", merkle.Path(level, index, merkle.TileWidth), len(data))
	}
	return data, nil
}

func (r tiles) fromEntries(first uint64, n int) ([]byte, error) {
	out := make([]byte, 0, n*merkle.HashSize)
	err := r.db.View(func(t *store.Txn) error {
		for i := range uint64(n) { //nolint:gosec // G115: 1 to 256
			envelope, err := t.Get(numbered(prefixEntry, first+i))
			if err != nil {
				return fmt.Errorf("audit: entry %d: %w", first+i, err)
			}
			h := record.LeafHash(envelope)
			out = append(out, h[:]...)
		}
		return nil
	})
	return out, err
}

func (r tiles) fromTiles(level int, first uint64, n int) ([]byte, error) {
	out := make([]byte, 0, n*merkle.HashSize)
	for i := range uint64(n) { //nolint:gosec // G115: 1 to 256
		data, err := r.full(level, first+i)
		if err != nil {
			return nil, err
		}
		h, err := merkle.TileRoot(data)
		if err != nil {
			return nil, fmt.Errorf("audit: %w", err)
		}
		out = append(out, h[:]...)
	}
	return out, nil
}
