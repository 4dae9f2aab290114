package appliance

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/signet-pki/signet/api"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/witness"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/durable"
)

const (
	witnessObject  = "witness" // the key's label in the audit token
	witnessKeyFile = "key.txt"
	// cosignAgain is how long a cosignature serves whoever asks about the same head again.
	cosignAgain = 5 * time.Second
)

// cosigner is this appliance as a witness of other logs (C2SP tlog-witness). A log's newest head is a file, replaced and synced
// under the log's lock before the head is signed: whatever dies when, no two roots are signed at one size.
type cosigner struct {
	signer *witness.Signer
	logs   map[string]*watchedLog // by origin; fixed
	now    func() time.Time
	fork   func(ctx context.Context, body record.WitnessAlarmBody) error
	log    *slog.Logger
	write  func(path string, data []byte, perm fs.FileMode) error // durable.WriteFile
}

// watchedLog is one log and what was cosigned of it last.
type watchedLog struct {
	log  witness.Log
	path string

	mu   sync.Mutex
	last checkpoint.Checkpoint
	lost error // a head whose storing failed: what is on disk is not known
	line []byte
	at   time.Time // of line
}

// newWitness gives nil where this appliance is no witness.
func (a *Appliance) newWitness(ctx context.Context, now func() time.Time) (*cosigner, error) {
	if a.cfg.Witness == nil {
		return nil, nil //nolint:nilnil // it is none
	}
	key, err := a.witnessKey(ctx)
	if err != nil {
		return nil, err
	}
	signer, err := witness.NewSigner(a.cfg.Witness.Name, key, now)
	if err != nil {
		return nil, err
	}
	fork := func(ctx context.Context, body record.WitnessAlarmBody) error {
		return raiseAlarm(ctx, a.log, now(), body.Log, body)
	}
	c, err := openCosigner(a.cfg.witnessDir(), *a.cfg.Witness, signer, now, fork, a.logger.With(slog.String("part", "witness")))
	if err == nil {
		c.log.LogAttrs(ctx, slog.LevelInfo, "witness", slog.String("key", signer.Key()), slog.Int("logs", len(c.logs)))
	}
	return c, err
}

// witnessKey finds the key, or makes it with the directory of heads. A key without its heads has signed what nobody here
// remembers.
func (a *Appliance) witnessKey(ctx context.Context) (crypto.Signer, error) {
	token, ok := a.devices.audit.(tokenKeys)
	if !ok {
		return nil, errors.New("witness: its key is Ed25519, which TPMs do not make") // the configuration was checked
	}
	key, err := token.Signer(ctx, token.uri(witnessObject))
	made := err == nil
	if err != nil && !errors.Is(err, hsm.ErrKeyNotFound) {
		return nil, err
	}
	dir := a.cfg.witnessDir()
	switch _, err := os.Stat(dir); {
	case err == nil && !made && exists(filepath.Join(dir, witnessKeyFile)):
		return nil, fmt.Errorf("%s has the heads of a key that is not in the audit token", dir)
	case errors.Is(err, fs.ErrNotExist) && made:
		return nil, fmt.Errorf("the audit token has the key %q, and its directory of heads %s is gone: it must not sign again. Remove the key to become a new witness", token.object(witnessObject), dir)
	case errors.Is(err, fs.ErrNotExist):
		if err := errors.Join(os.Mkdir(dir, 0o700), durable.SyncDir(filepath.Dir(dir))); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	}
	if made {
		return key, nil
	}
	return token.Generate(ctx, token.object(witnessObject), hsm.Ed25519)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// openCosigner reads the heads. What is there must verify.
func openCosigner(dir string, cfg Witness, signer *witness.Signer, now func() time.Time, fork func(context.Context, record.WitnessAlarmBody) error, log *slog.Logger) (*cosigner, error) {
	if err := errors.Join(durable.Sweep(dir), sameKey(filepath.Join(dir, witnessKeyFile), signer.Key())); err != nil {
		return nil, err
	}
	c := &cosigner{signer: signer, logs: map[string]*watchedLog{}, now: now, fork: fork, log: log, write: durable.WriteFile}
	for _, l := range cfg.Logs {
		known, err := l.log()
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256([]byte(known.Name()))
		w := &watchedLog{log: known, path: filepath.Join(dir, hex.EncodeToString(sum[:]))}
		if w.last, err = w.load(l.Start); err != nil {
			return nil, fmt.Errorf("head of %s: %w", known.Name(), err)
		}
		c.logs[known.Name()] = w
	}
	return c, nil
}

// sameKey writes the verifier key, or compares it: heads belong to one key.
func sameKey(path, key string) error {
	have, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return durable.Create(path, []byte(key+"\n"), 0o644)
	case err != nil:
		return err
	case string(have) != key+"\n":
		return fmt.Errorf("%s is of another key: %s", path, strings.TrimSpace(string(have)))
	}
	return nil
}

