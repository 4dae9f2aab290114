package client

import (
	"context"
	"sync"
	"time"
)

// recheckEvery is how soon a request under way learns that its caller's identity ended otherwise than by its deadline.
const recheckEvery = time.Second

// Session is the identity behind one request. It is asked again while the request lasts: every second, at the deadline, and
// whenever Check is called. Once it does not hold any more its context ends, with the *Refusal as its cause, for good.
type Session struct {
	verify func() (Principal, error)
	ctx    context.Context //nolint:containedctx // it is what the session is for
	cancel context.CancelCauseFunc
	until  time.Time
	now    func() time.Time

	mu    sync.Mutex // guards what follows, and that no question is under way after Close
	timer *time.Timer
	done  bool
}

// Open verifies a caller and begins a session, which the caller of Open closes when the request is served. The context
// carries the Principal.
func (v *Verifier) Open(ctx context.Context, c Credentials, d Demand) (*Session, error) {
	p, err := v.Verify(c, d)
	if err != nil {
		return nil, err
	}
	s := &Session{verify: func() (Principal, error) { return v.Verify(c, d) }, until: p.NotAfter, now: v.cfg.Now}
	s.ctx, s.cancel = context.WithCancelCause(context.WithValue(ctx, principalKey{}, p))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(s.pause(), s.ask)
	return s, nil
}

// Context ends with the session, or with the context that Open got.
func (s *Session) Context() context.Context { return s.ctx }

// Check asks now. The error is a *Refusal, or the end of the request itself.
func (s *Session) Check() error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if _, err := s.verify(); err != nil {
		s.cancel(err)
		return err
	}
	return nil
}

// ask is the timer's.
func (s *Session) ask() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.done && s.Check() == nil {
		s.timer.Reset(s.pause())
	}
}

func (s *Session) pause() time.Duration {
	return min(recheckEvery, max(s.until.Sub(s.now()), time.Millisecond))
}

// Close ends the session. Nothing of it runs any more when Close returns.
func (s *Session) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	s.timer.Stop()
	s.cancel(context.Canceled)
}
