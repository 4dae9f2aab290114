package bundle

import (
	"errors"
	"fmt"
	"strings"

	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/witness"
)

// Unwitnessed is the policy of whoever demands no cosignature. The other values of Witnesses.Policy are those of
// Report.Anchors.
const Unwitnessed = "none"

// Witnesses says whose cosignatures the checkpoint carries. A quorum that the evidence alone names excludes nothing: whoever
// forks a log can name witnesses, too.
type Witnesses struct {
	Policy     string   `json:"policy"`               // who demanded them: "none", "self-asserted" or "trust file"
	Quorum     bool     `json:"quorum"`               // it is reached
	Cosigned   []string `json:"cosigned,omitempty"`   // the policy's names of the witnesses
	Unknown    int      `json:"unknown,omitempty"`    // signatures of nobody that the policy knows: ignored
	Duplicates int      `json:"duplicates,omitempty"` // further signatures of a witness: it counts once
}

// ForksExcluded reports whether another tree of this log's name would take the quorum of the auditor's own witnesses too.
func (w Witnesses) ForksExcluded() bool { return w.Policy == Anchored && w.Quorum }

// String says it in words.
func (w Witnesses) String() string {
	var b strings.Builder
	switch {
	case w.Policy == Unwitnessed:
		b.WriteString("none demanded")
	case len(w.Cosigned) == 0:
		fmt.Fprintf(&b, "nobody that the policy (%s) knows cosigned", w.Policy)
	default:
		fmt.Fprintf(&b, "%d cosigned (%s), quorum of the policy (%s) reached: %v", len(w.Cosigned), strings.Join(w.Cosigned, ", "), w.Policy, w.Quorum)
	}
	if w.Unknown > 0 {
		fmt.Fprintf(&b, "; %d unknown, ignored", w.Unknown)
	}
	if w.Duplicates > 0 {
		fmt.Fprintf(&b, "; %d duplicate, counted once", w.Duplicates)
	}
	if !w.ForksExcluded() {
		b.WriteString("; forks are not excluded")
	}
	return clip(b.String())
}

// cosignatures checks the bundle's checkpoint against the auditor's policy, or else against the bundle's own.
func (v *verifier) cosignatures() {
	var own *witness.Policy
	if text, err := v.files.read(pathPolicyText); err == nil {
		own, _ = witness.ParsePolicy(text) // one that cannot be read demands nothing
	}
	signed, err := v.files.read(pathCheckpoint)
	if err != nil {
		signed = nil // the check of the checkpoint says so
	}
	v.witnesses = v.anchors.cosignatures(v.tally, signed, v.opts.Trust, own, pathCheckpoint)
}

func (r Receipt) cosignatures(t *tally, a *anchors, trust *Trust) Witnesses {
	var signed []byte
	if proof, err := merkle.ParseProof([]byte(r.Proof)); err == nil {
		signed = proof.Checkpoint
	}
	return a.cosignatures(t, signed, trust, nil, fileReceipt)
}

func (a *anchors) cosignatures(t *tally, signed []byte, trust *Trust, own *witness.Policy, file string) Witnesses {
	out, policy := Witnesses{Policy: Unwitnessed}, own
	switch {
	case trust != nil && trust.witnesses != nil:
		out.Policy, policy = Anchored, trust.witnesses
	case own != nil && own.Demands():
		out.Policy = SelfAsserted
	default:
		return out
	}
	verdict, err := a.judge(policy, signed)
	if err != nil {
		t.fail(CheckWitness, in(file), "%v", err)
		return out
	}
	out.Quorum, out.Cosigned, out.Unknown, out.Duplicates = verdict.Satisfied && policy.Demands(), verdict.Cosigned, verdict.Unknown, verdict.Duplicates
	for _, name := range verdict.Foreign {
		t.fail(CheckWitness, in(file), "a signature in the name of witness %s is not its own over this checkpoint", name)
	}
	switch missing := fmt.Sprintf("the quorum of the policy is not reached: %d of its witnesses cosigned (%s)", len(out.Cosigned), strings.Join(out.Cosigned, ", ")); {
	case verdict.Satisfied:
		t.pass(CheckWitness, 1)
	case out.Policy == Anchored:
		t.fail(CheckWitness, in(file), "%s", missing)
	default:
		t.unsure(CheckWitness, in(file), "%s", missing)
	}
	return out
}

func (a *anchors) judge(policy *witness.Policy, signed []byte) (witness.Verdict, error) {
	if a.keys == nil || signed == nil {
		return witness.Verdict{}, errors.New("no audit key, or no checkpoint, to look for witnesses of")
	}
	key, log, err := a.keys.Claimed(signed)
	if err != nil {
		return witness.Verdict{}, err
	}
	if !policy.Lists(key) {
		return witness.Verdict{}, errors.New("the policy does not list this log's key")
	}
	return policy.Judge(signed, log)
}

func aboutWitnesses(env record.Envelope) bool {
	return env.Code == record.EventWitnessConflict || env.Code == record.EventLogFork
}

// checkWitnessAlarm reads an alarm about witnesses. What it says is the log's own word.
func checkWitnessAlarm(env record.Envelope) error {
	body, err := record.DecodeBody[record.WitnessAlarmBody](env)
	if err == nil && body.Event != env.Code {
		err = fmt.Errorf("an alarm of code %s about %.40q", env.Code, body.Event)
	}
	return err
}
