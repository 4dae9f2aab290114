package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/delegation/event"
)

// Attempts that come to nothing are made at growing intervals, up to five seconds; one that was read to a heartbeat begins
// them anew, and an event alone does not.
func TestFeedPausesBetweenAttempts(t *testing.T) {
	const ms = time.Millisecond
	onWire(t, func(w *wire) {
		last := time.Now()
		for i, c := range []struct {
			pause time.Duration
			says  string
		}{
			{0, ""},
			{100 * ms, ""},
			{200 * ms, w.revokes(1, 1, "a")},
			{400 * ms, ""},
			{800 * ms, ""},
			{1600 * ms, "x\n"},
			{3200 * ms, ""},
			{5000 * ms, ""},
			{5000 * ms, ""},
			{5000 * ms, w.beats(1, 1)},
			{100 * ms, ""},
			{200 * ms, ""},
			{400 * ms, w.beats(1, 1)},
			{100 * ms, ""},
		} {
			conn := w.meet()
			if got := conn.came.Sub(last); got != c.pause {
				t.Errorf("attempt %d after %s, want %s", i, got, c.pause)
			}
			conn.open(http.StatusOK)
			conn.say(c.says)
			conn.end()
			last = time.Now()
		}
	})
}

// Run ends with its context: in a pause, and on a connection.
func TestFeedEndsAtOnce(t *testing.T) {
	for name, pausing := range map[string]bool{"in a pause": true, "on a connection": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, c := newWire(t)
				said := make(recorder, 16)
				feed, err := c.NewFeed(client.FeedConfig{Origin: testOrigin, TrustDomain: testDomain, Logger: said.logger()})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- feed.Run(ctx) }()
				conn := w.connect("")
				if pausing {
					conn.end()
					synctest.Wait()
					said.expect(t, "broke off")
				}
				before := time.Now()
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) || time.Since(before) != 0 {
					t.Errorf("after %s: %v", time.Since(before), err)
				}
				if len(said) != 0 {
					t.Errorf("its end is logged as trouble: %s", <-said)
				}
			})
		})
	}
}

// A connection is left when nothing whole came for so long, however alive it looks; with news it lasts, past the
// timeout of other requests.
func TestFeedLeavesASilentConnection(t *testing.T) {
	for name, c := range map[string]struct {
		silence time.Duration // as configured
		says    func(w *wire, conn *connection)
		lasts   time.Duration
	}{
		"no answer":           {0, nil, 20 * time.Second},
		"no answer, its own":  {3 * time.Second, nil, 3 * time.Second},
		"no event":            {0, func(_ *wire, conn *connection) { conn.open(http.StatusOK) }, 20 * time.Second},
		"no event, its own":   {time.Minute, func(_ *wire, conn *connection) { conn.open(http.StatusOK) }, time.Minute},
		"no end of a refusal": {0, func(_ *wire, conn *connection) { conn.open(http.StatusForbidden) }, 20 * time.Second},
		"comments": {0, func(_ *wire, conn *connection) {
			conn.open(http.StatusOK)
			for range 3 {
				time.Sleep(5 * time.Second) // of the bubble's clock
				conn.say(":\n\n")
			}
		}, 20 * time.Second},
		"half an event": {0, func(w *wire, conn *connection) {
			conn.open(http.StatusOK)
			time.Sleep(15 * time.Second) // likewise
			conn.say(strings.TrimSuffix(w.revokes(1, 1, "x"), "\n"))
		}, 20 * time.Second},
		"events": {0, func(w *wire, conn *connection) {
			conn.open(http.StatusOK)
			for seq := range uint64(9) {
				time.Sleep(19 * time.Second) // likewise
				conn.say(w.revokes(1, seq+1, "a"))
			}
		}, (9*19 + 20) * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			said := make(recorder, 16)
			onWire(t, func(w *wire) {
				conn := w.meet()
				if c.says != nil {
					c.says(w, conn)
				}
				if got := conn.lasted(); got != c.lasts {
					t.Errorf("it stays for %s, want %s", got, c.lasts)
				}
				if w.revoked("x") {
					t.Error("half an event is believed")
				}
				if synctest.Wait(); name != "no end of a refusal" {
					said.expect(t, "nothing came for too long")
				}
				left := time.Now()
				if got := w.meet().came.Sub(left); got != 100*time.Millisecond {
					t.Errorf("it comes again after %s", got)
				}
			}, said.log, func(f *client.FeedConfig) { f.Silence = c.silence })
		})
	}
}

// The keys are an ordinary request: it has the client's timeout.
func TestFeedLeavesSlowKeys(t *testing.T) {
	onWire(t, func(w *wire) {
		conn := w.connect("")
		w.change(func() { w.slowKeys = true })
		conn.end()
		if got := w.meet().lasted(); got != 15*time.Second {
			t.Errorf("it waits for the keys for %s", got)
		}
	})
}

