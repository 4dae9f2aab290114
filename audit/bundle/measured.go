package bundle

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unique"

	"github.com/signet-pki/signet/audit/record"
)

// change is an entry about registers that changed.
type change struct {
	index uint64
	record.DeviceBody
}

func aboutPCRs(body record.DeviceBody) bool {
	return body.Event == record.EventPCRsChanged || body.Event == record.EventPCRsChangedInBoot || len(body.PCRs) > 0
}

// measured compares the quoted registers of each seal with those of the seal before it, and each change with the entry that the
// appliance stores in the same moment as the seal.
func (v *verifier) measured() {
	for i := 1; i < len(v.sealed); i++ {
		v.registers(i)
	}
	if len(v.sealed) == 0 {
		return
	}
	first := v.sealed[0].Number
	for _, n := range slices.Sorted(maps.Keys(v.pcrs)) { // those about no seal with one before it
		for _, c := range v.pcrs[n] {
			if first == sealOne || n > first {
				v.falseChange(c)
			}
		}
	}
}

func (v *verifier) falseChange(c change) {
	v.tally.fail(CheckSealEntry, at(c.index, entriesPath(c.index/chunk)), "says that PCRs changed at seal %d, which the quotes do not show so", c.Seal)
}

// registers compares seal i with the one before it.
func (v *verifier) registers(i int) {
	before, s := &v.sealed[i-1], &v.sealed[i]
	said := v.pcrs[s.Number]
	delete(v.pcrs, s.Number)
	var none unique.Handle[string]
	if s.Number != before.Number+1 || before.pcrs == none || s.pcrs == none {
		return // what hides them has failed
	}
	until := v.head.Size
	if i+1 < len(v.sealed) {
		until = v.sealed[i+1].Size
	}
	want, recorded := v.anchors.changed(before, s), -1
	for n, c := range said {
		if recorded < 0 && c.index >= s.Size && c.index < until && sameChange(c.DeviceBody, want) {
			recorded = n
		} else {
			v.falseChange(c)
		}
	}
	if len(want.PCRs) == 0 {
		return
	}
	where := at(s.Number, sealPath(s.Number, ".quote"))
	detail := fmt.Sprintf("PCR %s: not the value of seal %d", listed(want.PCRs), before.Number)
	switch {
	case recorded < 0 && s.Size >= v.head.Size:
		v.tally.unsure(CheckQuote, where, "%s. %s", detail, meansUnsealedChange)
	case recorded < 0 && (s.Size < v.from || until > v.to):
		v.tally.unsure(CheckQuote, where, "%s: the entries around it are not part of the range", detail)
	case recorded < 0:
		v.tally.fail(CheckQuote, where, "%s, and no %s entry among %d to %d records it. %s", detail, want.Event, s.Size, until, meansHiddenChange)
	case !v.anchors.accepts(want.PCRs):
		v.tally.unsure(CheckQuote, where, "%s; recorded by entry %d. %s", detail, said[recorded].index, meaningOf(want.Event))
	}
}

// changed is what an entry must say of two seals that follow each other.
func (a *anchors) changed(before, s *sealInfo) record.DeviceBody {
	anchor := func(s *sealInfo) *record.AnchorBody {
		return &record.AnchorBody{Reset: s.Reset, Restart: s.Restart, Counter: s.Counter}
	}
	body := record.DeviceBody{Event: record.EventPCRsChanged, Expected: anchor(before), Found: anchor(s), Seal: s.Number}
	if before.Reset == s.Reset && before.Restart == s.Restart {
		body.Event = record.EventPCRsChangedInBoot
	}
	if before.pcrs == s.pcrs {
		return body
	}
	was, is := before.pcrs.Value(), s.pcrs.Value()
	for i, pcr := range a.pcrs.PCRs() { // of which both quotes are
		at := i * sha256.Size
		if w, n := was[at:at+sha256.Size], is[at:at+sha256.Size]; w != n {
			body.PCRs = append(body.PCRs, record.PCRChange{PCR: pcr, Before: hex.EncodeToString([]byte(w)), After: hex.EncodeToString([]byte(n))})
		}
	}
	return body
}

func sameChange(have, want record.DeviceBody) bool {
	same := func(a, b *record.AnchorBody) bool { return a != nil && *a == *b }
	return len(want.PCRs) > 0 && have.Event == want.Event && slices.Equal(have.PCRs, want.PCRs) &&
		same(have.Expected, want.Expected) && same(have.Found, want.Found)
}

// accepts reports whether the auditor names values of all these registers. That they have one of them is checked with each quote.
func (a *anchors) accepts(changes []record.PCRChange) bool {
	return !slices.ContainsFunc(changes, func(c record.PCRChange) bool { return !a.accepted.Names(c.PCR) })
}

func listed(changes []record.PCRChange) string {
	names := make([]string, len(changes))
	for i, c := range changes {
		names[i] = fmt.Sprint(c.PCR)
	}
	return strings.Join(names, ", ")
}

func meaningOf(event string) string {
	if event == record.EventPCRsChangedInBoot {
		return meansChangeInBoot
	}
	return meansChange
}
