package record

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

// maxDepth bounds the nesting of objects and arrays in an envelope.
const maxDepth = 32

// Check parses the exact bytes of an envelope, strictly. The log runs it before it takes an entry and the verifier
// before it believes one. Errors match [ErrMalformed] or [ErrTooLarge].
func Check(envelope []byte) (Envelope, error) {
	if len(envelope) > MaxEnvelope {
		return Envelope{}, fmt.Errorf("%w: envelope has %d bytes, at most %d", ErrTooLarge, len(envelope), MaxEnvelope)
	}
	var w wire
	if err := decode(envelope, &w); err != nil {
		return Envelope{}, fmt.Errorf("%w: envelope: %w", ErrMalformed, err)
	}
	env, err := w.parse()
	if err != nil {
		return Envelope{}, fmt.Errorf("%w: envelope: %w", ErrMalformed, err)
	}
	return env, nil
}

// checkOwn is [Check] of an envelope that was just encoded from w. Decoding it again would only repeat what is known, unless
// the body was not written as it is.
func checkOwn(envelope []byte, w wire) (Envelope, error) {
	if len(envelope) > MaxEnvelope || !bytes.HasSuffix(envelope[:len(envelope)-1], w.Body) {
		return Check(envelope)
	}
	w.Body = envelope[len(envelope)-1-len(w.Body) : len(envelope)-1]
	env, err := w.parse()
	if err == nil {
		err = checkKeys(envelope)
	}
	if err != nil {
		return Envelope{}, fmt.Errorf("%w: envelope: %w", ErrMalformed, err)
	}
	return env, nil
}

func (w wire) parse() (Envelope, error) {
	if w.Version != Version {
		return Envelope{}, fmt.Errorf("v is %d, not %d", w.Version, Version)
	}
	if !w.Type.Valid() {
		return Envelope{}, fmt.Errorf("unknown type %.40q", w.Type)
	}
	at, err := time.Parse(TimeLayout, w.Time)
	if err != nil || at.Format(TimeLayout) != w.Time {
		return Envelope{}, errors.New("time is not RFC 3339 in UTC with milliseconds")
	}
	if w.PayloadHash != "" && !isHash(w.PayloadHash) {
		return Envelope{}, errors.New("payload_hash is not 64 lower-case hex digits")
	}
	if len(w.Body) > 0 && w.Body[0] != '{' {
		return Envelope{}, errors.New("body is not an object")
	}
	return Envelope{
		Version: w.Version, Type: w.Type, Time: at, Code: w.Code, Task: w.Task, Grant: w.Grant, Agent: w.Agent,
		Parent: w.Parent, Orchestrator: w.Orchestrator, Service: w.Service, Operator: w.Operator, User: w.User,
		Policy: w.Policy, PayloadHash: w.PayloadHash, Body: w.Body,
	}, nil
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
	if len(key) == 0 || len(key) > 128 {
		return errors.New("a key is empty or longer than 128 bytes")
	}
	for _, c := range key {
		lower := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !lower && bytes.IndexByte([]byte("_-.:/@"), c) < 0 {
			return fmt.Errorf("key %.64q: only a-z, 0-9 and _-.:/@ may stand in a key", key)
		}
	}
	if k.has(key) {
		return fmt.Errorf("duplicate key %.64q", key)
	}
	return nil
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32 && hex.EncodeToString(b) == s
}
