package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/internal/testrig/swtpm"
	"github.com/signet-pki/signet/tpm/quote"
)

const testKeyHandle = 0x81020010

func qualifying(text string) [32]byte { return sha256.Sum256([]byte(text)) }

func open(t testing.TB, rig *swtpm.TPM, change ...func(*Config)) *Device {
	t.Helper()
	config := Config{Path: rig.Path()}
	for _, c := range change {
		c(&config)
	}
	d, err := Open(t.Context(), config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// ready is a device with AK and counter.
func ready(t testing.TB, rig *swtpm.TPM, change ...func(*Config)) *Device {
	t.Helper()
	d := open(t, rig, change...)
	must(t, d.CreateAK(t.Context()))
	must(t, d.CreateCounter(t.Context()))
	return d
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t testing.TB, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Fatalf("got %v, want %v", err, target)
	}
}

func TestCreateRefusesWhatExists(t *testing.T) {
	d := ready(t, swtpm.New(t))
	ctx := t.Context()
	before, err := d.LoadAK(ctx)
	must(t, err)
	value, err := d.Increment(ctx)
	must(t, err)
	want(t, d.CreateAK(ctx), ErrExists)
	want(t, d.CreateCounter(ctx), ErrExists)
	_, err = d.GenerateKey(ctx, testKeyHandle)
	must(t, err)
	_, err = d.GenerateKey(ctx, testKeyHandle)
	want(t, err, ErrExists)
	_, err = d.GenerateKey(ctx, DefaultAKHandle)
	want(t, err, ErrUnsuitable)
	after, err := d.LoadAK(ctx)
	must(t, err)
	if !bytes.Equal(before.Name(), after.Name()) {
		t.Error("AK changed")
	}
	state, err := d.State(ctx)
	must(t, err)
	if state.Counter != value {
		t.Errorf("counter is %d, was %d", state.Counter, value)
	}
}

func TestMissingParts(t *testing.T) {
	d := open(t, swtpm.New(t))
	ctx := t.Context()
	_, err := d.LoadAK(ctx)
	want(t, err, ErrNoAK)
	_, err = d.LoadCounter(ctx)
	want(t, err, ErrNoCounter)
	_, err = d.State(ctx)
	want(t, err, ErrNoCounter)
	_, err = d.Increment(ctx)
	want(t, err, ErrNoCounter)
	_, err = d.Quote(ctx, qualifying("x"))
	want(t, err, ErrNoAK)
	_, err = d.Activate(ctx)
	want(t, err, ErrNoAK)
	_, err = d.Signer(ctx, "tpm:handle=0x81020010")
	want(t, err, ErrKeyNotFound)
	must(t, d.Check(ctx))
}

func TestCounterHalfMadeIsCompleted(t *testing.T) {
	d := open(t, swtpm.New(t))
	must(t, d.do(t.Context(), "define only", d.defineCounter))
	_, err := d.LoadCounter(t.Context())
	want(t, err, ErrUnsuitable)
	must(t, d.CreateCounter(t.Context()))
	_, err = d.LoadCounter(t.Context())
	must(t, err)
}

func TestSimulatedAndInfo(t *testing.T) {
	d := open(t, swtpm.New(t))
	info, err := d.Info(t.Context())
	must(t, err)
	if info.Manufacturer != "IBM" || !info.Simulated || info.OrderlyCount == 0 {
		t.Errorf("%+v", info)
	}
	for _, c := range []struct {
		info Info
		want bool
	}{
		{Info{Manufacturer: "IFX", Vendor: "SLB9672"}, false},
		{Info{Manufacturer: "STM", Vendor: "ST33KTPM"}, false},
		{Info{Manufacturer: "MSFT", Vendor: "xCG fTPM"}, true},
		{Info{Manufacturer: "ACME", Vendor: "SW   TPM"}, true},
	} {
		if isSimulated(c.info) != c.want {
			t.Errorf("%+v", c.info)
		}
	}
}

func TestKillAndRestartHeals(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	ctx := t.Context()
	key, err := d.GenerateKey(ctx, testKeyHandle)
	must(t, err)
	before, err := d.State(ctx)
	must(t, err)

	rig.Kill()
	_, err = d.Quote(ctx, qualifying("while down"))
	want(t, err, ErrUnavailable)
	_, err = key.Sign(nil, make([]byte, 32), crypto.SHA256)
	want(t, err, ErrUnavailable)
	if d.Check(ctx) == nil || !d.Simulated(ctx) {
		t.Error("a dead TPM passes for one that lives")
	}

	rig.Restart()
	s, err := d.Quote(ctx, qualifying("after"))
	must(t, err)
	ak, err := d.LoadAK(ctx)
	must(t, err)
	q := qualifying("after")
	stated, err := ak.VerifyQuote(s, q[:], quote.PlatformPCRs())
	must(t, err)
	after, err := d.State(ctx)
	must(t, err)
	if after.Reset != before.Reset+1 || stated.Clock.Reset != after.Reset {
		t.Errorf("resetCount %d, then %d, quoted %d", before.Reset, after.Reset, stated.Clock.Reset)
	}
	_, err = key.Sign(nil, make([]byte, 32), crypto.SHA256)
	must(t, err)
	must(t, d.Check(ctx))
}

// TestOrderlyCounter holds the counter against what design and documents say: an orderly stop keeps it, a power loss moves it by
// at most the orderly count, and it never equals an older value's successor in the same boot.
func TestOrderlyCounter(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	ctx := t.Context()
	info, err := d.Info(ctx)
	must(t, err)
	var last uint64
	for range 5 {
		value, err := d.Increment(ctx)
		must(t, err)
		if last != 0 && value != last+1 {
			t.Fatalf("%d after %d", value, last)
		}
		last = value
	}
	rig.Stop()
	rig.Restart()
	state, err := d.State(ctx)
	must(t, err)
	if state.Counter != last {
		t.Errorf("after an orderly stop: %d, was %d", state.Counter, last)
	}
	rig.Kill()
	rig.Restart()
	state, err = d.State(ctx)
	must(t, err)
	if state.Counter < last || state.Counter > last+uint64(info.OrderlyCount)+1 {
		t.Errorf("after a power loss: %d, was %d, orderly count %d", state.Counter, last, info.OrderlyCount)
	}
	t.Logf("counter %d read %d after a power loss (orderly count %d)", last, state.Counter, info.OrderlyCount)
	value, err := d.Increment(ctx)
	must(t, err)
	if value != state.Counter+1 {
		t.Errorf("%d after %d", value, state.Counter)
	}
}

func TestAnotherTPMIsNotOurs(t *testing.T) {
	first, second := swtpm.New(t), swtpm.New(t)
	d := ready(t, first)
	ak, err := d.LoadAK(t.Context())
	must(t, err)
	must(t, ready(t, second).Check(t.Context()))

	other := open(t, second, func(c *Config) { c.AKName = ak.Name() })
	_, err = other.Quote(t.Context(), qualifying("x"))
	want(t, err, ErrChanged)
	want(t, other.Check(t.Context()), ErrChanged)

	first.Kill()
	if _, err = d.State(t.Context()); err == nil {
		t.Fatal("no error from a dead TPM")
	}
	d.link = newLink(second.Path()) // as if the chip had been exchanged
	_, err = d.Quote(t.Context(), qualifying("x"))
	want(t, err, ErrChanged)
}

func TestExchangedWithoutNotice(t *testing.T) {
	first, second := swtpm.New(t), swtpm.New(t)
	d := ready(t, first)
	_, err := d.Quote(t.Context(), qualifying("x"))
	must(t, err)
	must(t, ready(t, second).Check(t.Context()))
	d.link = newLink(second.Path())
	_, err = d.CertifyCounter(t.Context(), qualifying("x"))
	want(t, err, ErrRefused)
	want(t, err, ErrChanged)
}

func TestHungTPM(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig, func(c *Config) { c.Timeout = 300 * time.Millisecond })
	release := rig.Hang()
	start := time.Now()
	_, err := d.Quote(t.Context(), qualifying("x"))
	want(t, err, ErrTimeout)
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = d.State(ctx)
	want(t, err, context.DeadlineExceeded)

	errs := make(chan error, 4)
	for range cap(errs) {
		go func() { _, err := d.State(t.Context()); errs <- err }()
	}
	for range cap(errs) {
		if err := <-errs; !errors.Is(err, ErrTimeout) && !errors.Is(err, ErrBusy) {
			t.Errorf("a caller in the queue got %v", err)
		}
	}
	release()
	_, err = d.Quote(t.Context(), qualifying("x"))
	must(t, err)
}

