// Package record is the encoding of one audit entry: a non-personal envelope, hashed exactly as stored, and an optional
// payload that the envelope commits to by a keyed hash, so that the payload can be erased while the tree stays valid.
//
// It refuses at both ends what two readers could read differently: duplicate keys, keys in odd spelling, invalid UTF-8,
// unknown fields and types, unbounded size and depth. It keeps no state and knows no storage; all of it is safe for
// concurrent use. The byte formats stand in docs/formats/log.md.
package record

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"
)

// Bounds of one entry, in bytes, and of what rides on it.
const (
	MaxEnvelope  = 1<<16 - 1 // what the 16-bit length in a C2SP entry bundle can say
	MaxPayload   = 256 << 10
	MaxTerms     = 64
	MaxMutations = 64
	MaxKey       = 1 << 10
	MaxValue     = 256 << 10
	SaltSize     = 32
)

// Version is the envelope version that this package writes and reads.
const Version = 1

// TimeLayout is the one spelling of an envelope's time: RFC 3339, UTC, milliseconds.
const TimeLayout = "2006-01-02T15:04:05.000Z"

var (
	// ErrMalformed: the bytes are not an envelope, payload or body of this version.
	ErrMalformed = errors.New("record: malformed")
	// ErrTooLarge: a bound above is exceeded.
	ErrTooLarge = errors.New("record: too large")
)

// Type says what happened. The zero Type is refused.
type Type string

// The types of entries.
const (
	TypeCeremony     Type = "ceremony"
	TypeGrant        Type = "grant"
	TypeTask         Type = "task"
	TypeIssue        Type = "issue"
	TypeIssueFailed  Type = "issue_failed"
	TypeIssueUnknown Type = "issue_unknown"
	TypeToken        Type = "token"
	TypeTokenFailed  Type = "token_failed"
	TypeDeny         Type = "deny"
	TypeDecision     Type = "decision"
	TypeRevoke       Type = "revoke"
	TypeRedact       Type = "redact"
	TypeAdmin        Type = "admin"
	TypePolicy       Type = "policy"
	TypeDevice       Type = "device"
	TypeSeal         Type = "seal"
	TypePrune        Type = "prune"
	TypeMalformed    Type = "malformed"
	TypeEnrollment   Type = "enrollment"
	TypeAlarm        Type = "alarm"
	TypeAct          Type = "act"
)

// types are all of the above.
var types = [...]Type{
	TypeDecision, TypeIssue, TypeDeny, TypeToken, TypeGrant, TypeTask, TypeSeal, TypeEnrollment, TypeRevoke, TypeMalformed, TypeIssueFailed,
	TypeIssueUnknown, TypeTokenFailed, TypeRedact, TypeAdmin, TypePolicy, TypeDevice, TypePrune, TypeAlarm, TypeCeremony, TypeAct,
	TypeRotation,
}

// Valid reports whether t is one of the types above.
func (t Type) Valid() bool { return slices.Contains(types[:], t) }

func parseType(text []byte) (Type, error) {
	for _, t := range types {
		if string(text) == string(t) {
			return t, nil
		}
	}
	return "", fmt.Errorf("unknown type %.40q", text)
}

// Envelope is the part of an entry that is hashed and never erased. It holds ids and digests, never iss, sub or a name.
type Envelope struct {
	Version      int             // 1
	Type         Type            //
	Time         time.Time       // written in UTC with milliseconds
	Code         string          // stable word: why it was denied or failed
	Task         string          // task id
	Grant        string          // grant id
	Agent        string          // agent id
	Parent       string          // id of the agent's parent, if that is an agent
	Orchestrator string          // name
	Service      string          // name
	Operator     string          // name
	User         string          // keyed pseudonym, lower-case hex
	Policy       string          // digest of the policy bundle in force, lower-case hex
	PayloadHash  string          // set by New: lower-case hex of HMAC-SHA256(salt, payload)
	Body         json.RawMessage // an object, see the …Body types
}

// wire is Envelope with its time spelled out. The order of fields is the order in which they are written.
type wire struct {
	Version      int             `json:"v"`
	Type         Type            `json:"type"`
	Time         string          `json:"time"`
	Code         string          `json:"code,omitempty"`
	Task         string          `json:"task,omitempty"`
	Grant        string          `json:"grant,omitempty"`
	Agent        string          `json:"agent,omitempty"`
	Parent       string          `json:"parent,omitempty"`
	Orchestrator string          `json:"orchestrator,omitempty"`
	Service      string          `json:"service,omitempty"`
	Operator     string          `json:"operator,omitempty"`
	User         string          `json:"user,omitempty"`
	Policy       string          `json:"policy,omitempty"`
	PayloadHash  string          `json:"payload_hash,omitempty"`
	Body         json.RawMessage `json:"body,omitempty"`
}

