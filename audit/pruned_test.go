package audit

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// The payloads of pruned entries are unreadable also where the store still has them: it deletes when it likes.
func TestPrunedKeysAreGone(t *testing.T) {
	cfg := pruneConfig(t, newTPM())
	create(t, cfg)
	l := start(t, cfg)
	fillTo(t, l.Log, 600)
	l.mustStop(t)
	old := filepath.Join(t.TempDir(), "old")
	copyDir(t, cfg.Dir, old)
	l = start(t, cfg)
	mustPrune(t, l.Log, 0, 512, nil)
	l.mustStop(t)
	v, err := openVault(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(filepath.Join(old, storeDir), store.Options{Log: cfg.Log})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for index, want := range map[uint64]bool{300: false, 511: false, 520: true} {
		err := v.readEntries(context.Background(), db, index, index+1, func(s record.Stored) error {
			if bytes.Contains(s.Payload, []byte(person)) != want {
				t.Errorf("payload %d is %q", index, s.Payload)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	// Keys from before are destroyed again.
	before, err := os.ReadFile(filepath.Join(old, keysName))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Dir, keysName), before, 0o600); err != nil {
		t.Fatal(err)
	}
	again := start(t, cfg)
	if _, ok := again.vault.tree.Load().Key(300); ok {
		t.Error("keys from before the prune are taken")
	}
}

// Entries that are absent without a prune entry are missing, and so is whatever else does not fit to one.
func TestPrunedWithoutAnEntry(t *testing.T) {
	deleted := func(tx *store.Txn) error {
		for index := uint64(chunk); index < 512; index++ {
			if err := errors.Join(tx.Delete(numbered(prefixEntry, index)), tx.Delete(numbered(prefixSealed, index))); err != nil {
				return err
			}
		}
		return nil
	}
	claim := func(p pruned) func(tx *store.Txn) error {
		return func(tx *store.Txn) error {
			w, err := p.write()
			return errors.Join(err, tx.Set(w.key, w.value))
		}
	}
	for name, c := range map[string]struct {
		prune  bool
		damage func(tx *store.Txn) error
		word   string // of the guard; "": it samples, and fsck alone finds it
		what   string
	}{
		"absent": {false, deleted, "tree", "entry"},
		"absent, by the store's word": {false, func(tx *store.Txn) error {
			return errors.Join(deleted(tx), claim(pruned{Minimum: 512, Entry: 520})(tx))
		}, "pruned", "pruned"},
		"by an entry that is not there": {false, claim(pruned{Minimum: 512, Entry: 1 << 20}), "pruned", "pruned"},
		"to come, without an entry":     {false, claim(pruned{Next: 512, NextEntry: 520}), "pruned", "pruned"},
		"more than the entry says":      {true, claim(pruned{Minimum: 768, Entry: 801}), "pruned", "pruned"},
		"forgotten":                     {true, func(tx *store.Txn) error { return tx.Delete([]byte(keyPruned)) }, "tree", "entry"},
		"the prune entry is another": {true, func(tx *store.Txn) error {
			e := pruning(t, 0, 512, nil)
			return tx.Set(numbered(prefixEntry, 801), e.Envelope)
		}, "tree", "seal"},
		"still there":         {true, func(tx *store.Txn) error { return tx.Set(numbered(prefixEntry, 300), []byte("{}")) }, "", "pruned"},
		"a payload is there":  {true, func(tx *store.Txn) error { return tx.Set(numbered(prefixSealed, 3), []byte("{}")) }, "", "pruned"},
		"its tile is missing": {true, func(tx *store.Txn) error { return tx.Delete(tileKey(0, 1)) }, "", "entry"},
		"its tile is wrong":   {true, func(tx *store.Txn) error { return tx.Set(tileKey(0, 1), make([]byte, 8192)) }, "", "seal"},
	} {
		t.Run(name, func(t *testing.T) {
			q := newTPM()
			cfg := pruneConfig(t, q)
			create(t, cfg)
			l := start(t, cfg)
			fillTo(t, l.Log, 800)
			if c.prune {
				if pos := mustPrune(t, l.Log, 0, 512, nil); pos.Index < 801 {
					t.Fatalf("prune entry %d", pos.Index)
				}
			}
			l.mustStop(t)
			change(t, cfg, c.damage)
			r, err := Repair(t.Context(), cfg)
			if !errors.Is(err, ErrNotDerived) || !r.has(c.what) {
				t.Errorf("%+v %v", r.Findings, err)
			}
			if c.word != "" {
				openTampered(t, cfg, q, c.word)
			}
		})
	}
}
