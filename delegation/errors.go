package delegation

import (
	"errors"
	"fmt"

	"github.com/signet-pki/signet/delegation/chain"
)

// Kind groups refusals by what the caller can do about them; api maps each to one HTTP status.
type Kind int

// The zero Kind is Internal: an error that nobody classified is never the caller's to retry.
const (
	Internal        Kind = iota
	Invalid              // the request is malformed: fix Field
	Unauthenticated      // no identity, or one that does not verify
	Forbidden            // the identity is known and may not do this
	NotFound             // nothing of that id that the caller may see
	Conflict             // the state of the thing does not allow it
	Exhausted            // too many: retry later
	Unavailable          // a dependency is missing: retry later
)

// Error is a refusal. Code is a stable word for programs, Detail a sentence for people; neither holds a secret.
// AuditIndex is the entry that records the refusal, nil where none was written; Counted says that it is counted with others then.
type Error struct {
	Kind       Kind
	Code       string
	Field      string
	Detail     string
	Checks     []chain.Check
	AuditIndex *uint64
	Counted    bool
	Err        error

	asked *asked // policy's no to a spawn or a token: its entry says what was asked
}

// Error says the code, the field and the detail.
func (e *Error) Error() string {
	s := e.Code
	if e.Field != "" {
		s += " (" + e.Field + ")"
	}
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Unwrap gives the cause, which callers outside the appliance never see.
func (e *Error) Unwrap() error { return e.Err }

// refuse makes a refusal.
func refuse(k Kind, code, field, detail string) *Error {
	return &Error{Kind: k, Code: code, Field: field, Detail: detail}
}

// internal wraps a fault of the appliance itself.
func internal(op string, err error) *Error {
	return &Error{Kind: Internal, Code: "internal", Err: fmt.Errorf("delegation: %s: %w", op, err)}
}

// AsError finds the refusal in err, or makes an internal one.
func AsError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return internal("unclassified", err)
}
