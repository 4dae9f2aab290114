package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/internal/testrig/signertest"
	"github.com/signet-pki/signet/internal/testrig/swtpm"
	"github.com/signet-pki/signet/tpm/quote"
)

var _ crypto.Signer = (*FileKey)(nil)

// provisioned is a device with a storage root key.
func provisioned(t testing.TB, rig *swtpm.TPM, change ...func(*Config)) *Device {
	t.Helper()
	d := open(t, rig, change...)
	must(t, d.CreateSRK(t.Context()))
	return d
}

func keysOf(t testing.TB, d *Device, config KeysConfig) *Keys {
	t.Helper()
	k, err := d.Keys(config)
	must(t, err)
	return k
}

// fileKey is a new key that went through its file.
func fileKey(t testing.TB, k *Keys, curve elliptic.Curve) (*FileKey, KeyFile) {
	t.Helper()
	made, err := k.Create(t.Context(), curve)
	must(t, err)
	text, err := made.PEM()
	must(t, err)
	read, err := ParseKeyFile(text)
	must(t, err)
	key, err := k.Open(t.Context(), read)
	must(t, err)
	return key, read
}

func TestFileKeyConformance(t *testing.T) {
	rig := swtpm.New(t)
	d := provisioned(t, rig)
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384()} {
		t.Run(name, func(t *testing.T) {
			k := keysOf(t, d, KeysConfig{Queue: 64})
			_, file := fileKey(t, k, curve)
			signertest.Run(t, func(t *testing.T) crypto.Signer {
				key, err := k.Open(t.Context(), file)
				must(t, err)
				return key
			}, signertest.Closed(func(t *testing.T) crypto.Signer {
				other := open(t, rig)
				key, err := keysOf(t, other, KeysConfig{}).Open(t.Context(), file)
				must(t, err)
				must(t, other.Close())
				want(t, key.keys.Ready(), ErrClosed)
				return key
			}))
		})
	}
	_, err := keysOf(t, d, KeysConfig{}).Create(t.Context(), elliptic.P521())
	want(t, err, ErrUnsuitable)
}

func TestCreateSRKRefusesWhatExists(t *testing.T) {
	d := provisioned(t, swtpm.New(t))
	before, err := d.LoadSRK(t.Context())
	must(t, err)
	want(t, d.CreateSRK(t.Context()), ErrExists)
	after, err := d.LoadSRK(t.Context())
	must(t, err)
	if !bytes.Equal(before.Name(), after.Name()) {
		t.Error("another SRK")
	}
}

func TestNothingIsMadeBecauseItIsMissing(t *testing.T) {
	d := open(t, swtpm.New(t))
	_, err := d.LoadSRK(t.Context())
	want(t, err, ErrNoSRK)
	k := keysOf(t, d, KeysConfig{})
	_, err = k.Create(t.Context(), elliptic.P256())
	want(t, err, ErrNoSRK)
	want(t, k.Check(t.Context()), ErrNoSRK)
}

// TestSRKMustBeOne puts other keys where the SRK belongs.
func TestSRKMustBeOne(t *testing.T) {
	d := open(t, swtpm.New(t))
	must(t, d.do(t.Context(), "plant", func(c *conn) error {
		rsp, err := tpm2.CreatePrimary{PrimaryHandle: emptyAuth(tpm2.TPMRHOwner), InPublic: tpm2.New2B(signingTemplate())}.Execute(c)
		if err != nil {
			return err
		}
		defer c.flush(rsp.ObjectHandle)
		return persist(c, rsp.ObjectHandle, rsp.Name, SRKHandle)
	}))
	_, err := d.LoadSRK(t.Context())
	want(t, err, ErrUnsuitable)
	want(t, d.CreateSRK(t.Context()), ErrExists)
}

