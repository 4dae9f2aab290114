package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

// faulty puts faults between the token and the real module.
type faulty struct {
	signing
	calls   atomic.Int64
	inside  atomic.Int64
	most    atomic.Int64
	before  func(call int64) error
	saw     func(message []byte) // when before has returned
	corrupt func(sig []byte) []byte
}

func (f *faulty) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	call := f.calls.Add(1)
	now := f.inside.Add(1)
	defer f.inside.Add(-1)
	for most := f.most.Load(); now > most && !f.most.CompareAndSwap(most, now); most = f.most.Load() {
	}
	if f.before != nil {
		if err := f.before(call); err != nil {
			return nil, err
		}
	}
	if f.saw != nil {
		f.saw(message)
	}
	sig, err := f.signing.Sign(s, message)
	if err == nil && f.corrupt != nil {
		sig = f.corrupt(sig)
	}
	return sig, err
}

// patient is the deadline of set-up and clean-up, which no test is about.
const patient = 30 * time.Second

func faultyToken(t *testing.T, timeout time.Duration, alg Algorithm) (*Token, *Key, *faulty) {
	t.Helper()
	h := softhsm.New(t)
	cfg := Config{Module: h.Module(), Token: "issuing", PINFile: h.InitToken("issuing", "user-pin-1"), Sessions: 2, Timeout: patient}
	token, err := Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		token.timeout = patient
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	key, err := token.Generate(t.Context(), "key", alg)
	if err != nil {
		t.Fatal(err)
	}
	f := &faulty{signing: token.sign}
	token.sign, token.timeout = f, timeout
	return token, key, f
}

func signText(k *Key) ([]byte, error) {
	d := sha256.Sum256([]byte("text"))
	return k.Sign(nil, d[:], crypto.SHA256)
}

func TestLostSessionIsHealedOnce(t *testing.T) {
	_, key, f := faultyToken(t, 5*time.Second, P256)
	for _, code := range []pkcs11.Error{
		pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED,
		pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_USER_NOT_LOGGED_IN,
		pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_OPERATION_ACTIVE,
	} {
		t.Run(code.Error(), func(t *testing.T) {
			before := key.token.live.Load()
			f.calls.Store(0)
			f.before = func(call int64) error {
				if call == 1 {
					return code
				}
				return nil
			}
			if _, err := signText(key); err != nil {
				t.Fatal(err)
			}
			if n := f.calls.Load(); n != 2 {
				t.Errorf("%d calls, want 2", n)
			}
			if key.token.live.Load() == before {
				t.Error("the token was not opened anew")
			}
		})
	}
}

func TestOtherErrorsAreNotHealed(t *testing.T) {
	_, key, f := faultyToken(t, 5*time.Second, P256)
	for _, code := range []pkcs11.Error{
		pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_DATA_LEN_RANGE, pkcs11.CKR_MECHANISM_INVALID,
		pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED, pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_VENDOR_DEFINED,
	} {
		t.Run(code.Error(), func(t *testing.T) {
			before := key.token.live.Load()
			f.calls.Store(0)
			f.before = func(int64) error { return code }
			_, err := signText(key)
			if !errors.Is(err, code) {
				t.Fatalf("error is %v", err)
			}
			if f.calls.Load() != 1 || key.token.live.Load() != before {
				t.Errorf("%d calls, want 1; opened anew: %t", f.calls.Load(), key.token.live.Load() != before)
			}
			// The real operation was begun and never ended; the next use of this session must not trip over it.
			f.before = nil
			for range 4 {
				if _, err := signText(key); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestLastingFaultFailsAndBacksOff(t *testing.T) {
	token, key, f := faultyToken(t, 5*time.Second, P256)
	f.before = func(int64) error { return pkcs11.Error(pkcs11.CKR_DEVICE_ERROR) }
	for range 3 {
		if _, err := signText(key); !errors.Is(err, pkcs11.Error(pkcs11.CKR_DEVICE_ERROR)) {
			t.Fatalf("error is %v", err)
		}
	}
	if n := f.calls.Load(); n != 6 {
		t.Errorf("%d calls for three signatures, want 6: each tried once more", n)
	}
	if wait := token.wait(time.Now()); wait <= firstBackoff {
		t.Errorf("after three recoveries without success the next waits %v", wait)
	}
	f.before = nil
	if _, err := signText(key); err != nil {
		t.Fatal(err)
	}
	if wait := token.wait(time.Now()); wait > 0 {
		t.Errorf("after a success recovery still waits %v", wait)
	}
}

func TestBackoffGrowsToItsCap(t *testing.T) {
	now := time.Unix(1000, 0)
	token := &Token{attempt: now}
	for failures, want := range []time.Duration{0, 100, 200, 400, 800, 1000, 1000, 1000} {
		token.failures = failures
		if got := token.wait(now); got != want*time.Millisecond {
			t.Errorf("after %d failures: %v, want %v", failures, got, want*time.Millisecond)
		}
	}
}

func TestManyLosersHealOnce(t *testing.T) {
	token, key, f := faultyToken(t, 20*time.Second, P256)
	arrived := make(chan struct{})
	f.before = func(call int64) error {
		// Both sessions are inside the module when it loses them.
		switch call {
		case 1:
			<-arrived
			return pkcs11.Error(pkcs11.CKR_SESSION_HANDLE_INVALID)
		case 2:
			close(arrived)
			return pkcs11.Error(pkcs11.CKR_SESSION_HANDLE_INVALID)
		}
		return nil
	}
	recoveries := countRecoveries(token)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := signText(key); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := recoveries.Load(); n != 1 {
		t.Errorf("%d recoveries for one loss", n)
	}
}

// countRecoveries counts the log's lines: one for each recovery.
func countRecoveries(token *Token) *atomic.Int64 {
	var n atomic.Int64
	token.log = slog.New(counter{Handler: slog.DiscardHandler, n: &n})
	return &n
}

type counter struct {
	slog.Handler
	n *atomic.Int64
}

func (c counter) Enabled(context.Context, slog.Level) bool { return true }
func (c counter) Handle(context.Context, slog.Record) error {
	c.n.Add(1)
	return nil
}

func TestStuckModuleHonoursDeadline(t *testing.T) {
	const timeout = 300 * time.Millisecond
	token, key, f := faultyToken(t, timeout, P256)
	release := make(chan struct{})
	f.before = func(int64) error { <-release; return nil }
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			start := time.Now()
			sig, err := signText(key)
			if !errors.Is(err, context.DeadlineExceeded) || sig != nil {
				t.Errorf("signature of %d bytes, error %v", len(sig), err)
			}
			if took := time.Since(start); took > 30*timeout {
				t.Errorf("the deadline of %v came after %v", timeout, took)
			}
		})
	}
	wg.Wait()
	if err := token.Check(t.Context()); !errors.Is(err, ErrHung) {
		t.Errorf("Check of a stuck module: %v", err)
	}
	if most := f.most.Load(); most != 2 {
		t.Errorf("%d calls were inside the module at once, want 2 (Sessions)", most)
	}
	close(release)
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := signText(key)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the pool did not recover: %v", err)
		}
	}
}

