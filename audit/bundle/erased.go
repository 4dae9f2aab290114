package bundle

import (
	"bytes"
	"context"
	"math"

	"github.com/signet-pki/signet/audit/record"
)

// gone finds what redact entries erased and prune entries pruned, before the entries are gone through: they stand behind what they
// take away. A line that is not the leaf of its place is reported there, whatever it says.
func (v *verifier) gone(ctx context.Context) error {
	v.tally.erased = map[uint64]bool{}
	numbers := v.files.numbered(dirEntries, ".jsonl")
	buffers := make([][]byte, 2*v.opts.Parallel)
	found := make([]bool, len(buffers))
	return inOrder(ctx, v.opts.Parallel, uint64(len(buffers)), uint64(len(numbers)), func(_ int, slot, i uint64) {
		data, err := v.files.glance(entriesPath(numbers[i]), buffers[slot])
		if found[slot] = err == nil && takes(data); err == nil {
			buffers[slot] = data
		}
	}, func(slot, i uint64) {
		if found[slot] {
			v.takenBy(numbers[i], buffers[slot])
		}
	})
}

// takes says whether a file may have an entry that erases or prunes.
func takes(data []byte) bool {
	return bytes.Contains(data, []byte(record.TypeRedact)) || bytes.Contains(data, []byte(record.TypePrune))
}

// takenBy notes what file n of entries says that it erased and pruned.
func (v *verifier) takenBy(n uint64, data []byte) {
	list, err := lines(data, chunk)
	if err != nil {
		return
	}
	for i, line := range list {
		v.prunedBy(n*chunk+uint64(i), line)
		for _, index := range erasedBy(line) {
			v.tally.erased[index] = true
		}
	}
}

func erasedBy(line []byte) []uint64 {
	if !bytes.Contains(line, []byte(record.TypeRedact)) {
		return nil
	}
	env, err := record.Check(line)
	if err != nil || env.Type != record.TypeRedact {
		return nil
	}
	body, err := record.DecodeBody[record.RedactBody](env)
	if err != nil || body.Check(math.MaxUint64) != nil {
		return nil
	}
	return body.Leaves()
}

// isErased says whether what is absent is explained by an erasure: what an entry's payload, and the state that went with it, showed.
func (t *tally) isErased(name CheckName, p place) bool {
	switch name {
	case CheckPayload, CheckCertificate, CheckConfirmation, CheckEvidence:
		return p.index != nil && t.erased[*p.index]
	default:
		return false
	}
}

// redact checks a redact entry: it erases what stands before it.
func (v *verifier) redact(r *chunkResult, index uint64, env record.Envelope) {
	body, err := record.DecodeBody[record.RedactBody](env)
	if err == nil {
		err = body.Check(index)
	}
	if err != nil {
		v.tally.fail(CheckEntry, at(index, entriesPath(r.n)), "%v", err)
	}
}
