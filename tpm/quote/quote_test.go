package quote

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// The vectors in testdata were made by swtpm; `go test ./tpm -run TestActivation -update` makes them anew.

func vector(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func vectors(t testing.TB) (q, nv Statement, b Bound, qualifying []byte) {
	t.Helper()
	q = Statement{Attest: vector(t, "1.quote"), Signature: vector(t, "1.quote.sig"), PCRs: vector(t, "1.pcrs")}
	nv = Statement{Attest: vector(t, "1.nv"), Signature: vector(t, "1.nv.sig")}
	binding, err := ParseBinding(vector(t, "ak-binding.json"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err = binding.Verify(); err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("signet test vector"))
	return q, nv, b, digest[:]
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("got %v, want %v", err, target)
	}
}

func TestVectorsVerify(t *testing.T) {
	q, nv, b, qualifying := vectors(t)
	quoted, err := b.AK.VerifyQuote(q, qualifying, PlatformPCRs())
	if err != nil {
		t.Fatal(err)
	}
	counter, err := b.AK.VerifyCounter(nv, qualifying, b.Counter.Name())
	if err != nil {
		t.Fatal(err)
	}
	if quoted.Clock.Reset != counter.Clock.Reset || counter.Value == 0 || quoted.FirmwareVersion == 0 {
		t.Errorf("%+v %+v", quoted, counter)
	}
	separator := sha256.Sum256(append(make([]byte, 32), sum(make([]byte, 4))...))
	for _, index := range PlatformPCRs().PCRs() {
		if !bytes.Equal(quoted.PCRs[index], separator[:]) {
			t.Errorf("PCR %d is %x", index, quoted.PCRs[index])
		}
	}
}

func sum(data []byte) []byte {
	digest := sha256.Sum256(data)
	return digest[:]
}

// resign signs a changed statement with a new key, so that the check under test is the only one that fails.
func resign(t *testing.T, s Statement) (*ecdsa.PublicKey, Statement) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if s.Signature, err = ecdsa.SignASN1(rand.Reader, key, sum(s.Attest)); err != nil {
		t.Fatal(err)
	}
	return &key.PublicKey, s
}

func patch(data []byte, offset int, bytes ...byte) []byte {
	changed := append([]byte{}, data...)
	copy(changed[offset:], bytes)
	return changed
}

