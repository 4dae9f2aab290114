package hsm_test

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

// misbehaving is a token behind a module that can be told to misbehave, with a key.
func misbehaving(t *testing.T, process []string, change func(cfg *hsm.Config)) (*softhsm.Faulty, *hsm.Token, *hsm.Key) {
	t.Helper()
	h := softhsm.New(t)
	f := h.Faulty()
	cfg := config(h, "issuing", h.InitToken("issuing", pin))
	cfg.Module, cfg.Sessions, cfg.Process = f.Module(), 2, process
	if change != nil {
		change(&cfg)
	}
	token := open(t, cfg)
	k := generate(t, token, "key", hsm.P256)
	t.Cleanup(f.Behave) // before the token is closed
	return f, token, k
}

// everywhere runs a test with the module in this process, and in one of its own.
func everywhere(t *testing.T, test func(t *testing.T, process []string)) {
	t.Helper()
	t.Run("here", func(t *testing.T) { test(t, nil) })
	t.Run("apart", func(t *testing.T) { test(t, apart) })
}

func TestNoWrongSignatureIsReleased(t *testing.T) { everywhere(t, noWrongSignatureIsReleased) }

func noWrongSignatureIsReleased(t *testing.T, process []string) {
	f, token, k := misbehaving(t, process, nil)
	for _, fault := range []string{"short", "empty", "zero", "bit", "other"} {
		f.Tell("C_Sign " + fault)
		before := f.Calls("C_Sign")
		wantError(t, signOne(k, fault), hsm.ErrBadSignature)
		if n := f.Calls("C_Sign") - before; n != 1 {
			t.Errorf("%s: %d calls: a bad signature must not be tried again", fault, n)
		}
		for _, ask := range []func() error{token.Ready, func() error { return token.Check(t.Context()) }} {
			waitFor(t, "the token to be left alone", func() bool { // for a second, which this machine may sleep through
				return errors.Is(signOne(k, fault), hsm.ErrBadSignature) && errors.Is(ask(), hsm.ErrBadSignature)
			})
		}
		f.Behave()
		if err := signOne(k, "well"); err != nil {
			t.Fatalf("after %s: %v", fault, err)
		}
		if err := errors.Join(token.Ready(), token.Check(t.Context())); err != nil {
			t.Errorf("after a good signature: %v", err)
		}
	}
	// Nobody asks for a signature while the token is not ready: it must become so by itself.
	f.Tell("C_Sign bit")
	wantError(t, signOne(k, "bit"), hsm.ErrBadSignature)
	waitFor(t, "another chance", func() bool { return token.Ready() == nil && token.Check(t.Context()) == nil })
}

func TestErrorsOfTheModule(t *testing.T) { everywhere(t, errorsOfTheModule) }

