package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/store"
)

// guard compares the log with itself and with heads.log, and loads what stands. Everything that disagrees becomes a
// fault, so that an operator sees all of it at once.
func (l *Log) guard() {
	l.snap.Store(&snapshot{head: head{checkpoint: checkpoint.Checkpoint{Origin: l.cfg.Origin, Root: merkle.EmptyRoot()}}})
	p, err := readPruned(l.db)
	if err != nil {
		l.state.fault("pruned", err)
	}
	l.pruned.Store(&p)
	snap, err := loadTree(l.db, l.cfg.Origin, p.Minimum)
	if snap != nil {
		l.snap.Store(snap)
		l.work.Store(snap.tree.Size())
	}
	if err != nil {
		l.state.fault("tree", err)
	} else if err := p.check(l.db, snap); err != nil {
		l.state.fault("pruned", err)
	}
	if snap == nil {
		// nothing to compare them with
	} else if err := l.loadRotations(); err != nil {
		l.state.fault("rotation", err)
	}
	if err := checkHeads(l.cfg.Dir, l.db, l.Head()); err != nil {
		l.state.fault("heads_log", err)
	}
	ref, err := loadSeal(l.db)
	if err == nil {
		err = l.checkSeal(ref)
	}
	if err != nil {
		l.state.fault("seal", err)
	} else if ref != nil {
		l.state.last = ref
		l.signed.Store(&ref.sealed.Checkpoint)
		l.state.signedAt = ref.seal.Size
	}
	if err := l.loadAnchor(); err != nil {
		l.state.fault("anchor", err)
	}
}

// loadTree reads the head, computes the root from tiles and entries, and compares. It samples complete tiles against
// their entries, as far as these were not pruned; all of them is Fsck's work.
func loadTree(db *store.DB, origin string, minimum uint64) (*snapshot, error) {
	var raw []byte
	err := db.View(func(t *store.Txn) (err error) {
		raw, err = t.Get([]byte(keyHead))
		return err
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil, errors.New("the store holds no head")
	}
	if err != nil {
		return nil, err
	}
	h, err := parseHead(raw)
	if err != nil {
		return nil, err
	}
	snap := &snapshot{head: h}
	c := h.checkpoint
	if c.Origin != origin {
		return snap, fmt.Errorf("the log's origin is %q, not %q", c.Origin, origin)
	}
	tree, err := merkle.Load(c.Size, tiles{db: db})
	if err != nil {
		return snap, err
	}
	if root := tree.Root(); root != c.Root {
		return snap, fmt.Errorf("root of %d entries is %x, recorded is %x", c.Size, root, c.Root)
	}
	snap.tree = tree
	return snap, errors.Join(checkEnd(db, c.Size), sampleTiles(db, c.Size, minimum))
}

// checkEnd refuses entries beyond the head: no transaction writes one without the other.
func checkEnd(db *store.DB, size uint64) error {
	return db.View(func(t *store.Txn) error {
		return t.Iterate([]byte(prefixEntry), numbered(prefixEntry, size), func(_, _ []byte) error {
			return fmt.Errorf("there are entries beyond the head of size %d", size)
		})
	})
}

func sampleTiles(db *store.DB, size, minimum uint64) error {
	full, first := size/merkle.TileWidth, minimum/merkle.TileWidth
	if full == 0 {
		return nil
	}
	for _, index := range []uint64{0, first, first + (full-min(first, full))/2, full - 1} {
		if index != 0 && (index < first || index >= full) {
			continue // pruned, or not complete
		}
		if err := checkTile(db, index); err != nil {
			return err
		}
	}
	return nil
}

func checkTile(db *store.DB, index uint64) error {
	r := tiles{db: db}
	stored, err := r.full(0, index)
	if err != nil {
		return err
	}
	computed, err := r.fromEntries(index*merkle.TileWidth, merkle.TileWidth)
	if err != nil {
		return err
	}
	if !bytes.Equal(stored, computed) {
		return fmt.Errorf("entries %d to %d do not hash to tile %s", index*merkle.TileWidth, (index+1)*merkle.TileWidth-1,
			merkle.Path(0, index, merkle.TileWidth))
	}
	return nil
}

// checkHeads compares the last acknowledged head with the tree. The tree may be one batch ahead, never behind.
func checkHeads(dir string, db *store.DB, c checkpoint.Checkpoint) error {
	last, ok, err := readHeads(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("the file is missing")
	case err != nil:
		return err
	case !ok:
		return errors.New("the file is empty")
	case last.size > c.Size:
		return fmt.Errorf("%d entries were acknowledged, the store has %d: it lost some, or is an older copy", last.size, c.Size)
	}
	return checkRoot(db, c, last.size, last.root)
}

// checkRoot compares the root at an older size of the tree.
func checkRoot(db *store.DB, c checkpoint.Checkpoint, size uint64, want [32]byte) error {
	if size > c.Size {
		return fmt.Errorf("size %d is beyond the head of size %d", size, c.Size)
	}
	root := c.Root
	if size != c.Size {
		tree, err := merkle.Load(size, tiles{db: db})
		if err != nil {
			return err
		}
		root = tree.Root()
	}
	if root != want {
		return fmt.Errorf("root at size %d is %x, recorded is %x", size, root, want)
	}
	return nil
}

// loadSeal finds the last seal; nil when there is none.
func loadSeal(db *store.DB) (*sealRef, error) {
	var ref *sealRef
	err := db.View(func(t *store.Txn) error {
		n, _, err := getJSON[uint64](t, []byte(keyLastSeal))
		if err != nil || n == 0 {
			return err
		}
		sealed, ok, err := getJSON[checkpoint.Sealed](t, numbered(prefixSeal, n))
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("seal %d is missing", n)
		}
		seal, err := checkpoint.ParseSeal(sealed.Text)
		if err == nil && seal.Number != n {
			err = fmt.Errorf("seal %d says that it is %d", n, seal.Number)
		}
		ref = &sealRef{seal: seal, sealed: sealed}
		return err
	})
	return ref, err
}