func TestSlowTPM(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	rig.SetLatency(200 * time.Millisecond)
	_, err := d.Quote(t.Context(), qualifying("slow"))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = d.Quote(ctx, qualifying("too slow"))
	want(t, err, ErrTimeout)
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v with a deadline of 100 ms", took)
	}
	_, err = d.CertifyCounter(t.Context(), qualifying("slow"))
	must(t, err)
}

func TestLostResponse(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	before, err := d.State(t.Context())
	must(t, err)
	rig.DropResponses(1)
	_, err = d.Increment(t.Context())
	want(t, err, ErrUnavailable)
	after, err := d.State(t.Context())
	must(t, err)
	if after.Counter != before.Counter+1 {
		t.Errorf("counter went from %d to %d: a lost response must mean exactly one increment", before.Counter, after.Counter)
	}
}

func TestRetriesWhenAskedForPatience(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	asked := 0
	rig.Intercept(func(command, response []byte) []byte {
		if isCommand(command, tpm2.TPMCCReadClock) && asked < 3 {
			asked++
			return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 9, 0x22} // TPM_RC_RETRY
		}
		return response
	})
	_, err := d.State(t.Context())
	must(t, err)
	if asked != 3 {
		t.Errorf("asked %d times", asked)
	}
}

func TestLyingTPM(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	key, err := d.GenerateKey(t.Context(), testKeyHandle)
	must(t, err)
	rig.Intercept(func(command, response []byte) []byte {
		changed := bytes.Clone(response)
		switch {
		case isCommand(command, tpm2.TPMCCQuote), isCommand(command, tpm2.TPMCCNVCertify):
			changed[60] ^= 1 // in the attestation
		case isCommand(command, tpm2.TPMCCSign):
			changed[40] ^= 1 // in r
		}
		return changed
	})
	s, err := d.Quote(t.Context(), qualifying("x"))
	want(t, err, ErrRefused)
	if s.Attest != nil {
		t.Error("a statement that does not verify was released")
	}
	_, err = d.CertifyCounter(t.Context(), qualifying("x"))
	want(t, err, ErrRefused)
	sig, err := key.Sign(nil, make([]byte, 32), crypto.SHA256)
	want(t, err, ErrRefused)
	if sig != nil {
		t.Error("a signature that does not verify was released")
	}
	rig.Intercept(nil)
	_, err = d.Quote(t.Context(), qualifying("x"))
	must(t, err)
}

