package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// filled makes a closed log of a few hundred entries with seals.
func filled(t testing.TB, q *tpm) Config {
	t.Helper()
	cfg := testConfig(t, q)
	create(t, cfg)
	l := start(t, cfg)
	done := make(chan struct{})
	for range 20 {
		go func() {
			defer func() { done <- struct{}{} }()
			for range 20 {
				if _, err := l.Append(t.Context(), entry(t, time.Now(), record.TypeTask, "a", map[string]int{"a": 1})); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	for range 20 {
		<-done
	}
	sealNow(t, l.Log)
	l.mustStop(t)
	return cfg
}

func copyDir(t testing.TB, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// openTampered wants a readable log that refuses to write, signs nothing and leaves the counter alone.
func openTampered(t *testing.T, cfg Config, q *tpm, word string) {
	t.Helper()
	before := q.now()
	l := start(t, cfg)
	wantReason(t, l.Log, word)
	if _, err := l.Append(t.Context(), entry(t, time.Now(), record.TypeTask, "", nil)); !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), word) {
		t.Errorf("append: %v", err)
	}
	l.mustStop(t)
	if q.now() != before {
		t.Error("the counter moved")
	}
}

func TestHeadsLogIsBelieved(t *testing.T) {
	q := newTPM()
	base := filled(t, q)
	last, _, err := readHeads(base.Dir)
	if err != nil {
		t.Fatal(err)
	}
	other := line{size: last.size, root: last.root}
	other.root[7] ^= 1
	for name, content := range map[string][]byte{
		"newer than the store": append(line{size: last.size + 1, root: last.root}.marshal(), '\n'),
		"another root":         append(other.marshal(), '\n'),
		"empty":                nil,
		"bad checksum":         append(append(last.marshal()[:last.marshalled()-1], 'x'), '\n'),
		"falling sizes":        []byte(fmt.Sprintf("%s\n%s\n", last.marshal(), line{size: 3}.marshal())),
		"garbage":              []byte("hello\n"),
	} {
		t.Run(name, func(t *testing.T) {
			cfg := base
			cfg.Dir = filepath.Join(t.TempDir(), "log")
			copyDir(t, base.Dir, cfg.Dir)
			path := filepath.Join(cfg.Dir, headsName)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			openTampered(t, cfg, q, "heads_log")
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, content) {
				t.Errorf("heads.log was changed: %v", err)
			}
			if r, err := Fsck(t.Context(), cfg); err != nil || r.OK() {
				t.Errorf("fsck found nothing: %v", err)
			}
		})
	}
	t.Run("missing", func(t *testing.T) {
		cfg := base
		cfg.Dir = filepath.Join(t.TempDir(), "log")
		copyDir(t, base.Dir, cfg.Dir)
		if err := os.Remove(filepath.Join(cfg.Dir, headsName)); err != nil {
			t.Fatal(err)
		}
		openTampered(t, cfg, q, "heads_log")
	})
	t.Run("torn line", func(t *testing.T) {
		cfg := base
		cfg.Dir = filepath.Join(t.TempDir(), "log")
		copyDir(t, base.Dir, cfg.Dir)
		f, err := os.OpenFile(filepath.Join(cfg.Dir, headsName), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("99999 abc"); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		l := start(t, cfg)
		if st := l.Status(); !st.Writable {
			t.Errorf("a line that was never acknowledged matters: %q", st.Reasons)
		}
	})
}

// marshalled is the length of a line without LF.
func (l line) marshalled() int { return len(l.marshal()) }

func TestMissingManifest(t *testing.T) {
	cfg := filled(t, newTPM())
	manifest := filepath.Join(cfg.Dir, storeDir, "MANIFEST")
	if err := os.Rename(manifest, manifest+".away"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), cfg); !errors.Is(err, store.ErrManifest) {
		t.Fatalf("open without a MANIFEST: %v", err)
	}
	if err := os.Rename(manifest+".away", manifest); err != nil {
		t.Fatal(err)
	}
	start(t, cfg).mustStop(t)
	mustFsck(t, cfg)
}

func TestOlderCopies(t *testing.T) {
	q := newTPM()
	cfg := filled(t, q)
	old := filepath.Join(t.TempDir(), "old")
	copyDir(t, cfg.Dir, old)
	l := start(t, cfg)
	sealNow(t, l.Log)
	l.mustStop(t)

	t.Run("store", func(t *testing.T) {
		mixed := cfg
		mixed.Dir = filepath.Join(t.TempDir(), "log")
		copyDir(t, old, mixed.Dir)
		heads, err := os.ReadFile(filepath.Join(cfg.Dir, headsName))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(mixed.Dir, headsName), heads, 0o600); err != nil {
			t.Fatal(err)
		}
		openTampered(t, mixed, q, "heads_log")
	})
	t.Run("all", func(t *testing.T) {
		whole := cfg
		whole.Dir = old
		openTampered(t, whole, q, "tpm_counter")
	})
}

