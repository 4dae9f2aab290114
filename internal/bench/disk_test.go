package main

import (
	"testing"
	"testing/fstest"

	"github.com/signet-pki/signet/audit/record"
)

// What was handed in is the envelopes without their line ends, and the payloads and salts as they were before base64.
func TestHandedIn(t *testing.T) {
	n, err := handedIn(fstest.MapFS{
		"entries/0.jsonl":  {Data: []byte("{\"a\":1}\n{}\n")},
		"payloads/0.jsonl": {Data: []byte(`{"index":0,"salt":"AAAA","payload":"AAAAAAAA"}` + "\n")},
		"seals/1.txt":      {Data: []byte("not counted")},
	})
	if want := int64(7 + 2 + 3 + 6); err != nil || n != want {
		t.Errorf("%d bytes, %v; want %d", n, err, want)
	}
}

// The entries are ones that a log takes, each another, and Tessera is handed all of an entry.
func TestEntries(t *testing.T) {
	for name, newEntry := range map[string]func() (record.Entry, error){"entry": entry, "decision": decision} {
		first, err := newEntry()
		if err != nil {
			t.Fatal(err)
		}
		second, err := newEntry()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range []record.Entry{first, second} {
			if _, err := e.Check(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if record.LeafHash(first.Envelope) == record.LeafHash(second.Envelope) {
			t.Errorf("%s: twice the same", name)
		}
	}
	for _, k := range []kind{issuances, decisions} {
		e, err := k.make()
		if err != nil {
			t.Fatal(err)
		}
		if n := len(flat(e)); n < k.size*3/4 || n > k.size {
			t.Errorf("%s: a leaf of %d bytes for about %d", k.name, n, k.size)
		}
	}
}
