// Package audit is the tamper-evident log: entries in an RFC 6962 tree, committed in groups together with the domain
// state that they change, checkpoints signed by a crypto.Signer, and seals that tie checkpoints to a TPM's counter.
//
// An entry is acknowledged when two writes are synced: the store's transaction and the line in heads.log, which stands
// outside the store and tells if the store ever loses what it acknowledged. Signatures are made afterwards, never over
// data that is not durable. A log that disagrees with heads.log, with its own tree, with its last seal or with the TPM's
// counter opens read-only, signs nothing and says why. It knows no domain types, keys or devices.
//
// All methods of Log are safe for concurrent use; Run runs once.
package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/store"
)

const (
	storeDir    = "db"
	lockName    = "lock"
	ballastName = "ballast"
)

// Log is an open log. See [Open].
type Log struct {
	cfg     Config
	unlock  func()
	db      *store.DB
	vault   *vault
	erasing sync.Mutex    // one erasure at a time
	pruning sync.Mutex    // likewise
	toPrune chan struct{} // a prune entry was written
	pruned  atomic.Pointer[pruned]
	heads   *heads // the committer's; nil when read-only
	signers *signers
	ballast *durable.Ballast
	limits  limits

	queue   chan *item
	intake  sync.RWMutex // held for reading while sending to queue
	shut    bool         // no more sending; guarded by intake
	closing chan struct{}
	ended   chan struct{} // closed when Run has ended, or Close came without Run
	refuse  sync.Once
	end     sync.Once
	closed  sync.Once

	snap   atomic.Pointer[snapshot]
	signed atomic.Pointer[[]byte] // newest signed checkpoint
	work   atomic.Uint64          // size of the tree after the last entry that is not a seal
	wake   chan struct{}          // something was committed

	state state
}

// snapshot is a durable head with the edge of its tree. It never changes.
type snapshot struct {
	head head
	tree merkle.Tree
}

// Create makes a log whose first leaves are first, with the ceremony's entry as leaf 0. One without an envelope is no leaf: its
// mutations alone are written. It returns when everything is durable; a crash before leaves no log. A directory that exists is
// [ErrExists].
func Create(ctx context.Context, cfg Config, first []record.Entry) (err error) {
	cfg, err = cfg.forWriting()
	if err != nil {
		return err
	}
	if len(first) == 0 {
		return errors.New("audit: create: no first entry")
	}
	if _, err := os.Lstat(cfg.Dir); err == nil {
		return fmt.Errorf("%w: %s", ErrExists, cfg.Dir)
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.DeviceTimeout)
	defer cancel()
	anchor, err := cfg.Quoter.State(ctx)
	if err != nil {
		return fmt.Errorf("audit: create: read the TPM's counter: %w", err)
	}
	final := cfg.Dir
	cfg.Dir = final + ".creating"
	// What a crashed Create left was never part of a log.
	if err := errors.Join(os.RemoveAll(cfg.Dir), os.Mkdir(cfg.Dir, 0o700)); err != nil {
		return fmt.Errorf("audit: create: %w", err)
	}
	if err := fill(cfg, first, anchor); err != nil {
		return errors.Join(fmt.Errorf("audit: create: %w", err), os.RemoveAll(cfg.Dir))
	}
	if err := os.Rename(cfg.Dir, final); err != nil {
		return fmt.Errorf("audit: create: %w", err)
	}
	return durable.SyncDir(filepath.Dir(filepath.Clean(final)))
}

// fill writes the files of a new log.
func fill(cfg Config, first []record.Entry, anchor Anchor) error {
	l, err := newLog(cfg)
	if err != nil {
		return err
	}
	if l.heads, err = createHeads(cfg.Dir); err != nil {
		return err
	}
	if l.vault, err = createVault(cfg.Dir); err != nil {
		return errors.Join(err, l.heads.close())
	}
	if l.db, err = store.Open(filepath.Join(cfg.Dir, storeDir), store.Options{Log: cfg.Log}); err != nil {
		return errors.Join(err, l.heads.close())
	}
	l.limits = limitsOf(l.db)
	value, err := json.Marshal(anchor)
	keys, keysErr := erasuresOf(l.vault.tree.Load()).write()
	if err = errors.Join(err, keysErr); err == nil {
		err = l.commitFirst(first, pair{[]byte(keyAnchor), value}, keys)
	}
	err = errors.Join(err, l.heads.close(), l.db.Close())
	return errors.Join(err, durable.SyncDir(filepath.Join(cfg.Dir, storeDir)), durable.SyncDir(cfg.Dir))
}

func (l *Log) commitFirst(first []record.Entry, with ...pair) error {
	l.snap.Store(&snapshot{head: head{checkpoint: checkpoint.Checkpoint{Origin: l.cfg.Origin, Root: merkle.EmptyRoot()}}})
	var batch []*item
	left := l.limits
	for _, e := range first {
		it, err := l.newFirst(e)
		if err != nil {
			return err
		}
		it.raw, with = with, nil
		if len(batch) == maxBatch || it.cost.bytes > left.bytes || it.cost.keys > left.keys {
			if err := l.commitAll(batch); err != nil {
				return err
			}
			batch, left = nil, l.limits
		}
		batch, left = append(batch, it), limits{bytes: left.bytes - it.cost.bytes, keys: left.keys - it.cost.keys}
	}
	return l.commitAll(batch)
}

