package store

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"
	"github.com/dgraph-io/badger/v4/table"

	"github.com/signet-pki/signet/internal/durable"
)

// trialDir is where the write-ahead logs are replayed for a look at them, and settling the suffix of files being copied.
const (
	trialDir = "trial"
	settling = ".settling"
)

// ErrDamaged: the files contradict each other or themselves, and what is missing is not proven to be elsewhere. Nothing was
// changed. docs/operations.md, "A store that does not open", is for whoever reads this.
var ErrDamaged = errors.New("store: damaged (see \"A store that does not open\" in docs/operations.md)")

// plan is what MANIFEST should say, and why it is proven.
type plan struct {
	header    []byte
	sets      []changeSet
	withdrawn map[int]bool
	tables    map[uint64]named
	unnamed   map[uint64]bool // files of tables that MANIFEST does not name
}

// prepare makes a store ready for Badger, which panics where a table is damaged, gives up where one is missing, and removes
// those that MANIFEST does not name. It withdraws from MANIFEST what Badger wrote there and then undid, after it could not
// sync it; refuses with [ErrDamaged] what it cannot prove; and writes anew what may be in the page cache alone.
func prepare(dir string, log *slog.Logger) error {
	if err := dropEmpty(dir); err != nil {
		return err
	}
	p, err := examine(dir)
	if err != nil || p == nil {
		return err
	}
	last, err := p.checkTables(dir)
	if err != nil {
		return err
	}
	want := p.highestUnnamed(dir)
	if p.withdrewFlush() {
		want = max(want, last+1)
	}
	if want > last {
		if err := provenInWAL(dir, last, want); err != nil {
			return err
		}
	}
	if len(p.withdrawn) > 0 {
		if err := p.write(dir, log); err != nil {
			return err
		}
	}
	return settle(dir)
}

// examine reads MANIFEST, and finds the change sets to withdraw: those that made tables which are not there. It returns nil for
// a store that is yet to be made.
func examine(dir string) (*plan, error) {
	data, err := os.ReadFile(filepath.Join(dir, manifest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("store: open: %w", err)
	}
	p := &plan{withdrawn: map[int]bool{}, unnamed: map[uint64]bool{}}
	if p.header, p.sets, err = parseManifest(data); err != nil {
		return nil, fmt.Errorf("%w: MANIFEST: %w", ErrDamaged, err)
	}
	for {
		if p.tables, err = fold(p.sets, p.withdrawn); err != nil {
			return nil, fmt.Errorf("%w: MANIFEST: %w", ErrDamaged, err)
		}
		missing, err := p.compare(dir)
		if err != nil || len(missing) == 0 {
			return p, err
		}
		if err := p.withdraw(missing); err != nil {
			return nil, err
		}
	}
}

// compare notes which files of tables are not named, and returns which tables have no file.
func (p *plan) compare(dir string) (missing []uint64, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("store: open: %w", err)
	}
	there := map[uint64]bool{}
	clear(p.unnamed)
	for _, e := range entries {
		if id, ok := table.ParseFileID(e.Name()); ok {
			there[id] = true
			if _, named := p.tables[id]; !named {
				p.unnamed[id] = true
			}
		}
	}
	for id := range p.tables {
		if !there[id] {
			missing = append(missing, id)
		}
	}
	slices.Sort(missing)
	return missing, nil
}

// withdraw takes back the sets that made the missing tables. Of a compaction that is proof enough, if then all tables are
// there: it removes what it replaced only after its own tables stand, so what it would have replaced is whole. A memtable is
// flushed only after the one before it, so a later flush would show that this one stood.
func (p *plan) withdraw(missing []uint64) error {
	for _, id := range missing {
		at := p.tables[id].set
		p.withdrawn[at] = true
		set := p.sets[at]
		if !set.flush() && !set.compaction() {
			return fmt.Errorf("%w: the file of table %d does not exist", ErrDamaged, id)
		}
		for i := at + 1; set.flush() && i < len(p.sets); i++ {
			if p.sets[i].flush() && !slices.Contains(missing, p.sets[i].changes[0].GetId()) {
				return fmt.Errorf("%w: the file of table %d does not exist, and later ones do", ErrDamaged, id)
			}
		}
	}
	return nil
}

