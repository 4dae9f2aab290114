package store_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/signet-pki/signet/store"
)

func open(t *testing.T, dir string, opt store.Options) *store.DB {
	t.Helper()
	db, err := store.Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

func write(t *testing.T, db *store.DB, keys ...string) {
	t.Helper()
	err := db.Update(func(tx *store.Txn) error {
		for _, k := range keys {
			if err := tx.Set([]byte(k), []byte("v"+k)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func closeDB(t *testing.T, db *store.DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWritesAndIteration(t *testing.T) {
	db := open(t, t.TempDir(), store.Options{})
	defer closeDB(t, db)
	write(t, db, "a/1", "a/2", "a/3", "b/1")
	boom := errors.New("boom")
	err := db.Update(func(tx *store.Txn) error {
		if err := tx.Delete([]byte("a/1")); err != nil {
			return err
		}
		if _, err := tx.Get([]byte("a/1")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("own deletion is not seen: %v", err)
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	var keys []string
	err = db.View(func(tx *store.Txn) error {
		return tx.Iterate([]byte("a/"), []byte("a/1"), func(key, value []byte) error {
			keys = append(keys, string(key)+"="+string(value))
			if len(keys) == 2 {
				return store.Stop
			}
			return nil
		})
	})
	if err != nil || fmt.Sprint(keys) != "[a/1=va/1 a/2=va/2]" {
		t.Errorf("iterated %v, %v", keys, err)
	}
}

func TestExpiry(t *testing.T) {
	db := open(t, t.TempDir(), store.Options{})
	defer closeDB(t, db)
	err := db.Update(func(tx *store.Txn) error {
		return errors.Join(tx.SetTTL([]byte("gone"), nil, -time.Second), tx.SetTTL([]byte("there"), []byte("x"), time.Hour))
	})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *store.Txn) error {
		if _, err := tx.Get([]byte("gone")); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("expired: %v", err)
		}
		_, err := tx.Get([]byte("there"))
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// random bytes cannot be packed.
func random(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

// What is long comes back as it was, whether it could be packed or not, and what repeats itself takes less of the disk.
func TestPacked(t *testing.T) {
	values := map[string][]byte{
		"empty": {}, "short": bytes.Repeat([]byte("a"), 255), "long": bytes.Repeat([]byte("ab"), store.MaxValue/2),
		"random": random(t, store.MaxValue), "mixed": append(random(t, 300), bytes.Repeat([]byte("cd"), 300)...),
	}
	dir := t.TempDir()
	db := open(t, dir, store.Options{})
	err := db.Update(func(tx *store.Txn) error {
		for k, v := range values {
			if err := tx.Set([]byte(k), v); err != nil {
				return err
			}
		}
		got, err := tx.Get([]byte("long"))
		if err == nil && !bytes.Equal(got, values["long"]) {
			t.Error("a transaction does not read what it wrote")
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	db = open(t, dir, store.Options{ReadOnly: true})
	defer closeDB(t, db)
	err = db.View(func(tx *store.Txn) error {
		n := 0
		err := tx.Iterate(nil, nil, func(key, value []byte) error {
			n++
			if !bytes.Equal(value, values[string(key)]) {
				t.Errorf("%s: came back as another value of %d bytes", key, len(value))
			}
			return nil
		})
		if n != len(values) {
			t.Errorf("%d values came back, not %d", n, len(values))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTooBigWritesNothing(t *testing.T) {
	db := open(t, t.TempDir(), store.Options{})
	defer closeDB(t, db)
	err := db.Update(func(tx *store.Txn) error {
		for i := range db.MaxTxnBytes()/store.MaxValue + 1 {
			if err := tx.Set(fmt.Appendf(nil, "k%d", i), random(t, store.MaxValue)); err != nil {
				return err
			}
		}
		return nil
	})
	if !errors.Is(err, store.ErrTooBig) {
		t.Fatalf("transaction too big: %v", err)
	}
	err = db.Update(func(tx *store.Txn) error { return tx.Set([]byte("k"), make([]byte, store.MaxValue+1)) })
	if !errors.Is(err, store.ErrTooBig) {
		t.Errorf("value too big: %v", err)
	}
	err = db.View(func(tx *store.Txn) error {
		_, err := tx.Get([]byte("k0"))
		return err
	})
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("part of it was written: %v", err)
	}
}

func TestGuard(t *testing.T) {
	dir := t.TempDir()
	if err := store.Guard(dir, false); err != nil {
		t.Errorf("empty directory: %v", err)
	}
	if err := store.Guard(dir, true); !errors.Is(err, store.ErrManifest) {
		t.Errorf("empty directory that had data: %v", err)
	}
	db := open(t, dir, store.Options{})
	write(t, db, "a")
	closeDB(t, db)
	if err := store.Guard(dir, true); err != nil {
		t.Errorf("whole store: %v", err)
	}
	before, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(before) == 0 {
		t.Fatalf("no tables: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "MANIFEST")); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(dir, store.Options{}); !errors.Is(err, store.ErrManifest) {
		t.Errorf("open without a MANIFEST: %v", err)
	}
	after, err := filepath.Glob(filepath.Join(dir, "*.sst"))
	if err != nil || len(after) != len(before) {
		t.Errorf("tables were deleted: %v", err)
	}
}

func TestSnapshotOfAnUncleanStore(t *testing.T) {
	parent := t.TempDir()
	live, crashed, copied := filepath.Join(parent, "live"), filepath.Join(parent, "crashed"), filepath.Join(parent, "copy")
	db := open(t, live, store.Options{})
	write(t, db, "a", "b")
	// The files as they are while the store is open are those that a kill leaves.
	if err := os.CopyFS(crashed, os.DirFS(live)); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	if _, err := store.Open(crashed, store.Options{ReadOnly: true}); !errors.Is(err, store.ErrUnclean) {
		t.Errorf("read-only after a crash: %v", err)
	}
	before := sizes(t, crashed)
	if err := os.Mkdir(copied, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := store.Snapshot(crashed, copied); err != nil {
		t.Fatal(err)
	}
	db = open(t, copied, store.Options{})
	err := db.View(func(tx *store.Txn) error {
		v, err := tx.Get([]byte("b"))
		if string(v) != "vb" {
			t.Errorf("read %q", v)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	closeDB(t, db)
	if after := sizes(t, crashed); after != before {
		t.Errorf("the original changed: %s, was %s", after, before)
	}
	clean := open(t, copied, store.Options{ReadOnly: true})
	closeDB(t, clean)
}

func sizes(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprintf("%s:%d:%s ", e.Name(), info.Size(), info.ModTime())
	}
	return out
}

// What happens to the copy does not reach the original: Badger truncates the tables that a compaction replaced.
func TestSnapshotSharesNothing(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	db, err := store.Open(from, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(txn *store.Txn) error { return txn.Set([]byte("k"), []byte("v")) }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := store.Snapshot(from, to); err != nil {
		t.Fatal(err)
	}
	tables := 0
	entries, err := os.ReadDir(to)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if filepath.Ext(e.Name()) == ".sst" {
			tables++
		}
		before, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(filepath.Join(to, e.Name()), 0); err != nil {
			t.Fatal(err)
		}
		after, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("emptying the copy of %s changed the original", e.Name())
		}
	}
	if tables == 0 {
		t.Error("the store has no table")
	}
}

// What a crash left of a log that Badger was about to make, or to remove, does not keep the store from opening.
func TestEmptyLogs(t *testing.T) {
	for _, name := range []string{"00001.mem", "00007.mem", "000001.vlog", "000009.vlog"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			db := open(t, dir, store.Options{})
			write(t, db, "k")
			closeDB(t, db)
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := store.Open(dir, store.Options{ReadOnly: true}); !errors.Is(err, store.ErrUnclean) {
				t.Errorf("read-only: %v", err)
			}
			db = open(t, dir, store.Options{})
			defer closeDB(t, db)
			err := db.View(func(tx *store.Txn) error {
				v, err := tx.Get([]byte("k"))
				if string(v) != "vk" {
					t.Errorf("%q", v)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		})
	}
}