func (l *Log) newFirst(e record.Entry) (*item, error) {
	if e.Envelope != nil {
		return l.newItem(e)
	}
	return l.newPut(e.Mutations)
}

func (l *Log) commitAll(batch []*item) error {
	l.commit(batch)
	for _, it := range batch {
		if r := <-it.done; r.err != nil {
			return r.err
		}
	}
	return nil
}

// newLog makes a Log without files.
func newLog(cfg Config) (*Log, error) {
	l := &Log{
		cfg: cfg, queue: make(chan *item, queueSize), closing: make(chan struct{}), ended: make(chan struct{}),
		wake: make(chan struct{}, 1), toPrune: make(chan struct{}, 1), vault: &vault{},
	}
	l.pruned.Store(&pruned{})
	l.state.sealed = make(chan struct{})
	var err error
	if l.signers, err = newSigners(cfg.Origin, cfg.Signer); err != nil {
		return nil, err
	}
	if l.ballast, err = durable.NewBallast(filepath.Join(cfg.Dir, ballastName), cfg.Ballast); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return l, nil
}

// Open opens an existing log and compares it with itself, with heads.log and with the TPM. What disagrees makes it
// read-only: see [Log.Status]. A TPM that does not answer does so too, until it answers. An error means that there is
// nothing to read: [ErrInUse], no log, or a store that may not be opened without losing more.
func Open(ctx context.Context, cfg Config) (_ *Log, err error) {
	cfg, err = cfg.forWriting()
	if err != nil {
		return nil, err
	}
	l, err := newLog(cfg)
	if err != nil {
		return nil, err
	}
	if l.unlock, err = lock(cfg.Dir); err != nil {
		return nil, err
	}
	if err := l.open(); err != nil {
		l.unlock()
		return nil, err
	}
	l.guard()
	if err := l.findSigner(ctx); err != nil {
		return nil, errors.Join(err, l.closeFiles())
	}
	l.openKeys(ctx)
	l.startWriting()
	l.greet(ctx)
	for _, r := range l.Status().Reasons {
		cfg.Log.LogAttrs(ctx, slog.LevelError, "audit log", slog.String("reason", r))
	}
	return l, nil
}

func lock(dir string) (unlock func(), err error) {
	if info, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("audit: no log: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("audit: %s is not a directory", dir)
	}
	unlock, err = durable.Lock(filepath.Join(dir, lockName))
	if errors.Is(err, durable.ErrLocked) {
		return nil, fmt.Errorf("%w: %w", ErrInUse, err)
	}
	return unlock, err
}

// open opens the store, guarded. It creates nothing.
func (l *Log) open() error {
	if err := durable.Sweep(l.cfg.Dir); err != nil {
		return err
	}
	had, err := hasHeads(l.cfg.Dir)
	if err != nil {
		return err
	}
	dir := filepath.Join(l.cfg.Dir, storeDir)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("audit: no store: %w", err)
	}
	if err := store.Guard(dir, had); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	if err := l.makeRoom(dir); err != nil {
		return err
	}
	if l.db, err = store.Open(dir, store.Options{Log: l.cfg.Log}); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	l.limits = limitsOf(l.db)
	return nil
}

// makeRoom gives up the ballast where the disk is low, and refuses where the store could not even be opened.
func (l *Log) makeRoom(dir string) error {
	room, err := store.Room(dir)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	free, _, err := l.space()
	if err == nil && free < room {
		err = l.ballast.Release()
		if err == nil {
			free, _, err = l.space()
		}
	}
	if err == nil && free < room {
		err = fmt.Errorf("%w: %d bytes free, opening may take %d", ErrDiskFull, free, room)
	}
	return err
}

// startWriting makes heads.log say what the store says, if the log is in order. The store may be one batch ahead: a crash between
// the two syncs, or one of them failed. Nothing of that batch was acknowledged; from here on it counts.
func (l *Log) startWriting() {
	if l.state.isBroken() {
		return
	}
	var err error
	c := l.Head()
	if l.heads, err = startHeads(l.cfg.Dir, line{size: c.Size, root: c.Root}); err != nil {
		l.state.doubt(err)
		return
	}
	if low, err := l.diskLow(); err == nil && !low {
		if err := l.ballast.Reserve(); err != nil {
			l.cfg.Log.Warn("no ballast", slog.Any("error", err))
		}
	}
}

// Close releases the log. Where Run runs, end its context and wait for it first. Pending appends fail with [ErrClosed].
func (l *Log) Close() error {
	l.stopIntake()
	l.endWaits()
	for {
		select {
		case it := <-l.queue:
			it.finish(result{err: ErrClosed})
			continue
		default:
		}
		break
	}
	var err error
	if low, lowErr := l.diskLow(); lowErr == nil && low {
		err = l.ballast.Release() // room for the store's last flush
	}
	return errors.Join(err, l.closeFiles())
}

// closeFiles is for the first Close alone.
func (l *Log) closeFiles() (err error) {
	l.closed.Do(func() {
		err = errors.Join(l.heads.close(), l.db.Close())
		l.unlock()
	})
	return err
}

// stopIntake makes Append and Put fail, and returns when no more of their items can reach the queue.
func (l *Log) stopIntake() {
	l.refuse.Do(func() { close(l.closing) })
	l.intake.Lock()
	defer l.intake.Unlock()
	l.shut = true
}

func (l *Log) endWaits() { l.end.Do(func() { close(l.ended) }) }
