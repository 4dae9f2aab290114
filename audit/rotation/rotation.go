// Package rotation is how a log changes its audit key: an entry names the new key, and both keys sign for it. Which key signs
// a tree follows from its size alone: the old one up to the tree that ends in this entry, the new one from there on. So the old
// key vouches for the new one with a checkpoint of its own, and whoever trusts any key of a log can follow to the newest.
//
// It refuses a key that was there before, one that does not sign for itself, and one that the key before it did not sign for. It
// keeps no state; values never change and are safe for concurrent use.
package rotation

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// MaxKeys bounds the keys of a log.
const MaxKeys = 64

// ErrUnproved: nothing shows that a key follows the one before it.
var ErrUnproved = errors.New("rotation: unproved change of the audit key")

// statement is the text that both keys sign (docs/formats/log.md).
type statement struct {
	origin  string
	number  uint64
	act     uint64
	actHash [32]byte
	spki    []byte
}

func (s statement) text() []byte {
	return fmt.Appendf(nil, "signet/audit-key@v1\n%s\n%d\n%s\n%d\n%x\n",
		s.origin, s.number, base64.StdEncoding.EncodeToString(s.spki), s.act, s.actHash)
}

func (s statement) digest() []byte {
	sum := sha256.Sum256(s.text())
	return sum[:]
}

func (s statement) sign(key crypto.Signer) (string, error) {
	sig, err := key.Sign(rand.Reader, s.digest(), crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("rotation: sign: %w", err)
	}
	return base64.StdEncoding.EncodeToString(sig), nil
}

// Act is the entry of what the custodians agreed to.
type Act struct {
	Index uint64
	Hash  [32]byte // SHA-256 of the act's exact bytes
}

// New makes the body that follows k with the key of next, signed by both. It refuses what Follow would.
func (k *Keys) New(old, next crypto.Signer, label string, act Act) (record.RotationBody, error) {
	pub, ok := next.Public().(*ecdsa.PublicKey)
	if !ok {
		return record.RotationBody{}, fmt.Errorf("rotation: the new key is a %T, not ECDSA", next.Public())
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return record.RotationBody{}, fmt.Errorf("rotation: %w", err)
	}
	s := statement{origin: k.origin, number: k.last().Number + 1, act: act.Index, actHash: act.Hash, spki: spki}
	b := record.RotationBody{
		Number: s.number, Label: label, Key: base64.StdEncoding.EncodeToString(spki), Act: act.Index, ActHash: hex.EncodeToString(act.Hash[:]),
	}
	if b.OldSignature, err = s.sign(old); err != nil {
		return b, err
	}
	if b.NewSignature, err = s.sign(next); err != nil {
		return b, err
	}
	// What devices return is not taken on trust. The entry's place is not known yet: anywhere behind its act will do.
	_, err = k.follow(max(act.Index+1, k.last().From), b)
	return b, err
}

// Key is one of a log's audit keys.
type Key struct {
	Number uint64 // the first is 1
	Label  string // as its entry has it; "" of the first
	Public *ecdsa.PublicKey
	From   uint64 // it signs trees of more entries, up to those that the next one begins with
}

// Keys are a log's audit keys, each vouched for by the one before it. The zero Keys is none.
type Keys struct {
	origin string
	list   []Key
}

// NewKeys begins with the key that leaf 0 names.
func NewKeys(origin string, first *ecdsa.PublicKey) (*Keys, error) {
	if _, err := checkpoint.VerifierKey(origin, first); err != nil {
		return nil, fmt.Errorf("rotation: %w", err)
	}
	return &Keys{origin: origin, list: []Key{{Number: 1, Public: first}}}, nil
}

func (k *Keys) last() Key { return k.list[len(k.list)-1] }

// Newest is the key of the largest trees.
func (k *Keys) Newest() Key { return k.last() }

// All lists the keys in their order.
func (k *Keys) All() []Key { return append([]Key(nil), k.list...) }

// Has reports whether pub is one of the keys.
func (k *Keys) Has(pub *ecdsa.PublicKey) bool {
	for _, have := range k.list {
		if have.Public.Equal(pub) {
			return true
		}
	}
	return false
}

