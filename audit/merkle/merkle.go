// Package merkle is the log's tree: RFC 6962 hashing, C2SP tlog-tiles of height 8, proofs from tiles, and the
// tlog-proof text. Hashing and proofs are those of golang.org/x/mod/sumdb/tlog.
//
// It reads tiles through an interface and stores nothing. It does not believe its reader: a proof made from false tiles
// does not verify, and [Load] lets the caller compare the root. Sizes above [MaxSize] are refused, since hostile ones
// would make the arithmetic overflow. Values are immutable and all of it is safe for concurrent use.
package merkle

import (
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/tlog"
)

// Dimensions of a tile (C2SP tlog-tiles).
const (
	TileHeight = 8
	TileWidth  = 1 << TileHeight
	HashSize   = sha256.Size
)

// MaxSize bounds tree sizes.
const MaxSize = 1 << 48

var (
	// ErrRange: an index or size that the tree does not have.
	ErrRange = errors.New("merkle: out of range")
	// ErrProof: a proof does not verify, or is not in the one accepted spelling.
	ErrProof = errors.New("merkle: invalid proof")
	// ErrTile: a tile is malformed.
	ErrTile = errors.New("merkle: invalid tile")
)

// Hash is a leaf, node or root hash.
type Hash = [HashSize]byte

// LeafHash is SHA-256(0x00 || data), RFC 6962 §2.1.
func LeafHash(data []byte) Hash { return Hash(tlog.RecordHash(data)) }

// NodeHash is SHA-256(0x01 || left || right), RFC 6962 §2.1.
func NodeHash(left, right Hash) Hash { return Hash(tlog.NodeHash(tlog.Hash(left), tlog.Hash(right))) }

// EmptyRoot is the root of the tree without leaves.
func EmptyRoot() Hash { return sha256.Sum256(nil) }

// FullTile is a complete tile: 256 hashes, which never change again.
type FullTile struct {
	Level int
	Index uint64
	Data  []byte
}

// TileReader gives the first width hashes, or more, of the tile with that level and index, 32 bytes each.
type TileReader interface {
	Tile(level int, index uint64, width int) ([]byte, error)
}

// Tree is the right edge of a tree: for each level the hashes of its incomplete tile. It is what is needed to append
// and to know the root. The zero Tree is empty.
type Tree struct {
	size uint64
	edge [][]Hash
}

// Load reads the right edge of the tree with that size. Every hash that the root depends on comes from r.
func Load(size uint64, r TileReader) (Tree, error) {
	if size > MaxSize {
		return Tree{}, fmt.Errorf("%w: size %d", ErrRange, size)
	}
	t := Tree{size: size}
	for level := 0; size>>(TileHeight*level) > 0; level++ {
		n := size >> (TileHeight * level)
		hashes, err := readTile(r, level, n>>TileHeight, int(n%TileWidth))
		if err != nil {
			return Tree{}, err
		}
		t.edge = append(t.edge, hashes)
	}
	return t, nil
}

func readTile(r TileReader, level int, index uint64, width int) ([]Hash, error) {
	if width == 0 {
		return nil, nil
	}
	data, err := r.Tile(level, index, width)
	if err != nil {
		return nil, fmt.Errorf("merkle: read tile %d/%d: %w", level, index, err)
	}
	if len(data) < width*HashSize {
		return nil, fmt.Errorf("%w: tile %d/%d has %d bytes, not %d", ErrTile, level, index, len(data), width*HashSize)
	}
	hashes := make([]Hash, width)
	for i := range hashes {
		copy(hashes[i][:], data[i*HashSize:])
	}
	return hashes, nil
}

// Size is the number of leaves.
func (t Tree) Size() uint64 { return t.size }

// Append returns the tree with the leaf hashes added, and the tiles that they completed. The receiver does not change.
func (t Tree) Append(leaves []Hash) (Tree, []FullTile) {
	next := Tree{size: t.size, edge: make([][]Hash, len(t.edge))}
	for i, hashes := range t.edge {
		next.edge[i] = append(make([]Hash, 0, TileWidth), hashes...)
	}
	var full []FullTile
	for _, leaf := range leaves {
		next.size++
		full = next.add(0, leaf, full)
	}
	return next, full
}

// AppendTile is Append of the leaves of one complete tile whose hash in the level above, by [TileRoot], is root; the tile itself is not among
// those returned. The receiver's lowest tile must be complete, too.
func (t Tree) AppendTile(root Hash) (Tree, []FullTile) {
	next, _ := t.Append(nil)
	if len(next.edge) == 0 {
		next.edge = append(next.edge, make([]Hash, 0, TileWidth))
	}
	next.size += TileWidth
	return next, next.add(1, root, nil)
}

func (t *Tree) add(level int, h Hash, full []FullTile) []FullTile {
	if level == len(t.edge) {
		t.edge = append(t.edge, make([]Hash, 0, TileWidth))
	}
	t.edge[level] = append(t.edge[level], h)
	if len(t.edge[level]) < TileWidth {
		return full
	}
	hashes := t.edge[level]
	t.edge[level] = hashes[:0]
	data := encodeTile(hashes)
	index := t.size>>(TileHeight*(level+1)) - 1
	full = append(full, FullTile{Level: level, Index: index, Data: data})
	return t.add(level+1, subtree(hashes), full)
}

// Root is the tree's root hash.
func (t Tree) Root() Hash {
	if t.size == 0 {
		return EmptyRoot()
	}
	var root Hash
	some := false
	for _, hashes := range t.edge {
		// From the right: first what is smaller than one hash of this level, then the perfect subtrees, smallest first.
		for n := len(hashes); n > 0; n &= n - 1 {
			perfect := subtree(hashes[n-n&-n : n])
			if some {
				root = NodeHash(perfect, root)
			} else {
				root, some = perfect, true
			}
		}
	}
	return root
}

// Tile returns the first width hashes of an incomplete tile; ok is false when t does not hold that many of it.
func (t Tree) Tile(level int, index uint64, width int) (data []byte, ok bool) {
	if level < 0 || level >= len(t.edge) || index != t.size>>(TileHeight*(level+1)) || width < 1 || width > len(t.edge[level]) {
		return nil, false
	}
	return encodeTile(t.edge[level][:width]), true
}

func encodeTile(hashes []Hash) []byte {
	data := make([]byte, 0, len(hashes)*HashSize)
	for i := range hashes {
		data = append(data, hashes[i][:]...)
	}
	return data
}

// subtree hashes a power of two of hashes.
func subtree(hashes []Hash) Hash {
	if len(hashes) == 1 {
		return hashes[0]
	}
	half := len(hashes) / 2
	return NodeHash(subtree(hashes[:half]), subtree(hashes[half:]))
}

// TileRoot is the hash that a complete tile has in the level above it.
func TileRoot(data []byte) (Hash, error) {
	if len(data) != TileWidth*HashSize {
		return Hash{}, fmt.Errorf("%w: %d bytes are no complete tile", ErrTile, len(data))
	}
	hashes := make([]Hash, TileWidth)
	for i := range hashes {
		copy(hashes[i][:], data[i*HashSize:])
	}
	return subtree(hashes), nil
}
