package bundle_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/witness"
)

// cosigner is a witness whose key is made of seed.
func cosigner(t testing.TB, name, seed string) *witness.Signer {
	t.Helper()
	h := sha256.Sum256([]byte(seed))
	s, err := witness.NewSigner(name, ed25519.NewKeyFromSeed(h[:]), func() time.Time { return time.Unix(1_772_355_600, 0) })
	must(t, err)
	return s
}

// quorumOf is a policy that demands k of these witnesses, each known by its key's name.
func (w *world) quorumOf(k int, signers ...*witness.Signer) string {
	w.t.Helper()
	vkey, err := checkpoint.VerifierKey(origin, &w.audit.PublicKey)
	must(w.t, err)
	var keys []witness.Key
	for _, s := range signers {
		key, err := witness.ParseKey(s.Key())
		must(w.t, err)
		keys = append(keys, key)
	}
	text, err := witness.NewPolicy(vkey, keys, k)
	must(w.t, err)
	return string(text)
}

// cosigned is the signature line of a witness over the world's last checkpoint.
func (w *world) cosigned(s *witness.Signer) string {
	w.t.Helper()
	line, err := s.Cosign(checkpoint.Checkpoint{Origin: origin, Size: w.last.Size, Root: w.last.Root})
	must(w.t, err)
	return string(line)
}

// Whose cosignatures a bundle must carry is the auditor's to say.
func TestWitnessesOfTheAuditor(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	good := written(t, w)
	a, b, c := cosigner(t, "a.example/w", "a"), cosigner(t, "b.example/w", "b"), cosigner(t, "c.example/w", "c")
	thief := cosigner(t, "b.example/w", "thief")
	other, err := b.Cosign(checkpoint.Checkpoint{Origin: origin, Size: w.last.Size, Root: [32]byte{1}})
	must(t, err)
	two := w.quorumOf(2, a, b)
	strange, err := checkpoint.VerifierKey(origin, &newKey(t).PublicKey)
	must(t, err)
	for name, row := range map[string]struct {
		lines, policy string
		valid         bool
		want          bundle.Witnesses
	}{
		"both":              {w.cosigned(a) + w.cosigned(b), two, true, bundle.Witnesses{Quorum: true, Cosigned: []string{"a.example/w", "b.example/w"}}},
		"one of one of two": {w.cosigned(b), w.quorumOf(1, a, b), true, bundle.Witnesses{Quorum: true, Cosigned: []string{"b.example/w"}}},
		"none":              {"", two, false, bundle.Witnesses{}},
		"one":               {w.cosigned(a), two, false, bundle.Witnesses{Cosigned: []string{"a.example/w"}}},
		"unknown beside":    {w.cosigned(c) + w.cosigned(a) + w.cosigned(b), two, true, bundle.Witnesses{Quorum: true, Cosigned: []string{"a.example/w", "b.example/w"}, Unknown: 1}},
		"unknown for one":   {w.cosigned(a) + w.cosigned(c), two, false, bundle.Witnesses{Cosigned: []string{"a.example/w"}, Unknown: 1}},
		"duplicate for one": {w.cosigned(a) + w.cosigned(a), two, false, bundle.Witnesses{Cosigned: []string{"a.example/w"}, Duplicates: 1}},
		"duplicate beside":  {w.cosigned(a) + w.cosigned(b) + w.cosigned(a), two, true, bundle.Witnesses{Quorum: true, Cosigned: []string{"a.example/w", "b.example/w"}, Duplicates: 1}},
		"foreign for one":   {w.cosigned(a) + w.cosigned(thief), two, false, bundle.Witnesses{Cosigned: []string{"a.example/w"}}},
		"foreign beside":    {w.cosigned(a) + w.cosigned(b) + w.cosigned(thief), two, false, bundle.Witnesses{Quorum: true, Cosigned: []string{"a.example/w", "b.example/w"}}},
		"of another tree":   {w.cosigned(a) + string(other), two, false, bundle.Witnesses{Cosigned: []string{"a.example/w"}}},
		"of another log":    {w.cosigned(a) + w.cosigned(b), strings.Replace(two, two[4:strings.Index(two, "\n")], strange, 1), false, bundle.Witnesses{}},
		"no quorum":         {w.cosigned(a), "quorum none\n", true, bundle.Witnesses{Unknown: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			file := w.trustFile()
			file.WitnessPolicy = row.policy
			text, err := file.Marshal()
			must(t, err)
			trust, err := bundle.ParseTrust(text)
			must(t, err)
			m := good.clone()
			// What the bundle says of its witnesses changes nothing.
			m["policy.txt"] = []byte(w.quorumOf(1, c))
			m["log/checkpoint"] = append(bytes.Clone(m["log/checkpoint"]), row.lines...)
			m.remanifest()
			r := verify(t, m, bundle.Options{Trust: trust})
			row.want.Policy = bundle.Anchored
			if r.Valid != row.valid || fmt.Sprint(r.Witnesses) != fmt.Sprint(row.want) || r.Witnesses.ForksExcluded() != row.want.Quorum {
				show(t, r)
				t.Errorf("%+v", r.Witnesses)
			}
			if !row.valid {
				wantFinding(t, r, expected{bundle.CheckWitness, -1, "log/checkpoint", ""})
			}
			receipt := receiptOf(t, w, 0, true)
			receipt.Proof += row.lines
			if got := bundle.VerifyReceipt(receipt, trust); got.Valid != row.valid || fmt.Sprint(got.Witnesses) != fmt.Sprint(row.want) {
				show(t, got)
				t.Errorf("receipt: %+v", got.Witnesses)
			}
		})
	}
}

