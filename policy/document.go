package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Bounds of an Input. They keep evaluation short; a document beyond them is denied.
const (
	MaxList     = 256     // strings in one list
	MaxHops     = 10      // hops of a chain
	MaxString   = 2048    // bytes of one string
	MaxDocument = 1 << 18 // bytes of a JSON document
)

// ErrInput is wrapped by every error about an Input that is out of bounds or incomplete.
var ErrInput = errors.New("invalid policy input")

// document is Input without its methods.
type document Input

// MarshalJSON gives the one form of the document: absent lists are [], times are UTC with at most milliseconds.
func (in Input) MarshalJSON() ([]byte, error) {
	b, err := json.Marshal(document(in.Normal()))
	if err != nil {
		return nil, fmt.Errorf("policy: encode input: %w", err)
	}
	return b, nil
}

// Parse reads a document as MarshalJSON writes it, for the replay of a recorded decision. It refuses unknown fields,
// trailing data, more than MaxDocument bytes and whatever Check refuses.
func Parse(data []byte) (Input, error) {
	if len(data) > MaxDocument {
		return Input{}, fmt.Errorf("policy: %w: more than %d bytes", ErrInput, MaxDocument)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var doc document
	if err := d.Decode(&doc); err != nil {
		return Input{}, fmt.Errorf("policy: %w: %w", ErrInput, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Input{}, fmt.Errorf("policy: %w: trailing data", ErrInput)
	}
	in := Input(doc).Normal()
	return in, in.Check()
}

// Normal returns the document with its lists present and its times in UTC, cut to milliseconds. It shares the strings
// and changes nothing of in.
func (in Input) Normal() Input {
	in.Time = instant(in.Time)
	in.Agent.Scope, in.Agent.NotAfter = list(in.Agent.Scope), instant(in.Agent.NotAfter)
	hops := make([]Hop, len(in.Hops))
	for i, h := range in.Hops {
		h.Scope, h.NotAfter = list(h.Scope), instant(h.NotAfter)
		hops[i] = h
	}
	in.Hops = hops
	in.User.Roles, in.User.Groups, in.User.AMR = list(in.User.Roles), list(in.User.Groups), list(in.User.AMR)
	in.User.AuthTime = instant(in.User.AuthTime)
	in.Task.Scope, in.Task.NotAfter = list(in.Task.Scope), instant(in.Task.NotAfter)
	in.Revocation.AsOf, in.Revocation.Changed = instant(in.Revocation.AsOf), instant(in.Revocation.Changed)
	if in.Request != nil {
		r := *in.Request
		r.Scope = list(r.Scope)
		in.Request = &r
	}
	if in.Resource != nil {
		r := *in.Resource
		r.RequiredScope = list(r.RequiredScope)
		in.Resource = &r
	}
	return in
}

func list(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}

func instant(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Truncate(time.Millisecond)
}
