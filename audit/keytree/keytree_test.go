package keytree_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/signet-pki/signet/audit/keytree"
)

func key(t *testing.T, tree *keytree.Tree, leaf uint64) [keytree.Size]byte {
	t.Helper()
	k, ok := tree.Key(leaf)
	if !ok {
		t.Fatalf("no key of %d", leaf)
	}
	return k
}

// Destroyed keys are gone, and all others are what they were, whatever was asked for before.
func TestWithout(t *testing.T) {
	tree := keytree.New([keytree.Size]byte{1})
	leaves := []uint64{0, 1, 2, 255, 256, 4095, 4096, 65_535, 65_536, 1 << 39, 1<<40 - 2, 1<<40 - 1}
	want := map[uint64][keytree.Size]byte{}
	for _, l := range leaves {
		want[l] = key(t, tree, l)
		for other, k := range want {
			if other != l && k == want[l] {
				t.Fatalf("%d and %d have one key", other, l)
			}
		}
	}
	gone := []uint64{}
	for n, i := range rand.New(rand.NewPCG(1, 2)).Perm(len(leaves)) {
		gone = append(gone, leaves[i])
		tree = tree.Without([]uint64{leaves[i]}, uint64(n)+1)
		again, err := keytree.Parse(tree.Marshal())
		if err != nil || again.Generation() != uint64(n)+1 {
			t.Fatal(again.Generation(), err)
		}
		for _, tr := range []*keytree.Tree{tree, again, keytree.New([keytree.Size]byte{1}).Without(gone, 1)} {
			for _, l := range leaves {
				k, ok := tr.Key(l)
				if ok == slices.Contains(gone, l) || ok && k != want[l] {
					t.Errorf("without %d: key of %d: %v", gone, l, ok)
				}
			}
		}
	}
	if _, ok := tree.Key(1 << 40); ok {
		t.Error("a key beyond the tree")
	}
}

// What is left does not hold the seed of any node above a destroyed key.
func TestNothingLeftLeadsThere(t *testing.T) {
	seed := [keytree.Size]byte{7}
	text := keytree.New(seed).Without([]uint64{5}, 1).Marshal()
	if bytes.Contains(text, []byte(hex.EncodeToString(seed[:]))) {
		t.Error("the root's seed is left")
	}
	if n := bytes.Count(text, []byte("\n")); n != keytree.Depth+2 {
		t.Errorf("%d lines", n)
	}
}

// The formats page has this vector.
func TestVector(t *testing.T) {
	k := key(t, keytree.New([keytree.Size]byte{}), 5)
	if got := hex.EncodeToString(k[:]); got != vector {
		t.Error(got)
	}
}

const vector = "1e69efe694281a075e0aa0d7f7f484aeea341a416ceea49db2dd786d42b5bd0c"

func TestParseRefuses(t *testing.T) {
	good := keytree.New([keytree.Size]byte{1}).Without([]uint64{1, 9}, 3).Marshal()
	for i := 0; i < len(good); i += 7 {
		bad := slices.Clone(good)
		bad[i] ^= 1
		if _, err := keytree.Parse(bad); !errors.Is(err, keytree.ErrMalformed) {
			t.Fatalf("byte %d: %v", i, err)
		}
		if _, err := keytree.Parse(good[:i]); !errors.Is(err, keytree.ErrMalformed) {
			t.Fatalf("%d bytes: %v", i, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(keytree.New([keytree.Size]byte{1}).Without([]uint64{1, 9}, 3).Marshal())
	f.Fuzz(func(t *testing.T, text []byte) {
		tree, err := keytree.Parse(text)
		if err != nil {
			return
		}
		if !bytes.Equal(tree.Marshal(), text) {
			t.Error("two spellings")
		}
		tree.Key(9)
	})
}

func BenchmarkKey(b *testing.B) {
	tree := keytree.New([keytree.Size]byte{1})
	b.Run("in order", func(b *testing.B) {
		for i := range b.N {
			tree.Key(uint64(i))
		}
	})
	b.Run("anywhere", func(b *testing.B) {
		for i := range b.N {
			tree.Key(uint64(i) << 13 & (1<<keytree.Depth - 1))
		}
	})
}

// From leaves exactly the keys of what comes later, in one seed a level at most.
func TestFrom(t *testing.T) {
	tree := keytree.New([keytree.Size]byte{1})
	for _, first := range []uint64{0, 1, 255, 256, 4711, 1<<keytree.Depth - 1, 1 << keytree.Depth} {
		cut := tree.Without([]uint64{5000}, 1).From(first, 2)
		if cut.Generation() != 2 || bytes.Count(cut.Marshal(), []byte("\n")) > 2*keytree.Depth+2 {
			t.Errorf("from %d: generation %d\n%s", first, cut.Generation(), cut.Marshal())
		}
		for _, leaf := range []uint64{0, 1, 254, 255, 256, 4710, 4711, 5000, 1 << 20, 1<<keytree.Depth - 1} {
			was, _ := tree.Key(leaf)
			is, ok := cut.Key(leaf)
			if want := leaf >= first && leaf != 5000; ok != want || ok && is != was {
				t.Errorf("from %d: key %d: %v", first, leaf, ok)
			}
		}
		if again, err := keytree.Parse(cut.Marshal()); err != nil || again.Generation() != 2 {
			t.Errorf("from %d: %v", first, err)
		}
	}
}
