package tpm

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/internal/testrig/swtpm"
)

// TestAnotherKeyIsLoaded: whoever sits on the bus says that the TPM loaded another of its keys, which it did.
func TestAnotherKeyIsLoaded(t *testing.T) {
	rig := swtpm.New(t)
	d := provisioned(t, rig)
	k := keysOf(t, d, KeysConfig{})
	own, file := fileKey(t, k, elliptic.P256())
	other, _ := fileKey(t, k, elliptic.P256())
	var handle []byte
	must(t, d.do(t.Context(), "load", func(c *conn) error {
		parent, err := d.loadSRK(c)
		must(t, err)
		rsp, err := tpm2.Load{
			ParentHandle: parent.auth(tpm2.PasswordAuth(nil)), InPrivate: tpm2.TPM2BPrivate{Buffer: other.file.private},
			InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](other.file.key.Marshal()),
		}.Execute(c)
		must(t, err)
		handle = binary.BigEndian.AppendUint32(nil, uint32(rsp.ObjectHandle))
		return nil
	}))
	rig.Intercept(func(command, response []byte) []byte {
		if tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) != tpm2.TPMCCLoad || len(response) < 14 {
			return response
		}
		changed := bytes.Replace(response, own.file.key.Name(), other.file.key.Name(), 1)
		copy(changed[10:], handle)
		return changed
	})
	_, err := k.Open(t.Context(), file)
	want(t, err, ErrRefused)
}

// TestMixedPartsBeforeApproval: without an approval, it is the object's own policy that holds the parts of a sealed PIN together.
func TestMixedPartsBeforeApproval(t *testing.T) {
	s := newSealing(t)
	for what, change := range map[string]func(*SealedPIN){
		"token":    func(p *SealedPIN) { p.token = "audit" },
		"SRK":      func(p *SealedPIN) { p.srk = append([]byte{0, 0xb}, make([]byte, sha256.Size)...) },
		"EK":       func(p *SealedPIN) { p.ek = make([]byte, sha256.Size) },
		"nonce":    func(p *SealedPIN) { p.nonce = freshNonce() },
		"approver": func(p *SealedPIN) { p.approver = &newApprover(t).PublicKey },
		"object":   func(p *SealedPIN) { p.public = s.seal("audit").public },
		"nothing":  func(*SealedPIN) {},
	} {
		changed := *s.pin
		change(&changed)
		text, err := changed.Marshal()
		must(t, err)
		if _, err = ParseSealedPIN(text); what == "nothing" {
			must(t, err)
		} else {
			want(t, err, ErrSealedDamaged)
		}
	}
}

// TestMadeSRKIsThePinnedOne: a TPM that would make another storage root key than the one that is pinned, as after a clear, keeps none.
func TestMadeSRKIsThePinnedOne(t *testing.T) {
	rig := swtpm.New(t)
	d := open(t, rig, func(c *Config) { c.SRKName = append([]byte{0, 0xb}, make([]byte, sha256.Size)...) })
	want(t, d.CreateSRK(t.Context()), ErrChanged)
	_, err := d.LoadSRK(t.Context())
	want(t, err, ErrNoSRK)
}

// TestWrongSignatureIsNotReleased: the session keeps signatures from being changed on the way, so that only a TPM that signs wrongly
// is left.
func TestWrongSignatureIsNotReleased(t *testing.T) {
	k := keysOf(t, provisioned(t, swtpm.New(t)), KeysConfig{})
	key, _ := fileKey(t, k, elliptic.P256())
	digest := make([]byte, sha256.Size)
	good, err := key.Sign(nil, digest, crypto.SHA256)
	must(t, err)
	digest[0] = 1
	sig, err := key.release(digest, good)
	want(t, err, ErrRefused)
	want(t, k.Ready(), ErrRefused)
	if sig != nil {
		t.Error("a signature beside the error")
	}
	_, err = key.Sign(nil, digest, crypto.SHA256)
	must(t, err)
	must(t, k.Ready())
}
