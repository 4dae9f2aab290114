package appliance

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/internal/backup"
	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/tpm/quote"
)

// restoreDetail is what custodians agree to in an act of kind restore.
type restoreDetail struct {
	Backup  string `json:"backup"`  // SHA-256 of the file
	Size    uint64 `json:"size"`    // of the log in it
	Root    string `json:"root"`    // likewise
	Origin  string `json:"origin"`  // of the log that succeeds it
	Counter uint64 `json:"counter"` // of the TPM: it moves with the restore, so that an act is good for one
}

const (
	restoreLife = 14 * 24 * time.Hour // custodians may be far apart
	restoreSkew = time.Minute
)

// ProposeRestore writes, into a directory that must not exist, the act that custodians are to sign and the layers that they are to take
// off the backup's key. It changes nothing.
func ProposeRestore(ctx context.Context, c Config, file, out string, w io.Writer, log *slog.Logger) error {
	b, err := backup.Open(file)
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // read only
	text, err := c.restoreAct(ctx, b, log)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := os.Mkdir(out, 0o700); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := durable.Create(filepath.Join(out, "act.json"), text, 0o644); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "%s is for every custodian to read and to sign:\n  ssh-keygen -Y sign -n %s -f KEY act.json\nThe layers of one group, each taken off by\n  age -d -i KEY FILE\n",
		filepath.Join(out, "act.json"), custody.Namespace); err != nil {
		return err
	}
	return b.Layers(func(name string, custodians []string, data []byte) error {
		if err := durable.Create(filepath.Join(out, "layers-"+name), data, 0o644); err != nil {
			return err
		}
		_, err := fmt.Fprintf(w, "  layers-%s  %s\n", name, strings.Join(custodians, ", then "))
		return err
	})
}

func (c *Config) restoreAct(ctx context.Context, b *backup.Backup, log *slog.Logger) ([]byte, error) {
	d := b.Description()
	head, err := headOf(d.Checkpoint)
	if err != nil || head.Origin != d.Origin {
		return nil, errors.Join(backup.ErrFormat, err)
	}
	if _, err := generations(d.Origin, c.Origin); err != nil {
		return nil, err
	}
	dev, err := c.openTPM(ctx, quote.Binding{}, log)
	if err != nil {
		return nil, err
	}
	state, err := dev.State(ctx)
	if err := errors.Join(err, dev.Close()); err != nil {
		return nil, fmt.Errorf("the counter of the TPM: %w (a restore goes on with the TPM of the backup)", err)
	}
	digest := b.Digest()
	detail, err := json.Marshal(restoreDetail{
		Backup: hex.EncodeToString(digest[:]), Size: head.Size, Root: hex.EncodeToString(head.Root[:]), Origin: c.Origin, Counter: state.Counter,
	})
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(time.Second)
	act := custody.Act{
		Kind: custody.Restore, Origin: d.Origin, Custodians: d.Set, Created: now, NotAfter: now.Add(restoreLife), Detail: detail,
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, err
	}
	act.ID = hex.EncodeToString(id)
	return act.Marshal()
}

// generations says by how many a log's successor is after it: x/2 after x, x/3 after x or x/2.
func generations(former, next string) (uint64, error) {
	base, text := cutLast(next)
	n, err := strconv.ParseUint(text, 10, 16)
	if err == nil && n >= 2 && strconv.FormatUint(n, 10) == text {
		if base == former {
			return n - 1, nil
		}
		formerBase, text := cutLast(former)
		if m, err := strconv.ParseUint(text, 10, 16); err == nil && formerBase == base && m >= 2 && m < n {
			return n - m, nil
		}
	}
	return 0, fmt.Errorf("origin: %q in the configuration does not succeed %q: a restored log has an origin of its own. Write the next number that was never used behind it, as in %s/2", next, former, former)
}

func cutLast(s string) (before, after string) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return s, ""
	}
	return s[:i], s[i+1:]
}

// RestoreOptions say what to restore from, and who agreed to it.
type RestoreOptions struct {
	Backup, Identity, Act string   // files
	Approvals             []string // files: armored SSH signatures of custodians over the act
}

// stagedName is the directory below Dir in which a restore is prepared, and readyName the file that says that it is complete: what is
// left is to move it. Until the log is moved, which comes last, there is nothing to serve.
const (
	stagedName = "restoring"
	readyName  = "ready"
)

// checkRestored refuses to serve what is half restored.
func (c *Config) checkRestored() error {
	if _, err := os.Lstat(filepath.Join(c.Dir, stagedName)); err == nil {
		return fmt.Errorf("%s exists: a restore has not ended. Run signetd restore again", filepath.Join(c.Dir, stagedName))
	}
	return nil
}

// Restore opens a log that succeeds the one in a backup. Killed at any moment it leaves nothing that serves; run again it begins anew,
// or moves into place what is complete.
func Restore(ctx context.Context, c Config, o RestoreOptions, w io.Writer, log *slog.Logger) error {
	unlock, err := c.lockForRestore()
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer unlock()
	staged := filepath.Join(c.Dir, stagedName)
	if _, err := os.Lstat(filepath.Join(staged, readyName)); err == nil {
		return c.moveRestored(staged, w)
	}
	if err := c.checkEmpty(); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	// What a restore left that did not come so far was never part of an appliance.
	if err := errors.Join(os.RemoveAll(staged), os.Mkdir(staged, 0o700)); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := c.prepareRestore(ctx, staged, o, log); err != nil {
		return errors.Join(fmt.Errorf("restore: %w", err), os.RemoveAll(staged))
	}
	return c.moveRestored(staged, w)
}

func (c *Config) lockForRestore() (unlock func(), err error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	return durable.Lock(filepath.Join(c.Dir, "restore.lock"))
}

