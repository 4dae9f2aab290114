package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// pcrSize is the size of a register's value: quotes are over the SHA-256 bank alone.
const pcrSize = sha256.Size

// measured makes the entry about registers that have other values than in the last seal; nil when none has, or there was no seal.
// The quotes show a change to everybody; the entry keeps the log from being silent about it.
func (l *Log) measured(sealed checkpoint.Sealed, found Anchor) (*item, error) {
	ref := l.state.lastSeal()
	if ref == nil || bytes.Equal(ref.sealed.PCRs, sealed.PCRs) {
		return nil, nil
	}
	if len(ref.sealed.PCRs) != len(sealed.PCRs) {
		return nil, fmt.Errorf("audit: seal %d is about other registers than those that are quoted now", ref.seal.Number)
	}
	expected := Anchor{Reset: ref.seal.Reset, Restart: ref.seal.Restart, Counter: ref.seal.Counter}
	body := record.DeviceBody{
		Event: record.EventPCRsChanged, Expected: anchorBody(expected), Found: anchorBody(found), Seal: sealed.Number,
		PCRs: changedPCRs(l.cfg.PCRs, ref.sealed.PCRs, sealed.PCRs),
	}
	if expected.Reset == found.Reset && expected.Restart == found.Restart {
		body.Event = record.EventPCRsChangedInBoot
	}
	it, err := l.ownEntry(record.TypeDevice, body)
	if err != nil {
		return nil, err
	}
	it.internal, it.done = true, make(chan result, 1)
	return it, nil
}

// changedPCRs compares two lists of values of the same registers.
func changedPCRs(registers []int, before, after []byte) []record.PCRChange {
	var out []record.PCRChange
	for i, pcr := range registers {
		b, a := before[i*pcrSize:(i+1)*pcrSize], after[i*pcrSize:(i+1)*pcrSize]
		if !bytes.Equal(a, b) {
			out = append(out, record.PCRChange{PCR: pcr, Before: hex.EncodeToString(b), After: hex.EncodeToString(a)})
		}
	}
	return out
}