func (p *plan) withdrewFlush() bool {
	for at := range p.withdrawn {
		if p.sets[at].flush() {
			return true
		}
	}
	return false
}

// highestUnnamed is the highest version in tables that MANIFEST does not name, which Badger will remove. One that cannot be read
// never stood in MANIFEST: it was being made.
func (p *plan) highestUnnamed(dir string) (highest uint64) {
	for id := range p.unnamed {
		if _, v, err := checkTable(table.NewFilename(id, dir), id, options.None, nil); err == nil {
			highest = max(highest, v)
		}
	}
	return highest
}

// provenInWAL proves that the write-ahead logs hold everything that was in the memtables whose tables are missing, or go. Each commit
// has a version, one more than the one before, and memtables are flushed in order: so if the logs hold each version from the
// one after the tables' last, up to the one that is wanted at least, nothing is missing in between.
func provenInWAL(dir string, last, want uint64) error {
	trial := filepath.Join(dir, trialDir)
	if err := errors.Join(os.RemoveAll(trial), os.Mkdir(trial, 0o700)); err != nil {
		return fmt.Errorf("store: open: %w", err)
	}
	versions, err := replay(dir, trial, last)
	if err = errors.Join(err, os.RemoveAll(trial)); err != nil {
		return fmt.Errorf("store: open: replay the write-ahead log: %w", err)
	}
	highest := last
	for v := range versions {
		highest = max(highest, v)
	}
	if highest < want || highest-last != uint64(len(versions)) {
		return fmt.Errorf("%w: MANIFEST misses a table, or a table is missing, and the write-ahead log does not hold all commits from %d to %d", ErrDamaged, last+1, want)
	}
	return nil
}

// replay has Badger read copies of the write-ahead logs, and returns the versions above last that it finds.
func replay(dir, trial string, last uint64) (map[uint64]bool, error) {
	wals, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return nil, err
	}
	for _, path := range wals {
		if err := copyFile(path, filepath.Join(trial, filepath.Base(path)), false); err != nil {
			return nil, err
		}
	}
	db, err := badger.Open(settings(trial).WithSyncWrites(false).WithNumCompactors(0).WithLogger(nil))
	if err != nil {
		return nil, err
	}
	versions := map[uint64]bool{}
	err = db.View(func(t *badger.Txn) error {
		it := t.NewIterator(badger.IteratorOptions{AllVersions: true})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if v := it.Item().Version(); v > last {
				versions[v] = true
			}
		}
		return nil
	})
	return versions, errors.Join(err, db.Close())
}

// write replaces MANIFEST by one without the sets that were withdrawn.
func (p *plan) write(dir string, log *slog.Logger) error {
	data := slices.Clone(p.header)
	for i, set := range p.sets {
		if !p.withdrawn[i] {
			data = append(data, set.raw...)
		}
	}
	if log != nil {
		log.Warn("store: took back from MANIFEST what was written there and not synced", slog.Int("change_sets", len(p.withdrawn)))
	}
	if err := durable.WriteFile(filepath.Join(dir, manifest), data, 0o600); err != nil {
		return fmt.Errorf("store: open: %w", err)
	}
	return nil
}

// settle writes the write-ahead logs and MANIFEST anew, where the store was not closed. After a sync that failed, Linux has their
// pages in its cache, marked as written: what is read there and believed could be gone after a loss of power, and syncing
// once more would not help. Copies have pages of their own, whose syncs tell the truth.
func settle(dir string) error {
	wals, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil || len(wals) == 0 {
		return err
	}
	for _, path := range append(wals, filepath.Join(dir, manifest)) {
		if err := rewrite(path); err != nil {
			return fmt.Errorf("store: open: %w", err)
		}
	}
	return durable.SyncDir(dir)
}

func rewrite(path string) error {
	fresh := path + settling
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := copyFile(path, fresh, true); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}
