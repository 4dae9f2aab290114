package siem

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/ocsf"
)

// told is a sink that does what a test says, and notes what it got.
type told struct {
	answer func(events []ocsf.Event) error
	got    [][]ocsf.Event
	at     []time.Time
}

func (s *told) send(_ context.Context, events []ocsf.Event) error {
	s.got, s.at = append(s.got, events), append(s.at, time.Now())
	return s.answer(events)
}

func (s *told) rest() time.Duration { return time.Second }

func sender(t *testing.T, l Log, sink sink) *Sender {
	t.Helper()
	s, err := New(config(t, "http://127.0.0.1:1/v1/logs", l))
	if err != nil {
		t.Fatal(err)
	}
	s.sink = sink
	return s
}

// for a time of the bubble's clock.
func (s *Sender) runFor(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

func indexes(batches [][]ocsf.Event) (out []uint64) {
	for _, b := range batches {
		for _, e := range b {
			out = append(out, e.Index)
		}
	}
	return out
}

func TestBacksOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &told{answer: func([]ocsf.Event) error { return errors.New("down") }}
		s := sender(t, grown(5), sink)
		s.cfg.Jitter = func() float64 { return 0 }
		said := new(lines)
		s.cfg.Logger = slog.New(slog.NewTextHandler(said, nil))
		s.runFor(t, 10*time.Minute)
		var waits []string
		for i, at := range sink.at[1:] {
			waits = append(waits, at.Sub(sink.at[i]).String())
		}
		if got := strings.Join(waits, " "); got != "1s 2s 4s 8s 16s 32s"+strings.Repeat(" 1m0s", len(waits)-6) || len(waits) < 12 {
			t.Error(got)
		}
		if st := s.Status(); st.Lag != 5 || st.Next != 0 || st.Reason != "down" || st.Failures != uint64(len(sink.at)) {
			t.Errorf("%+v", st)
		}
		if n := strings.Count(said.String(), "\n"); n != 1 {
			t.Errorf("%d lines about one fault:\n%s", n, said)
		}
	})
}

func TestPause(t *testing.T) {
	for _, c := range []struct {
		f    sendError
		row  int
		part float64
		want time.Duration
	}{
		{sendError{}, 1, 0, time.Second},
		{sendError{}, 4, .5, 6 * time.Second},
		{sendError{}, 1 << 40, 0, time.Minute},
		{sendError{lasting: true}, 1, 0, time.Minute},
		{sendError{content: true}, 1, .5, 45 * time.Second},
		{sendError{after: 90 * time.Second}, 1, .5, 90 * time.Second},
		{sendError{after: 1000 * time.Hour}, 1, 0, maxAfter},
	} {
		if got := pause(c.f, c.row, c.part); got != c.want {
			t.Errorf("%+v: %s, want %s", c, got, c.want)
		}
	}
}

// A collector that does not want one event gets all before it, is asked for that one alone, and gets the rest once it takes it.
func TestOneEventIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := map[uint64]int{}
		refusing := true
		sink := &told{}
		sink.answer = func(events []ocsf.Event) error {
			for _, e := range events {
				if refusing && e.Index == 700 {
					return sendError{error: errors.New("no"), content: true}
				}
			}
			for _, e := range events {
				took[e.Index]++
			}
			return nil
		}
		l := grown(2000)
		s := sender(t, l, sink)
		s.runFor(t, 10*time.Minute)
		if len(took) != 700 || s.Status().Next != 700 || s.Status().Reason != "entry 700 is refused: no" {
			t.Errorf("took %d, %+v", len(took), s.Status())
		}
		if tries := len(sink.got); tries > 60 {
			t.Errorf("%d tries in ten minutes", tries)
		}
		refusing = false
		again := sender(t, l, sink)
		again.cfg.Cursor = s.cfg.Cursor
		again.runFor(t, time.Minute)
		for i := range uint64(2000) {
			if took[i] != 1 {
				t.Fatalf("%d came %d times", i, took[i])
			}
		}
		if st := again.Status(); st.Lag != 0 || st.Reason != "" {
			t.Errorf("%+v", st)
		}
	})
}

