package hsm_test

import (
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

func examine(t *testing.T, cfg hsm.Config, labels ...string) hsm.Examination {
	t.Helper()
	cfg.Process = apart
	return hsm.Examine(t.Context(), cfg, labels, slog.New(slog.DiscardHandler))
}

// patient is a token with a key, closed, behind a module that can be told to misbehave.
func patient(t *testing.T) (*softhsm.HSM, *softhsm.Faulty, hsm.Config) {
	t.Helper()
	h := softhsm.New(t)
	f := h.Faulty()
	cfg := config(h, "issuing", h.InitToken("issuing", pin))
	cfg.Module = f.Module()
	cfg.Process = apart
	token := open(t, cfg)
	generate(t, token, "key", hsm.P256)
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
	return h, f, cfg
}

// wantSteps wants all steps up to the one that fails with want, and no later one.
func wantSteps(t *testing.T, e hsm.Examination, last hsm.Step, want error) {
	t.Helper()
	after := false
	for _, s := range []hsm.Step{hsm.StepModule, hsm.StepToken, hsm.StepMechanisms, hsm.StepPINFile, hsm.StepLogin, hsm.StepKeys} {
		switch taken, err := e.Done(s); {
		case s == last:
			if !taken || !errors.Is(err, want) {
				t.Errorf("step %s: taken %t, %v, want %v", s, taken, err, want)
			}
			after = true
		case after && taken && s != hsm.StepPINFile:
			t.Errorf("step %s after step %s failed: %v", s, last, err)
		case !after && err != nil:
			t.Errorf("step %s: %v", s, err)
		}
	}
}

func TestExamine(t *testing.T) {
	_, f, cfg := patient(t)
	before := f.Calls("C_Login")
	e := examine(t, cfg, "key", "none")
	wantSteps(t, e, hsm.StepKeys, nil)
	if n := f.Calls("C_Login") - before; n != 1 {
		t.Errorf("logged in %d times", n)
	}
	if len(e.Keys["key"]) != 1 || len(e.Keys["none"]) != 0 {
		t.Fatalf("keys %+v", e.Keys)
	}
	k := e.Keys["key"][0]
	if alg, _, err := k.Key(); alg != hsm.P256 || err != nil {
		t.Errorf("key: %v, %v", alg, err)
	}
	if !k.Sensitive || k.Extractable || !slices.Equal(k.Uses, []string{"sign"}) {
		t.Errorf("key: %+v", k)
	}
	if !slices.Contains(e.Info.Algorithms, hsm.P256) || e.Info.Manufacturer == "" {
		t.Errorf("info: %+v", e.Info)
	}
}

func TestExamineNamesWhatHangsAndCrashes(t *testing.T) {
	_, f, cfg := patient(t)
	cfg.Timeout = 3 * time.Second // the rest must make it, on a busy machine too
	for function, step := range map[string]hsm.Step{
		"C_Initialize": hsm.StepModule, "C_Login": hsm.StepLogin, "C_GetAttributeValue": hsm.StepKeys,
	} {
		f.Tell(function + " hang")
		wantSteps(t, examine(t, cfg, "key"), step, hsm.ErrHung)
	}
	cfg.Timeout = time.Minute
	f.Tell("C_FindObjectsInit segv")
	e := examine(t, cfg, "key")
	wantSteps(t, e, hsm.StepKeys, hsm.ErrUnavailable)
	if _, err := e.Done(hsm.StepKeys); errors.Is(err, hsm.ErrHung) {
		t.Errorf("a crash is called a hang: %v", err)
	}
	cfg.Module = filepath.Join(t.TempDir(), "none.so")
	wantSteps(t, examine(t, cfg, "key"), hsm.StepModule, hsm.ErrConfig)
}

// The PIN is asked for once, and not at all where that could cost the token.
func TestExamineSparesThePIN(t *testing.T) {
	h, f, cfg := patient(t)
	logins := func(want int, refused error) {
		t.Helper()
		before := f.Calls("C_Login")
		wantSteps(t, examine(t, cfg, "key"), hsm.StepLogin, refused)
		if n := f.Calls("C_Login") - before; n != want {
			t.Errorf("presented %d times, want %d", n, want)
		}
	}
	for _, flags := range []string{"0x10000", "0x20000", "0x40000"} { // CKF_USER_PIN_COUNT_LOW, FINAL_TRY, LOCKED
		f.Tell("C_GetTokenInfo flags " + flags)
		logins(0, hsm.ErrPIN)
	}
	f.Behave()
	right := cfg.PINFile
	cfg.PINFile = h.WritePIN("issuing", "wrong-pin", 0o600)
	logins(1, hsm.ErrPIN)
	logins(0, hsm.ErrPIN) // SoftHSM remembers
	cfg.PINFile = right
	if e := examine(t, cfg); !e.PIN.Low {
		t.Error("the token does not tell of the wrong PIN")
	}
	cfg.PINFile = h.WritePIN("issuing", pin, 0o644)
	wantSteps(t, examine(t, cfg, "key"), hsm.StepPINFile, hsm.ErrConfig)
}