// An answer that is no stream is not read as one, whatever is in it; its problem is logged.
func TestFeedReadsNoRefusal(t *testing.T) {
	for _, status := range []int{
		http.StatusCreated, http.StatusNoContent, http.StatusPartialContent, http.StatusFound, http.StatusUnauthorized,
		http.StatusForbidden, http.StatusTooManyRequests, http.StatusInternalServerError, http.StatusServiceUnavailable,
	} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			said := make(recorder, 16)
			onWire(t, func(w *wire) {
				conn := w.meet()
				conn.open(status)
				conn.say(w.revokes(1, 1, "x"), w.beats(1, 1))
				conn.end()
				if !conn.over() {
					t.Error("it stays")
				}
				w.fresh(time.Time{})
				said.expect(t, "status "+http.StatusText(status))
				conn = w.meet()
				conn.open(status)
				conn.say(`{"code":"not_a_reader"}`)
				conn.end()
				synctest.Wait()
				said.expect(t, "not_a_reader")
				w.connect("").say(w.revokes(1, 1, "a"), w.beats(1, 1))
				w.fresh(w.clock, "a")
			}, said.log)
		})
	}
}

// Everything that a stream may have between its events is read over, on one connection.
func TestFeedReadsAStream(t *testing.T) {
	onWire(t, func(w *wire) {
		conn := w.connect("")
		conn.say("\n\n:\n", "id: 1.1\n"+w.revokes(1, 1, "a"), "\n", "event: e\n"+w.revokes(1, 2, "b")+"\n\n", strings.ReplaceAll(w.revokes(1, 3, "c"), "\n", "\r\n"),
			strings.Replace(w.revokes(1, 4, "d"), ": ", ":", 1), "data\n\n", "event: heartbeat\n"+w.beats(1, 4))
		w.fresh(w.clock, "a", "b", "c", "d")
		long := strings.Repeat("l", 2500)
		conn.say(w.revokes(1, 5, long), w.beats(1, 5))
		w.fresh(w.clock, long)
		for n, piece := 0, w.revokes(1, 6, "e"); n < len(piece); n++ {
			conn.say(piece[n : n+1])
		}
		w.fresh(w.clock, "e")
		if conn.over() {
			t.Error("it left")
		}
	})
}

// What is no whole event in one line is none; the next connection asks again.
func TestFeedReadsWholeEventsAlone(t *testing.T) {
	for name, c := range map[string]struct {
		says func(event string) string
		ends bool // the stream, behind it; or else the follower leaves by itself
	}{
		"in two lines":         {func(s string) string { return s[:50] + "\ndata: " + s[50:] }, false},
		"behind another line":  {func(s string) string { return "data: x\n" + s }, false},
		"before another line":  {func(s string) string { return strings.TrimSuffix(s, "\n") + "data: x\n\n" }, false},
		"twice":                {func(s string) string { return strings.TrimSuffix(s, "\n") + s }, false},
		"torn":                 {func(s string) string { return s[:len(s)/2] }, true},
		"torn, and other data": {func(s string) string { return s[:len(s)/2] + "\n\n" }, false},
		"torn at its end":      {func(s string) string { return strings.TrimSuffix(s, "\n") }, true},
		"torn in its end":      {func(s string) string { return strings.TrimSuffix(s, "\n\n") }, true},
	} {
		t.Run(name, func(t *testing.T) {
			onWire(t, func(w *wire) {
				conn := w.connect("")
				conn.say(w.revokes(1, 1, "a"), w.beats(1, 1), c.says(w.revokes(1, 2, "x")))
				if conn.over() == c.ends {
					t.Errorf("it stays: %t", c.ends)
				}
				conn.end()
				w.fresh(w.clock, "a")
				w.connect("1.1")
			})
		})
	}
}

// A line without an end is not read to its end.
func TestFeedBoundsALine(t *testing.T) {
	for name, begin := range map[string]string{"data": "data: ", "a comment": ": ", "anything": ""} {
		t.Run(name, func(t *testing.T) {
			said := make(recorder, 16)
			onWire(t, func(w *wire) {
				conn := w.connect("")
				read := conn.say(begin + strings.Repeat("x", 1<<20))
				if !conn.over() || read > event.MaxBytes+64 {
					t.Errorf("it read %d bytes; over: %t", read, conn.over())
				}
				said.expect(t, "token too long")
				w.connect("")
			}, said.log)
		})
	}
}

// Whatever a stream is, each datum that is read stands in it as one line with an empty one behind it, and its end is an error.
func FuzzReadEvents(f *testing.F) {
	for _, text := range []string{
		"", "\n\n", ":\n\ndata: a\n\ndata:b\r\n\r\n", "id: 1.1\nevent: heartbeat\ndata: a.b.c\n\n", "data: a\ndata: b\n\n", "data: a\n", "data: a\n\ndata",
		"data: a\nid: 1\n\n", "data:\ndata: a\n\n", "data: " + strings.Repeat("x", event.MaxBytes+64) + "\n\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		rest := text
		err := client.ReadEvents(strings.NewReader(text), func(data string) error {
			_, behind, ok := strings.Cut(rest, data)
			if !ok || data == "" || len(data) > event.MaxBytes+64 || strings.Contains(data, "\n") {
				t.Fatalf("%q is read of %q", data, text)
			}
			if !strings.Contains(behind, "\n\n") && !strings.Contains(behind, "\n\r\n") {
				t.Fatalf("%q has no end in %q", data, text)
			}
			rest = behind
			return nil
		})
		if err == nil {
			t.Fatal("a stream has no good end")
		}
	})
}