// At is the key that signs a tree of a size.
func (k *Keys) At(size uint64) Key {
	at := k.list[0]
	for _, next := range k.list[1:] {
		if size > next.From {
			at = next
		}
	}
	return at
}

// Follow adds the key of the rotation entry at an index, whose place in the tree is the caller's to prove. Errors match
// [ErrUnproved] or record.ErrMalformed.
func (k *Keys) Follow(index uint64, envelope []byte) (*Keys, error) {
	env, err := record.Check(envelope)
	if err != nil {
		return nil, err
	}
	b, err := record.RotationOf(env, index)
	if err != nil {
		return nil, err
	}
	return k.follow(index, b)
}

func (k *Keys) follow(index uint64, b record.RotationBody) (*Keys, error) {
	before := k.last()
	switch {
	case len(k.list) >= MaxKeys:
		return nil, fmt.Errorf("%w: more than %d keys", ErrUnproved, MaxKeys)
	case b.Number != before.Number+1:
		return nil, fmt.Errorf("%w: entry %d names key %d after key %d", ErrUnproved, index, b.Number, before.Number)
	case index < before.From:
		return nil, fmt.Errorf("%w: entry %d is not behind the change before it", ErrUnproved, index)
	}
	p, err := b.Parts()
	if err != nil {
		return nil, err
	}
	pub, err := parseKey(k.origin, p.Key)
	if err != nil {
		return nil, err
	}
	digest := statement{origin: k.origin, number: b.Number, act: b.Act, actHash: p.ActHash, spki: p.Key}.digest()
	switch {
	case k.Has(pub):
		return nil, fmt.Errorf("%w: entry %d takes back an earlier key", ErrUnproved, index)
	case !ecdsa.VerifyASN1(before.Public, digest, p.OldSignature):
		return nil, fmt.Errorf("%w: entry %d is not signed by key %d", ErrUnproved, index, before.Number)
	case !ecdsa.VerifyASN1(pub, digest, p.NewSignature):
		return nil, fmt.Errorf("%w: entry %d is not signed by its own key", ErrUnproved, index)
	}
	next := Key{Number: b.Number, Label: b.Label, Public: pub, From: index + 1}
	return &Keys{origin: k.origin, list: append(k.All(), next)}, nil
}

// parseKey takes a P-256 key in the one spelling of an SPKI.
func parseKey(origin string, spki []byte) (*ecdsa.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnproved, err)
	}
	pub, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: the new key is a %T", ErrUnproved, key)
	}
	if _, err := checkpoint.VerifierKey(origin, pub); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnproved, err)
	}
	if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || !bytes.Equal(again, spki) {
		return nil, fmt.Errorf("%w: the new key is in another spelling", ErrUnproved)
	}
	return pub, nil
}

// Open verifies a signed checkpoint with the one key that may sign a tree of its size. Errors match checkpoint.ErrMalformed or
// checkpoint.ErrUnsigned.
func (k *Keys) Open(signed []byte) (checkpoint.Checkpoint, error) {
	_, verifier, err := k.Claimed(signed)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	c, err := checkpoint.Open(signed, verifier)
	if err == nil && c.Origin != k.origin {
		err = fmt.Errorf("%w: it is of another log, %q", checkpoint.ErrUnsigned, c.Origin)
	}
	return c, err
}

// Claimed is the one key that may have signed a checkpoint, by the size that it claims, in the form of transparency tools and as a
// verifier. Errors match checkpoint.ErrMalformed.
func (k *Keys) Claimed(signed []byte) (text string, v note.Verifier, err error) {
	body, _, found := bytes.Cut(signed, []byte("\n\n"))
	if !found {
		return "", nil, fmt.Errorf("%w: no signature", checkpoint.ErrMalformed)
	}
	claim, err := checkpoint.ParseBody(append(bytes.Clone(body), '\n'))
	if err != nil {
		return "", nil, err
	}
	key := k.At(claim.Size).Public
	if text, err = checkpoint.VerifierKey(k.origin, key); err != nil {
		return "", nil, err
	}
	v, err = checkpoint.NewVerifier(k.origin, key)
	return text, v, err
}

// VerifierKey is the key's text for transparency tools and witnesses.
func (k *Keys) VerifierKey(key Key) (string, error) {
	return checkpoint.VerifierKey(k.origin, key.Public)
}