func TestTamperedStore(t *testing.T) {
	q := newTPM()
	base := filled(t, q)
	forged, err := record.New(record.Envelope{Type: record.TypeTask, Time: time.Now()}, nil, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		change func(*store.Txn) error
		word   string // "" = only fsck sees it
		what   string
		index  uint64
	}{
		"an entry of the last tile":    {func(tx *store.Txn) error { return tx.Set(numbered(prefixEntry, 390), forged.Envelope) }, "tree", "head", 0},
		"an entry of a sampled tile":   {func(tx *store.Txn) error { return tx.Set(numbered(prefixEntry, 17), forged.Envelope) }, "tree", "tile", 0},
		"an entry is missing":          {func(tx *store.Txn) error { return tx.Delete(numbered(prefixEntry, 390)) }, "tree", "entry", 390},
		"an entry that was added":      {func(tx *store.Txn) error { return tx.Set(numbered(prefixEntry, 9999), forged.Envelope) }, "tree", "entry", 0},
		"a tile":                       {func(tx *store.Txn) error { return tx.Set(tileKey(0, 0), make([]byte, 8192)) }, "tree", "tile", 0},
		"a payload":                    {func(tx *store.Txn) error { return tx.Set(numbered(prefixSealed, 9), make([]byte, 40)) }, "", "payload", 9},
		"a payload, deleted":           {func(tx *store.Txn) error { return tx.Delete(numbered(prefixSealed, 9)) }, "", "payload", 9},
		"an old seal":                  {func(tx *store.Txn) error { return tx.Delete(numbered(prefixSeal, 1)) }, "", "seal", 1},
		"the last seal's checkpoint":   {func(tx *store.Txn) error { return changeSeal(tx, func(s *checkpoint.Sealed) { s.Checkpoint[9] ^= 1 }) }, "seal", "seal", 0},
		"the last seal's text":         {func(tx *store.Txn) error { return changeSeal(tx, func(s *checkpoint.Sealed) { s.Text[20] ^= 1 }) }, "seal", "seal", 0},
		"the anchor":                   {func(tx *store.Txn) error { return tx.Delete([]byte(keyAnchor)) }, "anchor", "", 0},
		"a seal in flight that is not": {func(tx *store.Txn) error { return tx.Set([]byte(keyPending), []byte("x\n")) }, "anchor", "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := base
			cfg.Dir = filepath.Join(t.TempDir(), "log")
			copyDir(t, base.Dir, cfg.Dir)
			db, err := store.Open(filepath.Join(cfg.Dir, storeDir), store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(db.Update(tc.change), db.Close()); err != nil {
				t.Fatal(err)
			}
			if tc.word != "" {
				openTampered(t, cfg, q, tc.word)
			}
			r, err := Fsck(t.Context(), cfg)
			if tc.what == "" {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range r.Findings {
				if f.What == tc.what && (tc.index == 0 || f.Index == tc.index) {
					return
				}
			}
			t.Errorf("fsck found %+v, %v; want %s %d", r.Findings, err, tc.what, tc.index)
		})
	}
}

func changeSeal(tx *store.Txn, change func(*checkpoint.Sealed)) error {
	n, _, err := getJSON[uint64](tx, []byte(keyLastSeal))
	if err != nil {
		return err
	}
	s, _, err := getJSON[checkpoint.Sealed](tx, numbered(prefixSeal, n))
	if err != nil {
		return err
	}
	change(&s)
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return tx.Set(numbered(prefixSeal, n), b)
}

func TestFailedCommitIsUnknownAndReconciled(t *testing.T) {
	for _, point := range []string{"commit", "committed", "headed"} {
		t.Run(point, func(t *testing.T) {
			cfg := testConfig(t, newTPM())
			create(t, cfg)
			var on bool
			boom := errors.New("injected EIO")
			faulty := cfg
			faulty.hooks.at = func(p string) error {
				if on && p == point {
					return boom
				}
				return nil
			}
			l, err := Open(t.Context(), faulty)
			if err != nil {
				t.Fatal(err)
			}
			on = true
			it, err := l.newItem(entry(t, time.Now(), record.TypeTask, "", nil))
			if err != nil {
				t.Fatal(err)
			}
			l.commit([]*item{it})
			if r := <-it.done; !errors.Is(r.err, ErrUnknown) || !errors.Is(r.err, boom) {
				t.Errorf("outcome: %v", r.err)
			}
			wantReason(t, l, "commit_unknown")
			if _, err := l.Append(t.Context(), entry(t, time.Now(), record.TypeTask, "", nil)); !errors.Is(err, ErrReadOnly) {
				t.Errorf("append after a failed commit: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			again := start(t, cfg)
			if st := again.Status(); !st.Writable {
				t.Errorf("reopening did not reconcile: %q", st.Reasons)
			}
			mustAppend(t, again.Log, entry(t, time.Now(), record.TypeTask, "", nil))
			again.mustStop(t)
			mustFsck(t, cfg)
		})
	}
}

func TestHeadsLogStaysBounded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, headsName)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := startHeads(dir, line{})
	if err != nil {
		t.Fatal(err)
	}
	h.size = maxHeads - 100
	for i := uint64(1); i <= 3; i++ {
		if err := h.append(line{size: i, root: [32]byte{byte(i)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.close(); err != nil {
		t.Fatal(err)
	}
	last, ok, err := readHeads(dir)
	if err != nil || !ok || last.size != 3 {
		t.Errorf("last line %+v, %v", last, err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() > 400 {
		t.Errorf("heads.log was not replaced: %v", err)
	}
}

// TestVectors holds the bytes that docs/formats/log.md shows.
func TestVectors(t *testing.T) {
	const want = "5 0100000000000000000000000000000000000000000000000000000000000000 89dfa8c6"
	if got := (line{size: 5, root: [32]byte{1}}).marshal(); string(got) != want {
		t.Errorf("line of heads.log %q", got)
	}
	leaf := record.LeafHash([]byte(`{"v":1,"type":"task","time":"2026-03-01T12:00:00.120Z"}`))
	if got := fmt.Sprintf("%x", leaf); got != "beb3183925d64050690c95e62d128cca165699d13344bbf66f85ed96b705fb81" {
		t.Errorf("leaf hash %s", got)
	}
}

func FuzzHeads(f *testing.F) {
	f.Add(append(line{size: 5, root: [32]byte{1}}.marshal(), '\n'))
	f.Add([]byte("5 00 0\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		last, ok, err := parseHeads(data)
		if err != nil {
			if !errors.Is(err, errHeads) {
				t.Fatalf("unexpected kind of error %v", err)
			}
			return
		}
		if ok && !bytes.Contains(data, append(last.marshal(), '\n')) {
			t.Fatalf("parsed a line that is not there: %+v", last)
		}
	})
}
