package client_test

import (
	"testing"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/event"
)

func (w *wire) revoked(id string) bool { return w.feed.Revoked(chain.RevTask, id) }

// beatsAt is a heartbeat of another moment than the clock's.
func (a *authority) beatsAt(epoch, seq uint64, after time.Duration) string {
	return a.event(event.Event{Epoch: epoch, Seq: seq, Time: a.clock.Add(after)})
}

// revokesUntil is a revocation that is over some time after the clock.
func (a *authority) revokesUntil(epoch, seq uint64, id string, after time.Duration) string {
	return a.event(event.Event{Epoch: epoch, Seq: seq, Kind: chain.RevTask, ID: id, Time: a.clock, Expires: a.clock.Add(after)})
}

// What is out of order ends the connection, though it would go on; the next one begins behind what was in order.
func TestFeedHoldsTheOrder(t *testing.T) {
	for name, c := range map[string]struct {
		wrong  func(w *wire) string
		epoch  uint64 // of "a", number 4
		beaten bool   // by a heartbeat, before the wrong one
		resume string
		reason string // as it is logged
	}{
		"replay":                         {func(w *wire) string { return w.revokes(1, 3, "x") }, 1, false, "1.4", "out of order"},
		"equal replay":                   {func(w *wire) string { return w.revokes(1, 4, "x") }, 1, false, "1.4", "out of order"},
		"heartbeat's replay":             {func(w *wire) string { return w.beats(1, 3) }, 1, false, "1.4", "out of order"},
		"earlier epoch":                  {func(w *wire) string { return w.revokes(1, 5, "x") }, 2, false, "2.4", "of an earlier epoch"},
		"earlier epoch's heartbeat":      {func(w *wire) string { return w.beats(1, 5) }, 2, false, "2.4", "of an earlier epoch"},
		"complete: gap":                  {func(w *wire) string { return w.revokes(1, 6, "x") }, 1, true, "1.4", "is missing"},
		"complete: heartbeat's gap":      {func(w *wire) string { return w.beats(1, 5) }, 1, true, "1.4", "is missing"},
		"complete: replay":               {func(w *wire) string { return w.revokes(1, 4, "x") }, 1, true, "1.4", "out of order"},
		"complete: heartbeat's replay":   {func(w *wire) string { return w.beats(1, 3) }, 1, true, "1.4", "out of order"},
		"complete: heartbeat of before":  {func(w *wire) string { return w.beatsAt(1, 4, -time.Second) }, 1, true, "1.4", "out of order"},
		"complete: earlier epoch":        {func(w *wire) string { return w.revokes(1, 5, "x") }, 2, true, "2.4", "of an earlier epoch"},
		"complete: new epoch":            {func(w *wire) string { return w.revokes(2, 1, "x") }, 1, true, "1.4", "is missing"},
		"complete: new epoch, in line":   {func(w *wire) string { return w.revokes(2, 5, "x") }, 1, true, "1.4", "is missing"},
		"complete: new epoch, heartbeat": {func(w *wire) string { return w.beats(2, 0) }, 1, true, "1.4", "is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			said := make(recorder, 16)
			onWire(t, func(w *wire) {
				conn, at := w.connect(""), time.Time{}
				conn.say(w.revokes(c.epoch, 4, "a"))
				if c.beaten {
					conn.say(w.beats(c.epoch, 4))
					at = w.clock
				}
				w.fresh(at, "a")
				news := w.feed.Changed()
				conn.say(c.wrong(w))
				if !conn.over() {
					t.Error("it stays")
				}
				w.fresh(at, "a")
				if closed(news) {
					t.Error("what was refused is news")
				}
				said.expect(t, c.reason)
				w.connect(c.resume)
			}, said.log)
		})
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// The time up to which nothing was missed is a heartbeat's own. No other event has it, nor the follower's clock, and it does
// not go back, also not from one connection to the next.
func TestFeedIsFreshByTheHeartbeatAlone(t *testing.T) {
	onWire(t, func(w *wire) {
		conn := w.connect("")
		conn.say(w.revokes(1, 1, "a"))
		w.fresh(time.Time{}, "a")
		conn.say(w.beatsAt(1, 1, -7*time.Second))
		w.fresh(w.clock.Add(-7*time.Second), "a")
		conn.say(w.revokes(1, 2, "b"))
		w.fresh(w.clock.Add(-7*time.Second), "a", "b")
		conn.say(w.beatsAt(1, 2, 3*time.Second))
		w.fresh(w.clock.Add(3*time.Second), "a", "b")
		conn.end()
		conn = w.connect("1.2")
		conn.say(w.beatsAt(1, 2, 2*time.Second))
		if !conn.over() {
			t.Error("it stays, with a heartbeat of before the last one")
		}
		w.fresh(w.clock.Add(3 * time.Second))
		conn = w.connect("1.2")
		conn.say(w.beatsAt(1, 2, 3*time.Second))
		if conn.over() {
			t.Error("it leaves, for the heartbeat that it knows")
		}
		w.fresh(w.clock.Add(3 * time.Second))
	})
}

// Whatever is taken is news, and moves the place from which the next connection asks.
func TestFeedResumesBehindWhatItTook(t *testing.T) {
	for name, c := range map[string]struct {
		said   func(w *wire) []string
		resume string
	}{
		"nothing":               {func(*wire) []string { return nil }, ""},
		"an event":              {func(w *wire) []string { return []string{w.revokes(1, 4, "a")} }, "1.4"},
		"events":                {func(w *wire) []string { return []string{w.revokes(1, 4, "a"), w.revokes(1, 9, "b")} }, "1.9"},
		"a heartbeat":           {func(w *wire) []string { return []string{w.beats(1, 7)} }, "1.7"},
		"a heartbeat of none":   {func(w *wire) []string { return []string{w.beats(1, 0)} }, "1.0"},
		"a heartbeat's jump":    {func(w *wire) []string { return []string{w.revokes(1, 4, "a"), w.beats(1, 7)} }, "1.7"},
		"an event behind it":    {func(w *wire) []string { return []string{w.beats(1, 7), w.revokes(1, 8, "a")} }, "1.8"},
		"a new epoch":           {func(w *wire) []string { return []string{w.revokes(1, 4, "a"), w.revokes(2, 1, "b")} }, "2.1"},
		"a new epoch's nothing": {func(w *wire) []string { return []string{w.revokes(1, 4, "a"), w.beats(2, 0)} }, "2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *wire) {
				conn := w.connect("")
				for _, text := range c.said(w) {
					news := w.feed.Changed()
					conn.say(text)
					if !closed(news) {
						t.Error("no news")
					}
				}
				conn.end()
				w.connect(c.resume)
			})
		})
	}
}

