package bundle_test

import (
	"archive/tar"
	"bytes"
	"slices"
	"testing"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
)

// logged is a log that has an entry in another spelling, so that nothing but the spelling is wrong.
func logged(t *testing.T, index int, spell func(line []byte) []byte) memory {
	t.Helper()
	w := newWorld(t, newSoftTPM(t))
	w.decide(1)
	line := w.entries[index].Envelope
	other := spell(bytes.Clone(line))
	w.leaves[index] = record.LeafHash(other)
	w.seal()
	m := written(t, w) // which would refuse the other line
	replaceOnce(t, m, "entries/0.jsonl", string(line), string(other))
	return m
}

// archived puts the bundle and one hostile member into an archive.
func (s *scene) archived(t *testing.T, h *tar.Header) []expected {
	t.Helper()
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	h.Mode = 0o644
	must(t, archive.WriteHeader(h))
	_, err := archive.Write(make([]byte, h.Size))
	must(t, err)
	for path, data := range s.m {
		must(t, archive.WriteHeader(&tar.Header{Name: path, Mode: 0o644, Size: int64(len(data))}))
		_, err := archive.Write(data)
		must(t, err)
	}
	must(t, archive.Close())
	s.tar = out.Bytes()
	return nil
}

// without is the log with one entry less, and as much signed again as the HSM's key can sign.
func (w *world) without(t *testing.T, index int) *world {
	t.Helper()
	forged := *w
	forged.entries = append(w.entries[:index:index], w.entries[index+1:]...)
	forged.leaves = append(w.leaves[:index:index], w.leaves[index+1:]...)
	for i := range forged.entries {
		forged.entries[i].Index = uint64(i)
	}
	forged.seals = slices.Clone(w.seals)
	forged.reseal(t, func(s *checkpoint.Seal) {
		if s.Size > uint64(index) {
			s.Size--
		}
	})
	return &forged
}

// reseal rewrites the seals in their order, with what change does to each. Only the checkpoints are signed again.
func (w *world) reseal(t *testing.T, change func(*checkpoint.Seal)) {
	t.Helper()
	for i := range w.seals {
		seal, err := checkpoint.ParseSeal(w.seals[i].Text)
		must(t, err)
		change(&seal)
		seal.Number, seal.Root = uint64(i)+1, merkle.Root(w.leaves[:seal.Size], 1)
		if i > 0 {
			seal.Previous = w.seals[i-1].Digest()
		}
		w.seals[i].Number, w.seals[i].Text = seal.Number, seal.Text()
		w.seals[i].Checkpoint = w.signed(t, checkpoint.Checkpoint{Origin: origin, Size: seal.Size, Root: seal.Root})
	}
}

func (w *world) signed(t *testing.T, head checkpoint.Checkpoint) []byte {
	t.Helper()
	signer, err := checkpoint.NewSigner(origin, w.audit)
	must(t, err)
	note, err := checkpoint.Sign(head, signer)
	must(t, err)
	return note
}

func indexOf(n int64) string { return `{"index":` + fmtUint(uint64(n)) + `,` }
