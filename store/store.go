// Package store keeps key-value state in Badger, with the settings without which Badger loses or corrupts data silently.
// It is the only package that opens Badger, and knows no domain types.
//
// It refuses to open a directory whose tables lost their MANIFEST (Badger would open empty and delete them, see [Guard])
// and a second process. A DB is safe for concurrent use; a Txn belongs to its callback alone.
package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/badger/v4/options"

	"github.com/signet-pki/signet/internal/durable"
)

var (
	// ErrNotFound: no such key, or it expired.
	ErrNotFound = errors.New("store: not found")
	// ErrManifest: the directory held data and has no MANIFEST. Opening it would destroy what is left.
	ErrManifest = errors.New("store: MANIFEST is missing where data was")
	// ErrTooBig: the transaction exceeds MaxTxnBytes or MaxTxnKeys. Nothing was written.
	ErrTooBig = errors.New("store: transaction too big")
	// ErrUnknown: the commit failed on its way to disk. It may be durable or not; only reopening tells.
	ErrUnknown = errors.New("store: outcome of the commit is unknown")
	// ErrFailed: Badger could not write in the background. What was committed is in the write-ahead log; reopening finds it.
	ErrFailed = errors.New("store: failed in the background, and is to be opened again by another process")
	// ErrUnclean: opened read-only after a crash; the write-ahead log must be replayed by a writer first.
	ErrUnclean = errors.New("store: was not closed cleanly")
)

// Measured settings. Smaller memtables limit a transaction to 1.2 to 2.5 MB.
const (
	memTable = 64 << 20
	vlogFile = 64 << 20
	// valueThreshold is above the largest value that the log writes (a salted payload of 256 KiB), so that nothing goes to
	// the value log, whose garbage collection and checks are separate.
	valueThreshold = 512 << 10
	blockCache     = 64 << 20
	// Entries are written in order and stay: tables and levels larger than Badger's, and more of them at level 0 before they are
	// merged, mean that they are rewritten less often, and that fewer files are opened; blocks that hold a few entries each, fewer of
	// them to look at when tables are checked. What is merged at once needs as much room beside itself: level 0, and
	// what it overlaps.
	baseTable   = 64 << 20
	baseLevel   = 1 << 30
	level0      = 10
	level0Stall = 2 * level0
	blockSize   = 16 << 10
)

// MaxValue is the largest value of one key, in bytes.
const MaxValue = valueThreshold - 1

const manifest = badger.ManifestFilename

// Options of Open. The zero value is what the log uses.
type Options struct {
	ReadOnly bool
	Log      *slog.Logger // Badger's warnings and errors; nil drops them
}

// DB is an open store.
type DB struct {
	badger  *badger.DB
	scratch []byte // of the one Update that runs
	trouble *trouble
}

// Guard refuses with [ErrManifest] a directory that Badger would silently empty: tables or value logs without a MANIFEST,
// or no MANIFEST at all where the caller knows of data (hadData). Call it before Open.
func Guard(dir string, hadData bool) error {
	_, err := os.Stat(filepath.Join(dir, manifest))
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: guard: %w", err)
	}
	if hadData {
		return fmt.Errorf("%w: %s", ErrManifest, dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: guard: %w", err)
	}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".sst" || ext == ".vlog" || ext == ".mem" {
			return fmt.Errorf("%w: %s holds %s", ErrManifest, dir, e.Name())
		}
	}
	return nil
}

// Open opens the store in dir and, unless read-only, creates it where dir is empty or absent.
func Open(dir string, opt Options) (*DB, error) {
	if err := Guard(dir, opt.ReadOnly); err != nil {
		return nil, err
	}
	if opt.ReadOnly {
		if err := checkClean(dir); err != nil {
			return nil, err
		}
		if err := checkAll(dir); err != nil {
			return nil, err
		}
	} else if err := prepare(dir, opt.Log); err != nil {
		return nil, err
	}
	return start(settings(dir).WithReadOnly(opt.ReadOnly), opt.Log)
}

