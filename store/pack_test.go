package store

import (
	"bytes"
	"errors"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"github.com/klauspost/compress/s2"
)

func TestPackOnlyWhatBecomesShorter(t *testing.T) {
	for name, c := range map[string]struct {
		value []byte
		meta  byte
	}{
		"short":     {bytes.Repeat([]byte("a"), packFrom-1), metaPlain},
		"repeating": {bytes.Repeat([]byte("a"), packFrom), metaS2},
	} {
		e := badger.NewEntry([]byte("k"), c.value)
		pack(e, nil)
		if e.UserMeta != c.meta || (len(e.Value) < len(c.value)) != (c.meta == metaS2) {
			t.Errorf("%s: kind %d, %d bytes of %d", name, e.UserMeta, len(e.Value), len(c.value))
		}
	}
}

// What was packed before stays as it was when the same scratch is used again.
func TestPackInScratch(t *testing.T) {
	first, second := badger.NewEntry(nil, bytes.Repeat([]byte("ab"), 900)), badger.NewEntry(nil, bytes.Repeat([]byte("c"), 700))
	scratch := pack(second, pack(first, nil))
	if len(scratch) != s2.MaxEncodedLen(1800) {
		t.Errorf("the scratch has %d bytes", len(scratch))
	}
	if v, err := unpack(first.Value); err != nil || !bytes.Equal(v, bytes.Repeat([]byte("ab"), 900)) {
		t.Errorf("the first came back as %d bytes, %v", len(v), err)
	}
}

// A block that does not say its own length, or says too much, is refused before anything is made for it.
func TestUnpackRefuses(t *testing.T) {
	whole := s2.Encode(nil, bytes.Repeat([]byte("abc"), 200))
	for name, packed := range map[string][]byte{
		"empty": nil, "cut": whole[:len(whole)-1], "longer": append(bytes.Clone(whole), 0),
		"too large": s2.Encode(nil, make([]byte, MaxValue+1)), "length alone": {0xff, 0xff, 0xff, 0xff, 0x7f},
	} {
		if v, err := unpack(packed); !errors.Is(err, errPacked) {
			t.Errorf("%s: %d bytes, %v", name, len(v), err)
		}
	}
	if v, err := unpack(whole); err != nil || len(v) != 600 {
		t.Errorf("a whole block: %d bytes, %v", len(v), err)
	}
}
