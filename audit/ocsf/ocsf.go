// Package ocsf projects entries of the log to events of the Open Cybersecurity Schema Framework, class API Activity
// (6003), for a SIEM. docs/formats/ocsf.md has the bytes.
//
// An event is made of an entry's index and its envelope, never of a payload, so that nothing leaves this way that can be
// erased: a user is the pseudonym. It carries the log's origin, the index, the leaf hash and the envelope, byte for byte, so
// that whoever collects events sees what is missing and can hold each one against the tree. The same entry gives the same
// bytes. It keeps no state; all of it is safe for concurrent use.
package ocsf

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/signet-pki/signet/audit/record"
)

// Version is the schema version that events say they are of.
const Version = "1.9.0"

// MaxSize bounds an event, in bytes. An envelope of nothing but DEL, six bytes each, comes near it; common ones have 2,000.
const MaxSize = 512 << 10

// maxCopy bounds, in bytes, what is copied out of an envelope; raw_data has all of it.
const maxCopy = 512

const (
	category = 6
	class    = 6003
	product  = "Signet"
)

// Event is one entry, projected.
type Event struct {
	Origin   string
	Index    uint64
	LeafHash [32]byte
	Type     record.Type
	Time     time.Time
	Severity Severity
	JSON     []byte // the event: one line of ASCII
}