func TestEachFailureHasItsError(t *testing.T) {
	q, nv, b, qualifying := vectors(t)
	all := []error{ErrMalformed, ErrMagic, ErrType, ErrQualifying, ErrSelection, ErrPCRDigest, ErrName, ErrContents, ErrSignature, ErrKey}
	quoteCases := []struct {
		name       string
		change     func(*Statement)
		qualifying []byte
		sel        string
		want       error
	}{
		{"magic", func(s *Statement) { s.Attest = patch(s.Attest, 0, 0) }, qualifying, "", ErrMagic},
		{"a counter statement", func(s *Statement) { s.Attest = nv.Attest }, qualifying, "", ErrType},
		{"time attestation", func(s *Statement) { s.Attest = patch(s.Attest, 4, 0x80, 0x19) }, qualifying, "", ErrType},
		{"qualifying data", nil, sum([]byte("other")), "", ErrQualifying},
		{"no qualifying data", nil, nil, "", ErrQualifying},
		{"PCR value", func(s *Statement) { s.PCRs = patch(s.PCRs, 40, 0) }, qualifying, "", ErrPCRDigest},
		{"PCR values missing", func(s *Statement) { s.PCRs = nil }, qualifying, "", ErrPCRDigest},
		{"digest of too few values", func(s *Statement) {
			s.PCRs = s.PCRs[:64]
			s.Attest = patch(s.Attest, 113, sum(s.PCRs)...)
		}, qualifying, "", ErrPCRDigest},
		{"PCR digest", func(s *Statement) { s.Attest = patch(s.Attest, 120, 0, 0) }, qualifying, "", ErrPCRDigest},
		{"another bank", func(s *Statement) { s.Attest = patch(s.Attest, 105, 0, 0x0c) }, qualifying, "", ErrMalformed},
		{"more PCRs", func(s *Statement) { s.Attest = patch(s.Attest, 109, 1) }, qualifying, "", ErrSelection},
		{"trailing byte", func(s *Statement) { s.Attest = append(append([]byte{}, s.Attest...), 0) }, qualifying, "", ErrMalformed},
		{"cut short", func(s *Statement) { s.Attest = s.Attest[:100] }, qualifying, "", ErrMalformed},
		{"empty", func(s *Statement) { s.Attest = nil }, qualifying, "", ErrMalformed},
		{"huge", func(s *Statement) { s.Attest = make([]byte, 1<<20) }, qualifying, "", ErrMalformed},
		{"many banks", func(s *Statement) { s.Attest = patch(s.Attest, 101, 0xff, 0xff, 0xff, 0xff) }, qualifying, "", ErrMalformed},
	}
	for _, c := range quoteCases {
		t.Run("quote/"+c.name, func(t *testing.T) {
			s := q
			if c.change != nil {
				c.change(&s)
			}
			key, s := resign(t, s)
			_, err := VerifyQuote(key, s, c.qualifying, PlatformPCRs())
			only(t, err, c.want, all)
		})
	}
	name := b.Counter.Name()
	counterCases := []struct {
		name       string
		change     func(*Statement)
		qualifying []byte
		nvName     []byte
		want       error
	}{
		{"magic", func(s *Statement) { s.Attest = patch(s.Attest, 0, 0) }, qualifying, name, ErrMagic},
		{"a quote", func(s *Statement) { s.Attest = q.Attest }, qualifying, name, ErrType},
		{"qualifying data", nil, sum([]byte("other")), name, ErrQualifying},
		{"another index", nil, qualifying, patch(name, 10, name[10]^1), ErrName},
		{"no name", nil, qualifying, nil, ErrName},
		{"offset", func(s *Statement) { s.Attest = patch(s.Attest, 137, 0, 1) }, qualifying, name, ErrContents},
		{"seven bytes", func(s *Statement) { s.Attest = patch(s.Attest, 139, 0, 7)[:148] }, qualifying, name, ErrContents},
		{"size beyond the end", func(s *Statement) { s.Attest = patch(s.Attest, 139, 0, 9) }, qualifying, name, ErrMalformed},
		{"safe is no boolean", func(s *Statement) { s.Attest = patch(s.Attest, 92, 7) }, qualifying, name, ErrMalformed},
		{"PCR values beside it", func(s *Statement) { s.PCRs = q.PCRs }, qualifying, name, ErrMalformed},
	}
	for _, c := range counterCases {
		t.Run("counter/"+c.name, func(t *testing.T) {
			s := nv
			if c.change != nil {
				c.change(&s)
			}
			key, s := resign(t, s)
			_, err := VerifyCounter(key, s, c.qualifying, c.nvName)
			only(t, err, c.want, all)
		})
	}
}

// only demands that exactly one of all is reported.
func only(t *testing.T, err, target error, all []error) {
	t.Helper()
	want(t, err, target)
	for _, other := range all {
		if !errors.Is(target, other) && errors.Is(err, other) {
			t.Errorf("%v is also %q", err, other)
		}
	}
}

func TestSignatureAndKey(t *testing.T) {
	q, nv, b, qualifying := vectors(t)
	other, _ := resign(t, q)
	_, err := VerifyQuote(other, q, qualifying, PlatformPCRs())
	only(t, err, ErrSignature, []error{ErrSignature, ErrKey, ErrPCRDigest})
	_, err = VerifyQuote(nil, q, qualifying, PlatformPCRs())
	want(t, err, ErrKey)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = VerifyCounter(&p384.PublicKey, nv, qualifying, b.Counter.Name())
	want(t, err, ErrKey)
	_, err = VerifyQuote(b.AK.Public(), q, qualifying, Selection{})
	want(t, err, ErrSelection)
	sel, err := ParseSelection("sha256:0")
	if err != nil {
		t.Fatal(err)
	}
	_, err = VerifyQuote(b.AK.Public(), q, qualifying, sel)
	want(t, err, ErrSelection)
}

