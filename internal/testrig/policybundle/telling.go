package policybundle

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/signet-pki/signet/audit/record"
)

// Telling is a bundle whose answers at access say which one gave them: an even revision permits and obliges, an odd one denies
// with a reason. Its rules name the revision, and its data does, in an advice.
func Telling(revision uint64) Bundle {
	verdict := fmt.Sprintf("obligations := [{\"revision\": %d}]", revision)
	if revision%2 != 0 {
		verdict = fmt.Sprintf("deny_reasons contains %q", reason(revision))
	}
	return New(revision, "true").
		With("data.json", fmt.Sprintf(`{"signet":{"told":{"revision":%d}}}`, revision)).
		With("telling.rego", "package signet.access\n\n"+verdict+"\n\nadvice := [data.signet.told]\n")
}

func reason(revision uint64) string { return "revision_" + strconv.FormatUint(revision, 10) }

// Answer is what an appliance said, and the entry that records it.
type Answer struct {
	Allow               bool
	Reasons             []string
	Obligations, Advice []json.RawMessage
	Entry               uint64
}

// revision is that of the Telling bundle which gave the answer. What none of them says, or two of them say together, is an error.
func (a Answer) revision() (uint64, error) {
	var data struct {
		Revision uint64 `json:"revision"`
	}
	if len(a.Advice) != 1 || json.Unmarshal(a.Advice[0], &data) != nil {
		return 0, fmt.Errorf("no bundle's answer: %+v", a)
	}
	permits := a.Allow && len(a.Reasons) == 0 && len(a.Obligations) == 1 && string(a.Obligations[0]) == string(a.Advice[0])
	denies := !a.Allow && len(a.Obligations) == 0 && slices.Equal(a.Reasons, []string{reason(data.Revision)})
	if even := data.Revision%2 == 0; even && !permits || !even && !denies {
		return 0, fmt.Errorf("no one bundle's answer: %+v, obligations %s, advice %s", a, a.Obligations, a.Advice)
	}
	return data.Revision, nil
}

// Reloading holds answers to the Telling bundles that replace each other meanwhile, with growing revisions. It is safe for
// concurrent use, but for Activate.
type Reloading struct {
	begun, done atomic.Uint64 // the last revision whose activation was begun, and the last that was active before a question
	mu          sync.Mutex
	told        map[uint64]uint64 // revision by entry
}

// Activate has do make the bundle of that revision active.
func (r *Reloading) Activate(revision uint64, do func()) {
	r.begun.Store(revision)
	do()
	r.done.Store(revision)
}

// Ask asks once. The answer has to be wholly that of one bundle which was active at some time between question and answer.
func (r *Reloading) Ask(ask func() (Answer, error)) error {
	oldest := r.done.Load()
	a, err := ask()
	newest := r.begun.Load()
	if err != nil {
		return err
	}
	revision, err := a.revision()
	if err != nil {
		return err
	}
	if revision < oldest || revision > newest {
		return fmt.Errorf("entry %d: revision %d answered while %d to %d were active", a.Entry, revision, oldest, newest)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.told == nil {
		r.told = map[uint64]uint64{}
	}
	if _, twice := r.told[a.Entry]; twice {
		return fmt.Errorf("entry %d records two answers", a.Entry)
	}
	r.told[a.Entry] = revision
	return nil
}

// Recorded holds the whole log to the answers: each entry is under a bundle that was activated before it, and each answer stands
// in its entry, which is under the bundle that gave it. It counts the answers of each revision.
func (r *Reloading) Recorded(log [][]byte) (answers map[uint64]int, err error) {
	active, answers := map[string]string{}, map[uint64]int{} // active: revision by digest
	found := 0
	for i, text := range log {
		env, err := record.Check(text)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		if err := activates(env, active); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		under, was := active[env.Policy]
		if env.Policy != "" && !was {
			return nil, fmt.Errorf("entry %d (%s) is under %s, which was not active", i, env.Type, env.Policy)
		}
		told, asked := r.told[uint64(i)]
		if !asked {
			continue
		}
		if found++; env.Type != record.TypeDecision || under != strconv.FormatUint(told, 10) {
			return nil, fmt.Errorf("entry %d (%s) is under revision %q, and %d answered", i, env.Type, under, told)
		}
		answers[told]++
	}
	if found != len(r.told) {
		return nil, fmt.Errorf("%d of %d answers are in the log", found, len(r.told))
	}
	return answers, nil
}

// activates adds the bundle that an entry makes active: the first, which has the default one, and those about policy.
func activates(env record.Envelope, active map[string]string) error {
	switch env.Type { //nolint:exhaustive // the others activate none
	case record.TypeCeremony:
		body, err := record.DecodeBody[record.Ceremony](env)
		active[body.PolicyDigest] = ""
		return err
	case record.TypePolicy:
		body, err := record.DecodeBody[record.PolicyBody](env)
		active[body.Digest] = body.Revision
		return err
	}
	return nil
}