func TestCloseReportsStuckCalls(t *testing.T) {
	token, key, f := faultyToken(t, 200*time.Millisecond, P256)
	release := make(chan struct{})
	f.before = func(int64) error { <-release; return nil }
	saw := make(chan []byte, 1)
	f.saw = func(message []byte) { saw <- bytes.Clone(message) }
	digest := bytes.Repeat([]byte{7}, crypto.SHA256.Size())
	if _, err := key.Sign(nil, digest, crypto.SHA256); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error is %v", err)
	}
	clear(digest) // the caller's again, whatever the stuck call does
	if err := token.Close(); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Close while a call is inside: %v", err)
	}
	if _, err := signText(key); !errors.Is(err, ErrClosed) {
		t.Fatalf("error is %v", err)
	}
	close(release)
	if got := <-saw; !bytes.Equal(got, bytes.Repeat([]byte{7}, len(got))) {
		t.Error("the module was given the caller's buffer after the caller had it back")
	}
	// Close may be called again once the call has returned.
	for ctx := t.Context(); ctx.Err() == nil; {
		if err := token.Close(); err == nil {
			return
		}
	}
}

func TestCorruptSignatureIsNotReleased(t *testing.T) {
	for _, alg := range []Algorithm{P256, P384, Ed25519} {
		for name, corrupt := range map[string]func([]byte) []byte{
			"bit":      func(s []byte) []byte { s[len(s)/3] ^= 1; return s },
			"short":    func(s []byte) []byte { return s[:len(s)-1] },
			"long":     func(s []byte) []byte { return append(s, 0) },
			"empty":    func([]byte) []byte { return nil },
			"zero":     func(s []byte) []byte { return make([]byte, len(s)) },
			"of other": func(s []byte) []byte { _, _ = rand.Read(s); return s },
		} {
			t.Run(fmt.Sprint(alg, " ", name), func(t *testing.T) {
				_, key, f := faultyToken(t, 5*time.Second, alg)
				f.corrupt = corrupt
				digest := make([]byte, max(alg.hash(), crypto.SHA256).Size())
				sig, err := key.Sign(nil, digest, alg.hash())
				if !errors.Is(err, ErrBadSignature) || sig != nil {
					t.Fatalf("signature %x, error %v", sig, err)
				}
				if n := f.calls.Load(); n != 1 {
					t.Errorf("%d calls: a bad signature must not be tried again", n)
				}
			})
		}
	}
}

func TestSessionIsNeverShared(t *testing.T) {
	_, key, f := faultyToken(t, 20*time.Second, P256)
	guard := &exclusive{signing: f.signing, busy: map[pkcs11.SessionHandle]bool{}, t: t}
	f.signing = guard
	key.token.sign = guard
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 20 {
				if _, err := signText(key); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// exclusive fails the test when a session is begun by a second goroutine before the first has ended.
type exclusive struct {
	signing
	t    *testing.T
	mu   sync.Mutex
	busy map[pkcs11.SessionHandle]bool
}

func (e *exclusive) SignInit(s pkcs11.SessionHandle, m []*pkcs11.Mechanism, key pkcs11.ObjectHandle) error {
	e.mu.Lock()
	if e.busy[s] {
		e.t.Errorf("session %d is used twice at a time", s)
	}
	e.busy[s] = true
	e.mu.Unlock()
	return e.signing.SignInit(s, m, key)
}

func (e *exclusive) Sign(s pkcs11.SessionHandle, message []byte) ([]byte, error) {
	defer func() {
		e.mu.Lock()
		e.busy[s] = false
		e.mu.Unlock()
	}()
	return e.signing.Sign(s, message)
}

// BenchmarkRecovery is what every token of a module waits for when one is lost: close, finalise, initialise, log in,
// open the sessions, find the key.
func BenchmarkRecovery(b *testing.B) {
	h := softhsm.New(b)
	cfg := Config{Module: h.Module(), Token: "issuing", PINFile: h.InitToken("issuing", "user-pin-1")}
	token, err := Open(b.Context(), cfg, nil)
	if err != nil {
		b.Fatal(err)
	}
	defer token.Close()
	if _, err := token.Generate(b.Context(), "key", P256); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		token.succeeded() // no back-off
		if err := token.heal(b.Context(), token.live.Load(), nil); err != nil {
			b.Fatal(err)
		}
	}
}
