package tpm

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"testing"

	"github.com/signet-pki/signet/internal/testrig/swtpm"
)

// TestCertify has a fresh TPM certify a key. With -update it leaves the vectors of tpm/quote.
func TestCertify(t *testing.T) {
	d := open(t, swtpm.New(t))
	ctx := t.Context()
	ak, err := d.EnsureAK(ctx)
	must(t, err)
	again, err := d.EnsureAK(ctx)
	must(t, err)
	if !bytes.Equal(ak.Name(), again.Name()) {
		t.Error("another AK at the second call")
	}
	key, err := d.GenerateKey(ctx, testKeyHandle)
	must(t, err)
	nonce := qualifying("signet test vector")
	s, public, err := d.Certify(ctx, key, nonce[:])
	must(t, err)
	got, err := ak.VerifyCertify(s, nonce[:], public)
	must(t, err)
	if !got.Equal(key.Public()) {
		t.Error("another key was certified")
	}
	if *update {
		for name, data := range map[string][]byte{
			"devid.certify": s.Attest, "devid.certify.sig": s.Signature, "devid.pub": public, "devid-ak.pub": ak.Marshal(),
		} {
			must(t, os.WriteFile(filepath.Join("quote", "testdata", name), data, 0o600))
		}
	}
}

func TestAnswerChallenge(t *testing.T) {
	d := open(t, swtpm.New(t))
	ctx := t.Context()
	ak, err := d.EnsureAK(ctx)
	must(t, err)
	ek, err := d.EK(ctx)
	must(t, err)
	secret := sha256.Sum256([]byte("secret"))
	blob, encrypted, err := MakeCredential(ek.Public, ak.Name(), secret[:])
	must(t, err)
	answer, err := d.AnswerChallenge(ctx, blob, encrypted)
	must(t, err)
	if !bytes.Equal(answer, secret[:]) {
		t.Error("another secret came out")
	}
	key, err := d.GenerateKey(ctx, testKeyHandle)
	must(t, err)
	for what, name := range map[string][]byte{"another key's name": key.name, "no key's name": append([]byte{0, 0x0b}, secret[:]...)} {
		blob, encrypted, err := MakeCredential(ek.Public, name, secret[:])
		must(t, err)
		if _, err := d.AnswerChallenge(ctx, blob, encrypted); err == nil {
			t.Errorf("%s: the TPM told the secret", what)
		}
	}
	for what, public := range map[string][]byte{"none": nil, "cut short": ek.Public[:20], "an attestation key": ak.Marshal()} {
		if _, _, err := MakeCredential(public, ak.Name(), secret[:]); err == nil {
			t.Errorf("%s: taken for an endorsement key", what)
		}
	}
}
