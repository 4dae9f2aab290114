package bundle

import (
	"time"
)

// clockTolerance is how far the log lets its clock go back, and the seals' resolution.
const clockTolerance = 10 * time.Second

// times checks the entries of a file against the entries before them and the seals around them. Entries that could not be read have none.
func (v *verifier) times(r *chunkResult) {
	passed := uint64(0)
	for i, when := range r.times {
		if !when.IsZero() && v.time(r.start+uint64(i), when) {
			passed++
		}
	}
	v.tally.pass(CheckTime, passed)
}

// time checks one entry.
func (v *verifier) time(index uint64, when time.Time) bool {
	if index >= v.around.to {
		v.around = v.covering(index)
	}
	before, after := v.around.before, v.around.after
	latest := v.latest
	if when.After(latest) {
		v.latest = when
	}
	switch {
	case when.Before(latest.Add(-clockTolerance)):
		v.tally.fail(CheckTime, at(index, entriesPath(index/chunk)), "%s is before that of an earlier entry, %s", stamp(when), stamp(latest))
	case when.Before(before.Add(-clockTolerance)):
		v.tally.fail(CheckTime, at(index, entriesPath(index/chunk)), "%s is before the seal that does not cover it, %s", stamp(when), stamp(before))
	case !after.IsZero() && when.After(after.Add(clockTolerance)):
		v.tally.fail(CheckTime, at(index, entriesPath(index/chunk)), "%s is after the seal that covers it, %s", stamp(when), stamp(after))
	default:
		return true
	}
	return false
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// judge finds out which tree is the signed one, and so who is false where tiles and entries disagree.
func (v *verifier) judge() {
	v.byTile.finish()
	tilesTrue := v.byTile.tree.Root() == v.head.Root
	entriesTrue := false
	if v.byEntry != nil {
		v.byEntry.finish()
		entriesTrue = v.byEntry.tree.Root() == v.head.Root
	}
	chosen := v.byTile
	if !tilesTrue && entriesTrue {
		chosen = v.byEntry
	}
	for _, m := range v.bad {
		if tilesTrue || !entriesTrue {
			v.tally.fail(CheckEntry, at(m.index, entriesPath(m.index/chunk)), "%s", m.detail)
		}
		if !tilesTrue {
			n := m.index / chunk
			width := int(min(v.head.Size-n*chunk, chunk))
			v.tally.fail(CheckTile, at(m.index, tilePath(0, n, width)), "not the hash of the entry")
		}
	}
	if extra := v.badTotal - uint64(len(v.bad)); extra > 0 {
		v.tally.fail(CheckEntry, place{}, "%d further entries and tiles disagree", extra)
	}
	for _, path := range chosen.bad {
		v.tally.fail(CheckTile, in(path), "not the hashes of the tiles below it")
	}
	v.tally.pass(CheckTile, chosen.good+uint64(chosen.tree.Size()+chunk-1)/chunk)
	if !tilesTrue && !entriesTrue {
		v.tally.fail(CheckCheckpoint, in(pathCheckpoint), "its root is not that of the %d leaves here", v.head.Size)
	}
	v.roots(chosen)
	v.turnedTrees(chosen)
}

// roots compares each seal with the tree at its size.
func (v *verifier) roots(tree *growth) {
	for _, s := range v.sealed {
		root, ok := tree.roots[s.Size]
		where := at(s.Number, sealPath(s.Number, ".txt"))
		switch {
		case !ok:
			v.tally.fail(CheckSealRoot, where, "its size %d is beyond the checkpoint's", s.Size)
		case root != s.Root:
			v.tally.fail(CheckSealRoot, where, "its root is not that of the first %d leaves", s.Size)
		default:
			v.tally.pass(CheckSealRoot, 1)
		}
	}
}
