package client

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/event"
)

// FeedConfig says whose feed is followed. Origin and TrustDomain are required.
type FeedConfig struct {
	Origin      string           // of the appliance's log: the issuer of events
	TrustDomain string           // their audience
	Silence     time.Duration    // the connection is made anew when nothing came for so long; 0 means 20 s
	Max         int              // revocations that are held at most; 0 means 1,000,000
	Now         func() time.Time // nil means time.Now
	Logger      *slog.Logger     // nil means none
}

// Feed follows an appliance's revocations and answers from memory whether something is revoked; it is a chain.Revocations.
//
// Every event is verified with the JWT key, which a root of the Client has certified. FreshAt is the time of the last
// heartbeat before which nothing was missed: the zero time before the first complete read, and from an event that there was
// no room for until all was read again. Whoever verifies with a MaxStaleness (chain.Input) therefore refuses when the feed is late. Lookups take no
// lock. A Feed is safe for concurrent use; Run may be called once.
type Feed struct {
	client *Client
	cfg    FeedConfig

	revoked revokedSet
	fresh   atomic.Int64 // Unix seconds; 0 is never
	changed atomic.Pointer[chan struct{}]

	// Below: Run's alone.
	key    crypto.PublicKey
	at     position
	missed bool // there was no room for an event of this connection
}

var _ chain.Revocations = (*Feed)(nil)

// position is a place in the feed.
type position struct{ epoch, seq uint64 }

func (p position) String() string {
	if p == (position{}) {
		return ""
	}
	return event.Position(p.epoch, p.seq)
}

// revokedSet holds until when a thing is revoked, in Unix seconds; 0 is for good.
type revokedSet struct {
	m sync.Map // thing → int64
	n int      // of its writer
}

type thing struct {
	kind chain.RevKind
	id   string
}

