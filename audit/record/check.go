package record

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

// Bounds of an envelope's JSON: how deep objects and arrays are nested, and the bytes of a key.
const (
	maxDepth = 32
	maxKey   = 128
)

// View is an envelope read in place: its parts are parts of the bytes that it was read from. See [Envelope] for what they are.
type View struct {
	Type                                  Type
	Time                                  time.Time
	Code, Task, Grant, Agent, Parent      []byte
	Orchestrator, Service, Operator, User []byte
	Policy, PayloadHash                   []byte
	Body                                  json.RawMessage // nil: none
}

// Envelope is the same, sharing nothing but the body with the bytes.
func (v *View) Envelope() Envelope {
	return Envelope{
		Version: Version, Type: v.Type, Time: v.Time, Code: string(v.Code), Task: string(v.Task), Grant: string(v.Grant), Agent: string(v.Agent),
		Parent: string(v.Parent), Orchestrator: string(v.Orchestrator), Service: string(v.Service), Operator: string(v.Operator), User: string(v.User),
		Policy: string(v.Policy), PayloadHash: string(v.PayloadHash), Body: v.Body,
	}
}

// Check parses the exact bytes of an envelope, strictly. The log runs it before it takes an entry and the verifier
// before it believes one. Errors match [ErrMalformed] or [ErrTooLarge]. The body of the result is a part of the bytes.
func Check(envelope []byte) (Envelope, error) {
	v, err := Read(envelope)
	if err != nil {
		return Envelope{}, err
	}
	return v.Envelope(), nil
}

// Read is Check for who reads many: it copies nothing.
func Read(envelope []byte) (View, error) {
	if len(envelope) > MaxEnvelope {
		return View{}, fmt.Errorf("%w: envelope has %d bytes, at most %d", ErrTooLarge, len(envelope), MaxEnvelope)
	}
	p, ok := scan(envelope)
	if !ok {
		var err error
		if p, err = decodeParts(envelope); err != nil {
			return View{}, fmt.Errorf("%w: envelope: %w", ErrMalformed, err)
		}
	}
	if err := p.parse(); err != nil {
		return View{}, fmt.Errorf("%w: envelope: %w", ErrMalformed, err)
	}
	return p.View, nil
}

// parts are a View whose type and time are not yet read.
type parts struct {
	kind, time []byte
	View
}

// decodeParts takes every spelling that there is.
func decodeParts(envelope []byte) (parts, error) {
	var w wire
	if err := decode(envelope, &w); err != nil {
		return parts{}, err
	}
	if w.Version != Version {
		return parts{}, fmt.Errorf("v is %d, not %d", w.Version, Version)
	}
	if len(w.Body) > 0 && w.Body[0] != '{' {
		return parts{}, errors.New("body is not an object")
	}
	return parts{kind: []byte(w.Type), time: []byte(w.Time), View: View{
		Code: []byte(w.Code), Task: []byte(w.Task), Grant: []byte(w.Grant), Agent: []byte(w.Agent), Parent: []byte(w.Parent),
		Orchestrator: []byte(w.Orchestrator), Service: []byte(w.Service), Operator: []byte(w.Operator), User: []byte(w.User),
		Policy: []byte(w.Policy), PayloadHash: []byte(w.PayloadHash), Body: w.Body,
	}}, nil
}

func (p *parts) parse() (err error) {
	if p.Type, err = parseType(p.kind); err != nil {
		return err
	}
	var ok bool
	if p.Time, ok = parseTime(p.time); !ok {
		return errors.New("time is not RFC 3339 in UTC with milliseconds")
	}
	if len(p.PayloadHash) > 0 && !isHash(p.PayloadHash) {
		return errors.New("payload_hash is not 64 lower-case hex digits")
	}
	return nil
}

// DecodeBody reads the envelope's body into a T, strictly: an absent body, unknown fields and what [Check] refuses are
// [ErrMalformed]. It does not compare T with the envelope's type; callers switch on that.
func DecodeBody[T any](env Envelope) (T, error) {
	var body T
	if len(env.Body) == 0 {
		return body, fmt.Errorf("%w: %s entry without a body", ErrMalformed, env.Type)
	}
	if err := decode(env.Body, &body); err != nil {
		return *new(T), fmt.Errorf("%w: body of a %s entry: %w", ErrMalformed, env.Type, err)
	}
	return body, nil
}

