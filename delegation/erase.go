package delegation

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Records is the log as its erasures need it.
type Records interface {
	// Envelopes calls fn for all entries in order; they are not to be kept.
	Envelopes(ctx context.Context, fn func(index uint64, envelope []byte) error) error
	// Erase appends a redact entry and destroys what it names.
	Erase(ctx context.Context, e record.Entry) (Position, error)
}

// Archived says which private state an evidence bundle of its entries holds too.
func Archived(key string) bool { return strings.HasPrefix(key, keyCert) }

// Private says which state goes with the entry that wrote it when that is erased: what names a user, and what leads there.
func Private(key string) bool {
	for _, prefix := range []string{keyGrant, keyGiven, keyAgent, keyLink, keyCert, keyCredential} {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// EraseRequest says whose records to erase, or which.
type EraseRequest struct {
	User    *chain.User // all entries about this user, and about the grants that they gave
	Entries []uint64    // or these, ascending, at most record.MaxRedacted
	Reason  string      // recorded for good: it must not name anybody
	DryRun  bool        // tell only how many there are
}

// Erasure is what was done.
type Erasure struct {
	Entries    int        // erased, or to be
	Redactions []Position // the redact entries
}

// Erase destroys payloads for good: names, roles, chains and whatever else users did not leave in envelopes. Envelopes, certificates
// in others' hands and exported bundles stay. A user must have no active grant. After an error some of it may be done; asked
// again it does what is left.
func (s *Service) Erase(ctx context.Context, by Caller, q EraseRequest) (Erasure, error) {
	out, err := s.erase(ctx, by, q)
	if err != nil {
		return out, s.denied(ctx, "erase", by, record.Envelope{}, err)
	}
	return out, nil
}

func (s *Service) erase(ctx context.Context, by Caller, q EraseRequest) (Erasure, error) {
	if err := q.check(); err != nil {
		return Erasure{}, err
	}
	env := record.Envelope{Type: record.TypeRedact}
	nameCaller(&env, by)
	if q.User != nil {
		env.User = s.cfg.Pseudonym(q.User.Issuer, q.User.Subject)
	}
	leaves, users, err := s.erasable(ctx, env.User, q.Entries)
	if err != nil {
		return Erasure{}, AsError(err)
	}
	for user := range users {
		if err := s.idle(ctx, user); err != nil {
			return Erasure{}, err
		}
	}
	out := Erasure{Entries: len(leaves)}
	if q.DryRun {
		return out, nil
	}
	for part := range slices.Chunk(leaves, record.MaxRedacted) {
		pos, err := s.redact(ctx, env, record.RedactBody{Reason: q.Reason, Entries: record.Ranges(part)})
		if err != nil {
			return out, err
		}
		out.Redactions = append(out.Redactions, pos)
	}
	return out, nil
}

func (q EraseRequest) check() error {
	switch {
	case q.Reason == "" || len(q.Reason) > maxReason:
		return refuse(Invalid, "bad_reason", "reason", "1 to 256 bytes, which are recorded for good: name nobody")
	case (q.User == nil) == (len(q.Entries) == 0):
		return refuse(Invalid, "bad_erasure", "user", "either a user or entries")
	case len(q.Entries) > record.MaxRedacted || !slices.IsSorted(q.Entries):
		return refuse(Invalid, "bad_erasure", "entries", "at most 512, ascending")
	}
	return nil
}

// idle refuses a user, by pseudonym, whose agents may still be at work: their records are needed until they are not.
func (s *Service) idle(ctx context.Context, pseudonym string) error {
	prefix := givenKey(pseudonym, "")
	return s.cfg.Log.Scan(ctx, prefix, "", maxGiven, func(key string, _ []byte) error {
		g, err := s.grant(strings.TrimPrefix(key, prefix))
		if err != nil {
			return err
		}
		over := s.revoked.has(chain.RevGrant, g.ID) || s.revoked.has(chain.RevUser, chain.UserID(g.User.Issuer, g.User.Subject))
		if g.public(s.cfg.Now()).Status == GrantActive && !over {
			return refuse(Conflict, "user_active", "user", "a user has an active grant: revoke it, or the user, first")
		}
		return nil
	})
}

// meant collects the entries to erase.
type meant struct {
	user   string // pseudonym; "" if entries are listed
	listed []uint64
	grants map[string]bool // that the user gave
	gone   map[uint64]bool // erased already
	users  map[string]bool // whose entries these are
	leaves []uint64
}

// erasable are the entries that are meant and not erased yet, and whose they are: of a user all that name them, or a grant that
// they gave. It reads the whole log: the index is derived, and may lack one.
func (s *Service) erasable(ctx context.Context, user string, listed []uint64) ([]uint64, map[string]bool, error) {
	m := &meant{user: user, listed: listed, grants: map[string]bool{}, gone: map[uint64]bool{}, users: map[string]bool{}}
	if err := s.cfg.Records.Envelopes(ctx, m.first); err != nil {
		return nil, nil, err
	}
	if err := s.cfg.Records.Envelopes(ctx, m.second); err != nil {
		return nil, nil, err
	}
	if user == "" && len(m.leaves) == 0 {
		return nil, nil, refuse(NotFound, "no_such_entry", "entries", "the log has none of these, or they were erased")
	}
	return m.leaves, m.users, nil
}

// first finds what was erased before, and the user's grants.
func (m *meant) first(index uint64, raw []byte) error {
	names := m.user != "" && bytes.Contains(raw, []byte(m.user))
	if !names && !bytes.Contains(raw, []byte(record.TypeRedact)) {
		return nil // most are neither, and need not be read
	}
	env, err := record.Check(raw)
	switch {
	case err != nil:
		return err
	case env.Type == record.TypeRedact:
		return m.redacted(env, index)
	case names && env.User == m.user && env.Grant != "":
		m.grants[env.Grant] = true
	}
	return nil
}

func (m *meant) redacted(env record.Envelope, index uint64) error {
	body, err := record.DecodeBody[record.RedactBody](env)
	if err == nil {
		err = body.Check(index)
	}
	if err != nil {
		return err
	}
	for _, i := range body.Leaves() {
		m.gone[i] = true
	}
	return nil
}

// second finds the entries.
func (m *meant) second(index uint64, raw []byte) error {
	if _, listed := slices.BinarySearch(m.listed, index); m.gone[index] || m.user == "" && !listed {
		return nil
	}
	env, err := record.Check(raw)
	if err != nil || env.Type == record.TypeRedact || m.user != "" && env.User != m.user && !m.grants[env.Grant] {
		return err
	}
	m.leaves = append(m.leaves, index)
	if env.User != "" {
		m.users[env.User] = true
	}
	return nil
}

func (s *Service) redact(ctx context.Context, env record.Envelope, body record.RedactBody) (Position, error) {
	e, err := s.entry(draft{env: env, body: body})
	if err != nil {
		return Position{}, err
	}
	// Not abandoned with its request: between the entry and its keys nobody should wait for a restart.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendWithin)
	defer cancel()
	pos, err := s.cfg.Records.Erase(ctx, e)
	switch {
	case err == nil:
		return pos, nil
	case errors.Is(err, ErrUnknown):
		return Position{}, &Error{Kind: Unavailable, Code: codeUnknown, Detail: "the audit log did not say in time whether it took the entry; ask again", Err: err}
	default:
		return Position{}, &Error{Kind: Unavailable, Code: "erasure_unfinished", Detail: "not everything was erased; ask again", Err: err}
	}
}