func settings(dir string) badger.Options {
	return badger.DefaultOptions(dir).
		WithSyncWrites(true).
		WithChecksumVerificationMode(options.OnBlockRead). // all of a table is verified before, see checkTables
		WithVerifyValueChecksum(true).
		WithMemTableSize(memTable).
		WithBaseTableSize(baseTable).
		WithBaseLevelSize(baseLevel).
		WithNumLevelZeroTables(level0).
		WithNumLevelZeroTablesStall(level0Stall).
		WithBlockSize(blockSize).
		WithValueThreshold(valueThreshold).
		WithValueLogFileSize(vlogFile).
		WithCompression(options.None). // of tables: what is worth it is packed already, see pack
		WithBlockCacheSize(blockCache).
		WithNumVersionsToKeep(1).
		WithDetectConflicts(false). // one writer
		WithMetricsEnabled(false)
}

// start opens Badger, unless it fails in the background before it is open.
func start(o badger.Options, log *slog.Logger) (*DB, error) {
	db := &DB{trouble: &trouble{is: make(chan struct{})}}
	var err error
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		db.badger, err = badger.Open(o.WithLogger(logger{log, db.trouble}))
	}()
	if err := db.trouble.wait(opened); err != nil {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("store: open: %w", err)
	}
	return db, nil
}

// checkClean refuses with [ErrUnclean] a store with a write-ahead log: a clean close leaves none, and Badger cannot replay
// one without truncating it. Its tables are all verified, and there.
func checkClean(dir string) error {
	wals, err := filepath.Glob(filepath.Join(dir, "*.mem"))
	if err != nil {
		return fmt.Errorf("store: open: %w", err)
	}
	empty, err := emptyLogs(dir)
	if left := append(wals, empty...); len(left) > 0 {
		return fmt.Errorf("%w: %s", ErrUnclean, left[0])
	}
	if err != nil {
		return err
	}
	p, err := examine(dir)
	if err != nil || p == nil {
		return err
	}
	if len(p.withdrawn) > 0 || len(p.unnamed) > 0 { // Badger removes the latter, also where it is not to write
		return fmt.Errorf("%w: its tables are not those of its MANIFEST", ErrUnclean)
	}
	_, err = p.checkTables(dir)
	return err
}

// dropEmpty removes logs without a byte. Badger truncates a log before it removes it, and makes one before it gives it a size; a
// crash in between leaves a file that it then refuses to open, and that holds nothing.
func dropEmpty(dir string) error {
	empty, err := emptyLogs(dir)
	if err != nil || len(empty) == 0 {
		return err
	}
	for _, path := range empty {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("store: open: %w", err)
		}
	}
	return durable.SyncDir(dir)
}

func emptyLogs(dir string) (empty []string, err error) {
	for _, pattern := range []string{"*.mem", "*.vlog"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, fmt.Errorf("store: open: %w", err)
		}
		for _, path := range paths {
			info, err := os.Lstat(path)
			if err != nil {
				return nil, fmt.Errorf("store: open: %w", err)
			}
			if info.Mode().IsRegular() && info.Size() == 0 {
				empty = append(empty, path)
			}
		}
	}
	return empty, nil
}

// Close flushes and closes. No transaction may be running. Where Badger failed in the background, or does so now, it is left
// alone, as a crash would leave it: only the end of the process frees it.
func (db *DB) Close() error {
	var err error
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if db.trouble.get() == nil {
			err = db.badger.Close()
		}
	}()
	if err := db.trouble.wait(closed); err != nil {
		return err
	}
	if err != nil {
		return fmt.Errorf("store: close: %w", err)
	}
	return nil
}

// MaxTxnBytes and MaxTxnKeys bound one Update, keys, values and their overhead counted; see [TxnCost].
func (db *DB) MaxTxnBytes() int64 { return db.badger.MaxBatchSize() }

