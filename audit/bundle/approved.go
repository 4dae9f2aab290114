package bundle

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/signet-pki/signet/audit/custody"
)

// actSkew is how far the clock of whoever wrote an act and the appliance's may lie apart.
const actSkew = 10 * time.Minute

// firstAct is the entry of the act that the ceremony was held by.
const firstAct = 1

// noteAct holds an act to the custodians in force, which it may change.
func (v *verifier) noteAct(f *fact) {
	where := at(f.index, entriesPath(f.index/chunk))
	a, err := v.agreed(f)
	if errors.Is(err, custody.ErrOtherSet) && v.gap != nil && f.index > *v.gap {
		v.tally.unsure(CheckCustodians, where, "it asks other custodians than those of the entries that are here")
		return
	}
	if !v.tally.check(CheckCustodians, where, err) {
		return
	}
	v.acts[a.ID] = f.index
	if a.Kind == custody.RotateAuditKey {
		v.agreedTo[f.index] = sha256.Sum256(f.act.Act)
	}
	if a.Kind == custody.ChangeCustodians {
		v.custodians, err = a.Successors()
		if err != nil {
			v.tally.fail(CheckCustodians, where, "%v", err)
		}
	}
}

// agreed checks one act: enough custodians signed it, it is of this log and this time, and it is new.
func (v *verifier) agreed(f *fact) (custody.Act, error) {
	if v.custodians.Threshold() == 0 {
		return custody.Act{}, errors.New("an act, although this log has no custodians")
	}
	a, err := custody.ParseAct(f.act.Act)
	if err != nil {
		return a, err
	}
	if before, known := v.acts[a.ID]; known {
		return a, fmt.Errorf("the act of entry %d again", before)
	}
	if begins := a.Kind == custody.Init || a.Kind == custody.Restore; begins != (f.index == firstAct) {
		return a, fmt.Errorf("an act of kind %s: entry %d, and no other, is that by which the log began", a.Kind, firstAct)
	}
	if _, err := v.custodians.Approved(f.act.Act, f.act.Signatures); err != nil {
		return a, err
	}
	origin, at := v.anchors.origin, f.time
	if a.Kind == custody.Init {
		at = a.Created // the log begins when the ceremony is over, however long that took
	}
	if a.Kind == custody.Restore && v.pins != nil && v.pins.Previous != "" && a.Origin == v.pins.Previous {
		origin = a.Origin
	}
	return a, a.Check(a.Kind, origin, at, actSkew)
}

// approved misses the act of the ceremony where there are custodians. Each bundle has the entry at which it belongs.
func (v *verifier) approved() {
	if v.pins == nil || v.pins.custodians.Threshold() == 0 {
		return
	}
	for _, index := range v.acts {
		if index == firstAct {
			return
		}
	}
	v.tally.fail(CheckCustodians, at(firstAct, entriesPath(0)), "not the act by which custodians agreed to entry 0")
}