// Project gives the event of the entry with that index and envelope in the log with that origin. An envelope that the
// log would refuse is refused with the error of [record.Check].
func Project(origin string, index uint64, envelope []byte) (Event, error) {
	env, err := record.Check(envelope)
	if err != nil {
		return Event{}, fmt.Errorf("ocsf: entry %d: %w", index, err)
	}
	r, ok := table[env.Type]
	if !ok {
		return Event{}, fmt.Errorf("ocsf: entry %d: no row for type %q", index, env.Type)
	}
	e := Event{Origin: origin, Index: index, LeafHash: record.LeafHash(envelope), Type: env.Type, Time: env.Time}
	env = shortened(env)
	d := detailsOf(env)
	r = r.refine(env.Type, d)
	e.Severity = r.severity
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(e.wire(env, envelope, r, d)); err != nil {
		return Event{}, fmt.Errorf("ocsf: entry %d: %w", index, err)
	}
	e.JSON = ascii(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
	return e, nil
}

// details are the parts of bodies that have a place in the schema. A body is what its type says it is, so that a field that
// is not there, or not of this kind, is not one of them; the envelope in raw_data says everything.
type details struct {
	Operation    string          `json:"operation"`
	Action       string          `json:"action"`
	Status       string          `json:"status"`
	Allow        bool            `json:"allow"`
	Reasons      []string        `json:"reasons"`
	ResourceType string          `json:"resource_type"`
	ResourceID   string          `json:"resource_id"`
	Kind         string          `json:"kind"`
	ID           string          `json:"id"`
	Serial       string          `json:"serial"`
	SPIFFEID     string          `json:"spiffe_id"`
	Target       string          `json:"target"`
	Event        string          `json:"event"`
	Caller       string          `json:"caller"`
	Enrollment   string          `json:"enrollment_hash"`
	Rekey        json.RawMessage `json:"rekey"`
}

func detailsOf(env record.Envelope) details {
	var d details
	if len(env.Body) > 0 {
		_ = json.Unmarshal(env.Body, &d) // a field of another kind stays empty, and the others are read
	}
	for _, p := range []*string{
		&d.Operation, &d.Action, &d.ResourceType, &d.ResourceID, &d.Kind, &d.ID, &d.Serial, &d.SPIFFEID, &d.Target, &d.Event, &d.Caller,
	} {
		*p = cut(*p)
	}
	return d
}

// shortened is the envelope with its texts cut.
func shortened(env record.Envelope) record.Envelope {
	for _, p := range []*string{
		&env.Code, &env.Task, &env.Grant, &env.Agent, &env.Parent, &env.Orchestrator, &env.Service, &env.Operator, &env.User, &env.Policy,
	} {
		*p = cut(*p)
	}
	return env
}

// cut shortens to maxCopy bytes, at the end of a character.
func cut(s string) string {
	if len(s) <= maxCopy {
		return s
	}
	return strings.ToValidUTF8(s[:maxCopy], "")
}

// operation is what was asked for, in the words of denials.
func (d details) operation(t record.Type) string {
	switch {
	case d.Operation != "":
		return d.Operation
	case t == record.TypeDecision:
		return opEvaluation
	case t == record.TypeAdmin && d.Action != "":
		return d.Action
	case d.Event != "":
		return string(t) + "." + d.Event
	}
	return string(t)
}

// resources are what the entry is about, besides the ids of the envelope.
func (d details) resources(env record.Envelope) []resource {
	switch {
	case env.Type == record.TypeDecision:
		return []resource{{UID: d.ResourceID, Type: d.ResourceType}}
	case env.Type == record.TypeRevoke:
		return []resource{{UID: d.ID, Type: d.Kind}}
	case d.Serial != "":
		return []resource{{UID: d.Serial, Name: d.SPIFFEID, Type: "certificate"}}
	case d.Target != "":
		return []resource{{UID: d.Target, Type: "target"}}
	case env.Task != "":
		return []resource{{UID: env.Task, Type: "task"}}
	}
	return nil
}

// wire gives the event as it is encoded.
func (e Event) wire(env record.Envelope, envelope []byte, r row, d details) wire {
	caller := r.caller(env, d)
	operation := d.operation(env.Type)
	message := operation + ": " + r.status.String()
	if env.Code != "" {
		message += " (" + env.Code + ")"
	}
	return wire{
		ActivityID: r.activity, ActivityName: r.activity.name(operation), CategoryUID: category, ClassUID: class, ClassName: "API Activity",
		TypeUID: class*100 + int(r.activity), Time: env.Time.UnixMilli(), SeverityID: r.severity, Severity: r.severity.String(),
		StatusID: r.status, Status: r.status.String(), StatusCode: env.Code, StatusDetail: cut(strings.Join(d.Reasons, "; ")), Message: message,
		Metadata: metadata{
			Version: Version, Product: named{Name: product, VendorName: product}, LogName: e.Origin, EventCode: string(env.Type),
			UID: fmt.Sprintf("%s#%d", e.Origin, e.Index), Sequence: e.Index, OriginalTime: env.Time.Format(record.TimeLayout),
		},
		Actor: actor{User: actingUser(env, caller)}, API: api{Operation: operation, Service: named{Name: product}},
		Source: endpoint{UID: caller.uid(), Name: caller.name}, Resources: d.resources(env),
		Unmapped: unmapped{
			Origin: e.Origin, Index: e.Index, LeafHash: hex.EncodeToString(e.LeafHash[:]), Task: env.Task, Grant: env.Grant, Agent: env.Agent,
			Parent: env.Parent, Orchestrator: env.Orchestrator, Service: env.Service, Operator: env.Operator, User: env.User, Policy: env.Policy,
			Action: d.Action,
		},
		RawData: string(envelope),
	}
}

// del is the first character that is written as an escape: DEL, which would be printable to no one.
const del = 0x7f

// ascii writes what is not printable ASCII as \u escapes (RFC 8259 §7): syslog needs no byte order mark then, and no relay has a
// character to damage. Outside of strings JSON is ASCII already.
func ascii(b []byte) []byte {
	if !bytes.ContainsFunc(b, func(r rune) bool { return r >= del }) {
		return b
	}
	out := make([]byte, 0, len(b)+len(b)/4)
	for _, r := range string(b) {
		switch {
		case r < del:
			out = append(out, byte(r)) //nolint:gosec // G115: below DEL
		case r <= 0xffff:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		}
	}
	return out
}
