package bundle

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/signet-pki/signet/audit/record"
)

// pruneFact is a prune entry.
type pruneFact struct {
	index uint64
	record.PruneBody
}

// prunedBy reads a line of a file of entries, if it is a prune entry of the sealed tree that could have pruned what it names.
func (v *verifier) prunedBy(index uint64, line []byte) {
	if index >= v.head.Size || !bytes.Contains(line, []byte(record.TypePrune)) {
		return
	}
	env, err := record.Check(line)
	if err != nil {
		return
	}
	if body, err := record.PruneOf(env, index); err == nil && (v.pruned == nil || body.To > v.pruned.To) {
		v.pruned = &pruneFact{index, body}
	}
}

// settlePruned takes what the newest prune entry covers, and is not here, for pruned. That is said, and nobody is asked to show it; what
// is here all the same is checked like everything else. The first bundle of entries is never pruned, its payloads are.
func (v *verifier) settlePruned() {
	if v.pruned == nil {
		return
	}
	missing := uint64(0)
	for n := uint64(1); n < v.pruned.To/chunk; n++ {
		if !v.files.has(entriesPath(n)) {
			missing++
		}
	}
	if missing == 0 {
		return
	}
	v.from, v.partial = max(v.from, v.pruned.To), true
	p := v.pruned
	text := fmt.Sprintf("entries %d to %d are pruned (%d of them are not here), by entry %d: those from %d on are in the archive %s with SHA-256 %s",
		chunk, p.To-1, missing*chunk, p.index, p.From, p.Archive, p.SHA256)
	if p.Previous != nil {
		text += fmt.Sprintf("; those before in the one that prune entry %d names", *p.Previous)
	}
	v.tally.unsure(CheckPrune, at(chunk, entriesPath(1)), "%s", text)
}

// notePrune holds a prune entry to the one before: each begins where that one ended.
func (v *verifier) notePrune(f *fact) {
	var err error
	p := f.prune
	switch last := v.lastPrune; {
	case last != nil && (p.Previous == nil || *p.Previous != last.index || p.From != last.To):
		err = fmt.Errorf("it does not continue entry %d, which pruned up to %d", last.index, last.To)
	case last == nil && p.Previous != nil && v.files.has(entriesPath(*p.Previous/chunk)):
		err = errors.New("the prune entry that it continues is none")
	}
	v.lastPrune = &pruneFact{f.index, *p}
	v.tally.check(CheckPrune, at(f.index, entriesPath(f.index/chunk)), err)
}

// pruning checks a prune entry by itself.
func (v *verifier) pruning(r *chunkResult, index uint64, env record.Envelope) (f fact) {
	body, err := record.PruneOf(env, index)
	if err != nil {
		v.tally.fail(CheckPrune, at(index, entriesPath(r.n)), "%v", err)
		return fact{}
	}
	return fact{index: index, kind: env.Type, time: env.Time, prune: &body}
}
