package delegation

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"

	"github.com/signet-pki/signet/delegation/event"
)

// FeedPoll asks for events that the caller has not acknowledged (RFC 8936 §2.2), after it acknowledges some. What is not
// in the feed is ignored.
type FeedPoll struct {
	Limit   int
	Acked   []Cursor
	Refused map[Cursor]string // likewise acknowledged, but the reader has no use for them: its code says why
}

const (
	// maxReaders is how many readers' acknowledgements are kept. One that is forgotten gets its events again.
	maxReaders = 4096
	// maxAhead is how many events a reader acknowledges behind one that it does not.
	maxAhead = 512
)

// readers keeps what each caller acknowledged of one epoch's feed: in memory alone, since a reader that gets an event twice
// loses nothing.
type readers struct {
	mu sync.Mutex
	m  map[string]*acked
}

// acked is what one reader acknowledged: all up to a number, and some behind it, in ascending order.
type acked struct {
	upTo  uint64
	ahead []uint64
}

// PollFeed takes acknowledgements, and gives the first events that are left. It changes nothing for other callers.
func (s *Service) PollFeed(by Caller, q FeedPoll) FeedPage {
	events, out := s.feed.all()
	r := &s.feed.readers
	r.mu.Lock()
	defer r.mu.Unlock()
	// Whoever gets a name after another has acknowledged nothing yet.
	name := by.ID.String() + "#" + by.registration
	a := r.m[name]
	if a == nil {
		a = new(acked)
	}
	a.take(events, out.Next.Epoch, q.Acked)
	if refused := a.take(events, out.Next.Epoch, cursorsOf(q.Refused)); len(refused) > 0 {
		// At most one line for an event and reader: it is acknowledged from now on.
		first := Cursor{out.Next.Epoch, refused[0]}
		s.cfg.Logger.Warn("a reader of the feed has no use for events", slog.String("caller", by.ID.String()),
			slog.Int("events", len(refused)), slog.String("first", event.Position(first.Epoch, first.Seq)), slog.String("err", q.Refused[first]))
	}
	if a.upTo > 0 || len(a.ahead) > 0 {
		r.keep(name, a)
	}
	out.Events, out.More = a.left(events, q.Limit)
	return out
}

// all gives every event, for readers who share the list, and what else a page says.
func (f *feed) all() ([]SignedEvent, FeedPage) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return slices.Clip(f.events), FeedPage{Next: Cursor{Epoch: f.epoch}, Changed: f.changed}
}

// keep makes room by forgetting an arbitrary other.
func (r *readers) keep(name string, a *acked) {
	if _, known := r.m[name]; !known && len(r.m) >= maxReaders {
		for other := range r.m {
			delete(r.m, other)
			break
		}
	}
	r.m[name] = a
}

func cursorsOf(m map[Cursor]string) []Cursor {
	out := make([]Cursor, 0, len(m))
	for c := range m {
		out = append(out, c)
	}
	return out
}

// take acknowledges, and gives the numbers for which that is new, in ascending order.
func (a *acked) take(events []SignedEvent, epoch uint64, all []Cursor) []uint64 {
	if len(all) == 0 {
		return nil
	}
	// What was dropped meanwhile needs no place, and is no gap.
	a.ahead = slices.DeleteFunc(a.ahead, func(seq uint64) bool { return !holds(events, seq) })
	a.settle(events)
	all = slices.Clone(all)
	// The lowest first: what closes a gap makes place.
	slices.SortFunc(all, func(x, y Cursor) int { return cmp.Compare(x.Seq, y.Seq) })
	var fresh []uint64
	for _, c := range all {
		if c.Epoch == epoch && holds(events, c.Seq) && a.add(events, c.Seq) {
			fresh = append(fresh, c.Seq)
		}
	}
	return fresh
}

// add takes the number of an event, unless it is known or there is no place.
func (a *acked) add(events []SignedEvent, seq uint64) bool {
	i, known := slices.BinarySearch(a.ahead, seq)
	switch {
	case known || seq <= a.upTo:
		return false
	case behind(events, a.upTo)[0].Seq == seq:
		a.upTo = seq
		a.settle(events)
		return true
	case len(a.ahead) >= maxAhead:
		return false
	}
	a.ahead = slices.Insert(a.ahead, i, seq)
	return true
}

// settle moves upTo over events that are acknowledged without a gap. Events come in the order of their numbers: none will
// come before it.
func (a *acked) settle(events []SignedEvent) {
	for rest := behind(events, a.upTo); len(rest) > 0 && a.isAhead(rest[0].Seq); rest = rest[1:] {
		a.upTo = rest[0].Seq
	}
	n, _ := slices.BinarySearch(a.ahead, a.upTo+1)
	a.ahead = slices.Delete(a.ahead, 0, n)
}

func (a *acked) isAhead(seq uint64) bool {
	_, ok := slices.BinarySearch(a.ahead, seq)
	return ok
}

// left gives the first events that are not acknowledged, and says whether there are more.
func (a *acked) left(events []SignedEvent, limit int) (out []SignedEvent, more bool) {
	for _, e := range behind(events, a.upTo) {
		switch {
		case a.isAhead(e.Seq):
		case len(out) == limit:
			return out, true
		default:
			out = append(out, e)
		}
	}
	return out, false
}

func bySeq(e SignedEvent, seq uint64) int { return cmp.Compare(e.Seq, seq) }

// behind gives the events behind a number.
func behind(events []SignedEvent, seq uint64) []SignedEvent {
	i, _ := slices.BinarySearchFunc(events, seq+1, bySeq)
	return events[i:]
}

func holds(events []SignedEvent, seq uint64) bool {
	_, ok := slices.BinarySearchFunc(events, seq, bySeq)
	return ok
}
