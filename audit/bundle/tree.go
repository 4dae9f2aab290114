package bundle

import (
	"bytes"
	"slices"

	"github.com/signet-pki/signet/audit/merkle"
)

type hash = merkle.Hash

// growth recomputes the tree from leaves that come in order: the roots at the sizes asked for, and the tiles above the lowest level.
type growth struct {
	tree  merkle.Tree
	want  []uint64 // ascending sizes whose roots are wanted and not yet reached
	roots map[uint64]hash
	bad   []string // higher tiles that disagree with the file
	good  uint64
	file  func(path string) ([]byte, error)
}

func newGrowth(sizes []uint64, file func(path string) ([]byte, error)) *growth {
	return &growth{want: slices.Compact(slices.Clone(sizes)), roots: map[uint64]hash{}, file: file}
}

// clone is taken at most once, where tiles and entries first disagree.
func (g *growth) clone() *growth {
	c := *g
	c.bad, c.roots = slices.Clone(g.bad), map[uint64]hash{}
	for size, root := range g.roots {
		c.roots[size] = root
	}
	return &c
}

// append adds leaves. root is that of the leaves of a full tile, if it is known; then only the hashes above them are left to compute.
func (g *growth) append(leaves []hash, root *hash) {
	start := g.tree.Size()
	for len(g.want) > 0 && g.want[0] <= start+uint64(len(leaves)) {
		size := g.want[0]
		if size >= start {
			prefix, _ := g.tree.Append(leaves[:size-start])
			g.roots[size] = prefix.Root()
		}
		g.want = g.want[1:]
	}
	var full []merkle.FullTile
	if root != nil && start%chunk == 0 {
		g.tree, full = g.tree.AppendTile(*root)
	} else {
		g.tree, full = g.tree.Append(leaves)
	}
	for _, t := range full {
		if t.Level > 0 {
			g.compare(t.Level, t.Index, t.Data)
		}
	}
}

// finish compares the partial tiles above the lowest level.
func (g *growth) finish() {
	for level, n := 1, g.tree.Size()/chunk; n > 0; level, n = level+1, n/chunk {
		if n%chunk == 0 {
			continue
		}
		if data, ok := g.tree.Tile(level, n/chunk, int(n%chunk)); ok {
			g.compare(level, n/chunk, data)
		}
	}
}

func (g *growth) compare(level int, index uint64, content []byte) {
	path := tilePath(level, index, len(content)/merkle.HashSize)
	have, err := g.file(path)
	if err == nil && bytes.Equal(have, content) {
		g.good++
	} else if len(g.bad) < MaxFindings {
		g.bad = append(g.bad, path)
	}
}