func TestGarbageResponses(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	for _, garbage := range [][]byte{
		{}, {0x80}, []byte("not a TPM's response at all, but long enough"),
		{0x80, 1, 0, 0, 0, 10, 0, 0, 0, 0},                         // success and nothing else
		{0x80, 2, 0, 0, 0, 14, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, // parameters longer than the response
		{0x80, 1, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0},
	} {
		rig.Intercept(func(_, _ []byte) []byte { return garbage })
		_, quoteErr := d.Quote(t.Context(), qualifying("x"))
		_, stateErr := d.State(t.Context())
		_, infoErr := d.Info(t.Context())
		if quoteErr == nil || stateErr == nil || infoErr == nil {
			t.Errorf("%x: %v, %v, %v", garbage, quoteErr, stateErr, infoErr)
		}
	}
	rig.Intercept(nil)
	_, err := d.Quote(t.Context(), qualifying("x"))
	must(t, err)
}

func isCommand(command []byte, code tpm2.TPMCC) bool {
	return bytes.Equal(command[6:10], []byte{byte(code >> 24), byte(code >> 16), byte(code >> 8), byte(code)})
}

// TestNothingIsLeftInTheTPM counts what a hundred operations, good and bad, leave behind.
func TestNothingIsLeftInTheTPM(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	ctx := t.Context()
	_, err := d.GenerateKey(ctx, testKeyHandle)
	must(t, err)
	failing := open(t, rig, func(c *Config) { c.AKHandle = 0x81020077; c.AKName = []byte("no such name") })
	for i := range 20 {
		_, err := d.Activate(ctx)
		must(t, err)
		_, err = d.Quote(ctx, qualifying("x"))
		must(t, err)
		want(t, failing.CreateAK(ctx), ErrChanged) // after CreatePrimary
		_, err = d.GenerateKey(ctx, testKeyHandle)
		want(t, err, ErrExists)
		rig.DropResponses(i % 2)
		_, err = d.EK(ctx)
		if (i%2 == 1) != (err != nil) {
			t.Fatal(err)
		}
	}
	must(t, d.do(ctx, "count", func(c *conn) error {
		for _, first := range []uint32{firstTransient, firstHMACSession, 0x03000000} {
			handles, err := listHandles(c, first)
			if err != nil || len(handles) != 0 {
				t.Errorf("left at %#08x: %v, %v", first, handles, err)
			}
		}
		return nil
	}))
}

// TestObjectsOfLostResponsesAreFreed loses exactly the responses that carry the handle of a new object.
func TestObjectsOfLostResponsesAreFreed(t *testing.T) {
	rig := swtpm.New(t)
	d := open(t, rig)
	for range 5 { // three would fill the TPM
		rig.Intercept(func(command, response []byte) []byte {
			if isCommand(command, tpm2.TPMCCCreatePrimary) {
				return nil
			}
			return response
		})
		_, err := d.GenerateKey(t.Context(), testKeyHandle)
		want(t, err, ErrUnavailable)
	}
	rig.Intercept(nil)
	_, err := d.GenerateKey(t.Context(), testKeyHandle)
	must(t, err)
}

func TestPCRsThatMove(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig, func(c *Config) { c.PCRs = mustSelect(t, "sha256:0,1,2,3,4,5,6,7,8,9,10,11,16,23") })
	moves := 1
	rig.Intercept(func(command, response []byte) []byte {
		if isCommand(command, tpm2.TPMCCPCRRead) && moves > 0 {
			moves--
			changed := bytes.Clone(response)
			changed[len(changed)-1] ^= 1 // as if it had been extended between read and quote
			return changed
		}
		return response
	})
	_, err := d.Quote(t.Context(), qualifying("x"))
	must(t, err)
	moves = 100
	_, err = d.Quote(t.Context(), qualifying("x"))
	want(t, err, quote.ErrPCRDigest)
}

func mustSelect(t testing.TB, text string) quote.Selection {
	t.Helper()
	sel, err := quote.ParseSelection(text)
	must(t, err)
	return sel
}

func TestConfigReportsEverything(t *testing.T) {
	_, err := Open(t.Context(), Config{Path: "tpm0", Timeout: -1, AKHandle: 1, CounterIndex: 1}, slog.New(slog.DiscardHandler))
	if err == nil {
		t.Fatal("no error")
	}
	for _, field := range []string{"path", "timeout", "AK handle", "counter index"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%q is not in %v", field, err)
		}
	}
}

func TestOpenWithoutTPM(t *testing.T) {
	_, err := Open(t.Context(), Config{Path: "/dev/null-tpm"}, slog.New(slog.DiscardHandler))
	want(t, err, ErrUnavailable)
}
