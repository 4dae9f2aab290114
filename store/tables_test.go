package store_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/signet-pki/signet/store"
)

// tables is a closed store with tables alone.
func tables(t *testing.T) (dir string, names []string) {
	t.Helper()
	dir = t.TempDir()
	db := open(t, dir, store.Options{})
	err := db.Update(func(txn *store.Txn) error {
		for i := range 2000 {
			if err := txn.Set(fmt.Appendf(nil, "k%06d", i), fmt.Appendf(nil, "%0200d", i)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	if names, err = filepath.Glob(filepath.Join(dir, "*.sst")); err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	return dir, names
}

// A changed byte anywhere in a table's blocks keeps the store from opening: an iterator would end there without an error.
func TestDamagedTable(t *testing.T) {
	dir, names := tables(t)
	whole, err := os.ReadFile(names[0])
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(whole); at += 1009 {
		damaged := append([]byte(nil), whole...)
		damaged[at] ^= 0x10
		if err := os.WriteFile(names[0], damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.Open(dir, store.Options{}); !errors.Is(err, store.ErrDamaged) {
			t.Fatalf("byte %d of %d: %v", at, len(whole), err)
		}
	}
	if err := os.WriteFile(names[0], whole, 0o600); err != nil {
		t.Fatal(err)
	}
	closeDB(t, open(t, dir, store.Options{}))
}

// A table that the MANIFEST does not name is what a crash left of a compaction: Badger removes it.
func TestLeftTable(t *testing.T) {
	dir, names := tables(t)
	left := filepath.Join(dir, "000999.sst")
	if err := os.WriteFile(left, []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	closeDB(t, open(t, dir, store.Options{}))
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is there: %v", left, err)
	}
	if err := os.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(dir, store.Options{}); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("without a table that the MANIFEST names: %v", err)
	}
}
