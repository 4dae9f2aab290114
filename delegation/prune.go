package delegation

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

// Archive keeps what the log is to forget. Its refusals are *Error.
type Archive interface {
	// Plan gives the range of the oldest entries that may be pruned now: all from before a time, and none that somebody else still
	// reads. open are the serials of certificates whose outcome the log does not tell yet.
	Plan(ctx context.Context, before time.Time, open []string) (record.PruneBody, error)
	// Holding lists, at most limit, state in force that would be lost with the entries before an index.
	Holding(ctx context.Context, before uint64, limit int) (keys []string, err error)
	// Store puts the entries of a plan where they are to be kept, reads them back, verifies them, and says where they are.
	Store(ctx context.Context, plan record.PruneBody) (record.PruneBody, error)
	// Prune appends a prune entry, by which the log deletes what it names.
	Prune(ctx context.Context, e record.Entry) (Position, error)
}

// PruneRequest says which entries to prune.
type PruneRequest struct {
	Before time.Time // entries from before it, the oldest first, in whole entry bundles of 256
	Reason string    // recorded for good
	DryRun bool      // tell only which
}

// Pruned is what was done: the range, its archive, and the entry that says so. A dry run has neither archive nor entry.
type Pruned struct {
	record.PruneBody
	Position *Position
}

// codePrune is what a prune is called in the log's refusals.
const codePrune = "prune"

// carried bounds how much state is looked at, at a time, for whether it must move.
const carried = 256

// Prune archives the oldest entries and then has the log delete them. It does a bounded part: asked again it goes on. After an error nothing
// is deleted, but the archive may hold a file that no entry names.
func (s *Service) Prune(ctx context.Context, by Caller, q PruneRequest) (Pruned, error) {
	out, err := s.prune(ctx, by, q)
	if err != nil {
		return Pruned{}, s.denied(ctx, codePrune, by, record.Envelope{}, err)
	}
	return out, nil
}

func (s *Service) prune(ctx context.Context, by Caller, q PruneRequest) (Pruned, error) {
	switch {
	case q.Reason == "" || len(q.Reason) > maxReason:
		return Pruned{}, refuse(Invalid, "bad_reason", "reason", "1 to 256 bytes, which are recorded for good: name nobody")
	case q.Before.IsZero():
		return Pruned{}, refuse(Invalid, "bad_before", "before", "a time")
	case s.cfg.Archive == nil:
		return Pruned{}, refuse(Conflict, "retention_unset", "", "no archive is configured, so nothing may be pruned")
	case !s.pruning.TryLock():
		return Pruned{}, refuse(Conflict, "prune_running", "", "another one is on its way")
	}
	defer s.pruning.Unlock()
	open, err := s.openSerials(ctx)
	if err != nil {
		return Pruned{}, err
	}
	plan, err := s.cfg.Archive.Plan(ctx, q.Before, open)
	if err != nil || q.DryRun {
		return Pruned{PruneBody: plan}, err
	}
	plan.Reason = q.Reason
	if err := s.carry(ctx, by, plan.To); err != nil {
		return Pruned{}, err
	}
	stored, err := s.cfg.Archive.Store(ctx, plan)
	if err != nil {
		return Pruned{}, err
	}
	pos, err := s.recordPrune(ctx, by, stored)
	return Pruned{PruneBody: stored, Position: &pos}, err
}

// openSerials are the certificates whose outcome no entry tells yet: an auditor of the archive would look for it there.
func (s *Service) openSerials(ctx context.Context) ([]string, error) {
	var open []string
	err := s.cfg.Log.Scan(ctx, keyOpen, "", 1<<16, func(_ string, value []byte) error {
		open = append(open, string(value))
		return nil
	})
	if err != nil {
		return nil, internal("list open issuances", err)
	}
	return open, nil
}

// carry moves users' authenticators, which may be as old as the log, to entries of now, under whose keys an erasure finds them. Other
// state ends by itself: until then its entries stay.
func (s *Service) carry(ctx context.Context, by Caller, before uint64) error {
	for {
		keys, err := s.cfg.Archive.Holding(ctx, before, carried)
		if err != nil {
			return internal("list state in force", err)
		}
		for _, key := range keys {
			if !strings.HasPrefix(key, keyCredential) {
				kind, _, _ := strings.Cut(key, "/")
				return refuse(Conflict, "state_in_force", "before", "a "+kind+" from before then is still in force, or was until an hour ago")
			}
			if err := s.carryCredential(ctx, by, key); err != nil {
				return err
			}
		}
		if len(keys) < carried {
			return nil
		}
	}
}

var errOvertaken = errors.New("delegation: changed meanwhile")

func (s *Service) carryCredential(ctx context.Context, by Caller, key string) error {
	value, ok, err := s.cfg.Log.Get(key)
	if err != nil || !ok {
		return err
	}
	var c credentialState
	if err := json.Unmarshal(value, &c); err != nil {
		return internal("read credential", err)
	}
	d := draft{
		env:       record.Envelope{Type: record.TypeAdmin, User: c.User},
		body:      record.AdminBody{Action: opKeep, Target: strings.TrimPrefix(key, keyCredential), Detail: credentialDetail(Credential{ID: c.ID, PublicKey: c.PublicKey})},
		mutations: []record.Mutation{{Key: key, Value: value, Pre: record.Precondition{Op: record.Equal, Value: value, Err: errOvertaken}}},
	}
	nameCaller(&d.env, by)
	if _, err = s.append(ctx, d); errors.Is(err, errOvertaken) {
		return nil // its user forgot it, or it was erased
	}
	return err
}

func (s *Service) recordPrune(ctx context.Context, by Caller, body record.PruneBody) (Position, error) {
	env := record.Envelope{Type: record.TypePrune}
	nameCaller(&env, by)
	e, err := s.entry(draft{env: env, body: body})
	if err != nil {
		return Position{}, err
	}
	pos, err := s.cfg.Archive.Prune(ctx, e)
	if errors.Is(err, ErrUnknown) {
		return Position{}, &Error{Kind: Unavailable, Code: codeUnknown, Detail: "the audit log did not say in time whether it took the entry; ask again", Err: err}
	}
	return pos, err
}
