package appliance

import (
	"encoding/json"
	"fmt"
	"testing"

	fproof "github.com/transparency-dev/formats/proof"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// ask gets a proof, which is everybody's, from the API.
func (r *sumdb) ask(path string, into any) {
	r.s.t.Helper()
	status, _, body, err := get(r.s.t.Context(), r.c, r.s.url+"v1/audit/"+path)
	must(r.s.t, err)
	if status != 200 {
		r.s.t.Fatalf("%s: %d %s", path, status, body)
	}
	must(r.s.t, json.Unmarshal(body, into))
}

func asTlog(hashes [][]byte) []tlog.Hash {
	out := make([]tlog.Hash, len(hashes))
	for i, h := range hashes {
		copy(out[i][:], h)
	}
	return out
}

// The proofs that the API makes are those of RFC 6962: two libraries that are not ours verify each, and refuse it for another
// leaf or root.
func TestProofsVerifyElsewhere(t *testing.T) {
	s := serveLog(t, smallLog)
	c, _ := s.reader()
	r := &sumdb{s: s, c: c}
	tree, err := r.tree()
	must(t, err)
	hashes := tlog.TileHashReader(tree, r)
	for _, size := range []int64{1, 2, 255, 256, 257, 511, 513, tree.N} {
		root, err := tlog.TreeHash(size, hashes)
		must(t, err)
		for _, index := range []int64{0, 1, size / 2, size - 1} {
			if index < size {
				r.included(index, size, root, hashes)
			}
		}
		r.consistent(size, tree, root)
	}
	var empty struct{ Hashes [][]byte }
	r.ask(fmt.Sprintf("proof/consistency?from=0&to=%d", tree.N), &empty)
	if len(empty.Hashes) != 0 {
		t.Errorf("from nothing: %d hashes", len(empty.Hashes))
	}
}

func (r *sumdb) included(index, size int64, root tlog.Hash, hashes tlog.HashReader) {
	t := r.s.t
	t.Helper()
	leaf, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
	must(t, err)
	var got struct{ Hashes [][]byte }
	r.ask(fmt.Sprintf("proof/inclusion?index=%d&size=%d", index, size), &got)
	if err := tlog.CheckRecord(asTlog(got.Hashes), size, root, index, leaf[0]); err != nil {
		t.Errorf("tlog: %d in %d: %v", index, size, err)
	}
	verify := func(leaf tlog.Hash) error {
		return proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(index), uint64(size), leaf[:], got.Hashes, root[:])
	}
	if err := verify(leaf[0]); err != nil {
		t.Errorf("merkle: %d in %d: %v", index, size, err)
	}
	if verify(tlog.RecordHash([]byte("another"))) == nil {
		t.Errorf("%d in %d: another leaf is proven too", index, size)
	}
}

func (r *sumdb) consistent(from int64, tree tlog.Tree, old tlog.Hash) {
	t := r.s.t
	t.Helper()
	var got struct{ Hashes [][]byte }
	r.ask(fmt.Sprintf("proof/consistency?from=%d&to=%d", from, tree.N), &got)
	if err := tlog.CheckTree(asTlog(got.Hashes), tree.N, tree.Hash, from, old); err != nil {
		t.Errorf("tlog: %d to %d: %v", from, tree.N, err)
	}
	verify := func(old tlog.Hash) error {
		return proof.VerifyConsistency(rfc6962.DefaultHasher, uint64(from), uint64(tree.N), got.Hashes, old[:], tree.Hash[:])
	}
	if err := verify(old); err != nil {
		t.Errorf("merkle: %d to %d: %v", from, tree.N, err)
	}
	if verify(tlog.RecordHash([]byte("another"))) == nil {
		t.Errorf("%d to %d: another tree is its beginning too", from, tree.N)
	}
}

// An entry's tlog-proof needs nothing beside the entry and the log's key.
func TestTlogProofVerifiesElsewhere(t *testing.T) {
	s := serveLog(t, smallLog)
	c, _ := s.reader()
	for _, index := range []int64{0, 255, 256, smallLog - 1} {
		status, h, text, err := get(t.Context(), c, fmt.Sprintf("%sv1/audit/entries/%d/proof", s.url, index))
		must(t, err)
		if status != 200 || h.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Fatalf("%d: %d %s", index, status, text)
		}
		var p fproof.TLogProof
		must(t, p.Unmarshal(text))
		head, err := note.Open(p.Checkpoint, note.VerifierList(s.verifier))
		must(t, err)
		tree, err := parseTree(head.Text)
		must(t, err)
		e, err := s.log.Read(t.Context(), uint64(index))
		must(t, err)
		var path []tlog.Hash
		for _, h := range p.Hashes {
			path = append(path, h)
		}
		if err := tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(e.Envelope)); err != nil || p.Index != uint64(index) {
			t.Errorf("%d: %v, of entry %d", index, err, p.Index)
		}
		if tlog.CheckRecord(path, tree.N, tree.Hash, index, tlog.RecordHash(oneBitOff(e.Envelope))) == nil {
			t.Errorf("%d: another entry is proven too", index)
		}
	}
}
