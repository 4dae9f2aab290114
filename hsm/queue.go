package hsm

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

const (
	// patience is how long opening may take before a module counts as hung.
	patience = maxBackoff
	// badFor is how long a token that signed wrongly is left alone. Only another signature can show that it is well again.
	badFor = time.Second
)

// overdue counts calls that have been inside a module for too long.
type overdue struct{ n atomic.Int32 }

// watch counts the call that begins now as overdue when limit has passed, until the function that it returns is called.
// Callers who left early do not matter: it is the module that is watched.
func (o *overdue) watch(limit time.Duration) (returned func()) {
	const inside, late, out = 0, 1, 2
	var at atomic.Int32
	timer := time.AfterFunc(limit, func() {
		if at.CompareAndSwap(inside, late) {
			o.n.Add(1)
		}
	})
	return func() {
		timer.Stop()
		if at.Swap(out) == late {
			o.n.Add(-1)
		}
	}
}

func (o *overdue) any() bool { return o.n.Load() > 0 }

// Ready says at once, asking nobody, whether a signature could be tried now; with the reason if not. It is for those who
// must know before they do what cannot be undone.
func (t *Token) Ready() error {
	if t.closed.Load() {
		return ErrClosed
	}
	if err := t.reachable(); err != nil {
		return err
	}
	if t.full(t.signing.Load() + 1) {
		return ErrBusy
	}
	return t.signsWell()
}

func (t *Token) reachable() error {
	if t.apart != nil {
		return t.apart.ready()
	}
	l := t.live.Load()
	if l.err != nil {
		return l.err
	}
	return t.hung(l)
}

// enter takes a place among those who sign or wait for it: for a session, or for a recovery.
func (t *Token) enter() (leave func(), err error) {
	if t.full(t.signing.Add(1)) {
		t.signing.Add(-1)
		return nil, ErrBusy
	}
	return func() { t.signing.Add(-1) }, nil
}

func (t *Token) full(signing int32) bool { return int(signing) > t.sessions+t.queue }

// hung refuses when each session is in a call that does not return.
func (t *Token) hung(l *live) error {
	if n := t.stuck.n.Load(); l.opened > 0 && n >= l.opened {
		return fmt.Errorf("%w: %w: %d calls have not returned for %v", ErrUnavailable, ErrHung, n, t.timeout)
	}
	return nil
}

func (t *Token) signsWell() error {
	at := t.bad.Load()
	if at == 0 || time.Since(time.Unix(0, at)) > badFor {
		return nil
	}
	return fmt.Errorf("%w, the last time it was asked", ErrBadSignature)
}

// draw takes a session, and waits for one unless none can be hoped for.
func (t *Token) draw(ctx context.Context, l *live) (pkcs11.SessionHandle, error) {
	select {
	case handle := <-l.sessions:
		return handle, nil
	default:
	}
	if err := t.hung(l); err != nil {
		return 0, err
	}
	select {
	case handle := <-l.sessions:
		return handle, nil
	case <-l.gone:
		return 0, errStale
	case <-ctx.Done():
		return 0, fmt.Errorf("hsm: wait for a session: %w", ctx.Err())
	}
}
