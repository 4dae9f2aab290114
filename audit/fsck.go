package audit

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/store"
)

// scratchPrefix names the copy of a store that was not closed cleanly.
const scratchPrefix = "fsck-"

// maxFindings bounds a report; the first are what matters.
const maxFindings = 1000

// Finding is one thing that is wrong.
type Finding struct {
	What   string // entry payload payload_keys pruned index state tile head heads_log rotation seal
	Index  uint64 // of the entry, tile or seal; 0: of state that no entry makes
	Detail string
}

// Report tells what Fsck read and what was wrong with it.
type Report struct {
	Entries  uint64
	Payloads uint64
	Erased   uint64 // payloads that a redact entry names, and that are gone
	Pruned   uint64 // entries that a prune entry names, and that are gone; their leaves were read from tiles
	Tiles    uint64 // complete ones
	Seals    uint64
	Findings []Finding
}

// OK reports whether nothing was wrong.
func (r *Report) OK() bool { return len(r.Findings) == 0 }

func (r *Report) add(what string, index uint64, format string, args ...any) {
	if len(r.Findings) < maxFindings {
		r.Findings = append(r.Findings, Finding{What: what, Index: index, Detail: fmt.Sprintf(format, args...)})
	}
}

// Fsck reads the whole log and recomputes it: entries, leaves, tiles, root, heads.log, the chain of seals and the
// signatures on their checkpoints. The TPM's statements are the offline verifier's to check. The log must not be open;
// of it nothing is changed. Of cfg it needs Dir, Origin, Now, Log, a Signer for its Public, and, for comparing the index and
// domain state too, IndexKey and Replay. The error is about what could not be read at all.
func Fsck(ctx context.Context, cfg Config) (_ Report, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return Report{}, err
	}
	first, err := newSigners(cfg.Origin, cfg.Signer)
	if err != nil {
		return Report{}, err
	}
	unlock, err := lock(cfg.Dir)
	if err != nil {
		return Report{}, err
	}
	defer unlock()
	db, discard, err := openReadOnly(cfg)
	if err != nil {
		return Report{}, fmt.Errorf("audit: fsck: %w", err)
	}
	f := fsck{cfg: cfg, db: db, keys: first.keys, rotations: map[uint64]string{}}
	f.readKeys()
	err = f.run(ctx)
	return f.report, errors.Join(err, db.Close(), discard())
}

// openReadOnly opens the store without changing it. One that was not closed cleanly needs its write-ahead log replayed,
// which is done on a copy.
func openReadOnly(cfg Config) (db *store.DB, discard func() error, err error) {
	dir := filepath.Join(cfg.Dir, storeDir)
	db, err = store.Open(dir, store.Options{ReadOnly: true, Log: cfg.Log})
	if err == nil || !errors.Is(err, store.ErrUnclean) {
		return db, func() error { return nil }, err
	}
	if err := dropScratch(cfg.Dir); err != nil {
		return nil, nil, err
	}
	scratch, err := os.MkdirTemp(cfg.Dir, scratchPrefix)
	if err != nil {
		return nil, nil, err
	}
	discard = func() error { return os.RemoveAll(scratch) }
	if err := store.Snapshot(dir, scratch); err != nil {
		return nil, nil, errors.Join(err, discard())
	}
	if db, err = store.Open(scratch, store.Options{Log: cfg.Log}); err != nil {
		return nil, nil, errors.Join(err, discard())
	}
	return db, discard, nil
}

// dropScratch removes the copies that killed runs left; the log's lock is held.
func dropScratch(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, scratchPrefix+"*"))
	for _, d := range left {
		err = errors.Join(err, os.RemoveAll(d))
	}
	return err
}

type fsck struct {
	cfg    Config
	db     *store.DB
	vault  *vault
	keys   *rotation.Keys
	report Report

	head      head
	tree      merkle.Tree
	leaves    []merkle.Hash      // read, not yet in the tree
	roots     map[uint64][]claim // by size
	digests   map[uint64]string  // of seals, as their leaves tell, by number
	indexed   uint64             // keys of the index that the entries have
	absent    []uint64           // payloads
	redacted  map[uint64]bool    // entries that redact entries name
	pruned    pruned             // what the store says
	prunes    map[uint64]uint64  // to what prune entries prune, by index
	rotations map[uint64]string  // envelopes of rotation entries that the store keeps beside them, by index
	found     map[Anchor]bool    // states of the TPM that device entries tell, Restart zeroed
}

// claim is a root that something else than the tree tells.
type claim struct {
	what  string
	index uint64
	root  [32]byte
}

