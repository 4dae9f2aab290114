// Package custody is who must agree to acts that change what the appliance is trusted for, and the proof that they did.
//
// A [Set] of custodians and the number of them that is enough stand in the log's first entry. An [Act] is the text that each
// of them signs, with OpenSSH's ssh-keygen and a key of their own; [Set.Approved] says who did. Nothing here signs, knows the time,
// or remembers which acts were used: callers ask [Act.Check], and take each act once.
//
// All of it is safe for concurrent use. The byte formats stand in docs/formats/act.md.
package custody

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/signet-pki/signet/audit/record"
)

// Bounds.
const (
	MaxCustodians = 16
	maxSet        = 32 << 10 // it stands in the log's first entry
	maxRecipient  = 2 << 10
	minRSA        = 3072
	maxRSA        = 8192
)

var (
	// ErrInvalid: this is no set, custodian or act.
	ErrInvalid = errors.New("custody: invalid")
	// ErrTooFew: valid signatures, but not of enough custodians.
	ErrTooFew = errors.New("custody: too few custodians agreed")
	// ErrSignature: one of the signatures is not a custodian's over this act.
	ErrSignature = errors.New("custody: signature refused")
	// ErrOtherSet: the act asks other custodians.
	ErrOtherSet = errors.New("custody: the act asks other custodians")
	// ErrExpired: the act's time is over, or has not come.
	ErrExpired = errors.New("custody: the act is not valid at this time")
)

// Custodian is one person, or office, with a key that nobody else has.
type Custodian struct {
	Name      string `json:"name"`                // a-z 0-9 . _ -, at most 64
	Key       string `json:"key"`                 // as in authorized_keys: type and base64; a comment is dropped
	Recipient string `json:"recipient,omitempty"` // age1…: whom backups are encrypted to
}

// Fingerprint is that of the key as OpenSSH shows it: SHA256:…
func (c Custodian) Fingerprint() string {
	key, err := parseKey(c.Key)
	if err != nil {
		return ""
	}
	return ssh.FingerprintSHA256(key)
}

// Set is the custodians and how many of them are enough. The zero Set agrees to nothing.
type Set struct {
	threshold int
	members   []Custodian
	keys      [][]byte // of members, as on SSH's wire
	text      []byte
}

// NewSet takes 2 ≤ threshold ≤ len(c) ≤ 16, distinct names and distinct keys: Ed25519, ECDSA, RSA of 3072 to 8192 bits, and the
// keys of security tokens (sk-…).
func NewSet(threshold int, c []Custodian) (Set, error) {
	if threshold < 2 || threshold > len(c) || len(c) > MaxCustodians {
		return Set{}, fmt.Errorf("%w: threshold %d of %d custodians: 2 ≤ threshold ≤ custodians ≤ %d", ErrInvalid, threshold, len(c), MaxCustodians)
	}
	s := Set{threshold: threshold}
	for i, m := range c {
		if err := s.add(m); err != nil {
			return Set{}, fmt.Errorf("%w: custodian %d: %w", ErrInvalid, i+1, err)
		}
	}
	text, err := encode(wireSet{Threshold: s.threshold, Custodians: s.members})
	if err != nil {
		return Set{}, err
	}
	if len(text) > maxSet {
		return Set{}, fmt.Errorf("%w: the set has %d bytes, at most %d", ErrInvalid, len(text), maxSet)
	}
	s.text = text
	return s, nil
}

type wireSet struct {
	Threshold  int         `json:"threshold"`
	Custodians []Custodian `json:"custodians"`
}

var (
	validName      = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)
	validRecipient = regexp.MustCompile(`^age1[a-z0-9]{50,}$`)
)

