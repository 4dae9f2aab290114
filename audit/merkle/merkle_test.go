package merkle_test

import (
	"bytes"
	"crypto"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"pgregory.net/rapid"

	"github.com/signet-pki/signet/audit/merkle"
)

// tiles is a tile store filled from Append's results, as the log fills its own.
type tiles struct {
	full map[[2]uint64][]byte
	tree merkle.Tree
}

func (s *tiles) Tile(level int, index uint64, width int) ([]byte, error) {
	if data, ok := s.full[[2]uint64{uint64(level), index}]; ok {
		return data[:width*merkle.HashSize], nil
	}
	if data, ok := s.tree.Tile(level, index, width); ok {
		return data, nil
	}
	return nil, merkle.ErrTile
}

func (s *tiles) append(leaves []merkle.Hash) {
	var full []merkle.FullTile
	s.tree, full = s.tree.Append(leaves)
	for _, f := range full {
		s.full[[2]uint64{uint64(f.Level), f.Index}] = f.Data
	}
}

func leaf(i uint64) merkle.Hash { return merkle.LeafHash(binary.BigEndian.AppendUint64(nil, i)) }

func build(sizes ...int) *tiles {
	s := &tiles{full: map[[2]uint64][]byte{}}
	for _, n := range sizes {
		var batch []merkle.Hash
		for i := range n {
			batch = append(batch, leaf(s.tree.Size()+uint64(i)))
		}
		s.append(batch)
	}
	return s
}

// oracle is the root by an independent library.
func oracle(t rapid.TB, n uint64) []byte {
	f := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
	r := f.NewEmptyRange(0)
	for i := range n {
		h := leaf(i)
		if err := r.Append(h[:], nil); err != nil {
			t.Fatal(err)
		}
	}
	if n == 0 {
		return rfc6962.DefaultHasher.EmptyRoot()
	}
	root, err := r.GetRootHash(nil)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func TestRootAgreesWithIndependentLibrary(t *testing.T) {
	for _, n := range []int{0, 1, 2, 3, 7, 255, 256, 257, 511, 512, 513, 65535, 65536, 65537, 66000} {
		s := build(n)
		root := s.tree.Root()
		want := oracle(t, uint64(n))
		if !bytes.Equal(root[:], want) {
			t.Errorf("size %d: Tree.Root %x, want %x", n, root, want)
		}
		var all []merkle.Hash
		for i := range n {
			all = append(all, leaf(uint64(i)))
		}
		if got := merkle.Root(all, 3); got != root {
			t.Errorf("size %d: Root in parallel %x, want %x", n, got, root)
		}
		again, err := merkle.Load(uint64(n), s)
		if err != nil || again.Root() != root {
			t.Errorf("size %d: Load: %v, root %x", n, err, again.Root())
		}
	}
}

func hashes(p []merkle.Hash) (out [][]byte) {
	for i := range p {
		out = append(out, p[i][:])
	}
	return out
}

func TestProofsAgreeWithIndependentLibrary(t *testing.T) {
	big := build(70000)
	hasher := rfc6962.New(crypto.SHA256)
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Uint64Range(1, 3000).Draw(t, "size")
		index := rapid.Uint64Range(0, size-1).Draw(t, "index")
		root := merkle.Hash(oracle(t, size))
		p, err := merkle.Inclusion(big, index, size)
		if err != nil {
			t.Fatal(err)
		}
		l := leaf(index)
		if err := proof.VerifyInclusion(hasher, index, size, l[:], hashes(p), root[:]); err != nil {
			t.Errorf("inclusion %d in %d by the independent library: %v", index, size, err)
		}
		if err := merkle.VerifyInclusion(p, index, size, l, root); err != nil {
			t.Errorf("inclusion %d in %d: %v", index, size, err)
		}
		if merkle.VerifyInclusion(p, index, size, leaf(index+1), root) == nil {
			t.Errorf("another leaf verifies at %d", index)
		}
		from := index + 1
		c, err := merkle.Consistency(big, from, size)
		if err != nil {
			t.Fatal(err)
		}
		old := merkle.Hash(oracle(t, from))
		if err := proof.VerifyConsistency(hasher, from, size, hashes(c), old[:], root[:]); err != nil {
			t.Errorf("consistency %d to %d by the independent library: %v", from, size, err)
		}
		if err := merkle.VerifyConsistency(c, from, size, old, root); err != nil {
			t.Errorf("consistency %d to %d: %v", from, size, err)
		}
		old[0] ^= 1
		if merkle.VerifyConsistency(c, from, size, old, root) == nil {
			t.Error("another old root verifies")
		}
	})
}

