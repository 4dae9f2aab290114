// Package keytree gives each entry of the log a key of its own out of one seed, so that single keys can be destroyed.
//
// It is the tree of Goldreich, Goldwasser and Micali (1986), punctured: a node's two children are hashes of its seed, and an entry's
// key is the leaf. To destroy a key is to replace the seeds on its path by those beside it. What is left gives all other keys
// and says nothing about that one; an entry needs no write of its own when it is made. Pure.
package keytree

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

const (
	// Depth is that of the leaves: indexes are below 2^Depth.
	Depth = 40
	// Size of seeds and keys, in bytes.
	Size = sha256.Size

	format  = "signet/payload-keys@v1"
	near    = 12      // levels of the subtree whose seed is remembered: entries are asked for one after the other
	maxText = 1 << 30 // bytes of a tree as text
)

// ErrMalformed: not the text of a tree.
var ErrMalformed = errors.New("keytree: malformed")

// node is a seed for the leaves index<<level and up, 1<<level of them.
type node struct {
	level uint8
	index uint64
	seed  [Size]byte
}

func (n *node) first() uint64 { return n.index << n.level }

func (n *node) covers(leaf uint64) bool { return leaf>>n.level == n.index }

// child is the left one or, with right = 1, the right one.
func (n *node) child(right uint8) node {
	var in [Size + 1]byte
	copy(in[:], n.seed[:])
	in[Size] = right
	return node{level: n.level - 1, index: n.index<<1 | uint64(right), seed: sha256.Sum256(in[:])}
}

// down is the node at a level on the way to a leaf.
func (n node) down(leaf uint64, level uint8) node {
	for n.level > level {
		n = n.child(uint8(leaf >> (n.level - 1) & 1))
	}
	return n
}

// Tree gives keys. It never changes, and is safe for concurrent use.
type Tree struct {
	generation uint64
	seeds      []node // by first leaf; together they cover what is not destroyed
	last       atomic.Pointer[node]
}

// New makes a tree in which no key is destroyed.
func New(seed [Size]byte) *Tree { return &Tree{seeds: []node{{level: Depth, seed: seed}}} }

// Generation counts how often keys were destroyed.
func (t *Tree) Generation() uint64 { return t.generation }

// Key is that of an entry; false if it was destroyed, or could never be.
func (t *Tree) Key(leaf uint64) ([Size]byte, bool) {
	if n := t.last.Load(); n != nil && n.covers(leaf) {
		return n.down(leaf, 0).seed, true
	}
	i, found := t.find(leaf)
	if !found {
		return [Size]byte{}, false
	}
	n := t.seeds[i]
	if n.level > near {
		n = n.down(leaf, near)
		t.last.Store(&n)
	}
	return n.down(leaf, 0).seed, true
}

// find says which seed covers a leaf.
func (t *Tree) find(leaf uint64) (int, bool) {
	i, exact := slices.BinarySearchFunc(t.seeds, leaf, func(n node, leaf uint64) int { return cmp.Compare(n.first(), leaf) })
	if !exact {
		i--
	}
	return i, i >= 0 && t.seeds[i].covers(leaf)
}

// Without is the tree of the next generation, from which nobody learns the keys of these entries.
func (t *Tree) Without(leaves []uint64, generation uint64) *Tree {
	gone := slices.Clone(leaves)
	slices.Sort(gone)
	out := &Tree{generation: generation}
	for _, n := range t.seeds {
		from, _ := slices.BinarySearch(gone, n.first())
		to, _ := slices.BinarySearch(gone, n.first()+1<<n.level)
		out.seeds = n.without(gone[from:to], out.seeds)
	}
	return out
}

// From is the tree of the next generation, from which nobody learns the keys of the entries before first either.
func (t *Tree) From(first, generation uint64) *Tree {
	out := &Tree{generation: generation}
	for _, n := range t.seeds {
		out.seeds = n.from(first, out.seeds)
	}
	return out
}

// from adds the seeds that a node has from a leaf on.
func (n node) from(first uint64, seeds []node) []node {
	switch end := n.first() + 1<<n.level; {
	case end <= first:
		return seeds
	case n.first() >= first:
		return append(seeds, n)
	}
	return n.child(1).from(first, n.child(0).from(first, seeds))
}

// without adds the seeds that are left of a node.
func (n node) without(gone []uint64, seeds []node) []node {
	switch {
	case len(gone) == 0:
		return append(seeds, n)
	case n.level == 0:
		return seeds
	}
	left, right := n.child(0), n.child(1)
	split, _ := slices.BinarySearch(gone, right.first())
	return right.without(gone[split:], left.without(gone[:split], seeds))
}

// Marshal writes "signet/payload-keys@v1 <generation>", a line "<level> <index> <seed, hex>" for each seed, and the SHA-256 of all that in
// hex. Each line ends in LF.
func (t *Tree) Marshal() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %d\n", format, t.generation)
	for _, n := range t.seeds {
		fmt.Fprintf(&b, "%d %d %x\n", n.level, n.index, n.seed)
	}
	fmt.Fprintf(&b, "%x\n", sha256.Sum256(b.Bytes()))
	return b.Bytes()
}

// Parse reads what Marshal wrote, in that spelling alone. A damaged tree is ErrMalformed: a key that is one bit off is no key.
func Parse(text []byte) (*Tree, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("%w: %d bytes", ErrMalformed, len(text))
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 3 {
		return nil, fmt.Errorf("%w: too short", ErrMalformed)
	}
	name, number, _ := strings.Cut(lines[0], " ")
	generation, err := strconv.ParseUint(number, 10, 64)
	if err != nil || name != format {
		return nil, fmt.Errorf("%w: first line", ErrMalformed)
	}
	t := &Tree{generation: generation}
	for _, line := range lines[1 : len(lines)-2] {
		n, err := parseNode(line)
		if err != nil {
			return nil, err
		}
		if k := len(t.seeds); k > 0 && t.seeds[k-1].first()+1<<t.seeds[k-1].level > n.first() {
			return nil, fmt.Errorf("%w: seeds out of order", ErrMalformed)
		}
		t.seeds = append(t.seeds, n)
	}
	if !bytes.Equal(t.Marshal(), text) {
		return nil, fmt.Errorf("%w: checksum", ErrMalformed)
	}
	return t, nil
}

func parseNode(line string) (node, error) {
	fields := strings.Split(line, " ")
	if len(fields) != 3 || len(fields[2]) != 2*Size {
		return node{}, fmt.Errorf("%w: line", ErrMalformed)
	}
	level, err1 := strconv.ParseUint(fields[0], 10, 8)
	index, err2 := strconv.ParseUint(fields[1], 10, 64)
	n := node{level: uint8(level), index: index}
	_, err3 := hex.Decode(n.seed[:], []byte(fields[2]))
	if err := errors.Join(err1, err2, err3); err != nil || level > Depth || bits.Len64(index) > Depth-int(level) {
		return node{}, fmt.Errorf("%w: line", ErrMalformed)
	}
	return n, nil
}
