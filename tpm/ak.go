package tpm

import (
	"context"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/tpm/quote"
)

// CreateAK makes the attestation key and keeps it at Config.AKHandle. It refuses with [ErrExists] if that is occupied.
//
// The key is a primary key of the endorsement hierarchy: only keys of that hierarchy quote resetCount and firmware version in
// clear. It derives from the TPM's endorsement seed, so the same call on the same TPM makes the same key again, even after a clear.
func (d *Device) CreateAK(ctx context.Context) error {
	return d.do(ctx, "create AK", func(c *conn) error {
		handle := tpm2.TPMHandle(d.config.AKHandle)
		if err := requireFree(c, handle); err != nil {
			return err
		}
		rsp, err := tpm2.CreatePrimary{
			PrimaryHandle: emptyAuth(tpm2.TPMRHEndorsement), InPublic: tpm2.New2B(akTemplate()),
		}.Execute(c)
		if err != nil {
			return err
		}
		defer c.flush(rsp.ObjectHandle)
		ak, err := quote.ParseAK(rsp.OutPublic.Bytes())
		if err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if err := pinned("AK", ak.Name(), d.config.AKName, nil); err != nil {
			return err
		}
		return persist(c, rsp.ObjectHandle, rsp.Name, handle)
	})
}

// LoadAK reads the attestation key's public area and pins it. A later call returns the pinned one, and after a failure of the
// transport only if it is still there.
func (d *Device) LoadAK(ctx context.Context) (*quote.AK, error) {
	var ak *quote.AK
	err := d.do(ctx, "load AK", func(c *conn) (err error) {
		ak, err = d.loadAK(c)
		return err
	})
	return ak, err
}

func (d *Device) loadAK(c *conn) (*quote.AK, error) {
	if d.ak != nil && d.akChecked {
		return d.ak, nil
	}
	public, err := readPublic(c, tpm2.TPMHandle(d.config.AKHandle))
	if isNoObject(err) {
		return nil, fmt.Errorf("%w at %v", ErrNoAK, quote.Handle(d.config.AKHandle))
	}
	if err != nil {
		return nil, err
	}
	ak, err := quote.ParseAK(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsuitable, err)
	}
	var seen []byte
	if d.ak != nil {
		seen = d.ak.Name()
	}
	if err := pinned("AK", ak.Name(), d.config.AKName, seen); err != nil {
		return nil, err
	}
	d.ak, d.akChecked = ak, true
	return ak, nil
}

// ready loads AK and counter, and compares them with the pinned ones after each failure of the transport.
func (d *Device) ready(c *conn) error {
	if _, err := d.loadAK(c); err != nil {
		return err
	}
	_, err := d.loadCounter(c)
	return err
}

func (d *Device) akHandle() tpm2.AuthHandle {
	return tpm2.AuthHandle{
		Handle: tpm2.TPMHandle(d.config.AKHandle), Name: tpm2.TPM2BName{Buffer: d.ak.Name()}, Auth: tpm2.PasswordAuth(nil),
	}
}

func emptyAuth(hierarchy tpm2.TPMHandle) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: hierarchy, Auth: tpm2.PasswordAuth(nil)}
}

// akTemplate is also the identity of the AK: changing it makes another key.
func akTemplate() tpm2.TPMTPublic {
	template := signingTemplate()
	template.ObjectAttributes.Restricted = true
	return template
}

// signingTemplate is a P-256 key for ECDSA with SHA-256 that never leaves the TPM.
func signingTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type:    tpm2.TPMAlgECC,
		NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
		}),
	}
}

func readPublic(c *conn, handle tpm2.TPMHandle) ([]byte, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(c)
	if err != nil {
		return nil, err
	}
	return rsp.OutPublic.Bytes(), nil
}

func requireFree(c *conn, handle tpm2.TPMHandle) error {
	_, err := readPublic(c, handle)
	if err == nil {
		return fmt.Errorf("%w: %v", ErrExists, quote.Handle(handle))
	}
	if isNoObject(err) {
		return nil
	}
	return err
}

// persist makes a transient object permanent, with the owner's authorisation (Part 3, 28.5).
func persist(c *conn, transient tpm2.TPMHandle, name tpm2.TPM2BName, handle tpm2.TPMHandle) error {
	_, err := tpm2.EvictControl{
		Auth:             emptyAuth(tpm2.TPMRHOwner),
		ObjectHandle:     tpm2.NamedHandle{Handle: transient, Name: name},
		PersistentHandle: handle,
	}.Execute(c)
	if err != nil {
		return fmt.Errorf("keep at %v: %w", quote.Handle(handle), err)
	}
	return nil
}
