// Package siem hands the entries of the log, as OCSF events, to collectors: by syslog or OTLP, in order and at least once
// from a cursor. docs/formats/ocsf.md has what is sent.
//
// A collector is not trusted: what it answers is bounded, redirects are not followed, and what it does or fails to do
// changes nothing but how far its own cursor is. A sender reads behind the log's durable head, in pieces, and shares nothing
// with whoever appends. Status is safe for concurrent use; Run runs once.
package siem

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/ocsf"
)

const (
	maxBatch  = 1024            // entries handed over at a time
	maxBytes  = 2 << 20         // bytes of their events; one event may be more
	saveEvery = 2 * time.Second // how much is sent again after a crash
	firstWait = time.Second     // after a failure; doubled with each
	maxWait   = time.Minute
	maxAfter  = 10 * time.Minute // how long a collector may ask to be left alone
	within    = 30 * time.Second // for handing over a batch
	dialIn    = 10 * time.Second
)

// Log is what is read. What lies before Head is durable and never changes.
type Log interface {
	Head() checkpoint.Checkpoint
	// Minimum is 0, or the first entry after those that were pruned: what lies between the first 256 and it cannot be read.
	Minimum() uint64
	EnvelopeRange(ctx context.Context, from, to uint64, fn func(index uint64, envelope []byte) error) error
}

// sink hands events over. Without an error the collector has them all; with one it may have some.
type sink interface {
	send(ctx context.Context, events []ocsf.Event) error
	// rest is how long to let entries gather once all are sent.
	rest() time.Duration
}

// sendError is an error of a sink that knows more than that it may be different next time.
type sendError struct {
	error
	content bool          // the collector works, and does not want these events
	lasting bool          // it takes a person to change this
	after   time.Duration // the collector named the time to try again
}

func (f sendError) Unwrap() error { return f.error }

// Status is how far a sender is.
type Status struct {
	Next     uint64 // index of the first entry that was not handed over
	Lag      uint64 // entries that wait
	Failures uint64 // attempts that failed since start
	Reason   string // why nothing is handed over now; "" is good
}

// Sender hands the log to one collector.
type Sender struct {
	cfg  Config
	sink sink

	next     atomic.Uint64
	failures atomic.Uint64
	reason   atomic.Pointer[string]

	cursor uint64 // as it was saved last
	saved  time.Time
	limit  int // entries in the next batch
	row    int // failures in a row
}

// Name is the configuration's.
func (s *Sender) Name() string { return s.cfg.Name }

// Status says how far it is.
func (s *Sender) Status() Status {
	out := Status{Next: s.next.Load(), Failures: s.failures.Load()}
	if size := s.cfg.Log.Head().Size; size > out.Next {
		out.Lag = size - out.Next
	}
	if p := s.reason.Load(); p != nil {
		out.Reason = *p
	}
	return out
}

