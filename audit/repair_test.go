package audit

import (
	"errors"
	"slices"
	"testing"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// change writes to the store of a log that is not open.
func change(t *testing.T, cfg Config, fn func(tx *store.Txn) error) {
	t.Helper()
	db, err := store.Open(cfg.Dir+"/"+storeDir, store.Options{Log: cfg.Log})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(fn), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// What is derived is made anew from the entries, whatever of it is wrong; afterwards all is as it was.
func TestRepair(t *testing.T) {
	term := termPrefix(make([]byte, 32), record.Term{Kind: "task", ID: "a"})
	for name, damage := range map[string]func(tx *store.Txn) error{
		"a key of the index is missing": func(tx *store.Txn) error { return tx.Delete(numbered(string(term), 9)) },
		"one too many":                  func(tx *store.Txn) error { return tx.Set(numbered(string(term), 1<<30), nil) },
		"one of nobody's":               func(tx *store.Txn) error { return tx.Set([]byte("i/x"), nil) },
		"a tile is missing":             func(tx *store.Txn) error { return tx.Delete(tileKey(0, 0)) },
		"a tile is wrong":               func(tx *store.Txn) error { return tx.Set(tileKey(0, 0), make([]byte, 8192)) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := filled(t, newTPM())
			before := found9(t, cfg)
			change(t, cfg, damage)
			r, err := Repair(t.Context(), cfg)
			if err != nil || r.OK() {
				t.Fatalf("%+v %v", r.Findings, err)
			}
			mustFsck(t, cfg)
			if after := found9(t, cfg); !slices.Equal(before, after) {
				t.Errorf("%d entries are found, %d were", len(after), len(before))
			}
			if r, err := Repair(t.Context(), cfg); err != nil || !r.OK() {
				t.Errorf("%+v %v", r.Findings, err)
			}
		})
	}
}

func found9(t *testing.T, cfg Config) []uint64 {
	t.Helper()
	l := start(t, cfg)
	out, err := l.Lookup(t.Context(), record.Term{Kind: "task", ID: "a"}, 0, 1000)
	if err != nil || len(out) < 9 {
		t.Fatal(out, err)
	}
	if !l.Status().Writable {
		t.Fatal(l.Status().Reasons)
	}
	l.mustStop(t)
	return out
}

// What is evidence is not repaired, and then nothing is.
func TestRepairLeavesEvidence(t *testing.T) {
	cfg := filled(t, newTPM())
	change(t, cfg, func(tx *store.Txn) error {
		return errors.Join(tx.Delete(numbered(prefixEntry, 9)), tx.Delete(tileKey(0, 0)))
	})
	r, err := Repair(t.Context(), cfg)
	if !errors.Is(err, ErrNotDerived) || r.OK() {
		t.Fatal(r, err)
	}
	again, err := Fsck(t.Context(), cfg)
	if err != nil || len(again.Findings) != len(r.Findings) {
		t.Errorf("%+v, before %+v, %v", again.Findings, r.Findings, err)
	}
}
