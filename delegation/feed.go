package delegation

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/signet-pki/signet/delegation/event"
)

// SignedEvent is a revocation as relying services get it.
type SignedEvent struct {
	Seq uint64
	SET string // compact JWS (package event)

	expires time.Time
}

// FeedPage is a piece of the signed feed. Heartbeat is the newest one, where it is behind the last event of all; else "".
type FeedPage struct {
	Events    []SignedEvent
	More      bool // there are more events than fit the page
	Heartbeat string
	Next      Cursor
	Changed   <-chan struct{} // closed when there is something newer
}

// feed holds the signed events. A revocation is in force before it is here: it is signed once, after its commit, and a
// device that is away delays events, not revocations. Followers then miss heartbeats and refuse by themselves.
type feed struct {
	mu        sync.RWMutex
	epoch     uint64
	events    []SignedEvent // in the order of numbers
	heartbeat string
	upTo      uint64 // what the heartbeat says
	changed   chan struct{}
	readers   readers
}

func newFeed(epoch uint64) *feed {
	return &feed{epoch: epoch, changed: make(chan struct{}), readers: readers{m: make(map[string]*acked)}}
}

// signWithin bounds one signature of the feed.
const signWithin = 10 * time.Second

// feedRetry is how soon the feed is tried again after a signature failed.
const feedRetry = time.Second

// Feed gives up to limit signed events behind a place: all for a place in another epoch.
func (s *Service) Feed(after Cursor, limit int) FeedPage {
	f := s.feed
	f.mu.RLock()
	defer f.mu.RUnlock()
	if after.Epoch != f.epoch {
		after.Seq = 0
	}
	i, _ := slices.BinarySearchFunc(f.events, after.Seq+1, bySeq)
	end := min(i+limit, len(f.events))
	out := FeedPage{
		Events: slices.Clip(f.events[i:end]), More: end < len(f.events), Next: Cursor{f.epoch, after.Seq}, Changed: f.changed,
	}
	if n := len(f.events); n == end && (n == 0 || f.events[n-1].Seq <= f.upTo) {
		out.Heartbeat = f.heartbeat
	}
	if n := len(out.Events); n > 0 {
		out.Next.Seq = out.Events[n-1].Seq
	}
	return out
}

// runFeed signs what was revoked, and a heartbeat behind it or when one is due.
func (s *Service) runFeed(ctx context.Context) error {
	var at Cursor
	var beat time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		again := s.cfg.Limits.Heartbeat
		page, err := s.signFeed(ctx, &at, &beat)
		if err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("the revocation feed is late", slog.Any("error", err))
			again = feedRetry
		}
		timer.Reset(again)
		select {
		case <-ctx.Done():
			return nil
		case <-page.Changed:
			if err != nil {
				// What changed waits for the retry: a broken device is not asked in a circle.
				select {
				case <-ctx.Done():
					return nil
				case <-timer.C:
				}
			}
		case <-timer.C:
		}
	}
}

// feedBatch is how many events are signed before they are shown.
const feedBatch = 64

// signFeed signs all that is behind at, and then says by a heartbeat that this was all at the moment it began.
func (s *Service) signFeed(ctx context.Context, at *Cursor, beat *time.Time) (RevocationPage, error) {
	signed := false
	for {
		now := s.cfg.Now()
		page := s.revoked.page(*at, feedBatch)
		events, err := s.signEvents(ctx, page)
		if n := len(events); n > 0 {
			signed = true
			*at = Cursor{page.Next.Epoch, events[n-1].Seq}
			s.feed.show(events)
		}
		if err != nil {
			return page, err
		}
		if len(page.Revocations) == feedBatch {
			continue
		}
		if !signed && now.Sub(*beat) < s.cfg.Limits.Heartbeat && !now.Before(*beat) {
			return page, nil
		}
		return page, s.signHeartbeat(ctx, page, now, beat)
	}
}

func (s *Service) signHeartbeat(ctx context.Context, page RevocationPage, now time.Time, beat *time.Time) error {
	set, err := s.signEvent(ctx, event.Event{Epoch: page.Next.Epoch, Seq: page.Newest, Time: now})
	if err != nil {
		*beat = time.Time{} // owed behind what was shown, and so due at the next try
		return err
	}
	*beat = now
	s.feed.beat(set, page.Newest)
	return nil
}

// signEvents signs a page until one fails.
func (s *Service) signEvents(ctx context.Context, page RevocationPage) ([]SignedEvent, error) {
	out := make([]SignedEvent, 0, len(page.Revocations))
	for _, v := range page.Revocations {
		set, err := s.signEvent(ctx, event.Event{Epoch: page.Next.Epoch, Seq: v.Seq, Kind: v.Kind, ID: v.ID, Time: v.Time, Expires: v.Expires})
		if err != nil {
			return out, err
		}
		out = append(out, SignedEvent{Seq: v.Seq, SET: set, expires: v.Expires})
	}
	return out, nil
}

func (s *Service) signEvent(ctx context.Context, e event.Event) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, signWithin)
	defer cancel()
	return s.cfg.Statements.Sign(ctx, event.Type, e.Claims(s.cfg.Origin, s.cfg.Trust.TrustDomain))
}

// show makes events visible to readers.
func (f *feed) show(events []SignedEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, events...)
	close(f.changed)
	f.changed = make(chan struct{})
}

// beat makes a heartbeat visible, behind all events.
func (f *feed) beat(set string, upTo uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heartbeat, f.upTo = set, upTo
	close(f.changed)
	f.changed = make(chan struct{})
}

// drop forgets events of what nothing valid can name any more.
func (f *feed) drop(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	over := func(e SignedEvent) bool { return isOver(e.expires, now) }
	if slices.ContainsFunc(f.events, over) {
		f.events = slices.DeleteFunc(slices.Clone(f.events), over) // pages share the old list
	}
}
