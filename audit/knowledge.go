package audit

import (
	"bytes"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// knowledge is what a batch has read of the state so far: its items ask about the same user, grant and task again and again.
type knowledge struct {
	vault *vault
	t     *store.Txn
	now   time.Time
	state map[string]found
}

type found struct {
	value []byte
	ok    bool
}

func (k knowledge) get(key string) (found, error) {
	if st, ok := k.state[key]; ok {
		return st, nil
	}
	value, ok, err := k.vault.getState(k.t, key, k.now)
	if err != nil {
		return found{}, err
	}
	st := found{value: value, ok: ok}
	k.state[key] = st
	return st, nil
}

// forget makes the next item read what these wrote.
func (k knowledge) forget(written []record.Mutation) {
	for _, m := range written {
		if !m.CheckOnly {
			delete(k.state, m.Key)
		}
	}
}

// check returns a *PreconditionError for the first that does not hold.
func (k knowledge) check(mutations []record.Mutation) error {
	for _, m := range mutations {
		if m.Pre.Op == record.None {
			continue
		}
		st, err := k.get(m.Key)
		if err != nil {
			return err
		}
		if !holds(m.Pre, st) {
			cause := m.Pre.Err
			if cause == nil {
				cause = ErrPrecondition
			}
			return &PreconditionError{Key: m.Key, Err: cause}
		}
	}
	return nil
}

func holds(pre record.Precondition, st found) bool {
	switch pre.Op {
	case record.None:
		return true
	case record.Absent:
		return !st.ok
	case record.Present:
		return st.ok
	case record.Equal:
		return st.ok && bytes.Equal(st.value, pre.Value)
	default:
		return false
	}
}
