package appliance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/tpm/quote"
)

// Retention is what may be pruned from the log: what is older than Keep, after it was archived and the archive verified.
type Retention struct {
	// Archive is the absolute path of a directory for this log's archives alone, which exists and lies on another disk than Dir. Files
	// in it are never replaced. They hold payloads in clear, and are outside erasure.
	Archive string `yaml:"archive"`
	// Keep is the least age of what may be pruned, at least 24h (in development anything above 0).
	Keep time.Duration `yaml:"keep"`
}

func (r *Retention) check(p *problems, development bool) {
	if r == nil {
		return
	}
	p.unless(filepath.IsAbs(r.Archive), "retention.archive", "an absolute path")
	p.unless(r.Keep >= 24*time.Hour || development && r.Keep > 0, "retention.keep", "at least 24h")
}

const (
	// maxPrune bounds the entries of one archive: a level-1 tile. Writing and verifying that takes seconds.
	maxPrune = 256 * record.PruneWidth
	// tempArchive is what an archive on its way is called.
	tempArchive = ".archive-"
)

// archive puts what the log is to forget into a directory.
type archive struct {
	cfg     Retention
	now     func() time.Time
	log     *audit.Log
	bundles *apiLog
	senders senders
}

var _ delegation.Archive = (*archive)(nil)

func newArchive(c Retention, log *audit.Log, s senders, now func() time.Time) *archive {
	return &archive{cfg: c, now: now, log: log, senders: s}
}

// serveFrom says what writes bundles of the log; before it nothing is asked of an archive.
func (a *archive) serveFrom(bundles *apiLog) {
	if a != nil {
		a.bundles = bundles
	}
}

// Plan takes the oldest entries from before a time, up to the first that somebody still reads: an auditor gets no more than the newest
// seal that evidence rests on, a collector of events has its own place, and the outcome of an open issuance would be told without its entry.
// That state in force stays is seen to by the log.
func (a *archive) Plan(ctx context.Context, before time.Time, open []string) (record.PruneBody, error) {
	if before.After(a.now().Add(-a.cfg.Keep)) {
		return record.PruneBody{}, refused(delegation.Invalid, "too_recent", "before", "entries are kept for "+a.cfg.Keep.String())
	}
	if a.log.Pruning() {
		return record.PruneBody{}, refused(delegation.Conflict, "prune_running", "", "what was pruned last is not deleted yet")
	}
	minimum, entry, pruned := a.log.Pruned()
	plan := record.PruneBody{From: minimum}
	if pruned {
		plan.Previous = &entry
	}
	end, why, err := a.bounds(ctx, open)
	if err != nil {
		return plan, err
	}
	if plan.To, err = a.olderThan(ctx, max(minimum, record.PruneWidth), min(end, minimum+maxPrune), before); err != nil {
		return plan, err
	}
	plan.To -= plan.To % record.PruneWidth
	if plan.To <= max(minimum, record.PruneWidth) {
		return plan, refused(delegation.Conflict, "nothing_to_prune", "before", fmt.Sprintf("entries %d to %d are not all from before then, or %s", minimum, minimum+record.PruneWidth-1, why))
	}
	return plan, nil
}

// bounds is the first entry that must stay whatever its age, and why.
func (a *archive) bounds(ctx context.Context, open []string) (end uint64, why string, err error) {
	sealed, ok := a.bundles.witnesses.seal()
	if !ok {
		return 0, "", refused(delegation.Conflict, "nothing_to_prune", "", "there is no seal yet")
	}
	seal, err := checkpoint.ParseSeal(sealed.Text)
	if err != nil {
		return 0, "", err
	}
	end, why = seal.Size, fmt.Sprintf("not below the sealed size %d", seal.Size)
	for _, s := range a.senders {
		if next := s.Status().Next; next < end {
			end, why = next, fmt.Sprintf("the collector %s has those before %d alone", s.Name(), next)
		}
	}
	for _, serial := range open {
		found, err := a.log.Lookup(ctx, record.Term{Kind: "serial", ID: serial}, 0, 1)
		if err != nil {
			return 0, "", err
		}
		if len(found) > 0 && found[0] < end {
			end, why = found[0], fmt.Sprintf("entry %d does not tell yet whether its certificate was signed", found[0])
		}
	}
	return end, why, nil
}

