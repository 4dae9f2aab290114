package merkle

import (
	"bytes"
	"fmt"

	"github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/tlog"
)

// maxProof is the longest path in a tree of MaxSize leaves, with room.
const maxProof = 64

// maxProofText bounds a tlog-proof, in bytes; its checkpoint may carry witnesses' signatures.
const maxProofText = 64 << 10

// Inclusion proves that leaf index is in the tree of that size.
func Inclusion(r TileReader, index, size uint64) ([]Hash, error) {
	if size > MaxSize || index >= size {
		return nil, fmt.Errorf("%w: leaf %d in a tree of size %d", ErrRange, index, size)
	}
	p, err := tlog.ProveRecord(int64(size), int64(index), hashReader(r)) //nolint:gosec // G115: bounded by MaxSize
	if err != nil {
		return nil, fmt.Errorf("merkle: inclusion proof: %w", err)
	}
	return fromTlog(p), nil
}

// Consistency proves that the tree of size from is a prefix of the tree of size to. From 0 the proof is empty.
func Consistency(r TileReader, from, to uint64) ([]Hash, error) {
	if to > MaxSize || from > to {
		return nil, fmt.Errorf("%w: from size %d to %d", ErrRange, from, to)
	}
	if from == 0 || from == to {
		return nil, nil
	}
	p, err := tlog.ProveTree(int64(to), int64(from), hashReader(r)) //nolint:gosec // G115: bounded by MaxSize
	if err != nil {
		return nil, fmt.Errorf("merkle: consistency proof: %w", err)
	}
	return fromTlog(p), nil
}

// VerifyInclusion checks an inclusion proof. Errors match [ErrProof].
func VerifyInclusion(path []Hash, index, size uint64, leaf, root Hash) error {
	if size > MaxSize || index >= size || len(path) > maxProof {
		return fmt.Errorf("%w: leaf %d in a tree of size %d, %d hashes", ErrProof, index, size, len(path))
	}
	err := tlog.CheckRecord(toTlog(path), int64(size), tlog.Hash(root), int64(index), tlog.Hash(leaf)) //nolint:gosec // G115: bounded by MaxSize
	if err != nil {
		return fmt.Errorf("%w: leaf %d is not in the tree of size %d", ErrProof, index, size)
	}
	return nil
}

// VerifyConsistency checks a consistency proof. Errors match [ErrProof].
func VerifyConsistency(path []Hash, from, to uint64, oldRoot, newRoot Hash) error {
	if to > MaxSize || from > to || len(path) > maxProof {
		return fmt.Errorf("%w: from size %d to %d, %d hashes", ErrProof, from, to, len(path))
	}
	if from == 0 || from == to {
		if len(path) > 0 || from == 0 && oldRoot != EmptyRoot() || from == to && oldRoot != newRoot {
			return fmt.Errorf("%w: trees of size %d and %d", ErrProof, from, to)
		}
		return nil
	}
	err := tlog.CheckTree(toTlog(path), int64(to), tlog.Hash(newRoot), int64(from), tlog.Hash(oldRoot)) //nolint:gosec // G115: bounded by MaxSize
	if err != nil {
		return fmt.Errorf("%w: the tree of size %d is no prefix of that of size %d", ErrProof, from, to)
	}
	return nil
}

// hashReader reads tlog's stored hashes from tiles, each tile once.
func hashReader(r TileReader) tlog.HashReader {
	return tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		seen := map[tlog.Tile][]byte{}
		hashes := make([]tlog.Hash, len(indexes))
		for i, index := range indexes {
			tile := tlog.TileForIndex(TileHeight, index)
			data, ok := seen[tile]
			if !ok {
				var err error
				if data, err = r.Tile(tile.L, uint64(tile.N), tile.W); err != nil { //nolint:gosec // G115: never negative
					return nil, fmt.Errorf("tile %d/%d: %w", tile.L, tile.N, err)
				}
				seen[tile] = data
			}
			h, err := tlog.HashFromTile(tile, data, index)
			if err != nil {
				return nil, err
			}
			hashes[i] = h
		}
		return hashes, nil
	})
}

func fromTlog(p []tlog.Hash) []Hash {
	out := make([]Hash, len(p))
	for i := range p {
		out[i] = Hash(p[i])
	}
	return out
}

func toTlog(p []Hash) []tlog.Hash {
	out := make([]tlog.Hash, len(p))
	for i := range p {
		out[i] = tlog.Hash(p[i])
	}
	return out
}

// Proof is a C2SP tlog-proof: a leaf's place, its path, and the signed checkpoint that the path leads to.
type Proof struct {
	Index      uint64
	Path       []Hash
	Checkpoint []byte // signed note, ends with LF
	Extra      []byte // nil = none
}

// Marshal writes the tlog-proof text.
func (p Proof) Marshal() []byte {
	return proof.TLogProof{Index: p.Index, Hashes: p.Path, Checkpoint: p.Checkpoint, ExtraData: p.Extra}.Marshal()
}

// ParseProof reads what Marshal writes, and nothing else. It does not verify: see [VerifyInclusion] and
// checkpoint.Open. Errors match [ErrProof].
func ParseProof(text []byte) (Proof, error) {
	if len(text) > maxProofText {
		return Proof{}, fmt.Errorf("%w: text of %d bytes", ErrProof, len(text))
	}
	var parsed proof.TLogProof
	if err := parsed.Unmarshal(text); err != nil {
		return Proof{}, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if parsed.Index >= MaxSize || len(parsed.Hashes) > maxProof || len(parsed.Checkpoint) == 0 {
		return Proof{}, fmt.Errorf("%w: index, path or checkpoint out of bounds", ErrProof)
	}
	p := Proof{Index: parsed.Index, Path: parsed.Hashes, Checkpoint: parsed.Checkpoint, Extra: parsed.ExtraData}
	if !bytes.Equal(p.Marshal(), text) {
		return Proof{}, fmt.Errorf("%w: not in the one accepted spelling", ErrProof)
	}
	return p, nil
}
