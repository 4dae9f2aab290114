package appliance

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/signet-pki/signet/api"
	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/delegation"
)

const (
	keyCustodians = "custody/set"  // the set that the newest change_custodians act put in force; absent: leaf 0's
	keyActUsed    = "custody/act/" // by ID, until an hour beyond the act's end
	actSkew       = 5 * time.Minute
)

// acts carries out what custodians agreed to, one at a time: logged first, then done.
type acts struct {
	log    *audit.Log
	origin string
	first  custody.Set // of leaf 0; the zero set agrees to nothing
	now    func() time.Time
	logger *slog.Logger
	kinds  map[custody.Kind]actKind

	one sync.Mutex
}

var _ api.Acts = (*acts)(nil)

// actKind is what is behind one kind of act.
type actKind struct {
	// plan refuses what cannot be done before anything is logged, and says what commits with the act's entry.
	plan func(ctx context.Context, a custody.Act) ([]record.Mutation, error)
	// carryOut does what is left to do behind the entry, and tells what it did; nil: nothing is.
	carryOut func(ctx context.Context, a custody.Act, entry rotation.Act) (map[string]string, error)
}

func (a *Appliance) newActs(ctx context.Context, log *apiLog, now func() time.Time) (*acts, error) {
	body, err := ceremonyOf(ctx, a.log)
	if err != nil {
		return nil, err
	}
	out := &acts{log: a.log, origin: a.cfg.Origin, now: now, logger: a.logger}
	if len(body.Custodians) > 0 {
		if out.first, err = custody.ParseSet(body.Custodians); err != nil {
			return nil, fmt.Errorf("leaf 0: custodians: %w", err)
		}
	}
	rotate := &auditRotation{cfg: &a.cfg, keys: a.devices.audit, log: a.log, api: log}
	out.kinds = map[custody.Kind]actKind{
		custody.RotateAuditKey:   {plan: rotate.plan, carryOut: rotate.carryOut},
		custody.ChangeCustodians: {plan: out.planCustodians},
	}
	return out, nil
}

// inForce is the set that is asked now, and what must still hold when an act of it commits.
func (a *acts) inForce() (custody.Set, record.Mutation, error) {
	unchanged := record.Mutation{Key: keyCustodians, CheckOnly: true, Pre: record.Precondition{Op: record.Absent, Err: errCustodiansChanged}}
	text, ok, err := a.log.Get(keyCustodians)
	if err != nil || !ok || a.first.Threshold() == 0 { // without custodians in leaf 0 nobody could have named others
		return a.first, unchanged, err
	}
	unchanged.Pre.Op, unchanged.Pre.Value = record.Equal, text
	set, err := custody.ParseSet(text)
	return set, unchanged, err
}

var (
	errCustodiansChanged = errors.New("the custodians were changed")
	errActUsed           = errors.New("the act was taken before")
)

// Submit has an act done that enough custodians agreed to. Its refusals are *delegation.Error.
func (a *acts) Submit(ctx context.Context, by delegation.Caller, text []byte, signatures [][]byte) (api.ActDone, error) {
	a.one.Lock()
	defer a.one.Unlock()
	act, names, unchanged, err := a.check(text, signatures)
	if err != nil {
		return api.ActDone{}, err
	}
	kind, known := a.kinds[act.Kind]
	if !known {
		return api.ActDone{}, refuseAct(delegation.Invalid, "act_unknown", "act.kind", "a running appliance does not carry out acts of kind %s", act.Kind)
	}
	changes, err := kind.plan(ctx, act)
	if err != nil {
		return api.ActDone{}, err
	}
	e, err := a.entry(by, act, text, signatures, append(changes, unchanged))
	if err != nil {
		return api.ActDone{}, err
	}
	pos, err := a.log.Append(ctx, e)
	if err != nil {
		return api.ActDone{}, refusedCommit(err)
	}
	done := api.ActDone{Position: delegation.Position{Index: pos.Index, LeafHash: pos.LeafHash}, Kind: string(act.Kind), Agreed: names}
	a.logger.LogAttrs(ctx, slog.LevelWarn, "act", slog.String("kind", string(act.Kind)), slog.String("id", act.ID), slog.Uint64("entry", pos.Index))
	if kind.carryOut == nil {
		return done, nil
	}
	done.Result, err = kind.carryOut(context.WithoutCancel(ctx), act, rotation.Act{Index: pos.Index, Hash: sha256.Sum256(text)})
	if err != nil {
		return done, &delegation.Error{
			Kind: delegation.Unavailable, Code: "act_failed", AuditIndex: &pos.Index, Err: err,
			Detail: "the act is logged and used, and was not carried out: the log says why. Agree to a new one",
		}
	}
	return done, nil
}

