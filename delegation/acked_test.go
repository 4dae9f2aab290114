package delegation

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

func seqs(events []SignedEvent) []uint64 {
	out := make([]uint64, 0, len(events))
	for _, e := range events {
		out = append(out, e.Seq)
	}
	return out
}

// Whatever is acknowledged in whatever order, while events come and are dropped: what is left is what a plain set says.
func TestAcknowledgementsAgainstAPlainSet(t *testing.T) {
	const seed = 8936
	rnd := rand.New(rand.NewPCG(seed, seed))
	for range 200 {
		var a acked
		var events []SignedEvent
		plain, newest := map[uint64]bool{}, uint64(0)
		for range 60 {
			switch rnd.IntN(3) {
			case 0: // an event, sometimes behind a hole in the numbers
				newest += 1 + uint64(rnd.IntN(4)/3)*1024
				events = append(slices.Clip(events), SignedEvent{Seq: newest})
			case 1:
				events = slices.DeleteFunc(slices.Clone(events), func(SignedEvent) bool { return rnd.IntN(20) == 0 })
			default:
				acks := []Cursor{{1, newest + 7}, {2, newest}, {1, 0}, {}}
				for _, e := range events {
					if rnd.IntN(3) == 0 {
						acks, plain[e.Seq] = append(acks, Cursor{1, e.Seq}), true
					}
				}
				rnd.Shuffle(len(acks), func(i, j int) { acks[i], acks[j] = acks[j], acks[i] })
				a.take(events, 1, acks)
			}
			want := slices.DeleteFunc(seqs(events), func(n uint64) bool { return plain[n] })
			got, more := a.left(events, 1<<20)
			if !slices.Equal(seqs(got), want) || more {
				t.Fatalf("left %v, want %v (up to %d, ahead %v)", seqs(got), want, a.upTo, a.ahead)
			}
			if n := rnd.IntN(5); n < len(want) {
				if got, more := a.left(events, n); len(got) != n || !more {
					t.Fatalf("%d of %d events, more %v, for a limit of %d", len(got), len(want), more, n)
				}
			}
		}
	}
}

// A reader that leaves one event alone can acknowledge so many behind it and no more; and it is never stuck.
func TestAcknowledgementsAreBounded(t *testing.T) {
	var a acked
	events, all := make([]SignedEvent, 2*maxAhead), make([]Cursor, 2*maxAhead)
	for i := range events {
		events[i], all[i] = SignedEvent{Seq: uint64(i + 1)}, Cursor{1, uint64(i + 1)}
	}
	if fresh := a.take(events, 1, all[1:]); len(fresh) != maxAhead || len(a.ahead) != maxAhead {
		t.Fatalf("%d new, %d kept", len(fresh), len(a.ahead))
	}
	if fresh := a.take(events, 1, all[1:]); len(fresh) != 0 {
		t.Fatalf("again: %d new", len(fresh))
	}
	if fresh := a.take(events, 1, all[:1]); len(fresh) != 1 || a.upTo != maxAhead+1 || len(a.ahead) != 0 {
		t.Fatalf("the gap is closed, and yet up to %d, %d ahead", a.upTo, len(a.ahead))
	}
	a = acked{}
	slices.Reverse(all)
	if a.take(events, 1, all); a.upTo != 2*maxAhead || len(a.ahead) != 0 {
		t.Fatalf("up to %d, %d ahead", a.upTo, len(a.ahead))
	}
}

func TestReadersAreBounded(t *testing.T) {
	r := readers{m: map[string]*acked{}}
	for i := range maxReaders + 10 {
		r.keep(strconv.Itoa(i), new(acked))
	}
	if len(r.m) != maxReaders {
		t.Errorf("%d readers", len(r.m))
	}
	before := maps.Clone(r.m)
	for name := range before {
		r.keep(name, new(acked))
	}
	if len(r.m) != maxReaders || !slices.Equal(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(r.m))) {
		t.Error("a known reader took another's place")
	}
}
