package hsm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
)

func octets(t testing.TB, raw []byte) []byte {
	t.Helper()
	if len(raw) > 127 {
		t.Fatal("needs a long length")
	}
	return append([]byte{0x04, byte(len(raw))}, raw...)
}

func point(t testing.TB, curve elliptic.Curve) (*ecdsa.PublicKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey, raw
}

func TestParsePublic(t *testing.T) {
	key, raw := point(t, elliptic.P256())
	alg, got, err := parsePublic(paramsP256, octets(t, raw))
	if err != nil || alg != P256 || !got.Equal(key) {
		t.Fatalf("P-256: %v %v", alg, err)
	}
	key384, raw384 := point(t, elliptic.P384())
	alg, got, err = parsePublic(paramsP384, octets(t, raw384))
	if err != nil || alg != P384 || !got.Equal(key384) {
		t.Fatalf("P-384: %v %v", alg, err)
	}
	edKey, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, params := range [][]byte{paramsEd25519, paramsEd25519OID} {
		alg, got, err = parsePublic(params, octets(t, edKey))
		if err != nil || alg != Ed25519 || !got.Equal(edKey) {
			t.Fatalf("Ed25519: %v %v", alg, err)
		}
	}
	if !strings.HasPrefix(string(octets(t, edKey)), "\x04\x20") {
		t.Error("an Ed25519 point begins with 0420")
	}
}

func TestParsePublicRefusals(t *testing.T) {
	_, raw := point(t, elliptic.P256())
	_, raw384 := point(t, elliptic.P384())
	off := bytes.Clone(raw)
	off[64] ^= 1
	compressed := append([]byte{2 + raw[64]&1}, raw[1:33]...)
	good := octets(t, raw)
	for name, c := range map[string]struct{ params, point []byte }{
		"no parameters":     {nil, good},
		"other curve":       {[]byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23}, good},
		"trailing params":   {append(slices.Clone(paramsP256), 0), good},
		"empty point":       {paramsP256, nil},
		"bare point":        {paramsP256, raw},
		"trailing bytes":    {paramsP256, append(slices.Clone(good), 0)},
		"long-form length":  {paramsP256, append([]byte{0x04, 0x81, 65}, raw...)},
		"short":             {paramsP256, octets(t, raw[:64])},
		"off the curve":     {paramsP256, octets(t, off)},
		"infinity":          {paramsP256, octets(t, []byte{0})},
		"compressed":        {paramsP256, octets(t, compressed)},
		"P-384 as P-256":    {paramsP256, octets(t, raw384)},
		"P-256 as P-384":    {paramsP384, good},
		"Ed25519 too long":  {paramsEd25519, octets(t, make([]byte, 33))},
		"Ed25519 too short": {paramsEd25519, octets(t, make([]byte, 31))},
	} {
		t.Run(name, func(t *testing.T) {
			if alg, key, err := parsePublic(c.params, c.point); !errors.Is(err, ErrUnsupported) || key != nil || alg != 0 {
				t.Fatalf("%v %v %v", alg, key, err)
			}
		})
	}
}

func FuzzParsePublic(f *testing.F) {
	_, raw := point(f, elliptic.P256())
	f.Add(paramsP256, octets(f, raw))
	f.Add(paramsEd25519, octets(f, make([]byte, 32)))
	f.Add(paramsP384, []byte{0x04, 0x00})
	f.Fuzz(func(t *testing.T, params, point []byte) {
		alg, key, err := parsePublic(params, point)
		if (err == nil) != (key != nil) || (err == nil) != (alg != 0) {
			t.Fatalf("%v %v %v", alg, key, err)
		}
		if k, ok := key.(*ecdsa.PublicKey); ok {
			raw, err := k.Bytes()
			if err != nil || !bytes.HasSuffix(point, raw) {
				t.Fatalf("another point came back: %v", err)
			}
		}
	})
}

func TestParsePIN(t *testing.T) {
	for in, want := range map[string]string{"1234": "1234", "1234\n": "1234", "1234\r\n": "1234", " 12 ": " 12 "} {
		if got, err := parsePIN(strings.NewReader(in), "f"); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "\n", "a\nb", "a\n\n", "a\x00", strings.Repeat("x", 256), strings.Repeat("x", 10000)} {
		if got, err := parsePIN(strings.NewReader(in), "f"); err == nil {
			t.Errorf("%q was accepted as %q", in, got)
		}
	}
}