func (s *Set) add(c Custodian) error {
	if !validName.MatchString(c.Name) {
		return fmt.Errorf("name %.70q: a-z 0-9 . _ -, at most 64, first a letter or digit", c.Name)
	}
	if c.Recipient != "" && (len(c.Recipient) > maxRecipient || !validRecipient.MatchString(c.Recipient)) {
		return fmt.Errorf("%s: recipient: not of age (age1…)", c.Name)
	}
	key, err := parseKey(c.Key)
	if err != nil {
		return fmt.Errorf("%s: key: %w", c.Name, err)
	}
	wire := key.Marshal()
	for i, m := range s.members {
		if m.Name == c.Name {
			return fmt.Errorf("%s: the name is taken", c.Name)
		}
		if bytes.Equal(s.keys[i], wire) {
			return fmt.Errorf("%s: the key is that of %s", c.Name, m.Name)
		}
	}
	c.Key = key.Type() + " " + base64.StdEncoding.EncodeToString(wire)
	s.members, s.keys = append(s.members, c), append(s.keys, wire)
	return nil
}

// parseKey reads one line of an authorized_keys file that has no options.
func parseKey(line string) (ssh.PublicKey, error) {
	if len(line) > 4<<10 || strings.ContainsAny(line, "\r\n") {
		return nil, errors.New("not one line")
	}
	fields := strings.Fields(line)
	if len(fields) < 2 {
		return nil, errors.New("not a type and a key in base64")
	}
	wire, err := base64.StdEncoding.Strict().DecodeString(fields[1])
	if err != nil {
		return nil, errors.New("not base64")
	}
	key, err := parseWire(wire)
	if err == nil && key.Type() != fields[0] {
		err = fmt.Errorf("the key is of type %s, not %.40q", key.Type(), fields[0])
	}
	return key, err
}

// parseWire allows what is as strong as what the appliance signs with. Certificates are not keys here: they would let an authority
// outside decide who a custodian is.
func parseWire(wire []byte) (ssh.PublicKey, error) {
	key, err := ssh.ParsePublicKey(wire)
	if err != nil {
		return nil, err
	}
	switch key.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
	case ssh.KeyAlgoRSA:
		if err := strongRSA(key); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("keys of type %.40q are not taken", key.Type())
	}
	if !bytes.Equal(key.Marshal(), wire) {
		return nil, errors.New("not the one encoding of the key")
	}
	return key, nil
}

func strongRSA(key ssh.PublicKey) error {
	c, ok := key.(ssh.CryptoPublicKey)
	if !ok {
		return errors.New("no RSA key")
	}
	public, ok := c.CryptoPublicKey().(*rsa.PublicKey)
	if !ok {
		return errors.New("no RSA key")
	}
	if bits := public.N.BitLen(); bits < minRSA || bits > maxRSA {
		return fmt.Errorf("RSA of %d bits: %d to %d", bits, minRSA, maxRSA)
	}
	if public.E < 1<<16 {
		return errors.New("the exponent of the RSA key is below 65537")
	}
	return nil
}

// ParseSet reads exactly what Marshal writes.
func ParseSet(text []byte) (Set, error) {
	if len(text) > maxSet {
		return Set{}, fmt.Errorf("%w: the set has %d bytes, at most %d", ErrInvalid, len(text), maxSet)
	}
	w, err := record.DecodeBody[wireSet](record.Envelope{Type: record.TypeAct, Body: text})
	if err != nil {
		return Set{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	s, err := NewSet(w.Threshold, w.Custodians)
	if err == nil && !bytes.Equal(s.text, text) {
		err = fmt.Errorf("%w: not the one way to write the set", ErrInvalid)
	}
	if err != nil {
		return Set{}, err
	}
	return s, nil
}

// Marshal is the set as JSON. It fails for the zero Set.
func (s Set) Marshal() ([]byte, error) {
	if s.threshold == 0 {
		return nil, fmt.Errorf("%w: no custodians", ErrInvalid)
	}
	return bytes.Clone(s.text), nil
}

// Digest is SHA-256 of what Marshal gives; zero for the zero Set.
func (s Set) Digest() [32]byte {
	if s.threshold == 0 {
		return [32]byte{}
	}
	return sha256.Sum256(s.text)
}

// ID is the digest as acts name it.
func (s Set) ID() string {
	d := s.Digest()
	return hex.EncodeToString(d[:])
}

// Threshold is how many custodians are enough.
func (s Set) Threshold() int { return s.threshold }

// Custodians are the members, in the set's order.
func (s Set) Custodians() []Custodian { return slices.Clone(s.members) }

// encode leaves '<', '>' and '&' as they are, like package record.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