func TestAuthorisationValue(t *testing.T) {
	rig := swtpm.New(t)
	d := provisioned(t, rig)
	k := keysOf(t, d, KeysConfig{Auth: []byte("correct horse")})
	key, file := fileKey(t, k, elliptic.P256())
	if file.EmptyAuth() {
		t.Error("the file says that the key needs no authorisation value")
	}
	_, err := key.Sign(nil, make([]byte, 32), crypto.SHA256)
	must(t, err)
	for _, auth := range []string{"", "correct hors", "battery staple"} {
		_, err := keysOf(t, d, KeysConfig{Auth: []byte(auth)}).Open(t.Context(), file)
		want(t, err, ErrAuth)
	}
	_, open := fileKey(t, keysOf(t, d, KeysConfig{}), elliptic.P256())
	_, err = k.Open(t.Context(), open)
	want(t, err, ErrAuth)
	_, err = d.Keys(KeysConfig{Auth: make([]byte, 33)})
	want(t, err, ErrAuth)
	must(t, k.Check(t.Context()))
}

// onTheBus collects what goes to the TPM and back.
func onTheBus(rig *swtpm.TPM) (all func() []byte, commands *sync.Map) {
	var mu sync.Mutex
	var seen []byte
	commands = &sync.Map{}
	rig.Intercept(func(command, response []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		seen = append(append(seen, command...), response...)
		commands.Store(tpm2.TPMCC(uint32(command[6])<<24|uint32(command[7])<<16|uint32(command[8])<<8|uint32(command[9])), true)
		return response
	})
	return func() []byte { mu.Lock(); defer mu.Unlock(); return bytes.Clone(seen) }, commands
}

// TestNothingInClear listens on the bus: neither authorisation values nor digests are there to be read.
func TestNothingInClear(t *testing.T) {
	rig := swtpm.New(t)
	d := provisioned(t, rig)
	seen, commands := onTheBus(rig)
	auth, digest := []byte("a value of 24 characters"), []byte("thirty-two bytes: a digest, no?!")
	k := keysOf(t, d, KeysConfig{Auth: auth})
	key, _ := fileKey(t, k, elliptic.P256())
	_, err := key.Sign(nil, digest, crypto.SHA256)
	must(t, err)
	for _, cc := range []tpm2.TPMCC{tpm2.TPMCCCreate, tpm2.TPMCCLoad, tpm2.TPMCCStartAuthSession, tpm2.TPMCCSign} {
		if _, ok := commands.Load(cc); !ok {
			t.Errorf("command %v was not seen: this test listens to nothing", cc)
		}
	}
	if bytes.Contains(seen(), auth) || bytes.Contains(seen(), digest) {
		t.Error("an authorisation value or a digest is on the bus in clear")
	}
	// What an existing key without a session does, so that the test is known to see it.
	plain, err := d.GenerateKey(t.Context(), testKeyHandle)
	must(t, err)
	_, err = plain.Sign(nil, digest, crypto.SHA256)
	must(t, err)
	if !bytes.Contains(seen(), digest) {
		t.Error("the digest of an unencrypted command was not seen")
	}
}

// TestInterposer changes one byte of each answer to the commands that use a key.
func TestInterposer(t *testing.T) {
	rig := swtpm.New(t)
	d := provisioned(t, rig)
	key, _ := fileKey(t, keysOf(t, d, KeysConfig{}), elliptic.P256())
	var position atomic.Int64
	rig.Intercept(func(command, response []byte) []byte {
		if command[9] == byte(tpm2.TPMCCSign&0xff) && command[8] == 1 {
			at := int(position.Load())
			changed := bytes.Clone(response)
			if at < len(changed) {
				changed[at] ^= 1
			}
			return changed
		}
		return response
	})
	for at := 2; at < 138; at += 4 { // past the tag: parameters, nonce, attributes and HMAC
		position.Store(int64(at))
		if sig, err := key.Sign(nil, make([]byte, 32), crypto.SHA256); err == nil {
			t.Errorf("byte %d of the answer was changed, and %x came out", at, sig)
		}
	}
	rig.Intercept(nil)
	_, err := key.Sign(nil, make([]byte, 32), crypto.SHA256)
	must(t, err)
}

