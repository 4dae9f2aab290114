package tpm

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/internal/testrig/swtpm"
)

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

	errs, busy := make(chan error, 8), 0
	for range cap(errs) {
		go func() { _, err := d.State(t.Context()); errs <- err }()
	}
	for range cap(errs) {
		err := <-errs
		if errors.Is(err, ErrBusy) {
			busy++
		} else if !errors.Is(err, ErrTimeout) {
			t.Errorf("a caller in the queue got %v", err)
		}
	}
	if busy == 0 {
		t.Error("eight callers waited one after the other")
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
	d := ready(t, rig, func(c *Config) { c.Timeout = 500 * time.Millisecond })
	for _, garbage := range [][]byte{
		{},
		{0x80},
		[]byte("not a TPM's response at all, but long enough"),
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

// TestNothingIsLeftInTheTPM counts what a hundred operations, good and bad, leave behind. The connection never breaks, so nothing
// is cleaned up later; and every EK has to be made, since no certificate is found.
func TestNothingIsLeftInTheTPM(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	ctx := t.Context()
	_, err := d.GenerateKey(ctx, testKeyHandle)
	must(t, err)
	failing := open(t, rig, func(c *Config) { c.AKHandle = 0x81020077; c.AKName = []byte("no such name") })
	rig.Intercept(func(command, response []byte) []byte {
		if isCommand(command, tpm2.TPMCCNVReadPublic) && command[11] == 0xc0 {
			return []byte{0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x8b} // TPM_RC_HANDLE
		}
		return response
	})
	for range 20 {
		_, err := d.Activate(ctx)
		must(t, err)
		_, err = d.Quote(ctx, qualifying("x"))
		must(t, err)
		want(t, failing.CreateAK(ctx), ErrChanged) // after CreatePrimary
		_, err = d.GenerateKey(ctx, testKeyHandle)
		want(t, err, ErrExists)
		ek, err := d.EK(ctx)
		must(t, err)
		if ek.Certificate != nil {
			t.Fatal("the EK was not made anew")
		}
	}
	empty(t, d)
}

func empty(t *testing.T, d *Device) {
	t.Helper()
	must(t, d.do(t.Context(), "count", func(c *conn) error {
		for _, first := range []uint32{firstTransient, firstHMACSession, 0x03000000} {
			handles, err := listHandles(c, first)
			if err != nil || len(handles) != 0 {
				t.Errorf("left at %#08x: %v, %v", first, handles, err)
			}
		}
		return nil
	}))
}

// TestSharedSocket lets several devices use one swtpm at once, without the proxy: its backlog of one overflows.
func TestSharedSocket(t *testing.T) {
	rig := swtpm.New(t)
	ready(t, rig)
	socket := strings.TrimPrefix(rig.TCTI(), "swtpm:path=")
	errs := make(chan error, 8)
	for range cap(errs) {
		d := open(t, rig, func(c *Config) { c.Path = unixPrefix + socket })
		go func() {
			for range 20 {
				if _, err := d.State(t.Context()); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
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
