package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/pb"
	"github.com/dgraph-io/badger/v4/table"
	"google.golang.org/protobuf/proto"
)

// put opens a store in dir, writes one key in a transaction, and closes it, which makes a table.
func put(t *testing.T, dir, key string) {
	t.Helper()
	db, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	set(t, db, key)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func set(t *testing.T, db *DB, key string) {
	t.Helper()
	if err := db.Update(func(tx *Txn) error { return tx.Set([]byte(key), []byte("v"+key)) }); err != nil {
		t.Fatal(err)
	}
}

// crashed is what a kill leaves of a store with two tables and, in the write-ahead log, the keys of later commits.
func crashed(t *testing.T, later ...string) (dir string) {
	t.Helper()
	live := t.TempDir()
	put(t, live, "a")
	put(t, live, "b")
	db, err := Open(live, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range later {
		set(t, db, key)
	}
	dir = copied(t, live)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func copied(t *testing.T, whole string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := Snapshot(whole, dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func holds(t *testing.T, dir string, keys ...string) {
	t.Helper()
	db, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = db.View(func(tx *Txn) error {
		for _, key := range keys {
			if v, err := tx.Get([]byte(key)); err != nil || string(v) != "v"+key {
				t.Errorf("%s: %q, %v", key, v, err)
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func create(id uint64, level uint32) *pb.ManifestChange {
	return &pb.ManifestChange{Id: id, Op: pb.ManifestChange_CREATE, Level: level}
}

func remove(id uint64) *pb.ManifestChange {
	return &pb.ManifestChange{Id: id, Op: pb.ManifestChange_DELETE}
}

// note appends a change set to MANIFEST, as Badger does.
func note(t *testing.T, dir string, changes ...*pb.ManifestChange) {
	t.Helper()
	body, err := proto.Marshal(&pb.ManifestChangeSet{Changes: changes})
	if err != nil {
		t.Fatal(err)
	}
	frame := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	frame = binary.BigEndian.AppendUint32(frame, crc32.Checksum(body, castagnoli))
	f, err := os.OpenFile(filepath.Join(dir, manifest), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(append(frame, body...))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

// tables are the ids that MANIFEST names.
func tables(t *testing.T, dir string) (ids []uint64) {
	t.Helper()
	p, err := examine(dir)
	if err != nil {
		t.Fatal(err)
	}
	for id := range p.tables {
		ids = append(ids, id)
	}
	if len(ids) < 2 {
		t.Fatalf("tables %v", ids)
	}
	return ids
}

// What a flush, or a compaction, wrote to MANIFEST before its sync failed and it removed its tables does not keep the store from
// opening: everything is still where it was.
func TestMended(t *testing.T) {
	whole := crashed(t, "c", "d")
	for name, harm := range map[string]func(t *testing.T, dir string){
		"flush":       func(t *testing.T, dir string) { note(t, dir, create(77, 0)) },
		"two flushes": func(t *testing.T, dir string) { note(t, dir, create(77, 0)); note(t, dir, create(78, 0)) },
		"compaction": func(t *testing.T, dir string) {
			ids := tables(t, dir)
			note(t, dir, create(77, 6), create(78, 6), remove(ids[0]), remove(ids[1]))
		},
		"compaction to level 0, then a flush": func(t *testing.T, dir string) {
			ids := tables(t, dir)
			note(t, dir, create(77, 0), remove(ids[0]), remove(ids[1]))
			note(t, dir, create(78, 0))
		},
		"a table that was made and not yet named": func(t *testing.T, dir string) {
			other := crashed(t, "c")
			put(t, other, "e")
			ids := tables(t, other)
			if err := copyFile(table.NewFilename(slices.Max(ids), other), table.NewFilename(77, dir), false); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(table.NewFilename(78, dir), make([]byte, 1000), 0o600); err != nil {
				t.Fatal(err)
			}
		},
		"torn besides": func(t *testing.T, dir string) {
			note(t, dir, create(77, 0))
			info, err := os.Stat(filepath.Join(dir, manifest))
			if err != nil {
				t.Fatal(err)
			}
			note(t, dir, create(78, 0))
			if err := os.Truncate(filepath.Join(dir, manifest), info.Size()+9); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t, whole)
			harm(t, dir)
			if _, err := Open(dir, Options{ReadOnly: true}); !errors.Is(err, ErrUnclean) {
				t.Errorf("read-only: %v", err)
			}
			holds(t, dir, "a", "b", "c", "d")
		})
	}
}

// What is not proven to be elsewhere is refused, and nothing changes: above all, no table is removed.
func TestNotMended(t *testing.T) {
	whole := crashed(t, "c", "d")
	for name, harm := range map[string]func(t *testing.T, dir string){
		"flush without a write-ahead log": func(t *testing.T, dir string) {
			note(t, dir, create(77, 0))
			wals, err := filepath.Glob(filepath.Join(dir, "*.mem"))
			if err != nil || len(wals) != 1 {
				t.Fatalf("%v, %v", wals, err)
			}
			if err := os.Remove(wals[0]); err != nil {
				t.Fatal(err)
			}
		},
		"flush of what a lost table held": func(t *testing.T, dir string) {
			// The newest table goes; the write-ahead log goes on where it ended, not where the tables do.
			ids := tables(t, dir)
			lost := max(ids[0], ids[1])
			if err := os.Remove(table.NewFilename(lost, dir)); err != nil {
				t.Fatal(err)
			}
		},
		"an older table": func(t *testing.T, dir string) {
			ids := tables(t, dir)
			if err := os.Remove(table.NewFilename(min(ids[0], ids[1]), dir)); err != nil {
				t.Fatal(err)
			}
		},
		"compaction whose tables are gone on both sides": func(t *testing.T, dir string) {
			ids := tables(t, dir)
			note(t, dir, create(77, 6), remove(ids[0]), remove(ids[1]))
			if err := os.Remove(table.NewFilename(ids[0], dir)); err != nil {
				t.Fatal(err)
			}
		},
		"compaction whose table was used": func(t *testing.T, dir string) {
			ids := tables(t, dir)
			note(t, dir, create(77, 5), remove(ids[0]))
			note(t, dir, create(78, 6), create(79, 6), remove(77))
			note(t, dir, remove(79))
			if err := copyFile(table.NewFilename(ids[0], dir), table.NewFilename(78, dir), false); err != nil {
				t.Fatal(err)
			}
			note(t, dir, create(80, 5), create(81, 5), remove(ids[1]))
			note(t, dir, remove(80))
		},
		"the last word of MANIFEST": func(t *testing.T, dir string) {
			// Longer than what follows, it looks torn, and its table would be removed.
			data, err := os.ReadFile(filepath.Join(dir, manifest))
			if err != nil {
				t.Fatal(err)
			}
			_, sets, err := parseManifest(data)
			if err != nil {
				t.Fatal(err)
			}
			last := sets[len(sets)-1].raw
			flip(t, filepath.Join(dir, manifest), 8*int64(len(data)-len(last)+3)+int64(bits.TrailingZeros8(^last[3])))
		},
		"a table of nothing": func(t *testing.T, dir string) { note(t, dir, create(77, 0), create(78, 0)) },
		"checksum": func(t *testing.T, dir string) {
			flip(t, filepath.Join(dir, manifest), 8*(manifestHeader+9))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := copied(t, whole)
			harm(t, dir)
			before := listed(t, dir)
			if _, err := Open(dir, Options{}); !errors.Is(err, ErrDamaged) {
				t.Errorf("opened: %v", err)
			}
			if after := listed(t, dir); after != before {
				t.Errorf("changed from\n%s\nto\n%s", before, after)
			}
		})
	}
}

// A gap in the write-ahead log, where a lost table was, is seen.
func TestNotMendedOverAGap(t *testing.T) {
	dir := crashed(t, "c", "d")
	if err := provenInWAL(dir, 40, 41); !errors.Is(err, ErrDamaged) {
		t.Errorf("the log ends before version 41: %v", err)
	}
	if err := provenInWAL(dir, 0, 1); !errors.Is(err, ErrDamaged) {
		t.Errorf("the log begins after version 1: %v", err)
	}
	if err := provenInWAL(dir, 2, 4); err != nil {
		t.Error(err)
	}
	if err := provenInWAL(dir, 2, 5); !errors.Is(err, ErrDamaged) {
		t.Errorf("the log ends before version 5: %v", err)
	}
}

func listed(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s %d %s\n", e.Name(), info.Size(), info.ModTime())
	}
	return out.String()
}

func flip(t *testing.T, path string, bit int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[bit/8] ^= 1 << (bit % 8)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// Whichever bit of a table changes, it is noticed before Badger, which would panic, sees it.
func TestFlippedTable(t *testing.T) {
	dir := t.TempDir()
	put(t, dir, "a")
	ids := func() []uint64 {
		p, err := examine(dir)
		if err != nil || len(p.tables) != 1 {
			t.Fatalf("%v, %v", p, err)
		}
		for id := range p.tables {
			return []uint64{id}
		}
		return nil
	}()
	path := table.NewFilename(ids[0], dir)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := checkTable(path, ids[0], options.None, nil); err != nil {
		t.Fatal(err)
	}
	for bit := range int64(8 * len(whole)) {
		flip(t, path, bit)
		if _, _, err := checkTable(path, ids[0], options.None, nil); err == nil {
			t.Errorf("bit %d of %d is not noticed", bit, 8*len(whole))
		}
		flip(t, path, bit)
	}
	flip(t, path, int64(4*len(whole)))
	for _, readOnly := range []bool{false, true} {
		if _, err := Open(dir, Options{ReadOnly: readOnly}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("table %d", ids[0])) {
			t.Errorf("opened: %v", err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	holds(t, dir, "a")
}

// After a failure in the background nothing is written, and closing does not wait for ever.
func TestFailedInTheBackground(t *testing.T) {
	dir := t.TempDir()
	db, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	set(t, db, "a")
	// These stay for good, as Badger's own goroutines would.
	go logger{nil, db.trouble}.Errorf("error flushing memtable to disk: %v, retrying", errors.New("injected"))
	go logger{nil, db.trouble}.Warningf("[Compactor: %d] LOG Compact FAILED with error: %+v: %+v", 1, errors.New("injected"), "tables")
	<-db.trouble.is
	if err := db.Update(func(*Txn) error { t.Error("ran"); return nil }); !errors.Is(err, ErrUnknown) || !errors.Is(err, ErrFailed) {
		t.Errorf("update: %v", err)
	}
	if err := db.View(func(tx *Txn) error { _, err := tx.Get([]byte("a")); return err }); err != nil {
		t.Errorf("view: %v", err)
	}
	if err := db.Close(); !errors.Is(err, ErrFailed) {
		t.Errorf("close: %v", err)
	}
	if err := db.badger.Close(); err != nil {
		t.Fatal(err)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte("Bdgr\x00\x00\x00\x08"))
	f.Add([]byte("Bdgr\x00\x00\x00\x08\x00\x00\x00\x02\x53\x8d\x4d\x69\x0a\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		header, sets, err := parseManifest(data)
		if err != nil {
			return
		}
		n := len(header)
		for _, set := range sets {
			n += len(set.raw)
		}
		if n > len(data) {
			t.Errorf("%d bytes of %d", n, len(data))
		}
		if _, err := fold(sets, map[int]bool{0: true}); err != nil {
			return
		}
	})
}

// What may be in the page cache alone is written anew, as other files with the same content.
func TestSettled(t *testing.T) {
	dir := crashed(t, "c")
	files, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	files = append(files, filepath.Join(dir, manifest))
	was := map[string]os.FileInfo{}
	for _, path := range files {
		if was[path], err = os.Stat(path); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+settling, []byte("left by a crash"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := settle(dir); err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		info, err := os.Stat(path)
		if err != nil || os.SameFile(info, was[path]) || info.Size() != was[path].Size() {
			t.Errorf("%s: the same file, or of another size: %v", path, err)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*"+settling)); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	holds(t, dir, "a", "b", "c")
}