func TestForeignAndChangedFiles(t *testing.T) {
	first, second := swtpm.New(t), swtpm.New(t)
	d, other := provisioned(t, first), provisioned(t, second)
	k := keysOf(t, d, KeysConfig{})
	_, file := fileKey(t, k, elliptic.P256())
	_, err := keysOf(t, other, KeysConfig{}).Open(t.Context(), file)
	want(t, err, ErrForeignKey)

	_, swapped := fileKey(t, k, elliptic.P256())
	swapped.private = file.private
	_, err = k.Open(t.Context(), swapped)
	want(t, err, ErrForeignKey)

	text, err := file.PEM()
	must(t, err)
	block, _ := pem.Decode(text)
	for at := range block.Bytes {
		changed := bytes.Clone(block.Bytes)
		changed[at] ^= 1 << (at % 8)
		read, err := ParseKeyFile(pem.EncodeToMemory(&pem.Block{Type: pemTSS2, Bytes: changed}))
		if err == nil {
			_, err = k.Open(t.Context(), read)
		}
		if !errors.Is(err, ErrKeyFile) && !errors.Is(err, ErrUnsuitable) && !errors.Is(err, ErrForeignKey) {
			t.Errorf("bit in byte %d of %d: %v", at, len(block.Bytes), err)
		}
	}
	must(t, d.Check(t.Context()))
}

func TestClearedOrExchangedTPM(t *testing.T) {
	first, second := swtpm.New(t), swtpm.New(t)
	d := provisioned(t, first)
	k := keysOf(t, d, KeysConfig{})
	key, file := fileKey(t, k, elliptic.P256())
	srk, err := d.LoadSRK(t.Context())
	must(t, err)

	first.Restart()
	_, err = key.Sign(nil, make([]byte, 32), crypto.SHA256)
	must(t, err) // a key in a file needs nothing that a boot takes

	provisioned(t, second)
	pinned := open(t, second, func(c *Config) { c.SRKName = srk.Name() })
	_, err = keysOf(t, pinned, KeysConfig{}).Open(t.Context(), file)
	want(t, err, ErrChanged)
	mine := d.link
	d.link = newLink(second.Path()) // as if the chip had been exchanged, without notice
	_, err = key.Sign(nil, make([]byte, 32), crypto.SHA256)
	want(t, err, ErrForeignKey)
	want(t, err, ErrChanged)
	want(t, k.Check(t.Context()), ErrChanged)
	d.link = mine
	must(t, k.Check(t.Context()))

	out, err := tool(t, t.TempDir(), "tpm2_clear", "-T", first.TCTI())
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want(t, k.Check(t.Context()), ErrNoSRK)
	_, err = key.Sign(nil, make([]byte, 32), crypto.SHA256)
	want(t, err, ErrNoSRK)
	want(t, d.CreateSRK(t.Context()), nil)
	want(t, k.Check(t.Context()), ErrChanged) // a clear changes the storage seed
}

// TestQueueIsBounded lets callers come to a slow chip.
func TestQueueIsBounded(t *testing.T) {
	rig := swtpm.New(t)
	d := provisioned(t, rig)
	k := keysOf(t, d, KeysConfig{Queue: 3})
	key, _ := fileKey(t, k, elliptic.P256())
	release := rig.Hang()
	errs := make(chan error, 3)
	for range cap(errs) {
		go func() { _, err := key.Sign(nil, make([]byte, 32), crypto.SHA256); errs <- err }()
	}
	for deadline := time.Now().Add(10 * time.Second); k.signing.Load() < 3; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("three callers do not wait")
		}
	}
	want(t, k.Ready(), ErrBusy)
	_, err := key.Sign(nil, make([]byte, 32), crypto.SHA256)
	want(t, err, ErrBusy)
	release()
	for range cap(errs) {
		must(t, <-errs)
	}
	must(t, k.Ready())
	_, err = key.Sign(nil, make([]byte, 32), crypto.SHA256)
	must(t, err)
}

