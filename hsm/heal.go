package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

const (
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = time.Second
)

// heal opens the module's tokens again, once for all who saw the state lost fail. It waits its turn and, after
// failures in a row, a moment that doubles from 100 ms to 1 s: shorter than the default deadline, so that a token that
// is back is found by the next caller. nil means that this token can be used again.
func (t *Token) heal(ctx context.Context, lost *live, cause error) error {
	// A library cannot be finalised under a running call, and nobody is to wait for one that does not return.
	if t.mod.stuck.any() {
		return unhealed(cause, ErrHung)
	}
	if err := t.mod.lock(ctx); err != nil {
		return unhealed(cause, err)
	}
	if t.live.Load() != lost {
		t.mod.unlock()
		return t.live.Load().err
	}
	if err := t.backOff(ctx); err != nil {
		t.mod.unlock()
		return unhealed(cause, err)
	}
	err := t.mod.exclusively(ctx, func() error {
		t.mod.reopen()
		t.recovered()
		return t.live.Load().err
	})
	if err != nil {
		t.log.WarnContext(ctx, "hsm: token lost, recovery failed", slog.String("token", t.label), slog.Any("cause", cause), slog.Any("error", err))
		return unhealed(cause, err)
	}
	t.log.InfoContext(ctx, "hsm: token recovered", slog.String("token", t.label), slog.Any("cause", cause))
	return nil
}

func unhealed(cause, err error) error {
	if errors.Is(err, ErrPIN) {
		return err
	}
	return fmt.Errorf("%w: %w (recovery failed: %w)", ErrUnavailable, cause, err)
}

func (t *Token) backOff(ctx context.Context) error {
	wait := t.wait(time.Now())
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wait is how long the next recovery is to be put off.
func (t *Token) wait(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failures == 0 {
		return 0
	}
	backoff := maxBackoff
	if shift := t.failures - 1; shift < 5 {
		backoff = min(firstBackoff<<shift, maxBackoff)
	}
	return backoff - now.Sub(t.attempt)
}

// recovered counts the recovery as a failure until an operation succeeds: a fault that outlives the recovery must not
// turn every call into one.
func (t *Token) recovered() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures++
	t.attempt = time.Now()
}

func (t *Token) succeeded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = 0
}
