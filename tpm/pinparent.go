package tpm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/tpm/quote"
)

// storageHandle is where the storage root key belongs (TCG TPM v2.0 Provisioning Guidance, 7.8).
const storageHandle = 0x81000001

// storageKey is the storage root key, with the name that its own public area gives it.
type storageKey struct {
	public tpm2.TPMTPublic
	name   tpm2.TPM2BName
}

func (k storageKey) auth(session tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: storageHandle, Name: k.name, Auth: session}
}

// salted encrypts a session's salt to the key: who only listens on the bus, or pretends to be the TPM, does not learn the
// session's keys (Part 1, 19.6.11).
func (k storageKey) salted() tpm2.AuthOption { return tpm2.Salted(storageHandle, k.public) }

func readStorageKey(c *conn) (storageKey, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(storageHandle)}.Execute(c)
	if err != nil {
		return storageKey{}, err
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return storageKey{}, fmt.Errorf("%w: storage root key: %w", ErrRefused, err)
	}
	a := public.ObjectAttributes
	if !a.Restricted || !a.Decrypt || a.SignEncrypt || !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin || public.NameAlg != tpm2.TPMAlgSHA256 {
		return storageKey{}, fmt.Errorf("%w: what is at %v is no storage root key", ErrUnsuitable, quote.Handle(storageHandle))
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return storageKey{}, fmt.Errorf("%w: storage root key: %w", ErrRefused, err)
	}
	return storageKey{public: *public, name: *name}, nil
}

// ensureStorageKey makes the key from the TCG's template where there is none: the same TPM makes the same one until it is cleared.
func ensureStorageKey(c *conn) (storageKey, error) {
	key, err := readStorageKey(c)
	if !isNoObject(err) {
		return key, err
	}
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: emptyAuth(tpm2.TPMRHOwner), InPublic: tpm2.New2B(tpm2.ECCSRKTemplate)}.Execute(c)
	if err != nil {
		return storageKey{}, fmt.Errorf("make storage root key: %w", err)
	}
	defer c.flush(rsp.ObjectHandle)
	if err := persist(c, rsp.ObjectHandle, rsp.Name, storageHandle); err != nil {
		return storageKey{}, err
	}
	return readStorageKey(c)
}

// pinnedStorageKey is the key that the PIN was sealed under. Without it the endorsement key tells, since TPM2_Clear leaves that
// alone (Part 3, 24.6), whether this is another TPM.
func (d *Device) pinnedStorageKey(c *conn, s *SealedPIN) (storageKey, error) {
	key, err := readStorageKey(c)
	if err == nil && bytes.Equal(key.name.Buffer, s.srk) {
		return key, nil
	}
	if err != nil && !isNoObject(err) && !errors.Is(err, ErrUnsuitable) {
		return storageKey{}, err
	}
	ek, err := d.digestOfEK(c)
	if err != nil {
		return storageKey{}, err
	}
	if bytes.Equal(ek, s.ek) {
		return storageKey{}, fmt.Errorf("%w: the storage root key at %v is gone, or a new one", ErrSealedCleared, quote.Handle(storageHandle))
	}
	return storageKey{}, fmt.Errorf("%w: by its endorsement key", ErrSealedElsewhere)
}

func (d *Device) digestOfEK(c *conn) ([]byte, error) {
	ek, err := d.loadEK(c)
	if err != nil {
		return nil, fmt.Errorf("EK: %w", err)
	}
	defer ek.release(c)
	digest := sha256.Sum256(ek.Public)
	return digest[:], nil
}
