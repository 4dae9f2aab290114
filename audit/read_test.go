package audit

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

func TestTiles(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	var wg sync.WaitGroup
	for range 60 {
		wg.Go(func() {
			for range 10 {
				mustAppend(t, l.Log, entry(t, time.Now(), record.TypeDecision, "", nil))
			}
		})
	}
	wg.Wait()
	size := l.Head().Size
	var all []byte
	err := l.Entries(t.Context(), 0, size, func(s record.Stored) error {
		h := record.LeafHash(s.Envelope)
		all = append(all, h[:]...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		level int
		index uint64
		width int
		want  []byte
	}{
		{0, 0, 256, all[:8192]},
		{0, 0, 3, all[:96]},
		{0, 1, 256, all[8192:16384]},
		{0, 2, 80, all[16384 : 16384+80*32]},
		{0, 2, 256, nil},
		{0, 3, 1, nil},
		{1, 0, 3, nil},
		{-1, 0, 1, nil},
		{0, 0, 0, nil},
		{0, 0, 257, nil},
	} {
		got, err := l.Tile(t.Context(), tc.level, tc.index, tc.width)
		if tc.want == nil && !errors.Is(err, ErrNotFound) || tc.want != nil && !bytes.Equal(got, tc.want) {
			t.Errorf("tile %d/%d width %d: %d bytes, %v", tc.level, tc.index, tc.width, len(got), err)
		}
	}
	if got, err := l.Tile(t.Context(), 1, 0, 2); err != nil || len(got) != 64 {
		t.Errorf("tile 1/0: %d bytes, %v", len(got), err)
	}
}

func TestScan(t *testing.T) {
	cfg := testConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	for i := range 20 {
		var m []record.Mutation
		for j := range 30 {
			m = append(m, record.Mutation{Key: fmt.Sprintf("k/%03d", i*30+j), Value: []byte{byte(j)}})
		}
		if err := l.Put(t.Context(), append(m, record.Mutation{Key: "other"})); err != nil {
			t.Fatal(err)
		}
	}
	scan := func(after string, limit int) (keys []string) {
		err := l.Scan(t.Context(), "k/", after, limit, func(key string, _ []byte) error {
			keys = append(keys, key)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	if got := scan("", 0); len(got) != 600 || got[599] != "k/599" {
		t.Errorf("all: %d keys", len(got))
	}
	if got := scan("k/298", 300); len(got) != 300 || got[0] != "k/299" || got[299] != "k/598" {
		t.Errorf("page: %d keys from %q", len(got), got[0])
	}
	boom := errors.New("boom")
	if err := l.Scan(t.Context(), "k/", "", 0, func(string, []byte) error { return boom }); !errors.Is(err, boom) {
		t.Errorf("callback's error: %v", err)
	}
}
