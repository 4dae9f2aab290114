package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/testrig/signertest"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

func TestIsolatedConformance(t *testing.T) {
	for _, alg := range []hsm.Algorithm{hsm.P256, hsm.P384, hsm.Ed25519} {
		t.Run(alg.String(), func(t *testing.T) {
			h := softhsm.New(t)
			cfg := config(h, "issuing", h.InitToken("issuing", pin))
			cfg.Process = apart
			token := open(t, cfg)
			generate(t, token, "key", alg)
			signertest.Run(t, func(t *testing.T) crypto.Signer {
				found, err := token.Signer(t.Context(), "pkcs11:token=issuing;object=key")
				if err != nil {
					t.Fatal(err)
				}
				return found
			})
			_, err := token.Generate(t.Context(), "key", alg)
			wantError(t, err, hsm.ErrKeyExists)
			_, err = token.Signer(t.Context(), "pkcs11:token=issuing;object=none")
			wantError(t, err, hsm.ErrKeyNotFound)
			info, err := token.Info(t.Context())
			if err != nil || !strings.Contains(info.Library, "SoftHSM") {
				t.Errorf("%+v, %v", info, err)
			}
		})
	}
}

// TestCrashIsContained: whatever ends the module's process, the callers inside get an error, nobody a signature that is
// not one, and the next ones are served by a new process.
func TestCrashIsContained(t *testing.T) {
	for _, fault := range []string{"abort", "segv", "exit", "huge"} {
		t.Run(fault, func(t *testing.T) {
			f, token, k := misbehaving(t, apart, nil)
			f.Tell("C_Sign " + fault)
			before := f.Calls("C_Sign")
			err := signOne(k, fault)
			wantError(t, err, hsm.ErrUnavailable)
			if n := f.Calls("C_Sign") - before; n != 1 {
				t.Errorf("%d calls: what a module did not survive must not be tried again", n)
			}
			f.Behave()
			if err := token.Check(t.Context()); err != nil {
				t.Errorf("Check does not start the module again: %v", err)
			}
			if err := errors.Join(signOne(k, "well"), token.Ready()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCrashesUnderLoad: a module that crashes again and again costs signatures and nothing else.
func TestCrashesUnderLoad(t *testing.T) {
	f, token, k := misbehaving(t, apart, nil)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var signed, failed atomic.Int64
	for range 8 {
		wg.Go(func() {
			for ctx.Err() == nil {
				//nolint:contextcheck // Sign is the method under test
				switch err := signOne(k, "text"); {
				case err == nil:
					signed.Add(1)
				case errors.Is(err, hsm.ErrUnavailable):
					failed.Add(1)
				default:
					t.Error(err)
					return
				}
			}
		})
	}
	for range 3 {
		was := signed.Load()
		waitFor(t, "signatures", func() bool { return signed.Load() > was+20 })
		was = failed.Load()
		f.Tell("C_Sign abort")
		waitFor(t, "failures", func() bool { return failed.Load() > was+20 })
		f.Behave()
	}
	was := signed.Load()
	waitFor(t, "signatures", func() bool { return signed.Load() > was+20 })
	stop()
	wg.Wait()
	if err := errors.Join(token.Ready(), token.Check(t.Context())); err != nil {
		t.Error(err)
	}
}

// TestHangIsEnded: the process is killed when the deadline has passed. While nobody knows whether the next one hangs too,
// one signature is tried and all others are refused at once.
func TestHangIsEnded(t *testing.T) {
	const timeout = 2 * time.Second
	f, token, k := misbehaving(t, apart, func(cfg *hsm.Config) { cfg.Timeout = timeout })
	f.Tell("C_Sign hang")
	goroutines := runtime.NumGoroutine()
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := signOne(k, "hangs"); err == nil {
				t.Error("signed by a hung module")
			}
		})
	}
	wg.Wait()
	waitFor(t, "the end of the process", func() bool { return errors.Is(token.Ready(), hsm.ErrUnavailable) })
	trial := make(chan error, 1)
	calls := f.Calls("C_Sign")
	go func() { trial <- signOne(k, "trial") }()
	waitFor(t, "the trial", func() bool { return f.Calls("C_Sign") > calls })
	for range 20 {
		wantError(t, signOne(k, "refused"), hsm.ErrUnavailable)
		wantError(t, token.Ready(), hsm.ErrUnavailable)
	}
	if n := f.Calls("C_Sign") - calls; n != 1 {
		t.Errorf("%d signatures are tried at a time", n)
	}
	if err := <-trial; err == nil {
		t.Error("signed by a hung module")
	}
	f.Behave()
	waitFor(t, "signatures", func() bool { return signOne(k, "well") == nil })
	waitFor(t, "goroutines to end", func() bool { return runtime.NumGoroutine() <= goroutines+2 })
}

// TestPINIsNotPresentedToAnotherProcess: a refusal outlives the process that heard it.
func TestPINIsNotPresentedToAnotherProcess(t *testing.T) {
	f, token, k := misbehaving(t, apart, nil)
	f.Tell("C_Sign abort", "C_Login error 0xa0")
	wantError(t, signOne(k, "text"), hsm.ErrUnavailable)
	before := f.Calls("C_Login")
	for range 3 {
		wantError(t, token.Check(t.Context()), hsm.ErrPIN)
		wantError(t, signOne(k, "text"), hsm.ErrPIN)
	}
	f.Behave()
	wantError(t, token.Check(t.Context()), hsm.ErrPIN)
	if n := f.Calls("C_Login") - before; n != 1 {
		t.Errorf("the PIN was presented %d times", n)
	}
}

// TestKeyChangedInAnotherProcess: after a crash the same label leads to another key pair.
func TestKeyChangedInAnotherProcess(t *testing.T) {
	h := softhsm.New(t)
	f := h.Faulty()
	cfg := config(h, "issuing", h.InitToken("issuing", pin))
	cfg.Module, cfg.Process = f.Module(), apart
	token := open(t, cfg)
	mustTool(t, h, "issuing", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "key", "--id", "01", "--sensitive")
	k, err := token.Signer(t.Context(), "pkcs11:token=issuing;object=key")
	if err != nil {
		t.Fatal(err)
	}
	f.Tell("C_Sign abort")
	wantError(t, signOne(k, "crash"), hsm.ErrUnavailable)
	for _, kind := range []string{"privkey", "pubkey"} {
		mustTool(t, h, "issuing", "--delete-object", "--type", kind, "--id", "01")
	}
	mustTool(t, h, "issuing", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "key", "--id", "01", "--sensitive")
	f.Behave()
	wantError(t, token.Check(t.Context()), hsm.ErrKeyChanged)
	wantError(t, signOne(k, "text"), hsm.ErrKeyChanged)
}

// TestIsolatedTokenHeals: the token goes and comes back under the process.
func TestIsolatedTokenHeals(t *testing.T) {
	h := softhsm.New(t)
	cfg := config(h, "issuing", h.InitToken("issuing", pin))
	cfg.Process = apart
	token := open(t, cfg)
	k := generate(t, token, "key", hsm.P256)
	for range 3 {
		h.Remove()
		wantError(t, signOne(k, "gone"), hsm.ErrUnavailable)
		wantError(t, token.Check(t.Context()), hsm.ErrUnavailable)
		h.Restore()
		if err := errors.Join(signOne(k, "back"), token.Check(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
}

// TestProcessKeepsNoSecretsOutside: no argument and no variable of the process holds the PIN, and nobody reads its memory.
func TestProcessKeepsNoSecretsOutside(t *testing.T) {
	h := softhsm.New(t)
	cfg := config(h, "issuing", h.InitToken("issuing", pin))
	cfg.Process = apart
	token := open(t, cfg)
	pid := child(t)
	for _, file := range []string{"cmdline", "environ"} {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err == nil && bytes.Contains(text, []byte(pin)) {
			t.Errorf("%s holds the PIN", file)
		}
	}
	if err := token.Close(); err != nil {
		t.Error(err)
	}
	waitFor(t, "the process to end", func() bool { return !children(t)[pid] })
}

// child is the one process that was started by this one for a module.
func child(t *testing.T) int {
	t.Helper()
	found := children(t)
	if len(found) != 1 {
		t.Fatalf("%d processes run modules, want 1", len(found))
	}
	for pid := range found {
		return pid
	}
	return 0
}

func children(t *testing.T) map[int]bool {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]bool{}
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		for _, word := range strings.Fields(string(text)) {
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may have ended
			if bytes.Contains(args, []byte(apart[1])) {
				found[pid] = true
			}
		}
	}
	return found
}