// Custodians is the set in force.
func (a *acts) Custodians(context.Context) ([]byte, string, error) {
	set, _, err := a.inForce()
	if err == nil && set.Threshold() == 0 {
		err = noCustodians()
	}
	if err != nil {
		return nil, "", err
	}
	text, err := set.Marshal()
	return text, set.ID(), err
}

func noCustodians() error {
	return refuseAct(delegation.Conflict, "no_custodians", "", "the ceremony that began this log named no custodians: there are no acts")
}

// check says whether enough custodians agreed, now, to something of this appliance.
func (a *acts) check(text []byte, signatures [][]byte) (custody.Act, []string, record.Mutation, error) {
	set, unchanged, err := a.inForce()
	if err != nil {
		return custody.Act{}, nil, unchanged, err
	}
	if set.Threshold() == 0 {
		return custody.Act{}, nil, unchanged, noCustodians()
	}
	act, err := custody.ParseAct(text)
	if err != nil {
		return act, nil, unchanged, refuseAct(delegation.Invalid, "bad_act", "act", "%v", err)
	}
	if act.Origin != a.origin {
		return act, nil, unchanged, refuseAct(delegation.Invalid, "act_other_origin", "act.origin", "the act is of the log %.80q", act.Origin)
	}
	if err := act.Check(act.Kind, a.origin, a.now(), actSkew); err != nil {
		return act, nil, unchanged, refuseAct(delegation.Forbidden, "act_expired", "act.not_after", "%v", err)
	}
	names, err := set.Approved(text, signatures)
	switch {
	case errors.Is(err, custody.ErrOtherSet):
		err = refuseAct(delegation.Conflict, "custodians_changed", "act.custodians", "the act asks others than the custodians in force, %s", set.ID())
	case errors.Is(err, custody.ErrTooFew):
		err = refuseAct(delegation.Forbidden, "too_few_approvals", "signatures", "%d of %d agreed: %s", len(names), set.Threshold(), strings.Join(names, ", "))
	case err != nil:
		err = refuseAct(delegation.Forbidden, "bad_approval", "signatures", "%v", err)
	}
	return act, names, unchanged, err
}

// entry records the act; that it is taken once, by the custodians in force, is asked again at commit.
func (a *acts) entry(by delegation.Caller, act custody.Act, text []byte, signatures [][]byte, changes []record.Mutation) (record.Entry, error) {
	body, err := record.EncodeBody(record.Act{Act: text, Signatures: signatures})
	if err != nil {
		return record.Entry{}, err
	}
	e, err := record.New(record.Envelope{Type: record.TypeAct, Time: a.now().Truncate(time.Millisecond), Operator: by.ID.Name(), Body: body}, nil, [record.SaltSize]byte{})
	e.Mutations = append(changes, usedAct(act))
	return e, err
}

func refusedCommit(err error) error {
	switch {
	case errors.Is(err, errActUsed):
		return refuseAct(delegation.Conflict, "act_used", "act.id", "the act was taken before, and an act is taken once")
	case errors.Is(err, errCustodiansChanged):
		return refuseAct(delegation.Conflict, "custodians_changed", "act.custodians", "the custodians were changed meanwhile")
	}
	return err
}

func refuseAct(kind delegation.Kind, code, field, format string, args ...any) error {
	return &delegation.Error{Kind: kind, Code: code, Field: field, Detail: fmt.Sprintf(format, args...)}
}

// planCustodians puts another set in force, with the entry of the act.
func (a *acts) planCustodians(_ context.Context, act custody.Act) ([]record.Mutation, error) {
	set, err := act.Successors()
	if err != nil {
		return nil, refuseAct(delegation.Invalid, "bad_detail", "act.detail", "%v", err)
	}
	text, err := set.Marshal()
	if err != nil {
		return nil, err
	}
	return []record.Mutation{{Key: keyCustodians, Value: text}}, nil
}

// decodeDetail reads an act's detail strictly.
func decodeDetail[T any](act custody.Act) (T, error) {
	d, err := record.DecodeBody[T](record.Envelope{Type: record.TypeAct, Body: json.RawMessage(act.Detail)})
	if err != nil {
		return d, refuseAct(delegation.Invalid, "bad_detail", "act.detail", "%v", err)
	}
	return d, nil
}