// olderThan is the first entry of a range that is not from before a time. It reads them all: their times are not quite in order.
func (a *archive) olderThan(ctx context.Context, from, to uint64, before time.Time) (uint64, error) {
	if from >= to {
		return from, nil
	}
	first := to
	err := a.log.EnvelopeRange(ctx, from, to, func(index uint64, raw []byte) error {
		env, err := record.Check(raw)
		if err == nil && !env.Time.Before(before) {
			first, err = index, errEnough
		}
		return err
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return first, err
}

var errEnough = errors.New("found")

// Holding names the state by its keys alone.
func (a *archive) Holding(ctx context.Context, before uint64, limit int) ([]string, error) {
	held, err := a.log.Holding(ctx, before, limit)
	keys := make([]string, len(held))
	for i, h := range held {
		keys[i] = h.Key
	}
	return keys, err
}

// Store writes an evidence bundle of the range, and believes nothing of it: the file is read back, must have the bytes that were written,
// and must verify with the anchors of this log's ceremony, which leads each of its entries to the sealed root.
func (a *archive) Store(ctx context.Context, plan record.PruneBody) (record.PruneBody, error) {
	failed := func(err error) (record.PruneBody, error) {
		if errors.As(err, new(*delegation.Error)) {
			return plan, err
		}
		return plan, &delegation.Error{Kind: delegation.Unavailable, Code: "archive_failed", Detail: "the archive could not be written or read back; nothing was pruned", Err: err}
	}
	head, ok := a.bundles.witnesses.seal()
	if !ok {
		return failed(errors.New("no seal"))
	}
	plan.Archive = fmt.Sprintf("entries-%d-%d-seal-%d.tar", plan.From, plan.To, head.Number)
	sum, err := a.write(ctx, plan.Archive, bundle.WriteOptions{Head: head, From: plan.From, To: plan.To})
	if err != nil {
		return failed(err)
	}
	if err := a.readBack(ctx, plan, sum); err != nil {
		return failed(err)
	}
	plan.SHA256 = hex.EncodeToString(sum[:])
	return plan, nil
}

// write makes a file that exists in whole or not at all. One of that name is of the same seal: an earlier attempt, whose bytes are the same,
// or else something that readBack refuses.
func (a *archive) write(ctx context.Context, name string, o bundle.WriteOptions) (sum [sha256.Size]byte, err error) {
	if err := a.sweep(); err != nil {
		return sum, err
	}
	f, err := os.CreateTemp(a.cfg.Archive, tempArchive+"*") // mode 0600
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	digest := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(f, digest), 1<<20)
	err = a.bundles.write(ctx, out, o)
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return sum, err
	}
	// link(2), unlike rename(2), does not replace.
	if err := os.Link(f.Name(), filepath.Join(a.cfg.Archive, name)); err != nil && !errors.Is(err, fs.ErrExist) {
		return sum, err
	}
	return [sha256.Size]byte(digest.Sum(nil)), durable.SyncDir(a.cfg.Archive)
}

// sweep removes what a crash has left; archives are written one after the other.
func (a *archive) sweep() error {
	left, err := filepath.Glob(filepath.Join(a.cfg.Archive, tempArchive+"*"))
	for _, path := range left {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

func (a *archive) readBack(ctx context.Context, plan record.PruneBody, want [sha256.Size]byte) error {
	f, err := os.Open(filepath.Join(a.cfg.Archive, plan.Archive))
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // opened for reading
	digest := sha256.New()
	size, err := io.Copy(digest, f)
	if err != nil {
		return err
	}
	if !bytes.Equal(digest.Sum(nil), want[:]) {
		return refused(delegation.Conflict, "archive_invalid", "", plan.Archive+" is not what was written")
	}
	files, err := bundle.OpenTar(f, size)
	if err != nil {
		return err
	}
	trust, err := trustOf(a.bundles.anchors)
	if err != nil {
		return err
	}
	report, err := bundle.Verify(ctx, files, bundle.Options{Trust: trust, Range: &bundle.Range{From: plan.From, To: plan.To}})
	if err != nil {
		return err
	}
	if failed := report.Failed(); !report.Valid || report.Completeness == "fail" || len(failed) > 0 {
		return refused(delegation.Conflict, "archive_invalid", "", plan.Archive+": "+first(failed))
	}
	return nil
}

func first(failed []bundle.Check) string {
	if len(failed) == 0 {
		return "not valid"
	}
	c := failed[0]
	if c.Index == nil {
		return fmt.Sprintf("%s: %s: %s", c.Name, c.File, c.Detail)
	}
	return fmt.Sprintf("%s: %d: %s", c.Name, *c.Index, c.Detail)
}

// trustOf makes an auditor's trust of what leaf 0 pins, to which the certificates in use were compared at start.
func trustOf(a bundle.ReceiptAnchors) (*bundle.Trust, error) {
	ak, err := quote.ParseAK(a.AKPublic)
	if err != nil {
		return nil, err
	}
	return bundle.TrustFile{
		Format: bundle.TrustFormat, Origin: a.Origin, TrustDomain: a.TrustDomain, Roots: string(pemOf(a.Root)),
		AuditKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: a.AuditKey})),
		AKName:   hex.EncodeToString(ak.Name()), NVName: a.NVName, PCRs: a.PCRs,
	}.Trust()
}

// Prune gives the domain's kind of position and of refusal.
func (a *archive) Prune(ctx context.Context, e record.Entry) (delegation.Position, error) {
	p, err := a.log.Prune(ctx, e)
	switch {
	case errors.Is(err, audit.ErrNotPrunable):
		err = &delegation.Error{Kind: delegation.Conflict, Code: "nothing_to_prune", Field: "before", Detail: "the log has changed meanwhile; ask again", Err: err}
	case errors.Is(err, audit.ErrUnknown):
		err = fmt.Errorf("%w: %w", delegation.ErrUnknown, err)
	case err != nil:
		err = &delegation.Error{Kind: delegation.Unavailable, Code: "audit_unavailable", Detail: "the audit log took no entry, so nothing was done", Err: err}
	}
	return delegation.Position{Index: p.Index, LeafHash: p.LeafHash}, err
}

func refused(kind delegation.Kind, code, field, detail string) *delegation.Error {
	return &delegation.Error{Kind: kind, Code: code, Field: field, Detail: detail}
}
