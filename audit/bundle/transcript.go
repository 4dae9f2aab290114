package bundle

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
)

// Bounds of a transcript.
const (
	MaxTranscript  = 1 << 20
	maxTranscribed = 1024 // entries
)

// VerifyTranscript checks the account of a log's beginning: its first entries, one on each line, an empty line, and the checkpoint over
// exactly them. The error is [ErrUnreadable].
func VerifyTranscript(data []byte, trust *Trust) (Report, error) {
	text, note, found := bytes.Cut(data, []byte("\n\n"))
	entries := bytes.Split(text, []byte("\n"))
	if !found || len(data) > MaxTranscript || len(entries) > maxTranscribed {
		return Report{}, fmt.Errorf("bundle: %w: not a transcript", ErrUnreadable)
	}
	v := &verifier{tally: newTally(), acts: map[string]uint64{}, agreedTo: map[uint64]hash{}}
	var err error
	v.pins, err = parsePins(entries[0])
	v.tally.check(CheckCeremony, at(0, ""), err)
	v.settle(trust, nil)
	leaves := make([]merkle.Hash, len(entries))
	for n, line := range entries {
		leaves[n] = record.LeafHash(line)
		v.tally.check(CheckEntry, at(uint64(n), ""), v.transcribed(uint64(n), line))
	}
	head, err := v.anchors.open(note)
	if err == nil && (head.Size != uint64(len(leaves)) || head.Root != merkle.Root(leaves, 1)) {
		err = errors.New("it is over other entries")
	}
	v.tally.check(CheckCheckpoint, place{}, err)
	v.approved()
	kind := SelfAsserted
	if trust != nil {
		kind = Anchored
	}
	report := v.tally.report(kind)
	report.Origin, report.Size, report.Entries = v.anchors.origin, uint64(len(entries)), uint64(len(entries))
	return report, nil
}

// transcribed checks one entry by itself, and an act with the custodians.
func (v *verifier) transcribed(index uint64, line []byte) error {
	env, err := record.Check(line)
	if err != nil {
		return err
	}
	if env.Type == record.TypeCeremony && index != 0 {
		v.tally.fail(CheckCeremony, at(index, ""), "a second ceremony in one log")
	}
	if env.Type != record.TypeAct {
		return nil
	}
	f, err := factOf(env)
	if err == nil {
		f.index = index
		v.noteAct(&f)
	}
	return err
}