func (f *fsck) run(ctx context.Context) error {
	f.roots, f.digests, f.found, f.redacted = map[uint64][]claim{}, map[uint64]string{}, map[Anchor]bool{}, map[uint64]bool{}
	f.prunes = map[uint64]uint64{}
	var raw []byte
	err := f.db.View(func(t *store.Txn) (err error) {
		raw, err = t.Get([]byte(keyHead))
		return err
	})
	if err != nil {
		f.report.add("head", 0, "%v", err)
		return nil
	}
	if f.head, err = parseHead(raw); err != nil {
		f.report.add("head", 0, "%v", err)
		return nil
	}
	if f.pruned, err = readPruned(f.db); err != nil {
		f.report.add(whatPruned, 0, "%v", err)
	}
	c := f.head.checkpoint
	if c.Origin != f.cfg.Origin {
		f.report.add("head", c.Size, "origin is %q, not %q", c.Origin, f.cfg.Origin)
	}
	f.roots[c.Size] = append(f.roots[c.Size], claim{what: "head", index: c.Size, root: c.Root})
	f.readHeadsLog()
	f.readRotations()
	seals, err := f.readSeals(ctx)
	if err == nil {
		err = f.readState(ctx)
	}
	if err != nil {
		return err
	}
	if err := f.readEntries(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		f.report.add("entry", f.report.Entries, "%v; nothing from here on was checked", err)
	}
	f.checkAbsent()
	f.checkPruned()
	f.checkState()
	f.checkChain(seals)
	if err := f.checkIndexed(ctx); err != nil {
		return err
	}
	if err := checkEnd(f.db, c.Size); err != nil {
		f.report.add("entry", c.Size, "%v", err)
	}
	return nil
}

func (f *fsck) readHeadsLog() {
	last, ok, err := readHeads(f.cfg.Dir)
	switch {
	case err != nil:
		f.report.add("heads_log", 0, "%v", err)
	case !ok:
		f.report.add("heads_log", 0, "the file is empty")
	case last.size > f.head.checkpoint.Size:
		f.report.add("heads_log", last.size, "%d entries were acknowledged, the store has %d", last.size, f.head.checkpoint.Size)
	default:
		f.roots[last.size] = append(f.roots[last.size], claim{what: "heads_log", index: last.size, root: last.root})
	}
}

// readRotations follows the audit keys, and notes the roots that old ones vouch for.
func (f *fsck) readRotations() {
	changes, err := readRotations(f.db)
	if err != nil {
		f.report.add(whatRotation, 0, "%v", err)
	}
	for _, p := range changes {
		var next *rotation.Keys
		var vouched checkpoint.Checkpoint
		if p.Proof == "" {
			next, err = f.keys.Follow(p.Index, p.Envelope)
		} else {
			next, vouched, err = f.keys.FollowProof(p)
		}
		if err == nil && p.Index >= f.head.checkpoint.Size {
			err = errors.New("it is beyond the head")
		}
		if err != nil {
			f.report.add(whatRotation, p.Index, "%v", err)
			return
		}
		f.keys, f.rotations[p.Index] = next, string(p.Envelope)
		if p.Proof != "" {
			f.roots[vouched.Size] = append(f.roots[vouched.Size], claim{what: whatRotation, index: p.Index, root: vouched.Root})
		}
	}
}

// readSeals reads all seals, checks each by itself and notes the roots that they claim.
func (f *fsck) readSeals(ctx context.Context) ([]sealRef, error) {
	last, err := loadSeal(f.db)
	if err != nil {
		f.report.add("seal", 0, "%v", err)
		return nil, nil
	}
	if last == nil {
		return nil, nil
	}
	var seals []sealRef
	for n := uint64(1); n <= last.seal.Number; n++ {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("audit: fsck: %w", err)
		}
		sealed, ok, err := readSeal(f.db, n)
		if err != nil || !ok {
			f.report.add("seal", n, "cannot be read: present %t, %v", ok, err)
			continue
		}
		seal, err := checkpoint.ParseSeal(sealed.Text)
		if err != nil {
			f.report.add("seal", n, "%v", err)
			continue
		}
		f.report.Seals++
		f.checkSeal(n, sealed, seal)
		seals = append(seals, sealRef{seal: seal, sealed: sealed})
	}
	return seals, nil
}

func (f *fsck) checkSeal(n uint64, sealed checkpoint.Sealed, seal checkpoint.Seal) {
	if seal.Number != n || sealed.Number != n || seal.Origin != f.cfg.Origin {
		f.report.add("seal", n, "says that it is number %d of %q", seal.Number, seal.Origin)
	}
	c, err := f.keys.Open(sealed.Checkpoint)
	if err != nil {
		f.report.add("seal", n, "checkpoint: %v", err)
	} else if c.Size != seal.Size || c.Root != seal.Root || c.Origin != seal.Origin {
		f.report.add("seal", n, "its checkpoint is about another head")
	}
	if len(sealed.Quote) == 0 || len(sealed.QuoteSig) == 0 || len(sealed.NV) == 0 || len(sealed.NVSig) == 0 {
		f.report.add("seal", n, "a statement of the TPM is missing")
	}
	if seal.Size > f.head.checkpoint.Size {
		f.report.add("seal", n, "covers %d entries, the store has %d", seal.Size, f.head.checkpoint.Size)
		return
	}
	f.roots[seal.Size] = append(f.roots[seal.Size], claim{what: "seal", index: n, root: seal.Root})
}

