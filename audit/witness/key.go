package witness

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/signet-pki/signet/audit/checkpoint"
)

// maxKey bounds a verifier key in text.
const maxKey = 1 << 10

// vkey is a verifier key in text (C2SP signed-note), taken apart.
type vkey struct {
	text, name string
	material   string // bytes without the type
}

func parseKey(text string, types ...byte) (vkey, error) {
	parts := strings.SplitN(text, "+", 3)
	if len(parts) != 3 || len(text) > maxKey {
		return vkey{}, fmt.Errorf("%w: not a verifier key, name+hash+key", ErrMalformed)
	}
	if err := checkpoint.CheckOrigin(parts[0]); err != nil {
		return vkey{}, fmt.Errorf("%w: verifier key: %w", ErrMalformed, err)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(raw) < 2 {
		return vkey{}, fmt.Errorf("%w: verifier key is not base64", ErrMalformed)
	}
	if !slices.Contains(types, raw[0]) {
		return vkey{}, fmt.Errorf("%w: verifier key of signature type 0x%02x, which is not read here", ErrMalformed, raw[0])
	}
	return vkey{text: text, name: parts[0], material: string(raw[1:])}, nil
}

// sameHash refuses a text whose key hash is not that of its key.
func (k vkey) sameHash(v note.Verifier) error {
	parts := strings.SplitN(k.text, "+", 3)
	if parts[1] != fmt.Sprintf("%08x", v.KeyHash()) {
		return fmt.Errorf("%w: the verifier key of %q does not have the hash that it states", ErrMalformed, k.name)
	}
	return nil
}

// Name is the key's name.
func (k vkey) Name() string { return k.name }

// String is the key in text.
func (k vkey) String() string { return k.text }

// Key is a witness's, for Ed25519 cosignatures.
type Key struct {
	vkey
	verifier note.Verifier
}

// ParseKey reads a witness's verifier key, which is of signature type 0x04.
func ParseKey(text string) (Key, error) {
	k, err := parseKey(text, typeCosignature)
	if err != nil {
		return Key{}, err
	}
	v, err := fnote.NewVerifierForCosignatureV1(text)
	if err != nil {
		return Key{}, fmt.Errorf("%w: witness key: %w", ErrMalformed, err)
	}
	return Key{vkey: k, verifier: v}, k.sameHash(v)
}

// Pick takes the key's own cosignature over c from a witness's answer, as one line. Lines of other keys are ignored. Errors
// match [ErrMalformed] or [ErrUnsigned].
func (k Key) Pick(c checkpoint.Checkpoint, answer []byte) ([]byte, error) {
	if len(answer) > MaxAnswer {
		return nil, fmt.Errorf("%w: an answer of more than %d bytes", ErrMalformed, MaxAnswer)
	}
	body := c.Body()
	n, err := note.Open(append(append(bytes.Clone(body), '\n'), answer...), note.VerifierList(k.verifier))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	if n.Text != string(body) {
		return nil, fmt.Errorf("%w: an answer with other lines than signatures", ErrMalformed)
	}
	return line(n.Sigs[0]), nil
}

// line is a signature as it stands in a note.
func line(s note.Signature) []byte { return fmt.Appendf(nil, "— %s %s\n", s.Name, s.Base64) }

// Signer cosigns with an Ed25519 key that lives elsewhere.
type Signer struct {
	name string
	hash uint32
	pub  ed25519.PublicKey
	key  crypto.Signer
	now  func() time.Time
}

// NewSigner makes the cosigner of that name. The key must be used for nothing else.
func NewSigner(name string, key crypto.Signer, now func() time.Time) (*Signer, error) {
	if err := checkpoint.CheckOrigin(name); err != nil {
		return nil, fmt.Errorf("witness: name: %w", err)
	}
	if key == nil || now == nil {
		return nil, errors.New("witness: a key and a clock are required")
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok || len(pub) != ed25519.PublicKeySize {
		return nil, fmt.Errorf("witness: a key of type %T, not Ed25519", key.Public())
	}
	s := &Signer{name: name, pub: pub, key: key, now: now}
	h := sha256.Sum256(append([]byte(name+"\n"), s.typed()...)) // tlog-cosignature, "Format"
	s.hash = binary.BigEndian.Uint32(h[:])
	return s, nil
}

func (s *Signer) typed() []byte { return append([]byte{typeCosignature}, s.pub...) }

// Key is the verifier key in text.
func (s *Signer) Key() string {
	return fmt.Sprintf("%s+%08x+%s", s.name, s.hash, base64.StdEncoding.EncodeToString(s.typed()))
}

// Name is the cosigner's name.
func (s *Signer) Name() string { return s.name }

// KeyHash is the key's short hash in signature lines.
func (s *Signer) KeyHash() uint32 { return s.hash }

// Sign makes the timestamped signature over a checkpoint's body. It verifies what the device returned.
func (s *Signer) Sign(body []byte) ([]byte, error) {
	at := s.now().Unix()
	if at < 0 {
		return nil, errors.New("witness: a time before 1970")
	}
	msg := fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", at, body)
	sig, err := s.key.Sign(rand.Reader, msg, crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("witness: cosign: %w", err)
	}
	if !ed25519.Verify(s.pub, msg, sig) {
		return nil, errors.New("witness: the signer returned a signature that does not verify")
	}
	return append(binary.BigEndian.AppendUint64(nil, uint64(at)), sig...), nil
}

// Cosign gives the signature line over c.
func (s *Signer) Cosign(c checkpoint.Checkpoint) ([]byte, error) {
	signed, err := note.Sign(&note.Note{Text: string(c.Body())}, s)
	if err != nil {
		return nil, fmt.Errorf("witness: cosign: %w", err)
	}
	return signed[len(c.Body())+1:], nil
}
