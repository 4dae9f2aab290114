package record

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// Op is what a precondition asks of a key at the moment of commit.
type Op int

// The operations. None, the zero Op, asks nothing.
const (
	None Op = iota
	Absent
	Present
	Equal
)

// Precondition must hold when the entry commits, or the entry alone is rejected.
type Precondition struct {
	Op    Op
	Value []byte // for Equal
	Err   error  // what the appender gets, wrapped, if it does not hold
}

// Mutation is one change of domain state that commits together with its entry. All preconditions of an entry are
// evaluated in order, before any of its own changes; they see what earlier entries wrote, those of the same batch too.
type Mutation struct {
	Key       string
	Value     []byte
	Delete    bool
	CheckOnly bool      // change nothing
	Expires   time.Time // zero = never. Afterwards the key counts as absent.
	Pre       Precondition
	// Of is the entry whose erasure takes the value with it, if it is private: by default the one that it commits with.
	Of *uint64
}

// Check refuses a mutation out of bounds or in contradiction with itself.
func (m Mutation) Check() error {
	switch {
	case m.Key == "" || len(m.Key) > MaxKey || !utf8.ValidString(m.Key):
		return fmt.Errorf("%w: mutation key of %d bytes", ErrMalformed, len(m.Key))
	case len(m.Value) > MaxValue:
		return fmt.Errorf("%w: value of %q has %d bytes, at most %d", ErrTooLarge, m.Key, len(m.Value), MaxValue)
	case m.Pre.Op < None || m.Pre.Op > Equal:
		return fmt.Errorf("%w: precondition of %q", ErrMalformed, m.Key)
	case m.Delete && (m.CheckOnly || len(m.Value) > 0):
		return fmt.Errorf("%w: mutation of %q deletes and does something else", ErrMalformed, m.Key)
	case m.CheckOnly && (m.Pre.Op == None || len(m.Value) > 0):
		return fmt.Errorf("%w: mutation of %q is a check without a precondition, or with a value", ErrMalformed, m.Key)
	}
	return nil
}

// Check refuses an entry that the log must not take, whoever made it, and returns its parsed envelope.
func (e Entry) Check() (Envelope, error) {
	env, err := e.parsed()
	if err != nil {
		return Envelope{}, err
	}
	if !e.Time.Equal(env.Time) {
		return Envelope{}, fmt.Errorf("%w: entry time differs from the envelope's", ErrMalformed)
	}
	if err := e.checkPayload(env); err != nil {
		return Envelope{}, err
	}
	if len(e.Terms) > MaxTerms || len(e.Mutations) > MaxMutations {
		return Envelope{}, fmt.Errorf("%w: %d terms and %d mutations", ErrTooLarge, len(e.Terms), len(e.Mutations))
	}
	for _, t := range e.Terms {
		if t.Kind == "" || t.ID == "" || len(t.Kind)+len(t.ID) > MaxKey {
			return Envelope{}, fmt.Errorf("%w: index term of kind %.40q", ErrMalformed, t.Kind)
		}
	}
	for _, m := range e.Mutations {
		if err := m.Check(); err != nil {
			return Envelope{}, err
		}
	}
	return env, nil
}

func (e Entry) parsed() (Envelope, error) {
	if e.checked != nil && e.checked.leaf == LeafHash(e.Envelope) {
		return e.checked.env, nil
	}
	return Check(e.Envelope)
}

func (e Entry) checkPayload(env Envelope) error {
	if e.Payload == nil && e.Salt == nil {
		if env.PayloadHash != "" {
			return fmt.Errorf("%w: payload_hash without a payload", ErrMalformed)
		}
		return nil
	}
	if len(e.Payload) > MaxPayload {
		return fmt.Errorf("%w: payload has %d bytes, at most %d", ErrTooLarge, len(e.Payload), MaxPayload)
	}
	if len(e.Salt) != SaltSize {
		return fmt.Errorf("%w: salt has %d bytes, not %d", ErrMalformed, len(e.Salt), SaltSize)
	}
	if PayloadHash(e.Salt, e.Payload) != env.PayloadHash {
		return fmt.Errorf("%w: payload_hash is not that of the payload", ErrMalformed)
	}
	return nil
}