// decode reads exactly one JSON value. The other checks close what encoding/json leaves open: it takes the last of
// duplicate keys, matches names without regard to case, and replaces invalid UTF-8. v means nothing if there is an error.
func decode(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("trailing data")
	}
	return checkKeys(data)
}

// checkKeys walks JSON that is already known to be valid and refuses an object that names a key twice. Keys are limited
// to lower-case ASCII without escapes, so that equal keys have equal bytes.
func checkKeys(data []byte) error {
	stack := make([]*keys, 0, 8) // nil for an array
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '{':
			stack = append(stack, new(keys))
		case '[':
			stack = append(stack, nil)
		case '}', ']':
			stack = stack[:len(stack)-1]
		case '"':
			end := stringEnd(data, i)
			if isKey(data, end) {
				if err := stack[len(stack)-1].add(data[i+1 : end]); err != nil {
					return err
				}
			}
			i = end
		}
		if len(stack) > maxDepth {
			return fmt.Errorf("nested deeper than %d", maxDepth)
		}
	}
	return nil
}

// stringEnd is the offset of the quote that ends the string starting at i.
func stringEnd(data []byte, i int) int {
	for i++; data[i] != '"'; i++ {
		if data[i] == '\\' {
			i++
		}
	}
	return i
}

// isKey reports whether a colon follows the string that ends at end.
func isKey(data []byte, end int) bool {
	for i := end + 1; i < len(data); i++ {
		switch data[i] {
		case ' ', '\t', '\r', '\n':
		default:
			return data[i] == ':'
		}
	}
	return false
}

// keys are those of one object: a list, and once that is long a set, so that the cost stays in proportion to the bytes.
type keys struct {
	first [fewKeys][]byte
	n     int
	more  map[string]bool
}

const fewKeys = 16

// has says whether the key was added before, and adds it.
func (k *keys) has(key []byte) bool {
	for _, old := range k.first[:k.n] {
		if bytes.Equal(old, key) {
			return true
		}
	}
	if k.n < fewKeys {
		k.first[k.n] = key
		k.n++
		return false
	}
	if k.more[string(key)] {
		return true
	}
	if k.more == nil {
		k.more = map[string]bool{}
	}
	k.more[string(key)] = true
	return false
}

func (k *keys) add(key []byte) error {
	if len(key) == 0 || len(key) > maxKey {
		return fmt.Errorf("a key is empty or longer than %d bytes", maxKey)
	}
	for _, c := range key {
		if !isKeyByte(c) {
			return fmt.Errorf("key %.64q: only a-z, 0-9 and _-.:/@ may stand in a key", key)
		}
	}
	if k.has(key) {
		return fmt.Errorf("duplicate key %.64q", key)
	}
	return nil
}

// parseTime reads the one spelling of TimeLayout. [time.Parse] would also take others, and longer.
func parseTime(s []byte) (time.Time, bool) {
	if len(s) != len(TimeLayout) || s[4] != '-' || s[7] != '-' || s[10] != 'T' || s[13] != ':' || s[16] != ':' || s[19] != '.' || s[23] != 'Z' {
		return time.Time{}, false
	}
	var n [7]int
	for i, part := range [...]span{{0, 4}, {5, 7}, {8, 10}, {11, 13}, {14, 16}, {17, 19}, {20, 23}} {
		for _, c := range s[part.from:part.to] {
			if !isDigit(c) {
				return time.Time{}, false
			}
			n[i] = 10*n[i] + int(c-'0')
		}
	}
	at := time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], n[6]*int(time.Millisecond), time.UTC)
	year, month, day := at.Date()
	// Date carries a 30 February over into March.
	return at, n[3] < 24 && n[4] < 60 && n[5] < 60 && year == n[0] && int(month) == n[1] && day == n[2]
}

// isKeyByte reports whether c is one of a-z 0-9 _ - . : / @, of which those from '-' to ':' lie together.
func isKeyByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '-' && c <= ':' || c == '_' || c == '@'
}

func isHash(s []byte) bool {
	for _, c := range s {
		if !isDigit(c) && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(s) == 64
}
