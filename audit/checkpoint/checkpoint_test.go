package checkpoint_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	flog "github.com/transparency-dev/formats/log"
	fnote "github.com/transparency-dev/formats/note"

	"github.com/signet-pki/signet/audit/checkpoint"
)

const origin = "signet.test/log"

func newKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignedByUsVerifiesElsewhere(t *testing.T) {
	key := newKey(t, elliptic.P256())
	signer, err := checkpoint.NewSigner(origin, key)
	if err != nil {
		t.Fatal(err)
	}
	want := checkpoint.Checkpoint{Origin: origin, Size: 42, Root: [32]byte{1, 2, 3}}
	signed, err := checkpoint.Sign(want, signer)
	if err != nil {
		t.Fatal(err)
	}
	text, err := checkpoint.VerifierKey(origin, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere, err := fnote.NewECDSAVerifier(text)
	if err != nil {
		t.Fatal(err)
	}
	c, rest, _, err := flog.ParseCheckpoint(signed, origin, elsewhere)
	if err != nil || c.Size != 42 || !bytes.Equal(c.Hash, want.Root[:]) || len(rest) != 0 {
		t.Errorf("the independent library reads %+v, %v", c, err)
	}
	verifier, err := checkpoint.NewVerifier(origin, &key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := checkpoint.Open(signed, verifier); err != nil || got != want {
		t.Errorf("Open = %+v, %v", got, err)
	}
	other, err := checkpoint.NewVerifier(origin, &newKey(t, elliptic.P256()).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := checkpoint.Open(signed, other); !errors.Is(err, checkpoint.ErrUnsigned) {
		t.Errorf("another key: %v", err)
	}
	if _, err := checkpoint.Open(bytes.Replace(signed, []byte("\n42\n"), []byte("\n43\n"), 1), verifier); !errors.Is(err, checkpoint.ErrUnsigned) {
		t.Errorf("another size: %v", err)
	}
}

// liar returns signatures over something else, as a broken device might.
type liar struct{ *ecdsa.PrivateKey }

func (l liar) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	wrong := bytes.Clone(digest)
	wrong[0] ^= 1
	return l.PrivateKey.Sign(r, wrong, o)
}

func TestWrongSignatureIsNotReleased(t *testing.T) {
	signer, err := checkpoint.NewSigner(origin, liar{newKey(t, elliptic.P256())})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: origin}, signer); err == nil {
		t.Errorf("released %q", b)
	}
}

func TestKeysAreRefused(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-384": newKey(t, elliptic.P384()), "Ed25519": ed, "none": nil} {
		if _, err := checkpoint.NewSigner(origin, key); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
	for _, name := range []string{"", "a b", "a+b", "a\nb", "\xff", strings.Repeat("x", 256)} {
		if _, err := checkpoint.NewSigner(name, newKey(t, elliptic.P256())); !errors.Is(err, checkpoint.ErrMalformed) {
			t.Errorf("name %q: %v", name, err)
		}
	}
}

func exampleSeal() checkpoint.Seal {
	return checkpoint.Seal{
		Origin: origin, Size: 7, Root: [32]byte{9}, Number: 2, Previous: [32]byte{0xab}, Counter: 300, Reset: 5, Restart: 1,
		Time: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC),
	}
}

func TestSealText(t *testing.T) {
	want := "signet/seal@v1\nsignet.test/log\n7\nCQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n2\n" +
		"ab" + strings.Repeat("0", 62) + "\n300\n5.1\n2026-03-01T12:00:00Z\n"
	s := exampleSeal()
	if string(s.Text()) != want {
		t.Errorf("text\n%s, want\n%s", s.Text(), want)
	}
	if got, err := checkpoint.ParseSeal([]byte(want)); err != nil || got != s {
		t.Errorf("ParseSeal = %+v, %v", got, err)
	}
	for _, change := range [][2]string{
		{"@v1", "@v2"},
		{"\n7\n", "\n07\n"},
		{"\n7\n", "\n+7\n"},
		{"\nab", "\nAB"},
		{"5.1", "5"},
		{"5.1", "5.1.1"},
		{"5.1", "5.4294967296"},
		{"00Z\n", "00+00:00\n"},
		{"00Z\n", "00Z"},
		{"00Z\n", "00Z\n\n"},
		{"00Z", "00.0Z"},
		{"\n2\n", "\n1\n"},
		{"\n2\n", "\n0\n"},
		{"CQA", "CQB"},
		{"\n7\n", "\n281474976710657\n"},
	} {
		bad := strings.Replace(want, change[0], change[1], 1)
		if bad == want {
			t.Fatalf("%q changes nothing", change)
		}
		got, err := checkpoint.ParseSeal([]byte(bad))
		if change[0] == "CQA" && err == nil && got.Root != s.Root {
			continue // another root, as well formed
		}
		if !errors.Is(err, checkpoint.ErrMalformed) {
			t.Errorf("%q for %q: %v", change[1], change[0], err)
		}
	}
}

func FuzzParseSeal(f *testing.F) {
	f.Add(exampleSeal().Text())
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := checkpoint.ParseSeal(text)
		if err == nil && !bytes.Equal(s.Text(), text) {
			t.Fatal("two spellings of one seal")
		}
		if err != nil && !errors.Is(err, checkpoint.ErrMalformed) {
			t.Fatalf("unexpected kind of error %v", err)
		}
	})
}

func FuzzParseBody(f *testing.F) {
	f.Add(checkpoint.Checkpoint{Origin: origin, Size: 3}.Body())
	f.Add([]byte("a\n1\nAAAA\nextension\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := checkpoint.ParseBody(body)
		if err == nil && !bytes.Equal(c.Body(), body) {
			t.Fatal("two spellings of one checkpoint")
		}
		if err != nil && !errors.Is(err, checkpoint.ErrMalformed) {
			t.Fatalf("unexpected kind of error %v", err)
		}
	})
}
