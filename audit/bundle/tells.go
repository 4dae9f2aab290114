package bundle

import (
	"fmt"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// Claim is something that a receipt shows, or does not show. Names are stable; texts are for people and may change.
type Claim struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// The claims about receipts.
const (
	ClaimEntry        = "entry"        // these bytes stand at this place of the log
	ClaimLog          = "log"          // whose log it is
	ClaimSealed       = "sealed"       // the TPM spoke for it
	ClaimPayload      = "payload"      // these are the data that it was recorded with
	ClaimCompleteness = "completeness" // nothing else was recorded, and all that happened was
	ClaimSingleView   = "single_view"  // nobody was shown another log
	ClaimTruth        = "truth"        // what the entry says is so
	ClaimLater        = "later"        // nothing that came after changed what it means
)

// Tells is what a receipt tells, and what it does not: a proof is as good as the question that it answers. A receipt that is not
// valid tells nothing.
type Tells struct {
	Proven    []Claim `json:"proven"`
	NotProven []Claim `json:"not_proven"`
}

func (t *Tells) add(proven bool, name, yes, no string) {
	if proven {
		t.Proven = append(t.Proven, Claim{name, clip(yes)})
	} else {
		t.NotProven = append(t.NotProven, Claim{name, no})
	}
}

// tells says what a verified receipt shows.
func (r Receipt) tells(v Report, env record.Envelope) *Tells {
	t := &Tells{Proven: []Claim{}}
	t.add(v.Valid, ClaimEntry, fmt.Sprintf("entry %d of the log, of type %s and time %s, has exactly these bytes, and stands in its tree of size %d", r.Index, env.Type, stamp(env.Time), v.Size),
		"that this was recorded: the receipt is not valid")
	t.add(v.Valid && v.Anchors == Anchored, ClaimLog, "the log is the one that the trust file names: "+v.Origin,
		"whose log it is: the keys are the receipt's own word; verify it with a trust file")
	t.add(v.Valid && r.Seal != nil, ClaimSealed, "the TPM of these anchors stated that tree in "+r.sealText()+": who keeps this would notice any change in it",
		"that the TPM vouches for it: there is no valid seal over it, and until there is one its own key alone speaks for the log")
	if env.PayloadHash != "" {
		t.add(v.Valid && len(r.Salt) > 0, ClaimPayload, "the payload is what the entry was recorded with", "what the entry was recorded with: its payload was withheld or erased")
	}
	t.add(false, ClaimCompleteness, "", "that nothing else was recorded, or that whatever happened was: an evidence bundle over the whole log shows what there is")
	t.add(false, ClaimSingleView, "", "that nobody was shown another log under this name: witnesses, or readers who compare their checkpoints, notice that")
	t.add(false, ClaimTruth, "", "that what the entry says is so: the appliance wrote it")
	t.add(false, ClaimLater, "", "that it still holds: a later entry may have revoked or replaced it")
	return t
}

// sealText names the seal; its statements were verified if the receipt is valid.
func (r Receipt) sealText() string {
	if r.Seal == nil {
		return ""
	}
	seal, err := checkpoint.ParseSeal([]byte(r.Seal.Text))
	if err != nil {
		return ""
	}
	return fmt.Sprintf("seal %d of %s", seal.Number, stamp(seal.Time))
}
