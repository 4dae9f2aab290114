package hsm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/pkcs11"
)

// errStale: the token was opened anew between picking a session and using it.
var errStale = errors.New("session of an earlier opening")

// Token is an open, logged-in PKCS#11 token.
type Token struct {
	settings
	mod  *module
	sign signing
	log  *slog.Logger

	apart *isolated // the module runs in a process of its own, and mod, sign and live are not used

	live      atomic.Pointer[live]
	closed    atomic.Bool
	dismissed atomic.Bool // closed, and out of the module's set

	signing atomic.Int32 // callers that sign, or wait for it
	stuck   overdue      // calls that hold a session
	bad     atomic.Int64 // when the last signature did not verify, Unix nanoseconds; 0: it did

	// Guarded by mod.healing.
	refused error // the token refused the PIN: final

	generating sync.Mutex // makes "no such label yet" and C_GenerateKeyPair one step within this process

	mu       sync.Mutex
	keys     map[URI]*Key
	failures int       // recoveries since the last success
	attempt  time.Time // when the last recovery ended
}

// signing is the part of a module that makes signatures. Tests put faults here.
type signing interface {
	SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error
	Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error)
}

// Open loads the module, finds the token, logs in and opens the sessions, within ctx and Config.Timeout. ErrPIN means
// that the token refused the PIN: calling again with the same file costs one more of the token's tries. log hears of
// recoveries; nil is silence.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Token, error) {
	set, err := cfg.check()
	if err != nil {
		return nil, err
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Process) > 0 {
		return openIsolated(ctx, set, cfg.Process, log)
	}
	return openHere(ctx, set, log)
}

func newToken(set settings, log *slog.Logger) *Token {
	return &Token{settings: set, log: log, keys: map[URI]*Key{}}
}

// openHere loads the module into this process.
func openHere(ctx context.Context, set settings, log *slog.Logger) (*Token, error) {
	m, err := modules.load(set.module)
	if err != nil {
		return nil, err
	}
	t := newToken(set, log)
	t.mod, t.sign = m, m.raw
	t.live.Store(&live{err: ErrUnavailable})
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	if err := m.lock(ctx); err != nil {
		return nil, err
	}
	if err := m.exclusively(ctx, func() error { return m.admit(ctx, t) }); err != nil {
		return nil, err
	}
	return t, nil
}

// Close waits for the calls in flight, at most Config.Timeout, and closes the sessions; the module is finalised with
// its last token, or its process ended. An error means that calls are stuck inside the module, which then cannot be finalised; Close may be
// called again. Whatever it returned, everything else returns ErrClosed from then on.
func (t *Token) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	return t.closeWithin(ctx)
}

func (t *Token) closeWithin(ctx context.Context) error {
	t.closed.Store(true)
	if t.apart != nil {
		return t.apart.close(ctx)
	}
	if t.dismissed.Load() {
		return nil
	}
	err := t.mod.lock(ctx)
	if err == nil {
		err = t.mod.exclusively(ctx, func() error {
			if !t.dismissed.Swap(true) {
				t.mod.dismiss(t, ErrClosed)
			}
			return nil
		})
	}
	if err != nil {
		return fmt.Errorf("hsm: close token %q: %w", t.label, err)
	}
	return nil
}

// Check makes the token prove that it can be used: it answers with its label, the session is logged in, every key
// handed out is still where it was, and its last signature was none that does not verify, unless that is a second ago. A lost token is recovered if that is possible before ctx or Config.Timeout ends.
// nil means usable.
func (t *Token) Check(ctx context.Context) error {
	err := t.ask(ctx)
	if err == nil {
		err = t.signsWell()
	}
	if err != nil {
		return fmt.Errorf("hsm: check token %q: %w", t.label, err)
	}
	return nil
}

func (t *Token) ask(ctx context.Context) error {
	if t.apart != nil {
		return t.apart.check(ctx)
	}
	_, err := do(ctx, t, func(l *live, s session) (struct{}, error) { return struct{}{}, t.probe(l, s) })
	return err
}

