package tpm

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// Health is what the TPM says about its authorisations and what it has left. Nobody has signed it.
type Health struct {
	OwnerAuth, EndorsementAuth, LockoutAuth bool // set, and not empty (TPMA_PERMANENT; Part 2, 8.6)
	ClearDisabled                           bool // see Info.ClearDisabled
	InLockout                               bool // objects that dictionary attacks are counted for cannot be used
	AuthFailures, MaxAuthFailures           uint32
	// Persistent objects, and how many more of the largest kind fit at least.
	Persistent, PersistentLeft uint32
	// Counters among the NV indices, and how many more fit; CountersLimited is false where the maker states no limit.
	Counters, CountersLeft uint32
	CountersLimited        bool
	// ClockSafe: no greater clock was ever reported (Part 2, 10.11.5). After a power loss it is false until the TPM has caught up.
	ClockSafe bool
}

// Bits of TPMA_PERMANENT beside disableClear.
const (
	ownerAuthSet       = 1 << 0
	endorsementAuthSet = 1 << 1
	lockoutAuthSet     = 1 << 2
	inLockout          = 1 << 9
)

// Health asks the TPM. It changes nothing.
func (d *Device) Health(ctx context.Context) (Health, error) {
	var h Health
	err := d.do(ctx, "read health", func(c *conn) error {
		fixed, err := readProperties(c, tpm2.TPMPTFamilyIndicator, maxHandles)
		if err != nil {
			return err
		}
		now, err := readProperties(c, tpm2.TPMPTPermanent, maxHandles)
		if err != nil {
			return err
		}
		bits, found := now[tpm2.TPMPTPermanent]
		if !found {
			return fmt.Errorf("%w: no TPMA_PERMANENT among %d properties", ErrRefused, len(now))
		}
		clock, err := tpm2.ReadClock{}.Execute(c)
		if err != nil {
			return err
		}
		h = Health{
			OwnerAuth: bits&ownerAuthSet != 0, EndorsementAuth: bits&endorsementAuthSet != 0, LockoutAuth: bits&lockoutAuthSet != 0,
			ClearDisabled: bits&disableClear != 0, InLockout: bits&inLockout != 0,
			AuthFailures: now[tpm2.TPMPTLockoutCounter], MaxAuthFailures: now[tpm2.TPMPTMaxAuthFail],
			Persistent: now[tpm2.TPMPTHRPersistent], PersistentLeft: now[tpm2.TPMPTHRPersistentAvail],
			Counters: now[tpm2.TPMPTNVCounters], CountersLeft: now[tpm2.TPMPTNVCountersAvail],
			CountersLimited: fixed[tpm2.TPMPTNVCountersMax] != 0, ClockSafe: bool(clock.CurrentTime.ClockInfo.Safe),
		}
		return nil
	})
	return h, err
}