// readEntries hashes all entries in order, and compares tiles and roots on the way.
func (f *fsck) readEntries(ctx context.Context) error {
	f.checkRoots()
	return eachLeaf(ctx, f.db, f.pruned.Minimum, f.head.checkpoint.Size, func(t *store.Txn, l leaf) error {
		if l.envelope != nil {
			f.readEntry(t, l.index, l.envelope)
		} else {
			f.report.Pruned++
		}
		if change, ok := f.rotations[l.index]; ok && record.LeafHash([]byte(change)) != l.hash {
			f.report.add(whatRotation, l.index, "is not the change of the audit key that the store knows")
		}
		f.leaves = append(f.leaves, l.hash)
		next := l.index + 1
		if next%merkle.TileWidth == 0 || f.roots[next] != nil {
			f.grow()
		}
		return nil
	})
}

func (f *fsck) readEntry(t *store.Txn, index uint64, envelope []byte) {
	f.report.Entries++
	env, err := record.Check(envelope)
	if err != nil {
		f.report.add("entry", index, "%v", err)
		return
	}
	f.replay(index, env, f.checkPayload(t, index, env))
	f.checkIndex(t, index, env)
	switch env.Type {
	case record.TypeSeal:
		if body, err := record.DecodeBody[record.SealBody](env); err != nil {
			f.report.add("entry", index, "%v", err)
		} else {
			f.digests[body.Number] = body.Digest
		}
	case record.TypeDevice:
		if body, err := record.DecodeBody[record.DeviceBody](env); err != nil {
			f.report.add("entry", index, "%v", err)
		} else if body.Found != nil && len(body.PCRs) == 0 {
			f.found[Anchor{Reset: body.Found.Reset, Counter: body.Found.Counter}] = true
		}
	case record.TypeRedact:
		leaves, err := redacted(env, index)
		if err != nil {
			f.report.add("entry", index, "%v", err)
		}
		for _, l := range leaves {
			f.redacted[l] = true
		}
	case record.TypeRotation:
		if f.rotations[index] != string(envelope) {
			f.report.add(whatRotation, index, "the store does not know of this change of the audit key")
		}
	case record.TypePrune:
		body, err := record.PruneOf(env, index)
		if err != nil {
			f.report.add("entry", index, "%v", err)
			return
		}
		f.prunes[index] = body.To
	default:
	}
}

func (f *fsck) grow() {
	var full []merkle.FullTile
	f.tree, full = f.tree.Append(f.leaves)
	f.leaves = f.leaves[:0]
	for _, tile := range full {
		stored, err := tiles{db: f.db}.full(tile.Level, tile.Index)
		switch {
		case err != nil:
			f.report.add(whatTile, tile.Index, "level %d: %v", tile.Level, err)
		case !bytes.Equal(stored, tile.Data):
			f.report.add(whatTile, tile.Index, "level %d: its entries hash to something else", tile.Level)
		default:
			f.report.Tiles++
		}
	}
	f.checkRoots()
}

func (f *fsck) checkRoots() {
	claims := f.roots[f.tree.Size()]
	if len(claims) == 0 {
		return
	}
	root := f.tree.Root()
	for _, c := range claims {
		if c.root != root {
			f.report.add(c.what, c.index, "root at size %d is %x, the entries' is %x", f.tree.Size(), c.root, root)
		}
	}
}

// checkChain compares each seal with the one before it, and with its leaf.
func (f *fsck) checkChain(seals []sealRef) {
	for i, ref := range seals {
		n := ref.seal.Number
		digest := ref.sealed.Digest()
		got := f.digests[n]
		if got == "" && ref.seal.Size < f.pruned.Minimum {
			got = hex.EncodeToString(digest[:]) // its leaf may be among the pruned
		}
		if got != hex.EncodeToString(digest[:]) {
			f.report.add("seal", n, "its leaf has digest %q", got)
		}
		if i == 0 {
			continue
		}
		before := seals[i-1]
		if ref.seal.Previous != before.sealed.Digest() || ref.seal.Size < before.seal.Size {
			f.report.add("seal", n, "does not follow seal %d", before.seal.Number)
		}
		follows := ref.seal.Reset == before.seal.Reset && ref.seal.Counter == before.seal.Counter+1
		if !follows && before.seal.Size >= f.pruned.Minimum && !f.found[Anchor{Reset: ref.seal.Reset, Counter: ref.seal.Counter - 1}] {
			f.report.add("seal", n, "counter %d of boot %d after counter %d of boot %d, and no device entry tells why",
				ref.seal.Counter, ref.seal.Reset, before.seal.Counter, before.seal.Reset)
		}
	}
}
