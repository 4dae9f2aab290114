package bundle

import (
	"crypto/ecdsa"
	"encoding/hex"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
)

// turn is a change of the audit key that its old key vouched for: where it stands, and the tree that ends in it.
type turn struct {
	index      uint64
	leaf, root hash
}

// follow leads from the first audit key to those after it. One that is not proved ends it, with the key before it.
func follow(origin string, first *ecdsa.PublicKey, changes []rotation.Proof, file string, t *tally) (*rotation.Keys, []turn) {
	if first == nil {
		return nil, nil
	}
	keys, err := rotation.NewKeys(origin, first)
	if err != nil {
		t.fail(CheckRotation, in(file), "%v", err)
		return nil, nil
	}
	var turns []turn
	for _, p := range changes {
		next, vouched, err := keys.FollowProof(p)
		if !t.check(CheckRotation, at(p.Index, file), err) {
			return keys, turns
		}
		keys, turns = next, append(turns, turn{index: p.Index, leaf: record.LeafHash(p.Envelope), root: vouched.Root})
	}
	return keys, turns
}

// readRotations reads the file of changes of the audit key; most logs have none.
func (v *verifier) readRotations() []rotation.Proof {
	if !v.files.has(pathRotations) {
		return nil
	}
	data, err := v.files.read(pathRotations)
	var list []rotation.Proof
	if err == nil {
		list, err = rotation.ParseProofs(data)
	}
	if err != nil {
		v.tally.fail(CheckRotation, in(pathRotations), "%v", err)
	}
	return list
}

// turned compares a leaf with the change of key that the bundle shows for its place.
func (v *verifier) turned(r *chunkResult, leaves []hash) {
	for _, turn := range v.anchors.turns {
		if i := turn.index - r.start; turn.index >= r.start && i < uint64(len(leaves)) && leaves[i] != turn.leaf {
			v.tally.fail(CheckRotation, at(turn.index, pathRotations), "the tree has another entry at this place")
		}
	}
}

// noteRotation looks for the proof of a change that an entry tells of. The change that a tree ends in does not count in it yet.
func (v *verifier) noteRotation(f *fact) {
	v.agreedChange(f)
	index := f.index
	if index+1 >= v.head.Size {
		return
	}
	for _, turn := range v.anchors.turns {
		if turn.index == index {
			return
		}
	}
	v.tally.fail(CheckRotation, at(index, entriesPath(index/chunk)), "an unproved change of the audit key: %s does not show it", pathRotations)
}

// agreedChange looks for the act that a change rests on, which is good for one. A log without custodians has none.
func (v *verifier) agreedChange(f *fact) {
	if v.custodians.Threshold() == 0 {
		return
	}
	where, act := at(f.index, entriesPath(f.index/chunk)), f.rotation.Act
	agreed, known := v.agreedTo[act]
	delete(v.agreedTo, act)
	switch {
	case !known && v.gap != nil && act >= *v.gap:
		v.tally.unsure(CheckCustodians, where, "the act of entry %d, which this change of the audit key rests on, is not here", act)
	case !known || hex.EncodeToString(agreed[:]) != f.rotation.ActHash:
		v.tally.fail(CheckCustodians, where, "no custodians agreed to this change of the audit key: entry %d is not their act for it", act)
	default:
		v.tally.pass(CheckCustodians, 1)
	}
}

// turnedTrees compares what old keys vouched for with the tree.
func (v *verifier) turnedTrees(tree *growth) {
	for _, turn := range v.anchors.turns {
		where := at(turn.index, pathRotations)
		switch root, ok := tree.roots[turn.index+1]; {
		case !ok || turn.index+1 >= v.head.Size:
			v.tally.fail(CheckRotation, where, "the change of the audit key is not behind, in a tree of %d entries", v.head.Size)
		case root != turn.root:
			v.tally.fail(CheckRotation, where, "the old key vouches for another tree")
		}
	}
}
