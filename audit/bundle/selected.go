package bundle

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/evidence"
)

// Selected is what a selection comes to: so many entries belong to it of those that are in the bundle, each of which was looked at.
type Selected struct {
	Selection

	Entries uint64 `json:"entries"`
	Scanned uint64 `json:"scanned"`
	Whole   bool   `json:"whole"` // these are all entries of the sealed tree

	User *record.UserPayload `json:"user,omitempty"` // whose pseudonym it is, as the consents show; of a selection by user
}

// String is a line for people.
func (s Selected) String() string {
	text := fmt.Sprintf("%s: %d entries among all %d of the sealed tree", s.Selection, s.Entries, s.Scanned)
	if !s.Whole {
		text = fmt.Sprintf("%s: %d entries among the %d here; others of the sealed tree were not seen", s.Selection, s.Entries, s.Scanned)
	}
	return text
}

// notAsked: what whoever asked for a selection should not have been given.
const notAsked = "here, although its entry does not belong to the selection"

// selection makes the choice that selection.json names, from the envelopes in the bundle alone, and compares it with what was asked for.
func (v *verifier) selection(ctx context.Context) error {
	wanted := v.opts.Selection != nil || v.opts.User != nil
	if !v.files.has(pathSelection) {
		if wanted {
			v.tally.fail(CheckRange, in(pathSelection), "one user's, task's or agent's entries were asked for; the bundle is of all")
		}
		return nil
	}
	data, err := v.files.read(pathSelection)
	var s Selection
	if err == nil {
		s, err = ParseSelection(data)
	}
	if !v.tally.check(CheckSelection, in(pathSelection), err) {
		return nil
	}
	switch {
	case !wanted:
		v.tally.unsure(CheckSelection, in(pathSelection), "by its own word the bundle is of %s alone: whether that was asked for is not known", s)
	case v.opts.Selection != nil && s != *v.opts.Selection:
		v.tally.fail(CheckRange, in(pathSelection), "%s was asked for, the bundle is of %s", v.opts.Selection, s)
	case v.opts.User != nil && s.By != ByUser:
		v.tally.fail(CheckRange, in(pathSelection), "a user was asked for, the bundle is of %s", s)
	}
	v.names = map[record.UserPayload]uint64{}
	v.choice, err = choose(ctx, s, v.files.numbered(dirEntries, ".jsonl"), v.lines)
	return err
}

// lines are those of a file of entries, none of one that cannot be read, which is reported with its entries.
func (v *verifier) lines(n uint64) ([][]byte, error) {
	data, err := v.files.read(entriesPath(n))
	if err != nil {
		return nil, nil //nolint:nilerr // see above
	}
	list, _ := lines(data, chunk)
	return list, nil
}

// belongs spares who verifies everything the strings of an envelope.
func (v *verifier) belongs(view *record.View) bool {
	if v.choice == nil {
		return true
	}
	env := view.Envelope()
	return v.choice.belongs(&env)
}

// unasked is for the payload of an entry that does not belong to the selection.
func (v *verifier) unasked(r *chunkResult, index uint64, payloads *payloads) {
	if p := payloads.of(index); p.here {
		v.tally.fail(CheckSelection, at(index, payloadsPath(r.n)), notAsked)
		p.here = false
	}
}

// strangers looks for what else is here and was not asked for. Certificates are looked at with their entries.
func (v *verifier) strangers() {
	if v.choice == nil {
		return
	}
	if v.gap != nil {
		v.tally.unsure(CheckSelection, at(*v.gap, entriesPath(*v.gap/chunk)), "entries from here on are not in the bundle: what belongs to the selection may be missing")
	}
	for _, n := range v.files.numbered(dirPayloads, ".jsonl") {
		if !v.files.has(entriesPath(n)) {
			v.tally.fail(CheckSelection, at(n*chunk, payloadsPath(n)), "payloads without their entries")
		}
	}
	for _, n := range v.files.numbered(dirJWS, ".jsonl") {
		v.statementsOf(n)
	}
	for _, path := range v.files.under(dirPolicy) {
		if digest := strings.TrimSuffix(strings.TrimPrefix(path, dirPolicy), ".tar.gz"); !v.cited[digest] {
			v.tally.fail(CheckSelection, in(path), "here, although no entry of the selection cites it")
		}
	}
	for _, path := range v.files.under(dirEvidence) {
		if id := strings.TrimSuffix(strings.TrimPrefix(path, dirEvidence), ".json"); !v.choice.consent(id) {
			v.tally.fail(CheckSelection, in(path), "here, although no chain of the selection rests on its grant")
		}
	}
	v.sameUser()
}

// statementsOf looks at the entries of a file of delegators' statements.
func (v *verifier) statementsOf(n uint64) {
	list, _ := v.lines(n)
	for _, index := range slices.Sorted(maps.Keys(v.jwsFile(n))) {
		i := index % chunk
		if i < uint64(len(list)) {
			if env, err := record.Check(list[i]); err == nil && env.Type == record.TypeIssue && v.choice.beside(index, &env) {
				continue
			}
		}
		v.tally.fail(CheckSelection, at(index, delegatorsPath(n)), notAsked)
	}
}

// shows notes whom a verified consent of the selection's user names.
func (v *verifier) shows(g *grantFact, proof *evidence.Parsed) {
	if v.choice == nil || v.choice.By != ByUser || !v.choice.grants[g.id] {
		return
	}
	name := record.UserPayload{Issuer: proof.Grant.Issuer, Subject: proof.Grant.Subject}
	if first, known := v.names[name]; !known || g.index < first {
		v.names[name] = g.index
	}
}

// sameUser holds the names behind a pseudonym against each other, and against the user who was asked for. The appliance alone can
// compute pseudonyms: what ties one to a person are the consents that stand under it.
func (v *verifier) sameUser() {
	if v.choice.By != ByUser {
		return
	}
	if len(v.names) > 1 {
		indexes := slices.Sorted(maps.Values(v.names))
		v.tally.fail(CheckSelection, at(indexes[1], entriesPath(indexes[1]/chunk)), "its consent is of another person than that of entry %d, under one pseudonym", indexes[0])
	}
	if v.opts.User == nil {
		return
	}
	if _, named := v.names[*v.opts.User]; !named && len(v.names) > 0 {
		v.tally.fail(CheckRange, in(pathSelection), "the consents under this pseudonym are not of the user who was asked for")
	} else if !named {
		v.tally.unsure(CheckSelection, in(pathSelection), "no consent here shows whose pseudonym this is: whether it is of the user who was asked for is not known")
	}
}

// selected sums up.
func (v *verifier) selected() *Selected {
	if v.choice == nil {
		return nil
	}
	s := &Selected{Selection: v.choice.Selection, Entries: v.chosen, Scanned: v.held, Whole: v.held == v.head.Size}
	if len(v.names) == 1 {
		for name := range v.names {
			s.User = &record.UserPayload{Issuer: clip(name.Issuer), Subject: clip(name.Subject)}
		}
	}
	return s
}