// Term is an index term of an entry. The log stores it as a keyed hash; the index is derived and never evidence.
type Term struct {
	Kind string // user agent task grant orchestrator serial decision
	ID   string
}

// Entry is what an appender hands to the log.
type Entry struct {
	Envelope  []byte // exact bytes, hashed as RFC 6962 leaf
	Payload   []byte // nil = none
	Salt      []byte // 32 bytes with a payload, else nil
	Terms     []Term
	Mutations []Mutation
	Time      time.Time // the envelope's, milliseconds

	checked *checked
}

// checked is what New found out about an envelope, so that the log need not parse it once more. It counts only as long
// as the envelope has that leaf hash.
type checked struct {
	leaf [32]byte
	env  Envelope
}

// Stored is an entry as the log gives it back. Payload and Salt are nil when there is none or it was erased.
type Stored struct {
	Index    uint64
	Envelope []byte
	Payload  []byte
	Salt     []byte
}

// New encodes env, and payload as JSON unless it is nil, into an Entry without terms and mutations. It sets the version
// where that is zero, and payload_hash where there is a payload. The salt is 32 random bytes, used once.
func New(env Envelope, payload any, salt [SaltSize]byte) (Entry, error) {
	e := Entry{Time: env.Time.UTC().Truncate(time.Millisecond)}
	env.PayloadHash = ""
	if payload != nil {
		var err error
		if e.Payload, err = encodePayload(payload); err != nil {
			return Entry{}, err
		}
		e.Salt = salt[:]
		env.PayloadHash = PayloadHash(e.Salt, e.Payload)
	}
	if env.Version == 0 {
		env.Version = Version
	}
	w, err := env.wire()
	if err != nil {
		return Entry{}, err
	}
	if e.Envelope, err = encode(w); err != nil {
		return Entry{}, fmt.Errorf("record: encode envelope: %w", err)
	}
	parsed, err := Check(e.Envelope)
	if err != nil {
		return Entry{}, err
	}
	e.checked = &checked{leaf: LeafHash(e.Envelope), env: parsed}
	return e, nil
}

// EncodeBody gives a body for an Envelope.
func EncodeBody(body any) (json.RawMessage, error) {
	b, err := encode(body)
	if err != nil {
		return nil, fmt.Errorf("record: encode body: %w", err)
	}
	return b, nil
}

// encode leaves '<', '>' and '&' as they are: escaped as for HTML they would be six times as long, and what fits everywhere
// before it is recorded would be too large for its entry.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

func encodePayload(payload any) ([]byte, error) {
	b, err := json.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("record: encode payload: %w", err)
	}
	if len(b) > MaxPayload {
		return nil, fmt.Errorf("%w: payload has %d bytes, at most %d", ErrTooLarge, len(b), MaxPayload)
	}
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("%w: payload is not UTF-8", ErrMalformed)
	}
	return b, nil
}

func (e Envelope) wire() (wire, error) {
	// encoding/json would replace invalid UTF-8 in strings silently: what was meant and what is recorded would differ.
	for _, s := range e.texts() {
		if !utf8.ValidString(s) {
			return wire{}, fmt.Errorf("%w: envelope is not UTF-8", ErrMalformed)
		}
	}
	return wire{
		Version: e.Version, Type: e.Type, Time: e.Time.UTC().Format(TimeLayout), Code: e.Code,
		Task: e.Task, Grant: e.Grant, Agent: e.Agent, Parent: e.Parent, Orchestrator: e.Orchestrator,
		Service: e.Service, Operator: e.Operator, User: e.User, Policy: e.Policy, PayloadHash: e.PayloadHash,
		Body: e.Body,
	}, nil
}

func (e Envelope) texts() []string {
	return []string{
		string(e.Type), e.Code, e.Task, e.Grant, e.Agent, e.Parent, e.Orchestrator, e.Service, e.Operator, e.User, e.Policy,
		string(e.Body),
	}
}

// LeafHash is the RFC 6962 §2.1 leaf hash of an envelope.
func LeafHash(envelope []byte) [32]byte {
	var room [2048]byte // most fit, and are hashed without an allocation
	return sha256.Sum256(append(append(room[:0], 0), envelope...))
}

// PayloadHash is the commitment that stands in the envelope. The salt hides the payload after its erasure: without it,
// short payloads could be guessed.
func PayloadHash(salt, payload []byte) string {
	m := hmac.New(sha256.New, salt)
	m.Write(payload)
	return hex.EncodeToString(m.Sum(nil))
}