// load reads the newest head, or takes the configured one where nothing was cosigned yet.
func (w *watchedLog) load(start *TreeHead) (checkpoint.Checkpoint, error) {
	signed, err := os.ReadFile(w.path)
	if errors.Is(err, fs.ErrNotExist) {
		return start.head(w.log)
	}
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	c, own, err := w.log.Open(signed)
	if err == nil && !bytes.Equal(own, signed) {
		err = errors.New("not as it was written")
	}
	return c, err
}

// serve is what the API calls; nil where this appliance is no witness.
func (c *cosigner) serve() func(ctx context.Context, request []byte) ([]byte, error) {
	if c == nil {
		return nil
	}
	return c.addCheckpoint
}

// addCheckpoint answers one request with signature lines.
func (c *cosigner) addCheckpoint(ctx context.Context, body []byte) ([]byte, error) {
	q, err := witness.ParseRequest(body)
	if err != nil {
		return nil, refusedCheckpoint(err)
	}
	w, known := c.logs[q.Origin()]
	if !known {
		return nil, &delegation.Error{Kind: delegation.NotFound, Code: "log_unknown", Detail: "this log is not witnessed here"}
	}
	line, own, err := c.advance(w, q)
	var other *witness.ConflictError
	if errors.As(err, &other) && other.Fork {
		c.alarm(ctx, w, own, other)
	}
	return line, refusedCheckpoint(err)
}

// advance moves a log's head: look, store and sign are one step.
func (c *cosigner) advance(w *watchedLog, q witness.Request) (line, own []byte, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lost != nil {
		return nil, nil, w.lost
	}
	next, own, err := w.log.Advance(w.last, q)
	if err != nil {
		return nil, own, err
	}
	if next == w.last && w.line != nil && c.now().Sub(w.at).Abs() < cosignAgain {
		return w.line, own, nil
	}
	if next != w.last {
		if err := c.write(w.path, own, 0o600); err != nil {
			w.lost = fmt.Errorf("the head of %s could not be stored: %w", w.log.Name(), err)
			return nil, nil, w.lost
		}
		w.last, w.line = next, nil
	}
	if line, err = c.signer.Cosign(next); err != nil {
		return nil, nil, err
	}
	w.line, w.at = line, c.now()
	return line, own, nil
}

// alarm keeps the proof that a log is forked.
func (c *cosigner) alarm(ctx context.Context, w *watchedLog, signed []byte, other *witness.ConflictError) {
	w.mu.Lock()
	root := w.last.Root
	w.mu.Unlock()
	c.log.LogAttrs(ctx, slog.LevelError, "a log is forked", slog.String("log", w.log.Name()), slog.Uint64("size", other.Size))
	err := c.fork(ctx, record.WitnessAlarmBody{
		Event: record.EventLogFork, Log: w.log.Name(), Size: other.Size, Root: hex.EncodeToString(root[:]), Checkpoint: string(signed),
	})
	if err != nil {
		c.log.LogAttrs(ctx, slog.LevelError, "a log's fork is not recorded", slog.Any("error", err))
	}
}

// refusedCheckpoint says it in the API's words.
func refusedCheckpoint(err error) error {
	var other *witness.ConflictError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &other):
		return &api.SizeConflictError{Size: other.Size}
	case errors.Is(err, witness.ErrMalformed):
		return &delegation.Error{Kind: delegation.Invalid, Code: "checkpoint_malformed", Detail: err.Error()}
	case errors.Is(err, witness.ErrUnsigned):
		return &delegation.Error{Kind: delegation.Forbidden, Code: "checkpoint_unsigned", Detail: "no valid signature of the log's key"}
	case errors.Is(err, witness.ErrProof):
		return &delegation.Error{Kind: delegation.Invalid, Code: "proof_invalid", Detail: "the consistency proof does not verify"}
	}
	return &delegation.Error{Kind: delegation.Unavailable, Code: "witness_unavailable", Detail: "nothing can be cosigned now", Err: err}
}

// check is the probe: every log's head is stored.
func (c *cosigner) check() error {
	var errs []error
	for _, w := range c.logs {
		w.mu.Lock()
		errs = append(errs, w.lost)
		w.mu.Unlock()
	}
	return errors.Join(errs...)
}