// A quorum that the bundle alone names is told, and excludes nothing.
func TestWitnessesOfTheBundle(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	good := written(t, w)
	a := cosigner(t, "a.example/w", "a")
	trust, err := w.trustFile().Trust()
	must(t, err)
	for name, row := range map[string]struct {
		policy, lines string
		want, status  string
	}{
		"none":       {"quorum none\n", "", "none demanded; forks are not excluded", ""},
		"unreadable": {"quorum\n", "", "none demanded; forks are not excluded", ""},
		"reached":    {w.quorumOf(1, a), w.cosigned(a), "1 cosigned (a.example/w), quorum of the policy (self-asserted) reached: true; forks are not excluded", "complete"},
		"missed":     {w.quorumOf(1, a), "", "nobody that the policy (self-asserted) knows cosigned; forks are not excluded", "unproven"},
		"foreign":    {w.quorumOf(1, a), w.cosigned(cosigner(t, "a.example/w", "thief")), "nobody that the policy (self-asserted) knows cosigned; forks are not excluded", "fail"},
	} {
		for _, options := range []bundle.Options{{}, {Trust: trust}} {
			m := good.clone()
			m["policy.txt"], m["log/checkpoint"] = []byte(row.policy), append(bytes.Clone(m["log/checkpoint"]), row.lines...)
			m.remanifest()
			r := verify(t, m, options)
			got := ""
			if i := slices.IndexFunc(r.Checks, func(c bundle.Check) bool { return c.Name == bundle.CheckWitness }); i >= 0 {
				got = map[bundle.Status]string{bundle.Pass: "complete", bundle.Unproven: "unproven", bundle.Fail: "fail"}[r.Checks[i].Status]
			}
			if r.Witnesses.String() != row.want || got != row.status || r.Valid == (row.status == "fail") || r.Witnesses.ForksExcluded() {
				show(t, r)
				t.Errorf("%s: %s, %q", name, r.Witnesses, got)
			}
		}
	}
}

// An alarm about witnesses is the log's word about others: it ends no agent.
func TestWitnessAlarms(t *testing.T) {
	body := record.WitnessAlarmBody{Event: record.EventWitnessConflict, Witness: "a", Size: 5, Root: strings.Repeat("ab", 32), Other: 7, Detail: "409"}
	fork := record.WitnessAlarmBody{Event: record.EventLogFork, Log: "another", Size: 5, Root: strings.Repeat("ab", 32), Checkpoint: "a note"}
	for name, row := range map[string]struct {
		code  string
		body  any
		valid bool
	}{
		"conflict": {record.EventWitnessConflict, body, true}, "fork": {record.EventLogFork, fork, true},
		"of another event": {record.EventLogFork, body, false}, "an agent's": {record.EventWitnessConflict, record.AlarmBody{Event: record.EventTokenReused}, false},
	} {
		w, _ := goodWorld(t, newSoftTPM(t))
		index := w.add(record.TypeAlarm, record.Envelope{Code: row.code}, row.body, nil)
		w.seal()
		r := verify(t, written(t, w), bundle.Options{})
		if r.Valid != row.valid {
			show(t, r)
			t.Errorf("%s: valid %v", name, r.Valid)
		}
		if !row.valid {
			wantFinding(t, r, expected{bundle.CheckEntry, int64(index), "entries/" + fmtUint(index/256) + ".jsonl", ""})
		}
	}
}
