package audit

import (
	"context"
	"fmt"

	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// leaf is one of the tree's. What was pruned has no envelope any more, and its hash is in its tile alone.
type leaf struct {
	index    uint64
	envelope []byte
	hash     merkle.Hash
}

// eachLeaf goes through all leaves in order. Entries from the second bundle up to minimum are not looked for: they may be half deleted.
func eachLeaf(ctx context.Context, db *store.DB, minimum, size uint64, fn func(t *store.Txn, l leaf) error) error {
	read := func(t *store.Txn, index uint64, envelope []byte) error {
		return fn(t, leaf{index, envelope, record.LeafHash(envelope)})
	}
	if err := eachEnvelope(ctx, db, 0, min(chunk, size), read); err != nil {
		return err
	}
	for first := uint64(chunk); first < min(minimum, size); first += chunk {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("audit: read leaves: %w", err)
		}
		if err := prunedLeaves(db, first, fn); err != nil {
			return err
		}
	}
	return eachEnvelope(ctx, db, min(max(chunk, minimum), size), size, read)
}

func prunedLeaves(db *store.DB, first uint64, fn func(t *store.Txn, l leaf) error) error {
	hashes, err := tiles{db: db}.full(0, first/chunk)
	if err != nil {
		return fmt.Errorf("audit: leaves of pruned entries: %w", err)
	}
	return db.View(func(t *store.Txn) error {
		for i := range uint64(chunk) {
			if err := fn(t, leaf{index: first + i, hash: merkle.Hash(hashes[i*merkle.HashSize:])}); err != nil {
				return err
			}
		}
		return nil
	})
}

// checkPruned looks for the prune entry that what is absent rests on, and for what should be absent.
func (f *fsck) checkPruned() {
	p := f.pruned
	for _, claim := range []struct{ to, entry uint64 }{{p.Minimum, p.Entry}, {p.Next, p.NextEntry}} {
		if claim.to != 0 && f.prunes[claim.entry] != claim.to {
			f.report.add(whatPruned, claim.entry, "entries %d to %d are absent, and this is not the prune entry that says so", chunk, claim.to-1)
		}
	}
	for index, to := range f.prunes {
		if to > max(p.Minimum, p.Next) {
			f.report.add(whatPruned, index, "prunes entries up to %d, and the store does not know", to)
		}
	}
	if p.Next != 0 || p.Minimum == 0 {
		return // what is left the log deletes when it runs
	}
	for _, left := range []struct {
		prefix string
		from   uint64
	}{{prefixEntry, chunk}, {prefixSealed, 0}, {prefixPayload, 0}} {
		err := f.db.View(func(t *store.Txn) error {
			return t.Iterate([]byte(left.prefix), numbered(left.prefix, left.from), func(key, _ []byte) error {
				if index := numberOf(left.prefix, key); index < p.Minimum {
					f.report.add(whatPruned, index, "was pruned, and is still there")
				}
				return store.Stop
			})
		})
		if err != nil {
			f.report.add(whatPruned, 0, "%v", err)
		}
	}
}
