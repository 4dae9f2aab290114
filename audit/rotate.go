package audit

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/store"
)

// signers are the log's audit keys. Which of them signs follows from the entries alone.
type signers struct {
	rotating, vouching sync.Mutex // one of each at a time

	mu      sync.Mutex
	keys    *rotation.Keys
	changes []rotation.Proof // of the second key and those after it; one without a Proof is not vouched for yet
	found   map[uint64]crypto.Signer
}

func newSigners(origin string, first crypto.Signer) (*signers, error) {
	pub, ok := first.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("audit: signer has no ECDSA key")
	}
	keys, err := rotation.NewKeys(origin, pub)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return &signers{keys: keys, found: map[uint64]crypto.Signer{1: first}}, nil
}

func (s *signers) now() (*rotation.Keys, []rotation.Proof) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.keys, slices.Clone(s.changes)
}

// add takes a change that is in the store.
func (s *signers) add(p rotation.Proof) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next, err := s.keys.Follow(p.Index, p.Envelope)
	if err == nil {
		s.keys, s.changes = next, append(s.changes, p)
	}
	return err
}

// of gives the signer of a key, found by its label where that was not done yet.
func (s *signers) of(ctx context.Context, k rotation.Key, find func(context.Context, string) (crypto.Signer, error)) (crypto.Signer, error) {
	s.mu.Lock()
	have := s.found[k.Number]
	s.mu.Unlock()
	if have != nil {
		return have, nil
	}
	if find == nil {
		return nil, fmt.Errorf("audit: key %q: there is nowhere to look for it", k.Label)
	}
	key, err := find(ctx, k.Label)
	if err != nil {
		return nil, fmt.Errorf("audit: key %q: %w", k.Label, err)
	}
	if !k.Public.Equal(key.Public()) {
		return nil, fmt.Errorf("audit: key %q is not the one that the log names", k.Label)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.found[k.Number] = key
	return key, nil
}

// Rotate makes next, which Config.Keys finds by its label, the log's audit key, by an entry that rests on an act, and returns when that is
// durable. Trees with more entries are signed by it and no other, whatever dies when. A key that cannot follow is refused with
// rotation.ErrUnproved; other errors are those of Append.
func (l *Log) Rotate(ctx context.Context, next crypto.Signer, label string, act rotation.Act) (Position, error) {
	l.signers.rotating.Lock()
	defer l.signers.rotating.Unlock()
	keys, _ := l.signers.now()
	old, err := l.signers.of(ctx, keys.Newest(), l.cfg.Keys)
	if err != nil {
		return Position{}, err
	}
	body, err := keys.New(old, next, label, act)
	if err != nil {
		return Position{}, err
	}
	it, err := l.newRotation(body)
	if err != nil {
		return Position{}, err
	}
	if err := errors.Join(l.limits.check(it), l.offer(ctx, it)); err != nil {
		return Position{}, err
	}
	pos, err := it.wait(context.WithoutCancel(ctx))
	if err != nil {
		return Position{}, err
	}
	if err := l.vouch(ctx); err != nil { // whoever signs next tries again
		l.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the old audit key has not vouched for the new one yet", slog.Any("error", err))
	}
	return pos, nil
}

func (l *Log) newRotation(body record.RotationBody) (*item, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("audit: rotation: %w", err)
	}
	e, err := record.New(record.Envelope{Type: record.TypeRotation, Time: l.cfg.Now().Truncate(time.Millisecond), Body: text}, nil, [record.SaltSize]byte{})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	it, err := l.newItem(e)
	if err != nil {
		return nil, err
	}
	it.room = 2*len(e.Envelope) + maxPruned
	it.placed = func(index uint64) (pair, error) {
		it.change = &rotation.Proof{Index: index, Envelope: e.Envelope}
		return changeOf(body.Number, *it.change)
	}
	it.measure()
	return it, nil
}

func changeOf(number uint64, p rotation.Proof) (pair, error) {
	value, err := json.Marshal(p)
	return pair{numbered(prefixRotation, number), value}, err
}

// takeRotations makes keys count before anybody can see the tree that they sign.
func (l *Log) takeRotations(accepted []*item) {
	for _, it := range accepted {
		if it.change == nil {
			continue
		}
		if err := l.signers.add(*it.change); err != nil {
			l.state.fault("rotation", err)
		}
	}
}

