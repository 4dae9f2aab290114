package quote

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
)

// held are the vectors that `go test ./tpm -run TestHeldKeys -update` makes: an audit key on P-256 and a root on P-384.
func held(t testing.TB) (*AK, HeldKeys) {
	t.Helper()
	ak, err := ParseAK(vector(t, "tpm-keys-ak.pub"))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ParseHeldKeys(vector(t, "tpm-keys.json"))
	if err != nil {
		t.Fatal(err)
	}
	return ak, keys
}

const heldOrigin = "signet test vector"

func TestHeldKeysVerify(t *testing.T) {
	ak, keys := held(t)
	got, err := keys.Verify(ak, heldOrigin)
	if err != nil || len(got) != 2 {
		t.Fatalf("%d keys, %v", len(got), err)
	}
	if bits := got["root"].Public().Params().BitSize; bits != 384 {
		t.Errorf("the root has %d bits", bits)
	}
}

// TestHeldKeysFlipped changes each bit of each part.
func TestHeldKeysFlipped(t *testing.T) {
	ak, keys := held(t)
	s := keys.Keys["audit"]
	for what, data := range map[string][]byte{"SRK": keys.SRKPublic, "public": s.Public, "attest": s.Attest, "signature": s.Signature} {
		for bit := range len(data) * 8 {
			data[bit/8] ^= 1 << (bit % 8)
			if _, err := keys.Verify(ak, heldOrigin); err == nil {
				t.Errorf("%s: bit %d is not seen", what, bit)
			}
			data[bit/8] ^= 1 << (bit % 8)
		}
	}
}

func TestHeldKeysRefuse(t *testing.T) {
	ak, keys := held(t)
	_, devid, public, _ := certified(t)
	other, _, _, _ := certified(t)
	audit := keys.Keys["audit"]
	with := func(label string, s HeldStatement) HeldKeys {
		return HeldKeys{SRKPublic: keys.SRKPublic, Keys: map[string]HeldStatement{label: s}}
	}
	exportable := flip(audit.Public, 7, attrFixedTPM)
	forger, forged := renamed(t, ak, Statement{Attest: audit.Attest, Signature: audit.Signature}, audit.Public, exportable)
	for what, tc := range map[string]struct {
		ak     *AK
		keys   HeldKeys
		origin string
		want   error
	}{
		"another log":       {ak, keys, "another", ErrQualifying},
		"another use":       {ak, with("root", audit), heldOrigin, ErrQualifying},
		"another AK":        {other, keys, heldOrigin, ErrSignature},
		"another's key":     {ak, with("audit", HeldStatement{public, audit.Attest, audit.Signature}), heldOrigin, ErrName},
		"another statement": {ak, with("audit", HeldStatement{public, devid.Attest, devid.Signature}), heldOrigin, ErrSignature},
		"an exportable key": {forger, with("audit", HeldStatement{exportable, forged.Attest, forged.Signature}), heldOrigin, ErrKey},
		"no storage key":    {ak, HeldKeys{SRKPublic: audit.Public, Keys: keys.Keys}, heldOrigin, ErrKey},
		"no SRK":            {ak, HeldKeys{Keys: keys.Keys}, heldOrigin, ErrMalformed},
		"the AK":            {ak, with("audit", HeldStatement{ak.Marshal(), audit.Attest, audit.Signature}), heldOrigin, ErrKey},
	} {
		if got, err := tc.keys.Verify(tc.ak, tc.origin); !errors.Is(err, tc.want) || got != nil {
			t.Errorf("%s: %v, %v", what, got, err)
		}
	}
	// A statement by a primary key of the owner hierarchy, below another SRK.
	srk, err := ParseSRK(keys.SRKPublic)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseHeldKey(public)
	if err != nil {
		t.Fatal(err)
	}
	_, s, _, qualifying := certified(t)
	if err := other.VerifyHeld(s, qualifying, srk, key); !errors.Is(err, ErrName) || errors.Is(err, ErrSignature) {
		t.Errorf("a key that is not below the SRK: %v", err)
	}
}

func TestParseHeldKeysRefuses(t *testing.T) {
	_, keys := held(t)
	good, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	for what, text := range map[string]string{
		"empty": "", "null": "null", "no key": `{"srk_public":"AA==","keys":{}}`, "trailing": string(good) + "{}",
		"unknown":  strings.Replace(string(good), `{`, `{"x":1,`, 1),
		"repeated": strings.Replace(string(good), `"keys":{`, `"keys":{"root":{"public":"","attest":"","signature":""},`, 1),
		"too long": string(good) + strings.Repeat(" ", maxHeld),
	} {
		if _, err := ParseHeldKeys([]byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func FuzzHeldKeys(f *testing.F) {
	ak, keys := held(f)
	f.Add(vector(f, "tpm-keys.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		read, err := ParseHeldKeys(data)
		if err != nil {
			return
		}
		got, err := read.Verify(ak, heldOrigin)
		if err != nil {
			return
		}
		for label := range maps.Keys(got) {
			if !bytes.Equal(got[label].Marshal(), keys.Keys[label].Public) {
				t.Errorf("a forged statement about %q verifies", label)
			}
		}
	})
}
