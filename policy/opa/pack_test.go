package opa

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// The archive's bytes are a format: another Go version must not give the same bundle another digest.
func TestPackGolden(t *testing.T) {
	b, err := pack(map[string][]byte{"b.rego": []byte("package b\n"), "a/data.json": []byte("{}"), ".manifest": []byte("{}")})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	if got, want := hex.EncodeToString(sum[:]), "f1db641c9b529a98e1dc4721b52ada7a22bf5c27f3582e359fe46bbdbdd776d6"; got != want {
		t.Errorf("digest %s, want %s", got, want)
	}
}
