package hsm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/miekg/pkcs11"
	"golang.org/x/sync/semaphore"
)

// registry mirrors in Go what the process holds in C: one initialised state per loaded PKCS#11 library. It is package
// state because C_Initialize and C_Finalize are.
type registry struct {
	mu     sync.Mutex
	byPath map[string]*module
}

var modules = registry{byPath: map[string]*module{}}

// load returns the module of that path. A library stays loaded until the process ends: vendors' libraries leave
// threads and exit handlers behind that dlclose would pull the ground from.
func (r *registry) load(path string) (*module, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m, ok := r.byPath[path]; ok {
		return m, nil
	}
	raw := pkcs11.New(path)
	if raw == nil {
		return nil, fmt.Errorf("hsm: %w: module: %s is no PKCS#11 library that can be loaded", ErrConfig, path)
	}
	m := &module{path: path, raw: raw, healing: make(chan struct{}, 1), gate: semaphore.NewWeighted(wholeGate)}
	r.byPath[path] = m
	return m, nil
}

// wholeGate is more than the calls that all sessions of all tokens could ever have in flight.
const wholeGate = 1 << 30

// module supervises the tokens of one library. crypto11 counts its contexts and initialises with the first and
// finalises with the last; whoever wants C_Finalize must therefore close all contexts, and keep every call out of the
// library meanwhile.
type module struct {
	path string
	raw  *pkcs11.Ctx

	// healing is held by the one who changes the set of tokens or re-opens them.
	healing chan struct{}
	// gate is held with weight 1 by each call into the library, until it returns, and wholly by the holder of
	// healing while it opens or closes.
	gate *semaphore.Weighted

	tokens []*Token // guarded by healing

	stuck overdue // calls inside the library
}

// lock waits for the right to change the module's tokens.
func (m *module) lock(ctx context.Context) error {
	select {
	case m.healing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("hsm: wait for the module: %w", ctx.Err())
	}
}

func (m *module) unlock() { <-m.healing }

// exclusively runs f while no other call is inside the library, and consumes the lock that the caller holds: it is
// released when f has returned, which may be after ctx has ended and exclusively has returned with ctx's error.
func (m *module) exclusively(ctx context.Context, f func() error) error {
	if err := m.gate.Acquire(ctx, wholeGate); err != nil {
		m.unlock()
		return fmt.Errorf("hsm: calls are still inside the module: %w", err)
	}
	_, err := within(ctx, func() (struct{}, error) {
		defer m.unlock()
		defer m.gate.Release(wholeGate)
		defer m.stuck.watch(patience)()
		return struct{}{}, f()
	})
	return err
}

// within runs f, which cannot be interrupted, in a goroutine of its own and returns when f does or ctx ends. The
// goroutine ends with f; whatever f holds bounds how many there can be, and Close waits for them through the gate.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		value, err := f()
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		var zero T
		return zero, fmt.Errorf("hsm: the module has not answered in time: %w", ctx.Err())
	}
}

// admit opens t and adds it to the module's tokens. A token made after C_Initialize shows only when the module is
// initialised anew, so that is tried before giving up.
func (m *module) admit(ctx context.Context, t *Token) error {
	l, err := m.open(t)
	switch {
	case err == nil:
		m.tokens = append(m.tokens, t)
		t.adopt(l)
	case recoverable(err) && len(m.tokens) > 0:
		m.tokens = append(m.tokens, t)
		m.reopen()
		err = t.live.Load().err
	}
	if err == nil {
		err = ctx.Err() // nobody waits for the token any more
	}
	if err != nil {
		m.dismiss(t, err)
	}
	return err
}

// dismiss closes t for good.
func (m *module) dismiss(t *Token, why error) {
	m.shut(t.live.Swap(&live{err: why}))
	m.tokens = slices.DeleteFunc(m.tokens, func(other *Token) bool { return other == t })
}

// reopen closes every token, which finalises the library, and opens them again. Tokens that fail stay in the set,
// with the reason, for the next attempt; those whose PIN was refused are not tried again.
func (m *module) reopen() {
	for _, t := range m.tokens {
		m.shut(t.live.Load())
		t.live.Store(&live{err: fmt.Errorf("hsm: token %q: %w: being opened again", t.label, ErrUnavailable)})
	}
	for _, t := range m.tokens {
		if t.refused != nil {
			t.adopt(&live{err: t.refused})
			continue
		}
		l, err := m.open(t)
		switch {
		case errors.Is(err, ErrPIN):
			l = &live{err: err}
		case err != nil:
			l = &live{err: fmt.Errorf("%w: %w", ErrUnavailable, err)}
		}
		t.adopt(l)
	}
}

// shut gives back what an opened token holds, once. Errors are of no use: the sessions may be gone already, and
// C_Finalize ends whatever is left.
func (m *module) shut(l *live) {
	if l == nil || l.c11 == nil {
		return
	}
	close(l.gone)
	for range cap(l.sessions) {
		select {
		case s := <-l.sessions:
			_ = m.raw.CloseSession(s)
		default:
		}
	}
	_ = l.c11.Close()
}
