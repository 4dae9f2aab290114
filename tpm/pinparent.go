package tpm

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/signet-pki/signet/tpm/quote"
)

// pinnedStorageKey is the key that the PIN was sealed under. Without it the endorsement key tells, since TPM2_Clear leaves that
// alone (Part 3, 24.6), whether this is another TPM.
func (d *Device) pinnedStorageKey(c *conn, s *SealedPIN) (storageKey, error) {
	key, err := readStorageKey(c)
	if err == nil && bytes.Equal(key.Name(), s.srk) {
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
		return storageKey{}, fmt.Errorf("%w: the storage root key at %v is gone, or a new one", ErrSealedCleared, quote.Handle(SRKHandle))
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
