package appliance

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
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
)

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
	first, err := entryOf(record.TypeCeremony, now, body)
	if err != nil {
		return nil, err
	}
	first.Mutations = []record.Mutation{delegation.KnownPolicy(body.PolicyDigest)}
	act, err := entryOf(record.TypeAct, now, record.Act{Act: r.text, Signatures: r.signatures})
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
	if body, err = ceremonyOf(ctx, former); err != nil {
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

// usedAct notes that an act was carried out: it is taken once.
func usedAct(a custody.Act) record.Mutation {
	return record.Mutation{
		Key: keyActUsed + a.ID, Value: []byte(a.Kind), Expires: a.NotAfter.Add(time.Hour), Pre: record.Precondition{Op: record.Absent, Err: errActUsed},
	}
}
