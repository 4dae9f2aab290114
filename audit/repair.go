package audit

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// What of a finding is derived from the entries.
const (
	whatIndex = "index"
	whatTile  = "tile"

	whatPruned   = "pruned"
	whatRotation = "rotation"
)

// ErrNotDerived: something else than the index and the tiles is wrong. That is evidence, and nothing here changes it.
var ErrNotDerived = errors.New("audit: more is wrong than what is derived from the entries")

// termKeys are the index's keys of an entry.
func (c Config) termKeys(env record.Envelope, index uint64) ([][]byte, error) {
	terms, err := record.TermsOf(env)
	if err != nil {
		return nil, err
	}
	keys := make([][]byte, len(terms))
	for i, t := range terms {
		keys[i] = numbered(string(termPrefix(c.IndexKey, t)), index)
	}
	return keys, nil
}

// checkIndex looks for the entry's keys, and counts them: at the end the index has no others.
func (f *fsck) checkIndex(t *store.Txn, index uint64, env record.Envelope) {
	if f.cfg.IndexKey == nil {
		return
	}
	keys, err := f.cfg.termKeys(env, index)
	if err != nil {
		f.report.add("entry", index, "%v", err)
		return
	}
	for _, key := range keys {
		_, err := t.Get(key)
		switch {
		case errors.Is(err, store.ErrNotFound):
			f.report.add(whatIndex, index, "the entry is not found by all that it names")
			return
		case err != nil:
			f.report.add(whatIndex, index, "%v", err)
			return
		}
	}
	f.indexed += uint64(len(keys))
}

// checkIndexed tells of keys that no entry has, if all entries have theirs.
func (f *fsck) checkIndexed(ctx context.Context) error {
	if f.cfg.IndexKey == nil || f.report.has(whatIndex) {
		return nil
	}
	n := uint64(0)
	err := eachKey(ctx, f.db, prefixTerm, func([]byte) { n++ })
	if f.pruned.Next != 0 && n > f.indexed {
		return err // those of entries that are being pruned
	}
	if err == nil && n != f.indexed {
		f.report.add(whatIndex, 0, "has %d keys, the entries %d", n, f.indexed)
	}
	return err
}

func (r *Report) has(what string) bool {
	for _, f := range r.Findings {
		if f.What == what {
			return true
		}
	}
	return false
}

// eachKey goes through all keys with a prefix, in snapshots of some thousands.
func eachKey(ctx context.Context, db *store.DB, prefix string, fn func(key []byte)) error {
	const many = 4096
	for from := []byte(nil); ; {
		n := 0
		err := db.View(func(t *store.Txn) error {
			return t.Iterate([]byte(prefix), from, func(key, _ []byte) error {
				fn(key)
				from = append(key, 0)
				if n++; n == many {
					return store.Stop
				}
				return ctx.Err()
			})
		})
		if err != nil || n < many {
			return err
		}
	}
}

// Repair makes the index and the tiles anew from the entries, and nothing else. The log must not be open, and its entries must
// lead to its head, its seals and heads.log: else it is [ErrNotDerived], and nothing was changed. The report is of Fsck before;
// run it again afterwards. What a crash leaves half done the next Repair does.
func Repair(ctx context.Context, cfg Config) (Report, error) {
	report, err := Fsck(ctx, cfg)
	if err != nil || report.OK() {
		return report, err
	}
	for _, f := range report.Findings {
		if f.What != whatIndex && f.What != whatTile {
			return report, ErrNotDerived
		}
	}
	unlock, err := lock(cfg.Dir)
	if err != nil {
		return report, err
	}
	defer unlock()
	db, err := store.Open(filepath.Join(cfg.Dir, storeDir), store.Options{Log: cfg.Log})
	if err != nil {
		return report, fmt.Errorf("audit: repair: %w", err)
	}
	r := repair{cfg: cfg, db: db, limits: limitsOf(db)}
	return report, errors.Join(r.run(ctx), db.Close())
}

// repair writes in transactions that fit.
type repair struct {
	cfg     Config
	db      *store.DB
	limits  limits
	pending []pair
	cost    limits
}

func (r *repair) run(ctx context.Context) error {
	var stale [][]byte
	if err := eachKey(ctx, r.db, prefixTerm, func(key []byte) { stale = append(stale, key) }); err != nil {
		return err
	}
	for _, key := range stale {
		if err := r.put(pair{key, nil}); err != nil {
			return err
		}
	}
	var tree merkle.Tree
	size, err := headSize(r.db)
	if err != nil {
		return err
	}
	p, err := readPruned(r.db)
	if err != nil {
		return err
	}
	err = eachLeaf(ctx, r.db, p.Minimum, size, func(_ *store.Txn, l leaf) error {
		var full []merkle.FullTile
		tree, full = tree.Append([]merkle.Hash{l.hash})
		return r.entry(l, full)
	})
	if err != nil {
		return err
	}
	return r.flush()
}

func headSize(db *store.DB) (size uint64, err error) {
	err = db.View(func(t *store.Txn) error {
		raw, err := t.Get([]byte(keyHead))
		if err != nil {
			return err
		}
		h, err := parseHead(raw)
		size = h.checkpoint.Size
		return err
	})
	return size, err
}

// entry makes what is derived from an entry, or of one that was pruned from its leaf.
func (r *repair) entry(l leaf, full []merkle.FullTile) error {
	for _, tile := range full {
		if err := r.put(pair{tileKey(tile.Level, tile.Index), tile.Data}); err != nil {
			return err
		}
	}
	if l.envelope == nil {
		return nil
	}
	env, err := record.Check(l.envelope)
	if err != nil {
		return err
	}
	keys, err := r.cfg.termKeys(env, l.index)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := r.put(pair{key, []byte{}}); err != nil {
			return err
		}
	}
	return nil
}

func (r *repair) put(p pair) error {
	cost := store.TxnCost(len(p.key), len(p.value))
	if r.cost.bytes+cost > r.limits.bytes || r.cost.keys+1 > r.limits.keys {
		if err := r.flush(); err != nil {
			return err
		}
	}
	r.pending, r.cost = append(r.pending, p), limits{r.cost.bytes + cost, r.cost.keys + 1}
	return nil
}

func (r *repair) flush() error {
	err := r.db.Update(func(t *store.Txn) error {
		for _, p := range r.pending {
			var err error
			if p.value == nil {
				err = t.Delete(p.key)
			} else {
				err = t.Set(p.key, p.value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	r.pending, r.cost = nil, limits{}
	return err
}