// signerAt gives the key that signs trees of a size. It signs nothing before the one before it has vouched for it.
func (l *Log) signerAt(ctx context.Context, size uint64) (note.Signer, error) {
	keys, changes := l.signers.now()
	at := keys.At(size)
	if at.Number > 1 && changes[at.Number-2].Proof == "" {
		if err := l.vouch(ctx); err != nil {
			return nil, err
		}
	}
	key, err := l.signers.of(ctx, at, l.cfg.Keys)
	if err != nil {
		return nil, err
	}
	return checkpoint.NewSigner(l.cfg.Origin, key)
}

// vouch has each key that was followed by another sign the tree that ends in the other's entry, and keeps the proof.
func (l *Log) vouch(ctx context.Context) error {
	l.signers.vouching.Lock()
	defer l.signers.vouching.Unlock()
	keys, changes := l.signers.now()
	for i, p := range changes {
		if p.Proof != "" {
			continue
		}
		if err := l.cfg.hooks.reach("vouching"); err != nil {
			return err
		}
		if err := l.vouchFor(ctx, keys.All()[i], &p); err != nil {
			return fmt.Errorf("audit: vouch for key %d: %w", i+2, err)
		}
		l.signers.mu.Lock()
		l.signers.changes[i] = p
		l.signers.mu.Unlock()
	}
	return nil
}

func (l *Log) vouchFor(ctx context.Context, old rotation.Key, p *rotation.Proof) error {
	size := p.Index + 1
	reader := tiles{db: l.db, snap: l.snap.Load()}
	tree, err := merkle.Load(size, tiles{db: l.db})
	if err != nil {
		return err
	}
	path, err := merkle.Inclusion(reader, p.Index, size)
	if err != nil {
		return err
	}
	key, err := l.signers.of(ctx, old, l.cfg.Keys)
	if err != nil {
		return err
	}
	signer, err := checkpoint.NewSigner(l.cfg.Origin, key)
	if err != nil {
		return err
	}
	signed, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: l.cfg.Origin, Size: size, Root: tree.Root()}, signer)
	if err != nil {
		return err
	}
	p.Proof = string(merkle.Proof{Index: p.Index, Path: path, Checkpoint: signed}.Marshal())
	change, err := changeOf(old.Number+1, *p)
	if err != nil {
		return err
	}
	return l.own(ctx, &item{raw: []pair{change}})
}

// Keys are the log's audit keys.
func (l *Log) Keys() *rotation.Keys {
	keys, _ := l.signers.now()
	return keys
}

// Rotations shows how the keys follow each other, as far as that counts in a tree of a size.
func (l *Log) Rotations(size uint64) []rotation.Proof {
	_, changes := l.signers.now()
	return slices.DeleteFunc(changes, func(p rotation.Proof) bool { return p.Index+1 >= size || p.Proof == "" })
}

// readRotations reads what the store knows of changes of key.
func readRotations(db *store.DB) (out []rotation.Proof, err error) {
	err = db.View(func(t *store.Txn) error {
		return t.Iterate([]byte(prefixRotation), []byte(prefixRotation), func(key, value []byte) error {
			var p rotation.Proof
			if err := json.Unmarshal(value, &p); err != nil {
				return err
			}
			if n := numberOf(prefixRotation, key); n != uint64(len(out))+2 {
				return fmt.Errorf("key %d follows %d others", n, len(out)+1)
			}
			out = append(out, p)
			return nil
		})
	})
	return out, err
}

// loadRotations follows the keys, each of which must stand in the tree.
func (l *Log) loadRotations() error {
	changes, err := readRotations(l.db)
	if err != nil {
		return err
	}
	for _, p := range changes {
		if err := checkLeaf(l.db, l.snap.Load(), p.Index, p.Envelope); err != nil {
			return err
		}
		if err := l.signers.add(p); err != nil {
			return err
		}
	}
	return nil
}

// checkLeaf compares an envelope with the tree.
func checkLeaf(db *store.DB, snap *snapshot, index uint64, envelope []byte) error {
	if index >= snap.tree.Size() {
		return fmt.Errorf("entry %d is beyond the head", index)
	}
	hashes, err := tiles{db: db, snap: snap}.Tile(0, index/chunk, int(index%chunk)+1)
	if err != nil {
		return err
	}
	if leaf := record.LeafHash(envelope); [32]byte(hashes[len(hashes)-len(leaf):]) != leaf {
		return fmt.Errorf("entry %d is not the leaf at its place", index)
	}
	return nil
}

// findSigner looks for the key in force: a log that cannot sign is not opened.
func (l *Log) findSigner(ctx context.Context) error {
	_, err := l.signers.of(ctx, l.Keys().Newest(), l.cfg.Keys)
	return err
}
