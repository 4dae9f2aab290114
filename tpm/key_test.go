package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/internal/testrig/signertest"
	"github.com/signet-pki/signet/internal/testrig/swtpm"
	"github.com/signet-pki/signet/tpm/quote"
)

var _ crypto.Signer = (*Key)(nil)

func TestKeyConformance(t *testing.T) {
	rig := swtpm.New(t)
	d := open(t, rig)
	generated, err := d.GenerateKey(t.Context(), testKeyHandle)
	must(t, err)
	signertest.Run(t, func(t *testing.T) crypto.Signer {
		key, err := d.Signer(t.Context(), generated.URI())
		must(t, err)
		if !key.public.Equal(generated.Public()) {
			t.Error("Signer gives another key than GenerateKey")
		}
		return key
	}, signertest.Closed(func(t *testing.T) crypto.Signer {
		other := open(t, rig)
		key, err := other.Signer(t.Context(), generated.URI())
		must(t, err)
		must(t, other.Close())
		return key
	}))
}

func TestKeyURIs(t *testing.T) {
	d := open(t, swtpm.New(t))
	for _, uri := range []string{
		"", "tpm:", "tpm:handle=", "tpm:handle=0x8102001", "tpm:handle=81020010", "tpm:handle=0x8102001G", "tpm:handle=0x40000001",
		"tpm:handle=0x81020010;x=1", "pkcs11:token=a", "tpm:handle=0x8102001A",
	} {
		if _, err := d.Signer(t.Context(), uri); err == nil {
			t.Errorf("%q: no error", uri)
		} else {
			want(t, err, ErrUnsuitable)
		}
	}
}

func TestKeysDiffer(t *testing.T) {
	d := open(t, swtpm.New(t))
	a, err := d.GenerateKey(t.Context(), testKeyHandle)
	must(t, err)
	b, err := d.GenerateKey(t.Context(), testKeyHandle+1)
	must(t, err)
	if a.public.Equal(b.Public()) {
		t.Error("two generated keys are one")
	}
}

func TestSignerRefusesOtherKeys(t *testing.T) {
	d := ready(t, swtpm.New(t))
	_, err := d.Signer(t.Context(), "tpm:handle=0x81020001") // the AK
	want(t, err, ErrUnsuitable)
	_, err = d.Signer(t.Context(), "tpm:handle=0x81010001") // the RSA EK
	want(t, err, ErrUnsuitable)
	exportable := signingTemplate()
	exportable.ObjectAttributes.FixedTPM, exportable.ObjectAttributes.FixedParent = false, false
	if _, err := signingKey(&exportable); err == nil {
		t.Error("an exportable key passes")
	}
}

func TestVanishedKey(t *testing.T) {
	d := open(t, swtpm.New(t))
	key, err := d.GenerateKey(t.Context(), testKeyHandle)
	must(t, err)
	must(t, d.do(t.Context(), "evict", func(c *conn) error {
		_, err := tpm2.EvictControl{
			Auth:             emptyAuth(tpm2.TPMRHOwner),
			ObjectHandle:     tpm2.NamedHandle{Handle: testKeyHandle, Name: tpm2.TPM2BName{Buffer: key.name}},
			PersistentHandle: testKeyHandle,
		}.Execute(c)
		return err
	}))
	_, err = key.Sign(nil, make([]byte, 32), crypto.SHA256)
	want(t, err, ErrKeyNotFound)
}

// TestForgedByUnrestrictedKey: an unrestricted key signs any bytes, also a statement that no TPM made. Only its public area gives
// it away.
func TestForgedByUnrestrictedKey(t *testing.T) {
	d := ready(t, swtpm.New(t))
	q := qualifying("the seal")
	genuine, err := d.CertifyCounter(t.Context(), q)
	must(t, err)
	counter, err := d.LoadCounter(t.Context())
	must(t, err)
	key, err := d.GenerateKey(t.Context(), testKeyHandle)
	must(t, err)

	forged := quote.Statement{Attest: append([]byte{}, genuine.Attest...)}
	forged.Attest[len(forged.Attest)-1]++ // a later counter value
	digest := sha256.Sum256(forged.Attest)
	forged.Signature, err = key.Sign(nil, digest[:], crypto.SHA256)
	must(t, err)
	if _, err := quote.VerifyCounter(key.public, forged, q[:], counter.Name()); err != nil {
		t.Fatalf("the forgery should verify under the forger's key: %v", err)
	}

	var public []byte
	must(t, d.do(t.Context(), "read", func(c *conn) (err error) {
		public, err = readPublic(c, testKeyHandle)
		return err
	}))
	_, err = quote.ParseAK(public)
	want(t, err, quote.ErrKey)
}

func BenchmarkSign(b *testing.B) {
	d := open(b, swtpm.New(b))
	key, err := d.GenerateKey(b.Context(), testKeyHandle)
	must(b, err)
	digest := make([]byte, 32)
	for b.Loop() {
		sig, err := key.Sign(nil, digest, crypto.SHA256)
		must(b, err)
		if !ecdsa.VerifyASN1(key.public, digest, sig) {
			b.Fatal("bad signature")
		}
	}
}

func BenchmarkQuote(b *testing.B) {
	d := ready(b, swtpm.New(b))
	for b.Loop() {
		_, err := d.Quote(b.Context(), qualifying("x"))
		must(b, err)
	}
}

func BenchmarkCertifyCounter(b *testing.B) {
	d := ready(b, swtpm.New(b))
	for b.Loop() {
		_, err := d.CertifyCounter(b.Context(), qualifying("x"))
		must(b, err)
	}
}