// TestWrongHierarchy: a statement whose signer's qualified name is not that of an endorsement primary is refused by AK's methods.
func TestWrongHierarchy(t *testing.T) {
	q, nv, b, qualifying := vectors(t)
	for _, s := range []*Statement{&q, &nv} {
		s.Attest = patch(s.Attest, 20, s.Attest[20]^1) // in qualifiedSigner
	}
	key, q := resign(t, q)
	ak := &AK{public: b.AK.public, key: key}
	_, err := ak.VerifyQuote(q, qualifying, PlatformPCRs())
	want(t, err, ErrSigner)
	ak.key, nv = resign(t, nv)
	_, err = ak.VerifyCounter(nv, qualifying, b.Counter.Name())
	want(t, err, ErrSigner)
}

// TestEveryFlippedBitIsSeen flips each bit of everything that is handed over.
func TestEveryFlippedBitIsSeen(t *testing.T) {
	q, nv, b, qualifying := vectors(t)
	name := b.Counter.Name()
	check := func(what string, data []byte, verify func() error) {
		for bit := range len(data) * 8 {
			data[bit/8] ^= 1 << (bit % 8)
			if verify() == nil {
				t.Errorf("%s: bit %d is not seen", what, bit)
			}
			data[bit/8] ^= 1 << (bit % 8)
		}
		if err := verify(); err != nil {
			t.Fatal(err)
		}
	}
	quoted := func() error { _, err := b.AK.VerifyQuote(q, qualifying, PlatformPCRs()); return err }
	counted := func() error { _, err := b.AK.VerifyCounter(nv, qualifying, name); return err }
	check("quote", q.Attest, quoted)
	check("quote signature", q.Signature, quoted)
	check("PCRs", q.PCRs, quoted)
	check("counter", nv.Attest, counted)
	check("counter signature", nv.Signature, counted)
	check("NV name", name, counted)
	check("qualifying data", qualifying, counted)
}

func TestSelection(t *testing.T) {
	sel, err := ParseSelection("sha256:7,0,23,10")
	if err != nil {
		t.Fatal(err)
	}
	if sel.String() != "sha256:0,7,10,23" || sel.Len() != 4 {
		t.Errorf("%s", sel)
	}
	if PlatformPCRs().String() != "sha256:0,1,2,3,4,5,6,7" || (Selection{}).String() != "" {
		t.Error("String")
	}
	var again Selection
	text, _ := sel.MarshalText()
	if again.UnmarshalText(text) != nil || again != sel {
		t.Errorf("%s", again)
	}
	for _, bad := range []string{
		"", "sha256", "sha256:", "sha1:0", "sha256:24", "sha256:0,0", "sha256:-1", "sha256:+1", "sha256:01", "sha256:0,", "sha256: 0",
		"sha256:0+sha1:1", "sha256:256",
	} {
		if sel, err := ParseSelection(bad); err == nil || !sel.IsZero() {
			t.Errorf("%q is accepted as %v", bad, sel)
		}
	}
}

func FuzzVerify(f *testing.F) {
	q, nv, b, qualifying := vectors(f)
	f.Add(q.Attest, q.Signature, q.PCRs)
	f.Add(nv.Attest, nv.Signature, []byte(nil))
	f.Fuzz(func(t *testing.T, attest, signature, pcrs []byte) {
		s := Statement{Attest: attest, Signature: signature, PCRs: pcrs}
		if _, err := VerifyQuote(b.AK.Public(), s, qualifying, PlatformPCRs()); err == nil && !bytes.Equal(attest, q.Attest) {
			t.Error("a forged quote verifies")
		}
		if _, err := VerifyCounter(b.AK.Public(), s, qualifying, b.Counter.Name()); err == nil && !bytes.Equal(attest, nv.Attest) {
			t.Error("a forged counter statement verifies")
		}
	})
}
