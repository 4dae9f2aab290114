package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/store"
)

// Erase appends a redact entry, and destroys the keys of the entries that it names: their payloads, and the private state that
// belongs to them, are readable nowhere afterwards, not in what the store still holds of them, nor in a later backup. Envelopes
// stay, and so does the tree. Errors are those of Append; another one means that the entry stands and the keys do not yet
// go: the next Erase or Open destroys them.
func (l *Log) Erase(ctx context.Context, e record.Entry) (Position, error) {
	l.erasing.Lock()
	defer l.erasing.Unlock()
	it, leaves, err := l.newErasure(e)
	if err != nil {
		return Position{}, err
	}
	if err := l.catchUp(ctx); err != nil {
		return Position{}, err
	}
	next := erasuresOf(l.vault.tree.Load())
	next.Generation++
	marker, err := next.write()
	if err != nil {
		return Position{}, err
	}
	it.raw = append(it.raw, marker)
	if err := l.offer(ctx, it); err != nil {
		return Position{}, err
	}
	pos, err := it.wait(ctx)
	if err != nil {
		return Position{}, err
	}
	if err := l.cfg.hooks.reach("redacted"); err != nil {
		return pos, err
	}
	return pos, l.vault.destroy(leaves, 0, next.Generation)
}

func (l *Log) newErasure(e record.Entry) (*item, []uint64, error) {
	it, err := l.newItem(e)
	if err != nil {
		return nil, nil, err
	}
	env, err := e.Check()
	if err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	if env.Type != record.TypeRedact {
		return nil, nil, fmt.Errorf("audit: %w: an erasure is a %s entry", record.ErrMalformed, record.TypeRedact)
	}
	leaves, err := redacted(env, l.Head().Size)
	if err != nil {
		return nil, nil, fmt.Errorf("audit: %w", err)
	}
	for _, index := range leaves {
		it.raw = append(it.raw, pair{numbered(prefixSealed, index), nil}, pair{numbered(prefixPayload, index), nil})
	}
	it.measure()
	return it, leaves, l.limits.check(it)
}

// redacted are the entries that a redact entry at an index names, all before it.
func redacted(env record.Envelope, index uint64) ([]uint64, error) {
	body, err := record.DecodeBody[record.RedactBody](env)
	if err != nil {
		return nil, err
	}
	if err := body.Check(index); err != nil {
		return nil, err
	}
	return body.Leaves(), nil
}

// openKeys reads the keys of payloads, and destroys those that a crash, or an older copy of the file, has left.
func (l *Log) openKeys(ctx context.Context) {
	if err := l.findKeys(ctx); err != nil {
		l.state.fault("payload_keys", err)
	}
}

func (l *Log) findKeys(ctx context.Context) error {
	known, marked, err := readErasures(l.db)
	if err != nil {
		return err
	}
	l.vault, err = openVault(l.cfg.Dir)
	switch {
	case !marked && errors.Is(err, fs.ErrNotExist):
		// A log that began before payloads had keys.
		if l.vault, err = createVault(l.cfg.Dir); err != nil {
			return err
		}
		return l.mark()
	case err != nil:
		return err
	case !marked:
		return l.mark()
	case erasuresOf(l.vault.tree.Load()).Check != known.Check:
		l.vault = &vault{}
		return fmt.Errorf("audit: %s is that of another log", keysName)
	}
	return l.catchUp(ctx)
}

// mark says in the store that there are keys: from then on their absence is a fault.
func (l *Log) mark() error {
	p, err := erasuresOf(l.vault.tree.Load()).write()
	if err != nil {
		return err
	}
	return l.db.Update(func(t *store.Txn) error { return t.Set(p.key, p.value) })
}

// catchUp destroys the keys that the log says are destroyed.
func (l *Log) catchUp(ctx context.Context) error {
	known, _, err := readErasures(l.db)
	if err != nil || l.vault.tree.Load().Generation() >= known.Generation {
		return err
	}
	var leaves []uint64
	err = l.Envelopes(ctx, func(index uint64, raw []byte) error {
		if !bytes.Contains(raw, []byte(record.TypeRedact)) {
			return nil
		}
		env, err := record.Check(raw)
		if err != nil || env.Type != record.TypeRedact {
			return err
		}
		more, err := redacted(env, index)
		leaves = append(leaves, more...)
		return err
	})
	if err != nil {
		return err
	}
	return l.vault.destroy(leaves, l.Minimum(), known.Generation)
}
