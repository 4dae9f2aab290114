package tpm

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/tpm/quote"
)

// SRKHandle is where a provisioned TPM keeps its storage root key (TCG TPM v2.0 Provisioning Guidance, 7.8).
const SRKHandle = 0x81000001

// storageKey is the storage root key, with the name that its own public area gives it. Keys in files and sealed PINs are below it.
type storageKey struct {
	*quote.SRK
	public tpm2.TPMTPublic
	name   tpm2.TPM2BName
}

func parseStorageKey(public []byte) (storageKey, error) {
	srk, err := quote.ParseSRK(public)
	if err != nil {
		return storageKey{}, err
	}
	parsed, err := tpm2.Unmarshal[tpm2.TPMTPublic](public)
	if err != nil {
		return storageKey{}, err
	}
	return storageKey{SRK: srk, public: *parsed, name: tpm2.TPM2BName{Buffer: srk.Name()}}, nil
}

func (k storageKey) auth(session tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: SRKHandle, Name: k.name, Auth: session}
}

// salted encrypts a session's salt to the key: who only listens on the bus, or pretends to be the TPM, does not learn the
// session's keys (Part 1, 19.6.11).
func (k storageKey) salted() tpm2.AuthOption { return tpm2.Salted(SRKHandle, k.public) }

// readStorageKey takes what is there; whoever has pinned a name compares it.
func readStorageKey(c *conn) (storageKey, error) {
	public, err := readPublic(c, SRKHandle)
	if err != nil {
		return storageKey{}, err
	}
	key, err := parseStorageKey(public)
	if err != nil {
		return storageKey{}, fmt.Errorf("%w: at %v is no storage root key: %w", ErrUnsuitable, quote.Handle(SRKHandle), err)
	}
	return key, nil
}

// makeStorageKey makes the key from the TCG's template for P-256 and keeps it if its name is the one that is pinned, or none is. The
// key derives from the TPM's storage seed, so the same TPM makes the same one until it is cleared.
func (d *Device) makeStorageKey(c *conn) error {
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: emptyAuth(tpm2.TPMRHOwner), InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
	if err != nil {
		return fmt.Errorf("make storage root key: %w", err)
	}
	defer c.flush(rsp.ObjectHandle)
	key, err := parseStorageKey(rsp.OutPublic.Bytes())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err := pinned("SRK", key.Name(), d.config.SRKName, nil); err != nil {
		return err
	}
	return persist(c, rsp.ObjectHandle, rsp.Name, SRKHandle)
}

// ensureStorageKey makes the key where there is none.
func (d *Device) ensureStorageKey(c *conn) (storageKey, error) {
	key, err := readStorageKey(c)
	if !isNoObject(err) {
		return key, err
	}
	if err := d.makeStorageKey(c); err != nil {
		return storageKey{}, err
	}
	return readStorageKey(c)
}

// CreateSRK makes the storage root key and keeps it at [SRKHandle]. It refuses with [ErrExists] if that is occupied: an operating
// system's installer, or whoever had the machine before, may have provisioned it. After a TPM was cleared it makes another key.
func (d *Device) CreateSRK(ctx context.Context) error {
	return d.do(ctx, "create SRK", func(c *conn) error {
		if err := requireFree(c, SRKHandle); err != nil {
			return err
		}
		return d.makeStorageKey(c)
	})
}

// LoadSRK reads the storage root key's public area and pins it. A later call returns the pinned one, and after a failure of the
// transport only if it is still there.
func (d *Device) LoadSRK(ctx context.Context) (*quote.SRK, error) {
	var srk *quote.SRK
	err := d.do(ctx, "load SRK", func(c *conn) error {
		key, err := d.loadSRK(c)
		srk = key.SRK
		return err
	})
	return srk, err
}

func (d *Device) loadSRK(c *conn) (storageKey, error) {
	if d.srk != nil && d.srkChecked {
		return *d.srk, nil
	}
	key, err := readStorageKey(c)
	if isNoObject(err) {
		return storageKey{}, fmt.Errorf("%w at %v", ErrNoSRK, quote.Handle(SRKHandle))
	}
	if err != nil {
		return storageKey{}, err
	}
	var seen []byte
	if d.srk != nil {
		seen = d.srk.Name()
	}
	if err := pinned("SRK", key.Name(), d.config.SRKName, seen); err != nil {
		return storageKey{}, err
	}
	d.srk, d.srkChecked = &key, true
	return key, nil
}

// session is an HMAC session for one command, whose key only the TPM of this SRK can know: the salt is encrypted to it. So what
// answers is that TPM, about exactly the objects that were named, and parameters are encrypted on the way: whoever sits on the
// bus neither reads them nor puts others in their place (Part 1, 19.6 and 21).
func (k storageKey) session(auth []byte, direction tpm2.AuthOption) tpm2.Session {
	return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, k.salted(), tpm2.Auth(auth), direction)
}