// checkEmpty refuses a directory in which an appliance is, or was.
func (c *Config) checkEmpty() error {
	logs, err := filepath.Glob(filepath.Join(c.Dir, "log*"))
	if err != nil {
		return err
	}
	for _, name := range backedUp {
		if _, err := os.Lstat(filepath.Join(c.Dir, name)); err == nil {
			logs = append(logs, filepath.Join(c.Dir, name))
		}
	}
	if len(logs) > 0 {
		return fmt.Errorf("%s exists; a restore never overwrites", logs[0])
	}
	return nil
}

// restoration is one that is prepared.
type restoration struct {
	cfg, former Config // of the new log, and of the one in the backup
	act         custody.Act
	text        []byte // of act
	signatures  [][]byte
	detail      restoreDetail
	devices     devices
	indexKey    []byte
	logger      *slog.Logger
}

func (c *Config) prepareRestore(ctx context.Context, staged string, o RestoreOptions, log *slog.Logger) (err error) {
	if c.Tokens.inTPM() {
		return errors.New("keys in the TPM are certified for one origin: an appliance that has some cannot be restored yet")
	}
	r := &restoration{cfg: *c, logger: log}
	r.cfg.staged = staged
	b, err := backup.Open(o.Backup)
	if err != nil {
		return err
	}
	defer b.Close() //nolint:errcheck // read only
	if err := r.readAct(b, o); err != nil {
		return err
	}
	if err := unpack(b, o.Identity, staged); err != nil {
		return err
	}
	r.former = r.cfg
	r.former.Origin = b.Description().Origin
	if r.indexKey, err = os.ReadFile(r.cfg.indexKey()); err != nil {
		return err
	}
	if r.devices, err = r.former.openDevices(ctx, log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.devices.Close()) }()
	return r.begin(ctx, b.Description().Checkpoint)
}

// readAct reads what the custodians signed, and compares it with the file. Whether they are the custodians is seen in the log.
func (r *restoration) readAct(b *backup.Backup, o RestoreOptions) (err error) {
	if r.text, err = readBounded(o.Act, 0); err != nil {
		return err
	}
	if r.act, err = custody.ParseAct(r.text); err != nil {
		return err
	}
	for _, path := range o.Approvals {
		sig, err := readBounded(path, 0)
		if err != nil {
			return err
		}
		r.signatures = append(r.signatures, sig)
	}
	d := b.Description()
	if err := r.act.Check(custody.Restore, d.Origin, time.Now(), restoreSkew); err != nil {
		return err
	}
	if r.detail, err = record.DecodeBody[restoreDetail](record.Envelope{Type: record.TypeAct, Body: r.act.Detail}); err != nil {
		return err
	}
	head, err := headOf(d.Checkpoint)
	if err != nil {
		return err
	}
	digest := b.Digest()
	switch {
	case r.detail.Backup != hex.EncodeToString(digest[:]):
		return fmt.Errorf("%w: the act is about another file, or the file changed: its SHA-256 is %x", backup.ErrFormat, digest)
	case r.detail.Size != head.Size || r.detail.Root != hex.EncodeToString(head.Root[:]):
		return errors.New("the act is about another head of the log")
	case r.detail.Origin != r.cfg.Origin:
		return fmt.Errorf("the act opens %q, the configuration has origin %q", r.detail.Origin, r.cfg.Origin)
	}
	_, err = generations(d.Origin, r.cfg.Origin)
	return err
}

const maxFile = 16 << 20 // of what is in a backup besides logs

// unpack writes the files of a backup below dir.
func unpack(b *backup.Backup, identityFile, dir string) error {
	text, err := readBounded(identityFile, 0o077)
	if err != nil {
		return err
	}
	identity, err := backup.ParseIdentity(text)
	clear(text)
	if err != nil {
		return err
	}
	return b.Extract(identity, func(name string, r io.Reader) error {
		if name == snapshotName {
			note, err := audit.ReadSnapshot(formerLog(dir), r)
			if err == nil && !bytes.Equal(note, b.Description().Checkpoint) {
				err = fmt.Errorf("%w: its log has another head", backup.ErrFormat)
			}
			return err
		}
		return unpackFile(dir, name, r)
	})
}

// unpackFile takes the names that a backup has, and no others.
func unpackFile(dir, name string, r io.Reader) error {
	top, _, _ := strings.Cut(name, "/")
	if !slices.Contains(backedUp, top) || !filepath.IsLocal(name) {
		return fmt.Errorf("%w: file %.80q", backup.ErrFormat, name)
	}
	data, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return err
	}
	if len(data) > maxFile {
		return fmt.Errorf("%w: %s is too large", backup.ErrFormat, name)
	}
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.Create(path, data, 0o600)
}

// moveRestored moves what is complete into place, the log last. A crash in between is continued by the next run.
func (c *Config) moveRestored(staged string, w io.Writer) error {
	entries, err := os.ReadDir(staged)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != readyName && e.Name() != "log" {
			names = append(names, e.Name())
		}
	}
	names = append(names, "log")
	for _, name := range names {
		from, to := filepath.Join(staged, name), filepath.Join(c.Dir, name)
		if _, err := os.Lstat(from); errors.Is(err, fs.ErrNotExist) {
			continue // moved before
		}
		if _, err := os.Lstat(to); err == nil {
			return fmt.Errorf("restore: %s exists; a restore never overwrites", to)
		}
		if err := os.Rename(from, to); err != nil {
			return fmt.Errorf("restore: %w", err)
		}
		if err := durable.SyncDir(c.Dir); err != nil {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(staged), durable.SyncDir(c.Dir)); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	_, err = fmt.Fprintf(w, "restored: %s is open. The former log is %s. Revoke again what was revoked after the backup was made.\n", c.Origin, lastFormer(c.Dir))
	return err
}