// NewFeed makes a Feed; nothing is read until Run.
func (c *Client) NewFeed(cfg FeedConfig) (*Feed, error) {
	if cfg.Origin == "" || cfg.TrustDomain == "" {
		return nil, errors.New("client: feed: origin and trust domain are required")
	}
	if cfg.Silence <= 0 {
		cfg.Silence = 20 * time.Second
	}
	if cfg.Max <= 0 {
		cfg.Max = 1_000_000
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	f := &Feed{client: c, cfg: cfg}
	first := make(chan struct{})
	f.changed.Store(&first)
	return f, nil
}

// Revoked says whether a thing was revoked, as far as the feed was read.
func (f *Feed) Revoked(kind chain.RevKind, id string) bool {
	_, ok := f.revoked.m.Load(thing{kind, id})
	return ok
}

// FreshAt is when the feed was last known to be complete.
func (f *Feed) FreshAt() time.Time {
	at := f.fresh.Load()
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(at, 0)
}

// Changed is closed at the next event or heartbeat: for those who re-check what lasts.
func (f *Feed) Changed() <-chan struct{} { return *f.changed.Load() }

// The pauses between two connections.
const (
	firstPause = 100 * time.Millisecond
	maxPause   = 5 * time.Second
)

// Run follows the feed until ctx ends, which is its only error. A connection that breaks, or says what cannot be, is made
// anew, at growing intervals.
func (f *Feed) Run(ctx context.Context) error {
	pause := firstPause
	for {
		complete, err := f.follow(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.cfg.Logger.Info("the revocation feed broke off", slog.Any("error", err))
		if complete {
			pause = firstPause
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		pause = min(2*pause, maxPause)
	}
}

// follow reads one connection until it ends. complete tells that it came to a heartbeat.
func (f *Feed) follow(ctx context.Context) (complete bool, err error) {
	if f.key, err = f.jwtKey(ctx); err != nil {
		return false, err
	}
	f.missed = false
	err = f.client.events(ctx, f.at.String(), f.cfg.Silence, func(set string) error {
		e, err := event.Parse(set, f.key, f.cfg.Origin, f.cfg.TrustDomain)
		if err != nil {
			return err
		}
		if f.missed {
			return f.wait(e)
		}
		if err := f.take(e, complete); err != nil {
			return err
		}
		complete = complete || e.Kind == chain.RevUnknown
		return nil
	})
	return complete, err
}

// jwtKey finds the key that a root certifies now.
func (f *Feed) jwtKey(ctx context.Context) (crypto.PublicKey, error) {
	keys, err := f.client.Keys(ctx)
	if err != nil {
		return nil, err
	}
	var problems []error
	for _, k := range keys.Keys {
		if len(k.X5C) != 1 {
			continue
		}
		der, err := base64.StdEncoding.DecodeString(k.X5C[0])
		if err != nil {
			problems = append(problems, err)
			continue
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		key, err := chain.JWTKey(cert, f.client.roots, f.cfg.Now())
		if err == nil {
			return key, nil
		}
		problems = append(problems, err)
	}
	return nil, fmt.Errorf("client: feed: no key is certified: %w", errors.Join(problems...))
}

// What the feed cannot say.
var (
	errRollback = errors.New("client: feed: an event of an earlier epoch")
	errReplay   = errors.New("client: feed: an event out of order")
	errGap      = errors.New("client: feed: an event is missing")
	errMissed   = errors.New("client: feed: there is room now for what was missed")
)

// take puts one verified event in force. Until the first heartbeat of a connection numbers may jump: what is long over was
// dropped, and the appliance says by the heartbeat that it has sent all there is. After it a jump is a gap: the next
// connection reads from the last event that came in order.
func (f *Feed) take(e event.Event, complete bool) error {
	at := f.at
	switch {
	case e.Epoch < at.epoch:
		return errRollback
	case e.Epoch > at.epoch:
		if complete {
			return errGap // the new epoch is read from its beginning
		}
		// Not fresh until all that it revokes is known. What was revoked before stays so.
		f.stale()
		at = position{e.Epoch, 0}
	}
	if e.Kind == chain.RevUnknown {
		return f.beat(e, at, complete)
	}
	if e.Seq <= at.seq {
		return errReplay
	}
	if complete && e.Seq != at.seq+1 {
		return errGap
	}
	if !f.revoked.hold(e, f.cfg.Max) {
		f.missed = true
		f.stale()
		f.cfg.Logger.Warn("more is revoked than the feed can hold", slog.Int("max", f.cfg.Max))
		return nil
	}
	f.moved(position{e.Epoch, e.Seq})
	return nil
}

// beat takes a heartbeat: all up to its number came before it.
func (f *Feed) beat(e event.Event, at position, complete bool) error {
	if e.Seq < at.seq {
		return errReplay
	}
	if complete && e.Seq != at.seq {
		return errGap
	}
	now := e.Time.Unix()
	if now < f.fresh.Load() {
		return errReplay
	}
	f.fresh.Store(now)
	f.revoked.drop(now)
	f.moved(position{e.Epoch, e.Seq})
	return nil
}

// wait is for room, once an event was missed. Nothing more of the connection is taken; when some of what is held is over, the
// next one reads on from the event that was missed. A heartbeat says what is over. The follower's clock does not: if it is
// ahead, and put right later, what is in force would be forgotten. Nor do events, each of which would cost a look at all
// that is held.
func (f *Feed) wait(e event.Event) error {
	if e.Kind != chain.RevUnknown {
		return nil
	}
	f.revoked.drop(e.Time.Unix())
	if f.revoked.n < f.cfg.Max {
		return errMissed
	}
	return nil
}

func (f *Feed) stale() { f.fresh.Store(0) }

func (f *Feed) moved(at position) {
	f.at = at
	next := make(chan struct{})
	close(*f.changed.Swap(&next))
}

// hold takes a revocation, unless there is no room: what is known needs none.
func (s *revokedSet) hold(e event.Event, limit int) bool {
	var until int64
	if !e.Expires.IsZero() {
		until = e.Expires.Unix()
	}
	t := thing{e.Kind, e.ID}
	if _, known := s.m.Load(t); !known {
		if s.n >= limit {
			return false
		}
		s.n++
	}
	s.m.Store(t, until)
	return true
}

// drop forgets what nothing valid can name any more.
func (s *revokedSet) drop(now int64) {
	s.m.Range(func(k, v any) bool {
		if until, ok := v.(int64); ok && until != 0 && until <= now {
			s.m.Delete(k)
			s.n--
		}
		return true
	})
}
