package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// readBinding reads what the ceremony knew of the TPM.
func (c *Config) readBinding() (quote.Binding, error) {
	data, err := os.ReadFile(filepath.Join(c.pkiDir(), bindingFile))
	if err != nil {
		return quote.Binding{}, fmt.Errorf("pki: %w (was there a ceremony? signetd init)", err)
	}
	binding, err := quote.ParseBinding(data)
	if err != nil {
		return quote.Binding{}, fmt.Errorf("pki: %s: %w", bindingFile, err)
	}
	return binding, nil
}

// whatHappened explains a TPM without the ceremony's attestation key or counter. TPM2_Clear takes both and leaves the endorsement
// key, which no other TPM has (Part 3, 24.6).
func whatHappened(ctx context.Context, dev *tpm.Device, ceremony quote.Binding, cause error) error {
	noAK, noCounter := errors.Is(cause, tpm.ErrNoAK), errors.Is(cause, tpm.ErrNoCounter)
	replaced := errors.Is(cause, tpm.ErrChanged) || errors.Is(cause, tpm.ErrUnsuitable)
	if !noAK && !noCounter && !replaced {
		return cause // it does not answer, or is ill
	}
	ek, err := dev.EK(ctx)
	switch {
	case err != nil:
		return errors.Join(cause, err)
	case !bytes.Equal(ek.Public, ceremony.EKPublic):
		return fmt.Errorf("tpm_swapped: another TPM than that of the ceremony, by its endorsement key: bring the old one back, or hold a new ceremony: %w", cause)
	case replaced:
		return fmt.Errorf("tpm_replaced: somebody put another key or counter into this TPM: %w", cause)
	case noAK && noCounter:
		return fmt.Errorf("tpm_cleared: somebody cleared the TPM, which took attestation key and counter; this log can never be sealed again: "+
			"keep the directory as evidence and hold a new ceremony: %w", cause)
	case noAK:
		return fmt.Errorf("tpm_ak_missing: somebody removed the attestation key, and nothing else: %w", cause)
	default:
		return fmt.Errorf("tpm_counter_missing: somebody deleted the counter, and nothing else: %w", cause)
	}
}

// tpmProbe asks the TPM. What happened to it is found out once for each error: making an endorsement key takes some chips seconds.
type tpmProbe struct {
	dev      *tpm.Device
	ceremony quote.Binding
	seen     string // the last error
	said     error
}

func (p *tpmProbe) check(ctx context.Context) error {
	err := p.dev.Check(ctx)
	if err == nil {
		p.seen, p.said = "", nil
		return nil
	}
	if p.seen != err.Error() {
		p.seen, p.said = err.Error(), whatHappened(ctx, p.dev, p.ceremony, err)
	}
	return p.said
}

// checkPCRs reports registers that have none of the values that the configuration accepts.
func (t TPM) checkPCRs(ctx context.Context, dev *tpm.Device) error {
	if len(t.PCRValues) == 0 {
		return nil
	}
	accepted, err := quote.ParseAccepted(t.PCRValues, t.selection())
	if err != nil {
		return err
	}
	values, err := dev.PCRs(ctx)
	if err != nil {
		return err
	}
	if err := accepted.Check(values); err != nil {
		return fmt.Errorf("pcrs_changed: %w", err)
	}
	return nil
}
