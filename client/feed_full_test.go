package client_test

import (
	"testing"
	"time"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/event"
)

func limit(n int) func(*client.FeedConfig) { return func(f *client.FeedConfig) { f.Max = n } }

// What is held is counted: once each, and not when it is over.
func TestFeedCountsWhatItHolds(t *testing.T) {
	for name, said := range map[string]func(w *wire) []string{
		"said twice": func(w *wire) []string {
			return []string{w.revokes(1, 1, "a"), w.revokes(1, 2, "a"), w.revokes(1, 3, "b"), w.beats(1, 3)}
		},
		"said again when it is full": func(w *wire) []string {
			return []string{w.revokes(1, 1, "a"), w.revokes(1, 2, "b"), w.revokes(1, 3, "a"), w.beats(1, 3)}
		},
		"over": func(w *wire) []string {
			return []string{w.revokesUntil(1, 1, "over", 0), w.revokes(1, 2, "a"), w.beats(1, 2), w.revokes(1, 3, "b"), w.beats(1, 3)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *wire) {
				conn := w.connect("")
				conn.say(said(w)...)
				w.fresh(w.clock, "a", "b")
				conn.say(w.revokes(1, 4, "x"))
				w.fresh(time.Time{}, "a", "b")
			}, limit(2))
		})
	}
}

// One revocation too many, to a feed that was fresh: it is stale from that moment, whatever is said to it, until what it
// holds is over by a heartbeat's time and what it missed was read again.
func TestFeedIsStaleWhileItIsFull(t *testing.T) {
	said := make(recorder, 16)
	onWire(t, func(w *wire) {
		conn := w.connect("")
		conn.say(w.revokes(1, 1, "a"), w.revokesUntil(1, 2, "over", time.Minute), w.beats(1, 2))
		w.fresh(w.clock, "a", "over")
		conn.say(w.revokes(1, 3, "b"))
		w.fresh(time.Time{}, "a", "over")
		said.expect(t, "more is revoked than the feed can hold")
		// Nothing behind it is taken, not even what would need no room.
		later := event.Event{Epoch: 1, Seq: 5, Kind: chain.RevTask, ID: "c", Time: w.clock.Add(time.Hour)}
		conn.say(w.beats(1, 3), w.revokes(1, 4, "a"), w.event(later), w.beatsAt(1, 5, 59*time.Second))
		w.fresh(time.Time{}, "a", "over")
		if conn.over() {
			t.Error("it asks again for what it cannot hold")
		}
		conn.say(w.beatsAt(1, 5, time.Minute))
		if !conn.over() {
			t.Error("it does not ask again for what it missed")
		}
		said.expect(t, "there is room now for what was missed")
		w.fresh(time.Time{}, "a")
		if w.revoked("over") {
			t.Error("it keeps what is over")
		}
		conn = w.connect("1.2")
		conn.say(w.revokes(1, 3, "b"), w.revokes(1, 4, "a"))
		w.fresh(time.Time{}, "a", "b")
		conn.say(w.beatsAt(1, 4, 61*time.Second))
		w.fresh(w.clock.Add(61*time.Second), "a", "b")
	}, limit(2), said.log)
}

// A feed with more than it holds from the start stays as it is through reconnections, each later than the one before: the
// heartbeats that it waits through are no complete read.
func TestFeedIsFullFromTheStart(t *testing.T) {
	onWire(t, func(w *wire) {
		cursor, last := "", time.Now()
		for _, pause := range []time.Duration{0, 100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond} {
			conn := w.connect(cursor)
			if got := conn.came.Sub(last); got != pause {
				t.Errorf("it comes after %s, want %s", got, pause)
			}
			if cursor == "" {
				conn.say(w.revokesUntil(1, 1, "a", time.Minute))
			}
			conn.say(w.revokes(1, 2, "b"), w.revokes(1, 3, "c"), w.beats(1, 3), w.beatsAt(1, 3, time.Second))
			w.fresh(time.Time{}, "a")
			conn.end()
			cursor, last = "1.1", time.Now()
		}
		// The appliance drops what is over, too: then nothing is missed any more.
		w.connect("1.1").say(w.beatsAt(1, 3, time.Hour))
		w.fresh(w.clock.Add(time.Hour))
		if w.revoked("a") {
			t.Error("it keeps what is over")
		}
	}, limit(1))
}

// A new epoch that there is no room for is asked for again from its beginning.
func TestFeedIsFullInANewEpoch(t *testing.T) {
	onWire(t, func(w *wire) {
		conn := w.connect("")
		conn.say(w.revokesUntil(1, 1, "over", time.Minute), w.beats(1, 1))
		conn.end()
		conn = w.connect("1.1")
		conn.say(w.revokes(2, 1, "a"), w.beatsAt(2, 1, time.Minute))
		w.fresh(time.Time{})
		conn = w.connect("1.1")
		conn.say(w.revokes(2, 1, "a"), w.beatsAt(2, 1, time.Minute))
		w.fresh(w.clock.Add(time.Minute), "a")
	}, limit(1))
}

// The follower's clock makes no room: if it is ahead, and put right later, what is in force would be forgotten by then.
func TestFeedMakesNoRoomByItsOwnClock(t *testing.T) {
	onWire(t, func(w *wire) {
		conn := w.connect("")
		conn.say(w.revokesUntil(1, 1, "a", time.Minute), w.revokes(1, 2, "b"), w.beats(1, 2))
		w.fresh(time.Time{}, "a")
		if conn.over() {
			t.Error("it asks again, with no room")
		}
	}, limit(1), func(f *client.FeedConfig) { f.Now = func() time.Time { return time.Now().Add(30 * time.Minute) } })
}
