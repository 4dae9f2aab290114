package tpm

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"encoding/binary"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

// TestEverySessionIsSalted: a session without a salt encrypts with a key that whoever listens can derive, too. All that PINs and keys in files
// need have one, encrypted to the storage root key.
func TestEverySessionIsSalted(t *testing.T) {
	s := newSealing(t)
	s.approve(s.pcrs())
	k := keysOf(t, s.d, KeysConfig{Auth: []byte("a value of 24 characters")})
	var mu sync.Mutex
	var sessions [][]byte
	s.rig.Intercept(func(command, response []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		if tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) == tpm2.TPMCCStartAuthSession {
			sessions = append(sessions, bytes.Clone(command[10:]))
		}
		return response
	})
	began := func(what string, want int) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if len(sessions) != want {
			t.Errorf("%s: %d sessions, want %d", what, len(sessions), want)
		}
		for _, parameters := range sessions { // TPM2_StartAuthSession (Part 3, 11.1): tpmKey, bind, nonceCaller, encryptedSalt
			nonce := int(binary.BigEndian.Uint16(parameters[8:]))
			salt := binary.BigEndian.Uint16(parameters[10+nonce:])
			if key := binary.BigEndian.Uint32(parameters); key != SRKHandle || salt == 0 {
				t.Errorf("%s: a session with a salt of %d bytes to %#x", what, salt, key)
			}
		}
		sessions = nil
	}
	s.seal("issuing")
	began("seal", 1)
	s.releases()
	began("unseal", 1)
	key, _ := fileKey(t, k, elliptic.P256())
	began("create and open", 2)
	_, err := key.Sign(nil, make([]byte, 32), crypto.SHA256)
	must(t, err)
	began("sign", 1)
}
