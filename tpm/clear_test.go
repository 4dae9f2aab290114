package tpm

import (
	"bytes"
	"testing"

	"github.com/signet-pki/signet/internal/testrig/swtpm"
)

// What TPM2_Clear leaves, measured: the keys that derive from the endorsement seed, and nothing that remembers the counter. That is why it should
// be disabled, and why a log compares where it finds the TPM.
func TestClear(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	ctx := t.Context()
	before, err := d.State(ctx)
	must(t, err)
	for range 3 {
		_, err = d.Increment(ctx)
		must(t, err)
	}
	ak, err := d.LoadAK(ctx)
	must(t, err)
	ek, err := d.EK(ctx)
	must(t, err)
	clearIt := func() error {
		out, err := tool(t, t.TempDir(), "tpm2_clear", "-T", rig.TCTI())
		t.Log(out)
		return err
	}
	must(t, clearIt())
	err = d.Check(ctx)
	want(t, err, ErrNoAK)
	want(t, err, ErrNoCounter)
	same, err := d.EK(ctx)
	must(t, err)
	if !bytes.Equal(same.Public, ek.Public) {
		t.Error("another endorsement key")
	}
	must(t, d.CreateAK(ctx))
	must(t, d.CreateCounter(ctx))
	must(t, d.Check(ctx)) // under the names that were pinned
	if again, err := d.LoadAK(ctx); err != nil || !bytes.Equal(again.Name(), ak.Name()) {
		t.Errorf("another attestation key, %v", err)
	}
	after, err := d.State(ctx)
	must(t, err)
	if after.Reset != 0 || after.Counter > before.Counter {
		t.Errorf("%+v, before the clear %+v and three more: the documents say that everything begins anew", after, before)
	}
	info, err := d.Info(ctx)
	must(t, err)
	if info.ClearDisabled {
		t.Error("it was just cleared")
	}
	out, err := tool(t, t.TempDir(), "tpm2_clearcontrol", "-T", rig.TCTI(), "-C", "l", "s")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	info, err = d.Info(ctx)
	must(t, err)
	if !info.ClearDisabled || clearIt() == nil {
		t.Errorf("disabled %v, and cleared", info.ClearDisabled)
	}
	must(t, d.Check(ctx))
}
