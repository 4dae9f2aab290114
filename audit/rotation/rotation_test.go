package rotation_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
)

const origin = "signet.test/log"

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func begin(t testing.TB, first *ecdsa.PrivateKey) *rotation.Keys {
	t.Helper()
	keys, err := rotation.NewKeys(origin, &first.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func envelope(t testing.TB, body record.RotationBody) []byte {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.New(record.Envelope{Type: record.TypeRotation, Time: time.Unix(1, 0), Body: text}, nil, [record.SaltSize]byte{})
	if err != nil {
		t.Fatal(err)
	}
	return e.Envelope
}

// next follows with a change at an index.
func next(t testing.TB, keys *rotation.Keys, old, key crypto.Signer, index uint64) *rotation.Keys {
	t.Helper()
	body, err := keys.New(old, key, "audit-2", rotation.Act{Index: 1})
	if err != nil {
		t.Fatal(err)
	}
	keys, err = keys.Follow(index, envelope(t, body))
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestSizeSaysWhoSigns(t *testing.T) {
	a, b, c := newKey(t), newKey(t), newKey(t)
	keys := next(t, next(t, begin(t, a), a, b, 7), b, c, 8)
	for size, want := range map[uint64]*ecdsa.PrivateKey{0: a, 7: a, 8: a, 9: b, 10: c, checkpoint.MaxSize: c} {
		for _, key := range []*ecdsa.PrivateKey{a, b, c} {
			signer, err := checkpoint.NewSigner(origin, key)
			if err != nil {
				t.Fatal(err)
			}
			signed, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: origin, Size: size}, signer)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := keys.Open(signed); (err == nil) != (key == want) || err != nil && !errors.Is(err, checkpoint.ErrUnsigned) {
				t.Errorf("a tree of %d entries: %v", size, err)
			}
		}
	}
	for _, key := range []*ecdsa.PrivateKey{a, b, c} {
		if !keys.Has(&key.PublicKey) {
			t.Error("a key is missing")
		}
	}
	if keys.Has(&newKey(t).PublicKey) {
		t.Error("has another log's key")
	}
}

func TestFollowRefuses(t *testing.T) {
	a, b := newKey(t), newKey(t)
	good, err := begin(t, a).New(a, b, "audit-2", rotation.Act{Index: 3, Hash: [32]byte{1}})
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*record.RotationBody){
		"number 1":             func(r *record.RotationBody) { r.Number = 1 },
		"number 3":             func(r *record.RotationBody) { r.Number = 3 },
		"label":                func(r *record.RotationBody) { r.Label = "../x" },
		"another act":          func(r *record.RotationBody) { r.Act = 2 },
		"a later act":          func(r *record.RotationBody) { r.Act = 7 },
		"another act's hash":   func(r *record.RotationBody) { r.ActHash = strings.Repeat("0", 64) },
		"no hash":              func(r *record.RotationBody) { r.ActHash = "" },
		"no signature":         func(r *record.RotationBody) { r.OldSignature = "" },
		"the new one's twice":  func(r *record.RotationBody) { r.OldSignature = r.NewSignature },
		"the old one's twice":  func(r *record.RotationBody) { r.NewSignature = r.OldSignature },
		"no key":               func(r *record.RotationBody) { r.Key = "" },
		"a key cut off":        func(r *record.RotationBody) { r.Key = r.Key[:len(r.Key)-4] },
		"base64 in a new line": func(r *record.RotationBody) { r.Key += "\n" },
	} {
		body := good
		change(&body)
		if _, err := begin(t, a).Follow(7, envelope(t, body)); !errors.Is(err, rotation.ErrUnproved) && !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := begin(t, a).Follow(7, envelope(t, good)); err != nil {
		t.Error(err)
	}
	other, err := rotation.NewKeys("other.test/log", &a.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Follow(7, envelope(t, good)); !errors.Is(err, rotation.ErrUnproved) {
		t.Errorf("for another log: %v", err)
	}
	keys := next(t, begin(t, a), a, b, 7)
	for name, key := range map[string]*ecdsa.PrivateKey{"the first": a, "the present": b} {
		if _, err := keys.New(b, key, "audit-3", rotation.Act{}); !errors.Is(err, rotation.ErrUnproved) {
			t.Errorf("%s key again: %v", name, err)
		}
	}
	if _, err := keys.New(a, newKey(t), "audit-3", rotation.Act{}); !errors.Is(err, rotation.ErrUnproved) {
		t.Errorf("signed by a key that is over: %v", err)
	}
}

func TestTooManyKeys(t *testing.T) {
	old := newKey(t)
	keys := begin(t, old)
	for n := uint64(1); n < rotation.MaxKeys; n++ {
		key := newKey(t)
		keys = next(t, keys, old, key, 2*n)
		old = key
	}
	if _, err := keys.New(old, newKey(t), "audit-65", rotation.Act{}); !errors.Is(err, rotation.ErrUnproved) {
		t.Errorf("one more: %v", err)
	}
}

func FuzzParseProofs(f *testing.F) {
	list := []rotation.Proof{{Index: 7, Envelope: []byte("{}"), Proof: "x\n"}, {Index: 9}}
	good, err := rotation.MarshalProofs(list)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"index":1,"index":2,"envelope":"","proof":""}` + "\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := rotation.ParseProofs(data)
		if err != nil {
			if !errors.Is(err, record.ErrMalformed) {
				t.Fatalf("unexpected kind of error %v", err)
			}
			return
		}
		again, err := rotation.MarshalProofs(list)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("two spellings: %q", data)
		}
	})
}

func FuzzFollow(f *testing.F) {
	a := newKey(f)
	body, err := begin(f, a).New(a, newKey(f), "audit-2", rotation.Act{})
	if err != nil {
		f.Fatal(err)
	}
	good := envelope(f, body)
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := begin(t, a).Follow(7, data)
		if err != nil && !errors.Is(err, rotation.ErrUnproved) && !errors.Is(err, record.ErrMalformed) && !errors.Is(err, record.ErrTooLarge) {
			t.Fatalf("unexpected kind of error %v", err)
		}
		if err == nil && len(keys.All()) != 2 {
			t.Fatal("not two keys")
		}
	})
}
