package appliance

import (
	"bytes"
	"context"
	"crypto/ecdsa"
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
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/backup"
	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/policy/opa"
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

// begin verifies the former log, and opens its successor.
func (r *restoration) begin(ctx context.Context, note []byte) error {
	key, err := r.devices.audit.key(ctx, "audit")
	if err != nil {
		return fmt.Errorf("audit key: %w", err)
	}
	cfg := r.former.auditConfig(key, unreachable{}, r.indexKey, time.Now, r.logger)
	cfg.Dir, cfg.Ballast = lastFormer(r.cfg.staged), formerBallast
	cfg.Keys = auditKeys(r.devices.audit)
	fsck := cfg
	fsck.Replay = delegation.NewReplay(time.Now(), pseudonyms(r.indexKey))
	report, err := audit.Fsck(ctx, fsck)
	if err != nil {
		return err
	}
	if !report.OK() {
		return fmt.Errorf("%w: %v", ErrDamaged, report.Findings[0])
	}
	former, err := audit.Open(ctx, cfg)
	if err != nil {
		return err
	}
	first, err := r.succeed(ctx, former, note)
	if err := errors.Join(err, former.Close()); err != nil {
		return err
	}
	cfg = r.cfg.auditConfig(key, quoter{r.devices.tpm}, r.indexKey, time.Now, r.logger)
	if err := audit.Create(ctx, cfg, first); err != nil {
		return err
	}
	return durable.Create(filepath.Join(r.cfg.staged, readyName), nil, 0o600)
}

// unreachable is the TPM to a log that must not go on: one that does not hear from it writes nothing.
type unreachable struct{}

var errFormer = errors.New("a former log does not go on")

func (unreachable) State(context.Context) (audit.Anchor, error) { return audit.Anchor{}, errFormer }
func (unreachable) Increment(context.Context) (uint64, error)   { return 0, errFormer }
func (unreachable) Quote(context.Context, [32]byte) (audit.Statement, error) {
	return audit.Statement{}, errFormer
}

func (unreachable) CertifyCounter(context.Context, [32]byte) (audit.Statement, error) {
	return audit.Statement{}, errFormer
}

// errRotated: its successor would have to begin with a key that pki/audit.pem is not about.
var errRotated = errors.New("the audit key of this log was changed: a restore of such a log is not built. Keep the backup, and hold a new ceremony")

// succeed checks the former log and the approvals, and gives the first entries of the new one. The last thing that it does is to move the
// counter: the act is used then.
func (r *restoration) succeed(ctx context.Context, former *audit.Log, note []byte) ([]record.Entry, error) {
	if former.Keys().Newest().Number > 1 {
		return nil, errRotated
	}
	t, err := r.cfg.loadTrust()
	if err != nil {
		return nil, err
	}
	if err := r.former.checkCeremony(ctx, former, t, r.devices.binding); err != nil {
		return nil, err
	}
	if err := r.checkHead(ctx, former, note); err != nil {
		return nil, err
	}
	set, err := custodiansOf(ctx, former)
	if err != nil {
		return nil, err
	}
	if r.act.Custodians != set.ID() {
		return nil, custody.ErrOtherSet
	}
	if _, err := set.Approved(r.text, r.signatures); err != nil {
		return nil, err
	}
	first, err := r.leaves(ctx, former, set, note)
	if err != nil {
		return nil, err
	}
	n, err := generations(r.former.Origin, r.cfg.Origin)
	if err != nil {
		return nil, err
	}
	carried, err := delegation.Carry(ctx, former, delegation.Succession{
		Epochs: n, Issuers: t.services, Pseudonym: pseudonyms(r.indexKey), Now: time.Now(), Rand: rand.Reader,
	})
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(carried, isOperator) {
		r.logger.Warn("no operator's certificate in the backup is still valid: nobody can administer what is restored")
	}
	if _, err := r.devices.tpm.Increment(ctx); err != nil {
		return nil, fmt.Errorf("counter: %w", err)
	}
	return append(first, carried...), nil
}

// isOperator says whether an entry carries an operator's certificate.
func isOperator(e record.Entry) bool {
	if e.Envelope == nil {
		return false
	}
	env, err := record.Check(e.Envelope)
	if err != nil || env.Type != record.TypeIssue {
		return false
	}
	body, err := record.DecodeBody[record.IssueBody](env)
	return err == nil && body.Kind == chain.Operator.String()
}

// checkHead compares the log with the checkpoint that its key signed when the backup was made.
func (r *restoration) checkHead(ctx context.Context, former *audit.Log, note []byte) error {
	key, err := r.devices.audit.key(ctx, "audit")
	if err != nil {
		return err
	}
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return errors.New("the audit key is not ECDSA")
	}
	verifier, err := checkpoint.NewVerifier(r.former.Origin, public)
	if err != nil {
		return err
	}
	head, err := checkpoint.Open(note, verifier)
	if err != nil {
		return fmt.Errorf("the backup's checkpoint: %w", err)
	}
	if head != former.Head() {
		return fmt.Errorf("%w: the log in the backup is not the one that its checkpoint signs", backup.ErrFormat)
	}
	return nil
}

