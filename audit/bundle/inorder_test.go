package bundle

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"unicode/utf8"
)

// Each slot belongs to one number at a time, and all numbers are taken in order.
func TestInOrder(t *testing.T) {
	const slots, total = 3, 1000
	var held [slots]uint64
	next := uint64(0)
	err := inOrder(t.Context(), 4, slots, total, func(_ int, slot, n uint64) { held[slot] = n }, func(slot, n uint64) {
		if n != next || held[slot] != n {
			t.Fatalf("took %d, slot %d of %d; want %d", n, slot, held[slot], next)
		}
		next++
	})
	if err != nil || next != total {
		t.Errorf("%d of %d, %v", next, total, err)
	}
	for _, total := range []uint64{0, 1, slots} {
		taken := uint64(0)
		if err := inOrder(t.Context(), 1, slots, total, func(int, uint64, uint64) {}, func(uint64, uint64) { taken++ }); err != nil || taken != total {
			t.Errorf("%d of %d, %v", taken, total, err)
		}
	}
}

func TestInOrderEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	taken := 0
	err := inOrder(ctx, 2, 4, 1<<40, func(int, uint64, uint64) {}, func(uint64, uint64) {
		if taken++; taken == 10 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) || taken != 10 {
		t.Errorf("took %d, %v", taken, err)
	}
}

// FuzzDecision holds the reading of decisions without reflection against encoding/json's.
func FuzzDecision(f *testing.F) {
	for _, text := range []string{
		`{"allow":true,"tbs_hash":"0a","hops":[{"id":"a","scope":["b"]},{"id":"c"}]}`, `{"allow":false}`, `{}`, `{"allow":null}`, `{"allow":"x"}`, `{"tbs_hash":5}`,
		`{"hops":null}`, `{"hops":[null]}`, `{"hops":[5]}`, `{"hops":[{"id":5}]}`, `{"hops":[{}],"allow":true}`, `{"hops":{}}`, `{"tbs_hash":"\u0030"}`, `{"allow": true}`,
		`{"hops":[{"id":null}]}`, `{"allow":true,"tbs_hash":null}`, `[]`, `null`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		allowed, tbs, ok := plainDecision(body)
		if !ok || !utf8.Valid(body) {
			return // json judges it, or it was refused before
		}
		var want decisionBody
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("%q: taken, json says %v", body, err)
		}
		if allowed != want.Allow || string(tbs) != want.TBSHash {
			t.Fatalf("%q: %v %q, json says %v %q", body, allowed, tbs, want.Allow, want.TBSHash)
		}
	})
}

func TestPlainDecisionIsTheUsualOne(t *testing.T) {
	for text, want := range map[string]bool{
		`{"decision_id":"x","allow":true,"tbs_hash":"0a","hops":[{"id":"a","scope":["b"]},{"id":"c"}]}`: true,
		`{"allow":false,"reasons":["a\n"],"hops":[]}`:                                                   true,
		`{"hops":[{"id":null}]}`: false, `{"allow":null}`: false, `{"hops":[5]}`: false, `{"hops":null}`: false, `{"allow": true}`: false, `{"tbs_hash":"\u0030"}`: false,
	} {
		if _, _, ok := plainDecision([]byte(text)); ok != want {
			t.Errorf("%s: %v", text, ok)
		}
	}
}
