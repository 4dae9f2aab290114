package signertest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"testing"
)

type refusal struct {
	name   string
	digest []byte
	opts   crypto.SignerOpts
}

func testRefuses(t *testing.T, signer crypto.Signer) {
	cases := ed25519Refusals()
	if _, ok := signer.Public().(*ecdsa.PublicKey); ok {
		cases = ecdsaRefusals(nativeHash(t, signer))
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			sig, err := signer.Sign(rand.Reader, c.digest, c.opts)
			refused(t, sig, err)
		})
	}
}

// ecdsaRefusals are the inputs that CKM_ECDSA and a TPM would sign without a word: both take any bytes for a digest.
func ecdsaRefusals(h crypto.Hash) []refusal {
	other := crypto.SHA384
	if h == crypto.SHA384 {
		other = crypto.SHA256
	}
	good := digest(h, []byte("good"))
	return []refusal{
		{"empty digest", []byte{}, h},
		{"nil digest", nil, h},
		{"digest one byte short", good[:len(good)-1], h},
		{"digest one byte long", append(append([]byte{}, good...), 0), h},
		{"message in place of a digest", []byte("this is a message, not its digest, and longer than any digest is, 64 bytes"), h},
		{"digest of another hash than announced", digest(other, []byte("x")), h},
		{"announced hash of another length", good, other},
		{"unhashed", good, crypto.Hash(0)},
		{"SHA-1", make([]byte, 20), crypto.SHA1},
		{"MD5", make([]byte, 16), crypto.MD5},
		{"unknown hash", good, crypto.Hash(99)},
		{"no options", good, nil},
	}
}

// ed25519Refusals: pure Ed25519 only. Ed25519ph (SHA-512 as option) would verify under other rules than the
// certificate formats know (RFC 8410 §3).
func ed25519Refusals() []refusal {
	return []refusal{
		{"pre-hashed SHA-512", make([]byte, 64), crypto.SHA512},
		{"SHA-256", make([]byte, 32), crypto.SHA256},
		{"no options", []byte("message"), nil},
	}
}

func refused(t *testing.T, sig []byte, err error) {
	t.Helper()
	if err == nil {
		t.Error("no error")
	}
	if sig != nil {
		t.Errorf("%d bytes were returned with the refusal", len(sig))
	}
}

func testClosed(t *testing.T, signer crypto.Signer) {
	if signer.Public() == nil {
		t.Error("Public is nil after close: it is cached and must stay")
	}
	h := nativeHash(t, signer)
	sig, err := signer.Sign(rand.Reader, digest(h, []byte("closed")), h)
	refused(t, sig, err)
}