// Run hands over until ctx ends. It never fails: what goes wrong is its status and a line in the log for each change.
func (s *Sender) Run(ctx context.Context) error {
	defer s.keep(ctx)
	for wait := s.begin(ctx); ; wait = s.step(ctx) {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// begin takes the cursor up. Until that works nothing is sent.
func (s *Sender) begin(ctx context.Context) time.Duration {
	next, err := s.cfg.load()
	if err != nil {
		return s.failed(ctx, 0, sendError{error: err, lasting: true})
	}
	s.cursor, s.saved, s.limit = next, time.Now(), maxBatch
	s.next.Store(next)
	return 0
}

// step hands over one batch, and says how long to wait before the next.
func (s *Sender) step(ctx context.Context) time.Duration {
	if s.limit == 0 {
		return s.begin(ctx)
	}
	next, head := s.next.Load(), s.cfg.Log.Head().Size
	if next > head {
		return s.failed(ctx, 0, sendError{error: fmt.Errorf("the log has %d entries, and %d were sent: it is an older copy", head, next), lasting: true})
	}
	if next == head {
		s.keep(ctx)
		return s.sink.rest()
	}
	if first := s.cfg.Log.Minimum(); next < first {
		// A collector that is newer than what was pruned, which never passes one that is configured.
		s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "siem: entries were pruned before they were sent", slog.String("sink", s.cfg.Name),
			slog.Uint64("from", next), slog.Uint64("to", first))
		s.next.Store(first)
		return 0
	}
	events, err := s.read(ctx, next, head)
	if err != nil {
		return s.failed(ctx, 0, err)
	}
	if err := s.sink.send(ctx, events); err != nil {
		return s.failed(ctx, len(events), err)
	}
	next += uint64(len(events))
	s.next.Store(next)
	s.limit, s.row = min(2*s.limit, maxBatch), 0
	s.say(ctx, "")
	if time.Since(s.saved) >= saveEvery {
		s.keep(ctx)
	}
	if next == head {
		return s.sink.rest()
	}
	return 0
}

var errFull = errors.New("the batch is full")

// read projects the next entries. It holds the store's snapshot no longer than that takes.
func (s *Sender) read(ctx context.Context, next, head uint64) ([]ocsf.Event, error) {
	var events []ocsf.Event
	size := 0
	err := s.cfg.Log.EnvelopeRange(ctx, next, min(head, next+uint64(s.limit)), func(index uint64, envelope []byte) error { //nolint:gosec // G115: 1 to maxBatch
		e, err := ocsf.Project(s.cfg.Origin, index, envelope)
		if err != nil {
			return err
		}
		if size += len(e.JSON); size > maxBytes && len(events) > 0 {
			return errFull
		}
		events = append(events, e)
		return nil
	})
	if errors.Is(err, errFull) {
		err = nil
	}
	return events, err
}

// failed notes why a batch of n was not handed over, and says how long to wait. The next batch is smaller: the collector may be
// slow, or there may be one event among them that it does not want.
func (s *Sender) failed(ctx context.Context, n int, err error) time.Duration {
	if ctx.Err() != nil {
		return 0
	}
	s.failures.Add(1)
	s.row++
	if n > 1 {
		s.limit = n / 2
	}
	var f sendError
	if !errors.As(err, &f) {
		f.error = err
	}
	if f.content && n > 1 {
		return 0 // at most ten times in a row
	}
	text := plain(err)
	if n == 1 && f.content {
		text = fmt.Sprintf("entry %d is refused: %s", s.next.Load(), text)
	}
	s.say(ctx, text)
	return pause(f, s.row, s.cfg.Jitter())
}

// pause doubles up to a minute, which it is at once where only a person can help; shortened by up to half, by part in [0,1), so
// that many senders do not come back at once. What the collector asks for is a lower bound.
func pause(f sendError, row int, part float64) time.Duration {
	d := min(firstWait<<min(row-1, 16), maxWait)
	if f.lasting || f.content {
		d = maxWait
	}
	d -= time.Duration(part * float64(d) / 2)
	return max(d, min(f.after, maxAfter))
}

// say keeps the reason, and logs what is not what was said last: a collector that is down for a day is one line.
func (s *Sender) say(ctx context.Context, reason string) {
	before := s.reason.Swap(&reason)
	switch {
	case before != nil && *before == reason, before == nil && reason == "":
	case reason == "":
		s.cfg.Logger.LogAttrs(ctx, slog.LevelInfo, "siem: events are sent", slog.String("sink", s.cfg.Name))
	default:
		s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "siem: events are not sent", slog.String("sink", s.cfg.Name), slog.String("reason", reason))
	}
}

// keep saves the cursor if it moved. Without it the same entries are sent once more after a restart.
func (s *Sender) keep(ctx context.Context) {
	next := s.next.Load()
	if s.limit == 0 || next == s.cursor {
		return
	}
	s.saved = time.Now()
	if err := s.cfg.save(next); err != nil {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "siem: cursor not saved", slog.String("sink", s.cfg.Name), slog.Any("error", err))
		return
	}
	s.cursor = next
}
