package bundle_test

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// alarm records that the token of an agent is in two hands.
func (w *world) alarm(agent, first, other string) uint64 {
	return w.add(record.TypeAlarm, record.Envelope{Agent: agent, Code: record.EventTokenReused},
		record.AlarmBody{Event: record.EventTokenReused, SPKIHash: first, RefusedSPKIHash: other}, nil)
}

// redeemer is an agent 0x120 that redeemed a token, with its chain as its entry has it and the hash of its key.
func (w *world) redeemer(p *physician) (index uint64, key string) {
	index = w.redeem(p, func(d chain.Delegation, token [32]byte) { w.token(d, 0x120, token, w.now.Add(time.Minute)) })
	env, err := record.Check(w.entries[index].Envelope)
	must(w.t, err)
	body, err := record.DecodeBody[record.IssueBody](env)
	must(w.t, err)
	return index, body.SPKIHash
}

// An alarm tells of two redemptions, and ends its agent even if the revocation that goes with it is not there.
func TestAlarms(t *testing.T) {
	other := sha256.Sum256([]byte("another key"))
	thief := hex.EncodeToString(other[:])
	for name, tc := range map[string]struct {
		build func(w *world, p *physician) uint64 // gives the entry that is wrong
		want  string
	}{
		"as it should be": {func(w *world, p *physician) uint64 {
			_, key := w.redeemer(p)
			w.revoke(chain.RevAgent, id(0x120))
			w.alarm(id(0x120), key, thief)
			w.sibling(p, 0x130)
			return 0
		}, ""},
		"of one key": {func(w *world, p *physician) uint64 {
			_, key := w.redeemer(p)
			return w.alarm(id(0x120), key, key)
		}, "one key"},
		"of a key that nobody has": {func(w *world, p *physician) uint64 {
			w.redeemer(p)
			return w.alarm(id(0x120), strings.Repeat("ab", 32), thief)
		}, "gives anybody the key"},
		"of the key of another": {func(w *world, p *physician) uint64 {
			_, key := w.redeemer(p)
			return w.alarm(id(0x121), key, thief)
		}, "that of another"},
		"of an agent without a token": {func(w *world, p *physician) uint64 {
			sum := sha256.Sum256(spki(w.t, &p.agentKey.PublicKey))
			return w.alarm(id(0x102), hex.EncodeToString(sum[:]), thief)
		}, "without one"},
		"before the redemption": {func(w *world, p *physician) uint64 {
			at := w.alarm(id(0x120), strings.Repeat("ab", 32), thief)
			return at
		}, "gives anybody the key"},
		"and a permission": {func(w *world, p *physician) uint64 {
			index, key := w.redeemer(p)
			w.alarm(id(0x120), key, thief)
			return w.allow(index, nil, asIs)
		}, "after the alarm"},
		"and its certificate once more": {func(w *world, p *physician) uint64 {
			index, key := w.redeemer(p)
			w.alarm(id(0x120), key, thief)
			return w.again(index)
		}, "after the alarm"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			index := tc.build(w, w.play(0x100))
			w.seal()
			r := verify(t, written(t, w), bundle.Options{})
			if tc.want == "" {
				if !r.Valid {
					show(t, r)
					t.Error("a good log is not valid")
				}
				return
			}
			wantFinding(t, r, expected{bundle.CheckAlarm, int64(index), "entries/0.jsonl", ""})
			if failed := r.Failed(); r.Valid || len(failed) != 1 || !strings.Contains(failed[0].Detail, tc.want) {
				show(t, r)
				t.Error("valid, or another finding")
			}
		})
	}
}

// An alarm of no known kind is not passed over.
func TestUnknownAlarms(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	at := w.add(record.TypeAlarm, record.Envelope{Agent: id(1)}, record.AlarmBody{Event: "flood"}, nil)
	w.seal()
	wantFinding(t, verify(t, written(t, w), bundle.Options{}), expected{bundle.CheckEntry, int64(at), "entries/0.jsonl", ""})
}