// leaves are the ceremony of the new log, which cites the former one, and the act.
func (r *restoration) leaves(ctx context.Context, former *audit.Log, set custody.Set, note []byte) ([]record.Entry, error) {
	state, err := r.devices.tpm.State(ctx)
	if err != nil {
		return nil, err
	}
	if state.Counter != r.detail.Counter {
		return nil, fmt.Errorf("the TPM's counter is %d, and was %d when the act was proposed: the act is used, or a log went on since. Propose anew, and ask whether %s was opened before",
			state.Counter, r.detail.Counter, r.cfg.Origin)
	}
	body, err := r.ceremony(ctx, former, set)
	if err != nil {
		return nil, err
	}
	head := former.Head()
	body.Restored = &record.Restored{
		Backup: r.detail.Backup, Size: head.Size, Root: hex.EncodeToString(head.Root[:]), Checkpoint: note,
		Found: record.AnchorBody{Reset: state.Reset, Restart: state.Restart, Counter: state.Counter},
	}
	if err := citeSeal(body.Restored, former); err != nil {
		return nil, err
	}
	now := time.Now()
	first, err := entryOf(record.TypeCeremony, body, now)
	if err != nil {
		return nil, err
	}
	first.Mutations = []record.Mutation{delegation.KnownPolicy(body.PolicyDigest)}
	act, err := entryOf(record.TypeAct, record.Act{Act: r.text, Signatures: r.signatures}, now)
	if err != nil {
		return nil, err
	}
	act.Mutations = []record.Mutation{usedAct(r.act)}
	return []record.Entry{first, act}, nil
}

func citeSeal(to *record.Restored, former *audit.Log) error {
	last, _, ok := former.LastSeal()
	if !ok {
		return nil
	}
	seal, err := checkpoint.ParseSeal(last.Text)
	if err != nil {
		return err
	}
	digest := last.Digest()
	to.Seal, to.SealDigest = seal.Number, hex.EncodeToString(digest[:])
	to.Sealed = &record.AnchorBody{Reset: seal.Reset, Restart: seal.Restart, Counter: seal.Counter}
	return nil
}

// ceremony is that of the former log, with its keys.
func (r *restoration) ceremony(ctx context.Context, former *audit.Log, set custody.Set) (body record.Ceremony, err error) {
	stored, err := former.Read(ctx, 0)
	if err != nil {
		return body, err
	}
	env, err := record.Check(stored.Envelope)
	if err != nil {
		return body, err
	}
	if body, err = record.DecodeBody[record.Ceremony](env); err != nil {
		return body, err
	}
	engine, err := opa.New(ctx, opa.Options{})
	if err != nil {
		return body, err
	}
	if body.Custodians, err = set.Marshal(); err != nil {
		return body, err
	}
	body.Origin, body.Previous, body.PolicyDigest = r.cfg.Origin, r.former.Origin, engine.Digest()
	return body, nil
}

func entryOf(kind record.Type, body any, now time.Time) (record.Entry, error) {
	text, err := record.EncodeBody(body)
	if err != nil {
		return record.Entry{}, err
	}
	return record.New(record.Envelope{Type: kind, Time: now, Body: text}, nil, [record.SaltSize]byte{})
}

// usedAct notes that an act was carried out: it is taken once.
func usedAct(a custody.Act) record.Mutation {
	return record.Mutation{
		Key: keyActUsed + a.ID, Value: []byte(a.Kind), Expires: a.NotAfter.Add(time.Hour), Pre: record.Precondition{Op: record.Absent, Err: errActUsed},
	}
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
