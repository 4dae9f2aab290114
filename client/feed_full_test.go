package client_test

import (
	"math/rand/v2"
	"net/http"
	"strconv"
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

// Whatever comes and ends in whatever order: a follower that has too little room most of the time is never fresh without all
// that is in force, and is fresh again in the end.
func TestFeedIsNeverFreshWithoutAll(t *testing.T) {
	for seed := range uint64(4) {
		onWire(t, func(w *wire) {
			a := &quickAppliance{wire: w, rand: rand.New(rand.NewPCG(seed, 0))}
			for range 60 {
				a.step()
			}
			if a.fresh == 0 || a.stale == 0 {
				t.Errorf("seed %d: fresh after %d steps, stale after %d: nothing was tried", seed, a.fresh, a.stale)
			}
			a.now += time.Hour
			for range 3 {
				a.beat()
			}
			if want := w.clock.Add(a.now); !w.feed.FreshAt().Equal(want) {
				t.Errorf("seed %d: fresh at %s with nothing in force, want %s", seed, w.feed.FreshAt(), want)
			}
		}, limit(3))
	}
}

// quickAppliance revokes at random what is over soon.
type quickAppliance struct {
	*wire
	rand         *rand.Rand
	conn         *connection
	now          time.Duration // after the clock
	revocations  []brief       // by their numbers, from 1
	fresh, stale int
}

type brief struct{ from, until time.Duration }

func (a *quickAppliance) step() {
	a.now += time.Duration(1+a.rand.IntN(10)) * time.Second
	if a.rand.IntN(2) == 0 {
		a.revocations = append(a.revocations, brief{a.now, a.now + time.Duration(1+a.rand.IntN(60))*time.Second})
		if a.conn != nil {
			a.conn.say(a.revocation(len(a.revocations)))
		}
	}
	if a.rand.IntN(2) == 0 {
		a.beat()
	}
	a.check()
}

// beat says that this was all; to a new connection, behind all that is in force.
func (a *quickAppliance) beat() {
	if a.conn == nil || a.conn.over() {
		a.conn = a.meet()
		a.conn.open(http.StatusOK)
		_, last, err := event.ParsePosition(a.conn.cursor)
		if err != nil {
			a.t.Fatal(err)
		}
		for n := int(last) + 1; n <= len(a.revocations); n++ {
			if a.revocations[n-1].until > a.now {
				a.conn.say(a.revocation(n))
			}
		}
	}
	a.conn.say(a.beatsAt(1, uint64(len(a.revocations)), a.now))
}

func (a *quickAppliance) revocation(n int) string {
	r := a.revocations[n-1]
	return a.event(event.Event{
		Epoch: 1, Seq: uint64(n), Kind: chain.RevTask, ID: strconv.Itoa(n), Time: a.clock.Add(r.from), Expires: a.clock.Add(r.until),
	})
}

func (a *quickAppliance) check() {
	a.t.Helper()
	if a.feed.FreshAt().IsZero() {
		a.stale++
		return
	}
	a.fresh++
	at := a.feed.FreshAt().Sub(a.clock)
	for i, r := range a.revocations {
		if r.from <= at && at < r.until && !a.revoked(strconv.Itoa(i+1)) {
			a.t.Errorf("fresh at %s without number %d, in force from %s until %s", at, i+1, r.from, r.until)
		}
	}
}