func TestWrongSignatureIsRemembered(t *testing.T) {
	rig := swtpm.New(t)
	d := provisioned(t, rig)
	k := keysOf(t, d, KeysConfig{})
	key, _ := fileKey(t, k, elliptic.P256())
	other, _ := fileKey(t, k, elliptic.P256())
	genuine := key.file.key
	key.file.key = other.file.key // as if the chip had signed with another key
	key.file.private = other.file.private
	other.file.key = genuine
	_, err := key.SignContext(t.Context(), make([]byte, 32), crypto.SHA256)
	must(t, err)
	k.bad.Store(time.Now().UnixNano())
	want(t, k.Ready(), ErrRefused)
	want(t, k.Check(t.Context()), ErrRefused)
	k.bad.Store(time.Now().Add(-2 * badFor).UnixNano())
	must(t, k.Check(t.Context()))
}

// TestKeysAreProbed removes a key's usability and waits for nobody to sign.
func TestKeysAreProbed(t *testing.T) {
	d := provisioned(t, swtpm.New(t))
	k := keysOf(t, d, KeysConfig{})
	fileKey(t, k, elliptic.P256())
	key, _ := fileKey(t, k, elliptic.P256())
	key.file.private = bytes.Clone(key.file.private)
	key.file.private[8] ^= 1
	var failed int
	for range 4 { // in turn, so half of the probes
		k.proven = time.Time{}
		if err := k.Check(t.Context()); err != nil {
			want(t, err, ErrForeignKey)
			failed++
		}
	}
	if failed != 2 {
		t.Errorf("%d of four probes found it", failed)
	}
}

func TestHeldKeys(t *testing.T) {
	d := ready(t, swtpm.New(t))
	must(t, d.CreateSRK(t.Context()))
	k := keysOf(t, d, KeysConfig{Auth: []byte("value")})
	srk, err := d.LoadSRK(t.Context())
	must(t, err)
	ak, err := d.LoadAK(t.Context())
	must(t, err)
	all := quote.HeldKeys{SRKPublic: srk.Marshal(), Keys: map[string]quote.HeldStatement{}}
	for label, curve := range map[string]elliptic.Curve{"root": elliptic.P384(), "audit": elliptic.P256()} {
		key, file := fileKey(t, k, curve)
		q := quote.HeldQualifying("signet test vector", label)
		s, err := k.Certify(t.Context(), key, q[:])
		must(t, err)
		all.Keys[label] = quote.HeldStatement{Public: file.Key().Marshal(), Attest: s.Attest, Signature: s.Signature}
	}
	got, err := all.Verify(ak, "signet test vector")
	must(t, err)
	if len(got) != 2 || !got["audit"].Public().Equal(mustParse(t, all.Keys["audit"].Public)) {
		t.Error("other keys than were certified")
	}
	if *update {
		writeHeld(t, all, ak)
	}
}

func mustParse(t testing.TB, public []byte) *ecdsa.PublicKey {
	t.Helper()
	key, err := quote.ParseHeldKey(public)
	must(t, err)
	return key.Public()
}

func writeHeld(t *testing.T, all quote.HeldKeys, ak *quote.AK) {
	t.Helper()
	text, err := marshalIndent(all)
	must(t, err)
	for name, data := range map[string][]byte{"tpm-keys.json": text, "tpm-keys-ak.pub": ak.Marshal()} {
		must(t, os.WriteFile(filepath.Join("quote", "testdata", name), data, 0o600))
	}
}

// TestCancelledWait leaves the queue.
func TestCancelledWait(t *testing.T) {
	rig := swtpm.New(t)
	d := provisioned(t, rig)
	key, _ := fileKey(t, keysOf(t, d, KeysConfig{}), elliptic.P256())
	release := rig.Hang()
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := key.SignContext(ctx, make([]byte, 32), crypto.SHA256)
	if err == nil {
		t.Error("signed after the caller had left")
	}
	if n := key.keys.signing.Load(); n != 0 {
		t.Errorf("%d places are taken", n)
	}
}

func BenchmarkFileKey(b *testing.B) {
	d := provisioned(b, swtpm.New(b))
	key, _ := fileKey(b, keysOf(b, d, KeysConfig{}), elliptic.P256())
	for b.Loop() {
		_, err := key.Sign(nil, make([]byte, 32), crypto.SHA256)
		must(b, err)
	}
}

func marshalIndent(v any) ([]byte, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	return append(text, '\n'), err
}