// checkSeal compares the last seal with the tree.
func (l *Log) checkSeal(ref *sealRef) error {
	if ref == nil {
		return nil
	}
	c, err := l.Keys().Open(ref.sealed.Checkpoint)
	if err != nil {
		return err
	}
	if c.Size != ref.seal.Size || c.Root != ref.seal.Root || c.Origin != ref.seal.Origin || c.Origin != l.cfg.Origin {
		return fmt.Errorf("seal %d and its checkpoint are not about the same head", ref.seal.Number)
	}
	return checkRoot(l.db, l.Head(), ref.seal.Size, ref.seal.Root)
}

func (l *Log) loadAnchor() error {
	return l.db.View(func(t *store.Txn) error {
		anchor, ok, err := getJSON[Anchor](t, []byte(keyAnchor))
		if err == nil && !ok {
			err = errors.New("the store holds no state of the TPM's counter")
		}
		if err != nil {
			return err
		}
		pending, err := t.Get([]byte(keyPending))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		l.state.expect(anchor, pending)
		return l.checkPending(pending)
	})
}

// checkPending compares the seal in flight with the tree and the last seal: it may yet be finished and signed.
func (l *Log) checkPending(text []byte) error {
	if text == nil {
		return nil
	}
	p, err := checkpoint.ParseSeal(text)
	if err != nil {
		return err
	}
	next, previous := uint64(1), [32]byte{}
	if ref := l.state.last; ref != nil {
		next, previous = ref.seal.Number+1, ref.sealed.Digest()
	}
	if p.Origin != l.cfg.Origin || p.Number != next || p.Previous != previous {
		return fmt.Errorf("the seal in flight, number %d, does not follow the last seal", p.Number)
	}
	return checkRoot(l.db, l.Head(), p.Size, p.Root)
}