// What is sent is durable, in order, and in batches that are bounded both ways.
func TestBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &told{answer: func([]ocsf.Event) error { return nil }}
		l := grown(3000)
		s := sender(t, l, sink)
		s.runFor(t, time.Minute)
		for i, index := range indexes(sink.got) {
			if index != uint64(i) {
				t.Fatalf("%d where %d is due", index, i)
			}
		}
		for _, b := range sink.got {
			size := 0
			for _, e := range b {
				size += len(e.JSON)
			}
			if len(b) == 0 || len(b) > maxBatch || size > maxBytes {
				t.Errorf("a batch of %d with %d bytes", len(b), size)
			}
		}
		if n := len(indexes(sink.got)); n != 3000 {
			t.Errorf("%d", n)
		}
	})
}

func TestCursor(t *testing.T) {
	dir := t.TempDir()
	c := config(t, "http://127.0.0.1:1/v1/logs", grown(40))
	c.Cursor = filepath.Join(dir, "start.json")
	if n, err := c.load(); n != 0 || err != nil {
		t.Errorf("start: %d, %v", n, err)
	}
	c.Cursor, c.FromStart = filepath.Join(dir, "now.json"), false
	if n, err := c.load(); n != 40 || err != nil {
		t.Errorf("now: %d, %v", n, err)
	}
	c.Log = grown(50)
	if n, err := c.load(); n != 40 || err != nil {
		t.Errorf("now, again: %d, %v", n, err)
	}
	if text, err := os.ReadFile(c.Cursor); err != nil || string(text) != `{"origin":"signet.test/log","next":40}`+"\n" {
		t.Errorf("%q, %v", text, err)
	}
	for _, bad := range []string{
		"", "{}", `{"origin":"signet.test/log"}`, `{"origin":"other","next":1}`, `{"origin":"signet.test/log","next":-1}`,
		`{"origin":"signet.test/log","next":1,"more":1}`, `{"origin":"signet.test/log","next":1}{}`, "\x00",
	} {
		if err := os.WriteFile(c.Cursor, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if n, err := c.load(); err == nil {
			t.Errorf("%q: %d", bad, n)
		}
	}
}

// A cursor that is not this log's, or beyond it, sends nothing and says so; put right, it goes on without a restart.
func TestCursorOfAnotherLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &told{answer: func([]ocsf.Event) error { return nil }}
		l := grown(5)
		s := sender(t, l, sink)
		if err := os.WriteFile(s.cfg.Cursor, []byte(`{"origin":"other/log","next":3}`), 0o600); err != nil {
			t.Fatal(err)
		}
		s.runFor(t, 10*time.Minute)
		if !strings.Contains(s.Status().Reason, `is of the log "other/log"`) || len(sink.got) > 0 {
			t.Errorf("%+v", s.Status())
		}
		s = sender(t, l, sink)
		if err := s.cfg.save(6); err != nil {
			t.Fatal(err)
		}
		s.runFor(t, 10*time.Minute)
		if !strings.Contains(s.Status().Reason, "older copy") || len(sink.got) > 0 {
			t.Errorf("%+v", s.Status())
		}
		l.size.Store(7)
		s.runFor(t, 10*time.Minute)
		if got := fmt.Sprint(indexes(sink.got)); got != "[6]" || s.Status().Reason != "" {
			t.Errorf("%s, %+v", got, s.Status())
		}
	})
}

// Between two saves nothing is lost and little is repeated.
func TestCursorIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := grown(1)
		sink := &told{}
		var s *Sender
		saved := uint64(0)
		sink.answer = func(events []ocsf.Event) error {
			next, err := s.cfg.load()
			if err != nil || next > events[0].Index {
				t.Errorf("the cursor says %d before %d is sent, %v", next, events[0].Index, err)
			}
			saved = next
			l.size.Add(1)
			return nil
		}
		s = sender(t, l, sink)
		s.runFor(t, 30*time.Second)
		if n := uint64(len(sink.got)); n < 20 || saved+5 < n {
			t.Errorf("%d were sent, %d saved", n, saved)
		}
		if next, err := s.cfg.load(); err != nil || next != s.Status().Next {
			t.Errorf("at the end: %d, %v, want %d", next, err, s.Status().Next)
		}
	})
}

func TestEntryThatCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &told{answer: func([]ocsf.Event) error { return nil }}
		s := sender(t, damaged{grown(5)}, sink)
		s.runFor(t, 10*time.Minute)
		if s.Status().Reason == "" || s.Status().Lag != 5 || len(sink.got) != 0 {
			t.Errorf("%+v", s.Status())
		}
	})
}

// A collector that is newer than what was pruned begins where the log does: the index of its first event shows the gap.
func TestPrunedBeforeItWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &told{answer: func([]ocsf.Event) error { return nil }}
		log := grown(600)
		log.minimum.Store(512)
		s := sender(t, log, sink)
		s.runFor(t, time.Minute)
		if len(sink.got) != 1 || len(sink.got[0]) != 88 || sink.got[0][0].Index != 512 || s.Status().Lag != 0 {
			t.Errorf("%d batches, %+v", len(sink.got), s.Status())
		}
	})
}

type damaged struct{ *madeUp }

func (damaged) EnvelopeRange(_ context.Context, from, _ uint64, fn func(uint64, []byte) error) error {
	return fn(from, []byte(`{"v":1,"type":"decis`))
}

func TestParseTarget(t *testing.T) {
	for text, want := range map[string]string{
		"syslog+tls://siem.example":         "siem.example:6514 siem.example syslog tls",
		"syslog+tls://siem.example:7000":    "siem.example:7000 siem.example syslog tls",
		"syslog+tls://[2001:db8::1]":        "[2001:db8::1]:6514 2001:db8::1 syslog tls",
		"syslog+tcp://127.0.0.1:514":        "127.0.0.1:514 127.0.0.1 syslog plain",
		"syslog+tcp://[::1]:514":            "[::1]:514 ::1 syslog plain",
		"https://otel.example/v1/logs":      "otel.example otel.example otlp tls",
		"http://127.0.0.1:4318/v1/logs":     "127.0.0.1:4318 127.0.0.1 otlp plain",
		"http://localhost:4318/v1/logs":     "",
		"http://siem.example/v1/logs":       "",
		"syslog+tcp://siem.example:514":     "",
		"syslog+tcp://127.0.0.1.example:51": "",
		"syslog+tcp://127.0.0.1":            "",
		"syslog+tls://siem.example/x":       "",
		"syslog+tls://siem.example?x":       "",
		"syslog+tls://:6514":                "",
		"https://u:p@otel.example/":         "",
		"https://otel.example/#x":           "",
		"udp://siem.example:514":            "",
		"":                                  "",
	} {
		got := ""
		if v, err := ParseTarget(text, false); err == nil {
			kind, how := "syslog", "tls"
			if v.OTLP() {
				kind = "otlp"
			}
			if v.Plain() {
				how = "plain"
			}
			got = strings.Join([]string{v.host, v.name, kind, how}, " ")
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
	if _, err := ParseTarget("syslog+tcp://siem.example:514", true); err != nil {
		t.Errorf("in development: %v", err)
	}
	if _, err := New(Config{}); err == nil {
		t.Error("a sender without anything")
	}
}

// The log's own reader: no payload, and nothing beyond the head.
func TestRealLogHasNoPayloads(t *testing.T) {
	l := realLog(t)
	appends(t, l, 600)
	n := uint64(0)
	err := l.EnvelopeRange(t.Context(), 0, 601, func(index uint64, envelope []byte) error {
		if index != n || strings.Contains(string(envelope), secret) {
			t.Errorf("%d: %s", index, envelope)
		}
		n++
		return nil
	})
	if err != nil || n != 601 {
		t.Errorf("%d, %v", n, err)
	}
	if err := l.EnvelopeRange(t.Context(), 0, l.Head().Size+1, nil); !errors.Is(err, audit.ErrNotFound) {
		t.Errorf("beyond the head: %v", err)
	}
	stop := errors.New("stop")
	if err := l.EnvelopeRange(t.Context(), 3, 9, func(uint64, []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the callback's error: %v", err)
	}
}