// probe asks for what the token must look up. C_GetSessionInfo and C_GenerateRandom do not suffice: SoftHSM answers
// both after its token directory has gone, and C_FindObjects as if the token were empty. C_GetTokenInfo fails then,
// and goes on failing after the directory has come back. tpm2-pkcs11 answers all these from its memory after its TPM has gone,
// but for C_GenerateRandom, for which it has none of its own.
func (t *Token) probe(l *live, s session) error {
	info, err := s.raw.GetTokenInfo(l.slot)
	if err != nil {
		return fmt.Errorf("token info: %w", err)
	}
	if info.Label != t.label {
		return fmt.Errorf("%w: slot %d now holds another token", ErrUnavailable, l.slot)
	}
	state, err := s.raw.GetSessionInfo(s.handle)
	if err != nil {
		return fmt.Errorf("session info: %w", err)
	}
	if state.State != pkcs11.CKS_RO_USER_FUNCTIONS && state.State != pkcs11.CKS_RW_USER_FUNCTIONS {
		return fmt.Errorf("%w: the session is not logged in any more", ErrUnavailable)
	}
	if _, err := s.raw.GenerateRandom(s.handle, 1); err != nil && !isCode(err, pkcs11.CKR_RANDOM_NO_RNG) && !isCode(err, pkcs11.CKR_FUNCTION_NOT_SUPPORTED) {
		return fmt.Errorf("random: %w", err)
	}
	return t.probeObjects(l, s)
}

func (t *Token) probeObjects(l *live, s session) error {
	for _, k := range t.handedOut() {
		b := k.bound.Load()
		if b.live != l {
			continue
		}
		if b.err != nil {
			return b.err
		}
		if _, err := s.attribute(b.handle, pkcs11.CKA_CLASS); err != nil {
			return fmt.Errorf("key %s: %w", k.uri, err)
		}
	}
	return nil
}

// known gives a key that was handed out before.
func (t *Token) known(u URI) (*Key, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	k, ok := t.keys[u]
	return k, ok
}

func (t *Token) handedOut() []*Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := make([]*Key, 0, len(t.keys))
	for _, k := range t.keys {
		keys = append(keys, k)
	}
	return keys
}

// do runs f with a session of its own and, when the session or the token turns out to be lost, recovers and runs f
// once more.
func do[T any](ctx context.Context, t *Token, f func(l *live, s session) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	var zero T
	for healed := false; ; {
		l := t.live.Load()
		value, err := once(ctx, t, l, f)
		switch {
		case err == nil:
			t.succeeded()
			return value, nil
		case errors.Is(err, errStale):
			continue
		case !recoverable(err):
			return zero, err
		case healed:
			return zero, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		if err := t.heal(ctx, l, err); err != nil {
			return zero, err
		}
		healed = true
	}
}

// once leaves session and gate with f: both stay taken until f has returned, even if the caller has gone.
func once[T any](ctx context.Context, t *Token, l *live, f func(l *live, s session) (T, error)) (T, error) {
	var zero T
	if t.closed.Load() {
		return zero, ErrClosed
	}
	if l.err != nil {
		return zero, l.err
	}
	handle, err := t.draw(ctx, l)
	if err != nil {
		return zero, err
	}
	if err := t.mod.gate.Acquire(ctx, 1); err != nil {
		l.sessions <- handle
		return zero, fmt.Errorf("hsm: wait for the module: %w", err)
	}
	if t.live.Load() != l {
		t.mod.gate.Release(1)
		return zero, errStale
	}
	return within(ctx, func() (T, error) {
		defer t.mod.gate.Release(1)
		defer t.mod.stuck.watch(t.timeout)()
		defer t.stuck.watch(t.timeout)()
		// A broken session goes back too: whoever draws it next recovers the token, whereas a pool run dry would
		// only ever time out.
		defer func() { l.sessions <- handle }()
		return f(l, session{raw: t.mod.raw, handle: handle})
	})
}