// The new epoch ends what was fresh at its first event, on the connection that brings it.
func TestFeedIsStaleInANewEpoch(t *testing.T) {
	onWire(t, func(w *wire) {
		conn := w.connect("")
		conn.say(w.revokes(1, 4, "a"), w.beats(1, 4))
		w.fresh(w.clock, "a")
		conn.end()
		conn = w.connect("1.4")
		w.fresh(w.clock, "a")
		conn.say(w.revokes(2, 1, "b"))
		w.fresh(time.Time{}, "a", "b")
		conn.say(w.beats(2, 1))
		w.fresh(w.clock, "a", "b")
	})
}

// What is revoked again is held until it is over by the newer event.
func TestFeedHoldsLongerWhatIsRevokedAgain(t *testing.T) {
	onWire(t, func(w *wire) {
		conn := w.connect("")
		conn.say(w.revokesUntil(1, 1, "a", time.Second), w.revokesUntil(1, 2, "b", time.Second))
		conn.say(w.revokes(1, 3, "a"), w.revokesUntil(1, 4, "b", time.Minute), w.beatsAt(1, 4, time.Second))
		w.fresh(w.clock.Add(time.Second), "a", "b")
		conn.say(w.beatsAt(1, 4, time.Minute))
		w.fresh(w.clock.Add(time.Minute), "a")
		if w.revoked("b") {
			t.Error("it keeps what is over")
		}
	})
}
