package tpm

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"log/slog"
	"strings"
	"testing"

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
