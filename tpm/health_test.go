package tpm

import (
	"testing"

	"github.com/signet-pki/signet/internal/testrig/swtpm"
)

// What operators do to a TPM shows, and asking changes nothing.
func TestHealth(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	do := func(name string, args ...string) {
		t.Helper()
		if out, err := tool(t, t.TempDir(), name, append([]string{"-T", rig.TCTI()}, args...)...); err != nil {
			t.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	asked := func() Health {
		t.Helper()
		h, err := d.Health(t.Context())
		must(t, err)
		return h
	}
	fresh := asked()
	if fresh != asked() {
		t.Error("asking changes the answer")
	}
	if fresh.OwnerAuth || fresh.EndorsementAuth || fresh.LockoutAuth || fresh.ClearDisabled || fresh.InLockout || fresh.AuthFailures != 0 {
		t.Errorf("fresh: %+v", fresh)
	}
	if fresh.Persistent == 0 || fresh.PersistentLeft == 0 || fresh.MaxAuthFailures == 0 || !fresh.ClockSafe {
		t.Errorf("fresh: %+v", fresh)
	}
	do("tpm2_evictcontrol", "-c", "0x81020001")
	if h := asked(); h.Persistent != fresh.Persistent-1 {
		t.Errorf("%d persistent keys, %d before one was taken away", h.Persistent, fresh.Persistent)
	}
	do("tpm2_clearcontrol", "-C", "l", "s")
	do("tpm2_changeauth", "-c", "o", "owner")
	do("tpm2_changeauth", "-c", "l", "lockout")
	if h := asked(); !h.OwnerAuth || h.EndorsementAuth || !h.LockoutAuth || !h.ClearDisabled {
		t.Errorf("hardened: %+v", h)
	}
	rig.Kill()
	if _, err := d.Health(t.Context()); err == nil {
		t.Error("a TPM that is away is healthy")
	}
}
