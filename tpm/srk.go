package tpm

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/tpm/quote"
)

// SRKHandle is where a provisioned TPM keeps its storage root key (TCG TPM v2.0 Provisioning Guidance, 7.8).
const SRKHandle = 0x81000001

// CreateSRK makes the storage root key from the TCG's template for P-256 and keeps it at [SRKHandle]. It refuses with [ErrExists]
// if that is occupied: an operating system's installer, or whoever had the machine before, may have provisioned it. The key
// derives from the TPM's storage seed, so the same call makes the same key again until the TPM is cleared, and another one after.
func (d *Device) CreateSRK(ctx context.Context) error {
	return d.do(ctx, "create SRK", func(c *conn) error {
		if err := requireFree(c, SRKHandle); err != nil {
			return err
		}
		rsp, err := tpm2.CreatePrimary{PrimaryHandle: emptyAuth(tpm2.TPMRHOwner), InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
		if err != nil {
			return err
		}
		defer c.flush(rsp.ObjectHandle)
		srk, err := quote.ParseSRK(rsp.OutPublic.Bytes())
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if err := pinned("SRK", srk.Name(), d.config.SRKName, nil); err != nil {
			return err
		}
		return persist(c, rsp.ObjectHandle, rsp.Name, SRKHandle)
	})
}

// LoadSRK reads the storage root key's public area and pins it. A later call returns the pinned one, and after a failure of the
// transport only if it is still there.
func (d *Device) LoadSRK(ctx context.Context) (*quote.SRK, error) {
	var srk *quote.SRK
	err := d.do(ctx, "load SRK", func(c *conn) (err error) {
		srk, err = d.loadSRK(c)
		return err
	})
	return srk, err
}

func (d *Device) loadSRK(c *conn) (*quote.SRK, error) {
	if d.srk != nil && d.srkChecked {
		return d.srk, nil
	}
	public, err := readPublic(c, SRKHandle)
	if isNoObject(err) {
		return nil, fmt.Errorf("%w at %v", ErrNoSRK, quote.Handle(SRKHandle))
	}
	if err != nil {
		return nil, err
	}
	srk, err := quote.ParseSRK(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsuitable, err)
	}
	var seen []byte
	if d.srk != nil {
		seen = d.srk.Name()
	}
	if err := pinned("SRK", srk.Name(), d.config.SRKName, seen); err != nil {
		return nil, err
	}
	d.srk, d.srkChecked = srk, true
	return srk, nil
}

func (d *Device) srkHandle() tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: SRKHandle, Name: tpm2.TPM2BName{Buffer: d.srk.Name()}, Auth: tpm2.PasswordAuth(nil)}
}

// session is an HMAC session for one command, whose key only the TPM of the pinned SRK can know: the salt is encrypted to it. So what
// answers is that TPM, about exactly the objects that were named, and parameters are encrypted on the way: whoever sits on the
// bus neither reads them nor puts others in their place (Part 1, 19.6 and 21).
func (d *Device) session(auth []byte, direction tpm2.AuthOption) (tpm2.Session, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](d.srk.Marshal())
	if err != nil {
		return nil, fmt.Errorf("SRK: %w", err)
	}
	return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, tpm2.Salted(SRKHandle, *public), tpm2.Auth(auth), direction), nil
}
