package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

const (
	maxDelegations = 1 << 20
	maxRevocations = 64 << 20
)

// delegationsFile is the file of --delegations.
type delegationsFile struct {
	Delegations []string       `json:"delegations"`     // compact JWSs by hop; "" where there is none, as for hop 0
	Keys        [][]byte       `json:"keys,omitempty"`  // SubjectPublicKeyInfo by hop, base64; "" where it is unknown
	Links       [][]chain.Link `json:"links,omitempty"` // re-keys by hop, oldest first
	Grant       string         `json:"grant,omitempty"` // base64url of the canonical grant document
}

func (c *certCommand) delegations(in *chain.Input) error {
	if c.Delegations == "" {
		return nil
	}
	var f delegationsFile
	if err := readJSON(c.Delegations, maxDelegations, &f); err != nil {
		return err
	}
	in.Delegations, in.Links = f.Delegations, f.Links
	for _, key := range f.Keys {
		if len(key) == 0 {
			key = nil
		}
		in.Keys = append(in.Keys, key)
	}
	if f.Grant == "" {
		return nil
	}
	var err error
	if in.GrantDocument, err = base64.RawURLEncoding.Strict().DecodeString(f.Grant); err != nil {
		return fmt.Errorf("%s: grant: %w", c.Delegations, err)
	}
	return nil
}

// revocationsFile is the file of --revocations: what GET /v1/revocations answers, all pages in one, and the time of asking.
type revocationsFile struct {
	FreshAt     time.Time    `json:"fresh_at"`
	Revocations []revocation `json:"revocations"`
	NextCursor  string       `json:"next_cursor,omitempty"`
}

type revocation struct {
	Seq          uint64          `json:"seq,omitempty"`
	Kind         string          `json:"kind"`
	ID           string          `json:"id,omitempty"`
	User         *user           `json:"user,omitempty"`
	Reason       string          `json:"reason,omitempty"`
	Time         time.Time       `json:"time,omitzero"`
	Expires      time.Time       `json:"expires,omitzero"`
	AuditReceipt json.RawMessage `json:"audit_receipt,omitempty"`
}

type user struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// revoked is the set that [chain.Verify] asks.
type revoked struct {
	set   map[chain.RevKind]map[string]bool
	fresh time.Time
}

// Revoked implements [chain.Revocations].
func (r *revoked) Revoked(kind chain.RevKind, id string) bool { return r.set[kind][id] }

// FreshAt implements [chain.Revocations].
func (r *revoked) FreshAt() time.Time { return r.fresh }

func (c *certCommand) revocations(in *chain.Input) error {
	if c.Revocations == "" {
		return nil
	}
	var f revocationsFile
	if err := readJSON(c.Revocations, maxRevocations, &f); err != nil {
		return err
	}
	if f.FreshAt.IsZero() {
		return fmt.Errorf("%s: fresh_at is missing", c.Revocations)
	}
	out := &revoked{set: map[chain.RevKind]map[string]bool{}, fresh: f.FreshAt}
	for i, r := range f.Revocations {
		kind, id, err := r.key()
		if err != nil {
			return fmt.Errorf("%s: revocations[%d]: %w", c.Revocations, i, err)
		}
		if out.set[kind] == nil {
			out.set[kind] = map[string]bool{}
		}
		out.set[kind][id] = true
	}
	in.Revocation = out
	return nil
}

// key refuses what is not understood: a revocation passed over would be one not enforced.
func (r revocation) key() (chain.RevKind, string, error) {
	kinds := map[string]chain.RevKind{
		"certificate": chain.RevCertificate, "agent": chain.RevAgent, "task": chain.RevTask, "grant": chain.RevGrant,
		"user": chain.RevUser, "orchestrator": chain.RevOrchestrator, "subtree": chain.RevSubtree,
	}
	kind, known := kinds[r.Kind]
	switch {
	case !known:
		return 0, "", fmt.Errorf("kind %.40q", r.Kind)
	case kind == chain.RevUser && r.User != nil && r.User.Issuer != "" && r.User.Subject != "":
		return kind, chain.UserID(r.User.Issuer, r.User.Subject), nil
	case kind == chain.RevUser || r.ID == "":
		return 0, "", errors.New("nothing says what is revoked")
	}
	return kind, r.ID, nil
}

// readJSON reads one JSON value without unknown members.
func readJSON(path string, limit int64, v any) error {
	data, err := readFile(path, limit)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: data after the JSON value", path)
	}
	return nil
}