// MaxTxnKeys is the number of keys that one Update may write.
func (db *DB) MaxTxnKeys() int64 { return db.badger.MaxBatchCount() }

// TxnCost is what one written key counts towards MaxTxnBytes at most: a value that is packed counts less.
func TxnCost(key, value int) int64 { return int64(key + value + 32) }

// View runs fn on a consistent snapshot.
func (db *DB) View(fn func(*Txn) error) error {
	return db.badger.View(func(t *badger.Txn) error { return fn(&Txn{badger: t}) })
}

// Update runs fn and commits what it wrote, at once and synced to disk. An error of fn, or [ErrTooBig], means that nothing
// was written; [ErrUnknown] that the commit itself failed, or that Badger did before, in the background. Only one goroutine may call Update at a time: conflicts between
// writers are not detected.
func (db *DB) Update(fn func(*Txn) error) error {
	if err := db.trouble.get(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	t := db.badger.NewTransaction(true)
	defer t.Discard()
	if err := fn(&Txn{badger: t, db: db}); err != nil {
		return err
	}
	if err := t.Commit(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	return nil
}

// Txn reads a snapshot and, within Update, its own writes. Keys and values that are given or returned are the caller's.
type Txn struct {
	badger *badger.Txn
	db     *DB // nil in a View, where nothing can be written
}

// Get returns a copy of the value, or [ErrNotFound].
func (t *Txn) Get(key []byte) ([]byte, error) {
	item, err := t.badger.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("store: get: %w", err)
	}
	v, err := read(item)
	if err != nil {
		return nil, fmt.Errorf("store: get: %w", err)
	}
	return v, nil
}

// Set writes a key. The slices must not change until the transaction ends.
func (t *Txn) Set(key, value []byte) error { return t.set(badger.NewEntry(key, value)) }

// SetTTL writes a key that disappears some time after ttl has passed on the wall clock, whole seconds.
func (t *Txn) SetTTL(key, value []byte, ttl time.Duration) error {
	return t.set(badger.NewEntry(key, value).WithTTL(ttl))
}

func (t *Txn) set(e *badger.Entry) error {
	if len(e.Value) > MaxValue {
		return fmt.Errorf("%w: value of %d bytes", ErrTooBig, len(e.Value))
	}
	if t.db != nil {
		t.db.scratch = pack(e, t.db.scratch)
	}
	return tooBig(t.badger.SetEntry(e))
}

// Delete removes a key; one that is not there is no error.
func (t *Txn) Delete(key []byte) error { return tooBig(t.badger.Delete(key)) }

func tooBig(err error) error {
	if errors.Is(err, badger.ErrTxnTooBig) {
		return fmt.Errorf("%w: %w", ErrTooBig, err)
	}
	if err != nil {
		return fmt.Errorf("store: write: %w", err)
	}
	return nil
}

// Iterate calls fn for each key with the prefix in ascending order, from the first key ≥ from on (nil: from the start).
// It stops at the first error of fn and returns it; [Stop] ends it without one.
func (t *Txn) Iterate(prefix, from []byte, fn func(key, value []byte) error) error {
	opt := badger.DefaultIteratorOptions
	opt.Prefix = prefix
	opt.PrefetchSize = 32
	it := t.badger.NewIterator(opt)
	defer it.Close()
	if bytes.Compare(from, prefix) < 0 {
		from = prefix
	}
	for it.Seek(from); it.ValidForPrefix(prefix); it.Next() {
		item := it.Item()
		v, err := read(item)
		if err != nil {
			return fmt.Errorf("store: iterate: %w", err)
		}
		err = fn(item.KeyCopy(nil), v)
		if errors.Is(err, Stop) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Stop is returned by Iterate's callback to end the iteration.
var Stop error = stop{} //nolint:errname // no error: a signal, like fs.SkipAll

type stop struct{}

func (stop) Error() string { return "store: stop" }