func TestAppendLeavesReceiver(t *testing.T) {
	a := build(300).tree
	before := a.Root()
	b, _ := a.Append([]merkle.Hash{leaf(1)})
	c, _ := a.Append([]merkle.Hash{leaf(2)})
	if a.Root() != before || b.Root() == c.Root() {
		t.Error("appending changed the tree that was appended to")
	}
}

func TestBatchesDoNotMatter(t *testing.T) {
	if build(1, 254, 1, 1, 600, 0, 3).tree.Root() != build(860).tree.Root() {
		t.Error("the root depends on the batches")
	}
}

func TestHostileSizes(t *testing.T) {
	const huge = 1<<63 - 1 // loops for ever in a reader that does not bound it
	if err := merkle.VerifyInclusion(nil, 0, huge, leaf(0), leaf(0)); !errors.Is(err, merkle.ErrProof) {
		t.Errorf("huge tree: %v", err)
	}
	if _, err := merkle.Inclusion(build(1), 1, 1); !errors.Is(err, merkle.ErrRange) {
		t.Errorf("index = size: %v", err)
	}
	if _, err := merkle.Consistency(build(1), 2, 1); !errors.Is(err, merkle.ErrRange) {
		t.Errorf("from > to: %v", err)
	}
}

func TestPath(t *testing.T) {
	for _, tc := range []struct {
		level int
		index uint64
		width int
		path  string
	}{
		{0, 0, 256, "tile/0/000"},
		{0, 1234067, 7, "tile/0/x001/x234/067.p/7"},
		{3, 999, 255, "tile/3/999.p/255"},
	} {
		if got := merkle.Path(tc.level, tc.index, tc.width); got != tc.path {
			t.Errorf("Path = %q, want %q", got, tc.path)
		}
		l, i, w, err := merkle.ParsePath(tc.path)
		if err != nil || l != tc.level || i != tc.index || w != tc.width {
			t.Errorf("ParsePath(%q) = %d %d %d %v", tc.path, l, i, w, err)
		}
	}
	for _, bad := range []string{"", "tile/0/0", "tile/0/000.p/256", "tile/0/000.p/0", "tile/64/000", "tile/-1/000", "tile/data/000", "tile/entries/000", "tile/8/0/000"} {
		if _, _, _, err := merkle.ParsePath(bad); !errors.Is(err, merkle.ErrTile) {
			t.Errorf("ParsePath(%q): %v", bad, err)
		}
	}
}

func FuzzParseProof(f *testing.F) {
	f.Add(merkle.Proof{Index: 3, Path: []merkle.Hash{leaf(1), leaf(2)}, Checkpoint: []byte("o\n4\nAAAA\n\n— o sig\n")}.Marshal())
	f.Add(merkle.Proof{Checkpoint: []byte("x\n"), Extra: []byte("e")}.Marshal())
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := merkle.ParseProof(text)
		if err != nil {
			if !errors.Is(err, merkle.ErrProof) {
				t.Fatalf("unexpected kind of error %v", err)
			}
			return
		}
		if !bytes.Equal(p.Marshal(), text) {
			t.Fatal("two spellings of one proof")
		}
	})
}

// A complete tile by its root alone leads to the same tree and the same tiles above it.
func TestAppendTile(t *testing.T) {
	byLeaf, byTile := build(), build()
	for n := range 257 {
		var leaves []merkle.Hash
		for i := range merkle.TileWidth {
			leaves = append(leaves, leaf(uint64(n*merkle.TileWidth+i)))
		}
		byLeaf.append(leaves)
		next, full := byTile.tree.AppendTile(merkle.Root(leaves, 1))
		byTile.tree = next
		for _, f := range full {
			if want := byLeaf.full[[2]uint64{uint64(f.Level), f.Index}]; f.Level == 0 || !bytes.Equal(f.Data, want) {
				t.Fatalf("tile %d/%d is not the one of the leaves", f.Level, f.Index)
			}
		}
		if len(full) != 0 && n != 255 || byTile.tree.Size() != byLeaf.tree.Size() || byTile.tree.Root() != byLeaf.tree.Root() {
			t.Fatalf("after %d tiles: %d tiles above, size %d, root %x; want root %x", n+1, len(full), byTile.tree.Size(), byTile.tree.Root(), byLeaf.tree.Root())
		}
	}
	rest := []merkle.Hash{leaf(1), leaf(2), leaf(3)}
	byLeaf.append(rest)
	if byTile.append(rest); byTile.tree.Root() != byLeaf.tree.Root() {
		t.Error("leaves behind tiles lead to another root")
	}
}