func errorsOfTheModule(t *testing.T, process []string) {
	f, token, k := misbehaving(t, process, nil)
	for code, recovers := range map[uint]bool{
		pkcs11.CKR_SESSION_HANDLE_INVALID: true, pkcs11.CKR_OBJECT_HANDLE_INVALID: true, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED: true,
		pkcs11.CKR_DEVICE_ERROR: true, pkcs11.CKR_USER_NOT_LOGGED_IN: true, pkcs11.CKR_PIN_INCORRECT: false, pkcs11.CKR_PIN_LOCKED: false,
	} {
		logins := f.Calls("C_Login")
		f.Tell(fmt.Sprintf("C_Sign error %#x", code))
		err := signOne(k, "text")
		if err == nil || errors.Is(err, hsm.ErrUnavailable) != recovers {
			t.Errorf("%#x: %v", code, err)
		}
		if got := f.Calls("C_Login") - logins; !recovers && got > 0 {
			t.Errorf("%#x: logged in again %d times", code, got)
		}
		f.Behave()
		if err := signOne(k, "well"); err != nil {
			t.Fatalf("after %#x: %v", code, err)
		}
	}
	if err := token.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPINIsPresentedOnce(t *testing.T) { everywhere(t, pINIsPresentedOnce) }

func pINIsPresentedOnce(t *testing.T, process []string) {
	for _, code := range []uint{pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_LOCKED} {
		t.Run(fmt.Sprintf("%#x", code), func(t *testing.T) {
			f, token, k := misbehaving(t, process, nil)
			before := f.Calls("C_Login")
			f.Tell(lost, fmt.Sprintf("C_Login error %#x", code))
			if err := signOne(k, "text"); err == nil {
				t.Fatal("signed without a session")
			}
			for range 3 {
				wantError(t, signOne(k, "text"), hsm.ErrPIN)
				wantError(t, token.Check(t.Context()), hsm.ErrPIN)
				wantError(t, token.Ready(), hsm.ErrPIN)
			}
			f.Behave()
			wantError(t, signOne(k, "text"), hsm.ErrPIN)
			if n := f.Calls("C_Login") - before; n != 1 {
				t.Errorf("the PIN was presented %d times", n)
			}
		})
	}
}

// lost makes the token log in again.
var lost = fmt.Sprintf("C_Sign error %#x", pkcs11.CKR_SESSION_HANDLE_INVALID)

func TestGarbageIsNoKey(t *testing.T) { everywhere(t, garbageIsNoKey) }

func garbageIsNoKey(t *testing.T, process []string) {
	f, token, k := misbehaving(t, process, nil)
	f.Tell("C_GetAttributeValue garbage")
	if _, err := token.Signer(t.Context(), k.URI()); err == nil {
		t.Error("a key was made of garbage")
	}
	f.Tell("C_GetMechanismList empty")
	_, err := token.Generate(t.Context(), "another", hsm.P256)
	wantError(t, err, hsm.ErrUnsupported)
	f.Behave()
	if err := signOne(k, "well"); err != nil {
		t.Error(err)
	}
}

// TestKeyOfMoreUsesIsRefused: the module grants what the template denies.
func TestKeyOfMoreUsesIsRefused(t *testing.T) { everywhere(t, keyOfMoreUsesIsRefused) }

func keyOfMoreUsesIsRefused(t *testing.T, process []string) {
	f, token, _ := misbehaving(t, process, nil)
	f.Tell("C_GetAttributeValue derives")
	_, err := token.Generate(t.Context(), "another", hsm.P256)
	wantError(t, err, hsm.ErrUses)
}

// TestNobodyWaitsForAHungModule: the first callers have their deadline, the others an answer at once, and nothing piles up.
func TestNobodyWaitsForAHungModule(t *testing.T) {
	const timeout = 500 * time.Millisecond
	f, token, k := misbehaving(t, nil, func(cfg *hsm.Config) { cfg.Timeout = timeout })
	f.Tell("C_Sign hang")
	goroutines := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for range 2 { // sessions
		wg.Go(func() {
			if err := signOne(k, "hangs"); err == nil {
				t.Error("signed by a hung module")
			}
		})
	}
	wg.Wait()
	waitFor(t, "the module to count as hung", func() bool { return errors.Is(token.Ready(), hsm.ErrHung) })
	calls, start := f.Calls("C_Sign"), time.Now()
	for range 1000 {
		wantError(t, signOne(k, "refused"), hsm.ErrHung)
		wantError(t, token.Check(t.Context()), hsm.ErrUnavailable)
	}
	if took := time.Since(start); took > 1000*timeout/10 {
		t.Errorf("1000 callers were refused in %v", took)
	}
	if n := f.Calls("C_Sign"); n != calls {
		t.Errorf("%d more calls went into the hung module", n-calls)
	}
	if n := runtime.NumGoroutine(); n > goroutines+4 {
		t.Errorf("%d goroutines, before %d", n, goroutines)
	}
	f.Behave()
	waitFor(t, "signatures", func() bool { return token.Ready() == nil && signOne(k, "well") == nil })
}

// TestHungLoginIsNotWaitedFor: a recovery that does not return keeps callers no longer than their deadline, then not at all.
func TestHungLoginIsNotWaitedFor(t *testing.T) { everywhere(t, hungLoginIsNotWaitedFor) }

func hungLoginIsNotWaitedFor(t *testing.T, process []string) {
	const timeout = 2 * time.Second // a process of its own takes a while to start on a busy machine
	f, token, k := misbehaving(t, process, func(cfg *hsm.Config) { cfg.Timeout = timeout })
	f.Tell(lost, "C_Login hang")
	if err := signOne(k, "text"); err == nil {
		t.Fatal("signed without a session")
	}
	waitFor(t, "the module to count as hung", func() bool { return errors.Is(signOne(k, "text"), hsm.ErrHung) })
	wantError(t, token.Ready(), hsm.ErrUnavailable)
	f.Behave()
	waitFor(t, "signatures", func() bool { return signOne(k, "well") == nil })
}

func TestQueueIsBounded(t *testing.T) { everywhere(t, queueIsBounded) }

func queueIsBounded(t *testing.T, process []string) {
	const callers, sessions, queue = 40, 2, 5
	f, token, k := misbehaving(t, process, func(cfg *hsm.Config) { cfg.Queue = queue })
	f.Tell("C_Sign hang")
	var wg sync.WaitGroup
	var refused, signed atomic.Int32
	for range callers {
		wg.Go(func() {
			switch err := signOne(k, "text"); {
			case err == nil:
				signed.Add(1)
			case errors.Is(err, hsm.ErrBusy):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	waitFor(t, "refusals", func() bool { return refused.Load() == callers-sessions-queue })
	wantError(t, token.Ready(), hsm.ErrBusy)
	f.Behave()
	wg.Wait()
	if signed.Load() != sessions+queue {
		t.Errorf("%d signatures, want %d: who waited gets his", signed.Load(), sessions+queue)
	}
	if err := errors.Join(token.Ready(), token.Check(t.Context())); err != nil {
		t.Error(err)
	}
}

func TestSlowModuleSigns(t *testing.T) { everywhere(t, slowModuleSigns) }

func slowModuleSigns(t *testing.T, process []string) {
	f, _, k := misbehaving(t, process, nil)
	f.Tell("C_Sign slow 20")
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			if err := signOne(k, fmt.Sprint(n)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
