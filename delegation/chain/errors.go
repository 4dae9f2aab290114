package chain

import (
	"errors"
	"fmt"
)

// FormatError is a delegation extension that is refused, on reading or on writing.
type FormatError struct {
	Code   string // one of the codes of the check "format"
	Field  string // for example hops[1].scope; "" for the whole
	Detail string
}

// Error names the field.
func (e *FormatError) Error() string {
	if e.Field == "" {
		return "delegation: " + e.Detail
	}
	return "delegation: " + e.Field + ": " + e.Detail
}

// What Extract says about a certificate whose extension is not there exactly once and non-critical.
var (
	ErrNoDelegation = &FormatError{Code: CodeExtensionMissing, Detail: "the certificate has no delegation extension"}
	ErrDuplicate    = &FormatError{Code: CodeExtensionDuplicate, Detail: "the certificate has several delegation extensions"}
	ErrCritical     = &FormatError{Code: CodeExtensionCritical, Detail: "the delegation extension is marked critical"}
)

func malformed(code, field, format string, args ...any) error {
	return &FormatError{Code: code, Field: field, Detail: fmt.Sprintf(format, args...)}
}

// within puts a place before the field of a FormatError, so that names are built only when something is wrong.
func within(place string, err error) error {
	var f *FormatError
	if !errors.As(err, &f) {
		return err
	}
	return &FormatError{Code: f.Code, Field: place + "." + f.Field, Detail: f.Detail}
}

func withinHop(i int, err error) error { return within(fmt.Sprintf("hops[%d]", i), err) }

// AttenuationError is a child that would get more than its parent has.
type AttenuationError struct {
	Code   string // one of the codes in the group "Extend"
	Detail string
}

// Error gives the detail.
func (e *AttenuationError) Error() string { return "delegation: " + e.Detail }

func exceeds(code, format string, args ...any) error {
	return &AttenuationError{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// ErrGrantDocument is wrapped by every refusal of a grant document.
var ErrGrantDocument = errors.New("invalid grant document")

// ErrDelegation is wrapped by every refusal of a delegator's JWS.
var ErrDelegation = errors.New("invalid delegation JWS")

// ErrRekey is wrapped by every refusal of a re-key link.
var ErrRekey = errors.New("invalid re-key link")

// ErrKey is wrapped by every refusal of a public key: only P-256, P-384 and Ed25519 are taken.
var ErrKey = errors.New("key is not P-256, P-384 or Ed25519")

// ErrCertificates is wrapped by every refusal of a list of certificates.
var ErrCertificates = errors.New("invalid certificate chain")
