package ca

import (
	"errors"
	"strings"

	"github.com/signet-pki/signet/ca/lint"
)

var (
	// ErrUsed: the Prepared was given to Issue before. Its bytes may be resumed.
	ErrUsed = errors.New("ca: prepared certificate was used already")
	// ErrForeign: the Prepared or the stored bytes are of another issuer.
	ErrForeign = errors.New("ca: prepared by another issuer")
	// ErrKind: the issuer's profile does not issue this kind of certificate.
	ErrKind = errors.New("ca: kind of certificate not issued here")
	// ErrKey: a key is of a type, size or encoding that is not accepted, or not the one expected.
	ErrKey = errors.New("ca: key not accepted")
	// ErrPath: the issuing CA is not certified by the parents given.
	ErrPath = errors.New("ca: no path to the root")
	// ErrOutside: the issuing CA, or one above it, is not valid yet or has expired.
	ErrOutside = errors.New("ca: issuing CA is not valid now")
	// ErrNotAfter: the requested end is past, beyond the issuing CA's, or beyond the profile's longest life.
	ErrNotAfter = errors.New("ca: NotAfter not accepted")
	// ErrTooLarge: a part of the request is over its bound.
	ErrTooLarge = errors.New("ca: request too large")
	// ErrSignature: the signer returned something that is not its signature over these bytes. Nothing is released.
	ErrSignature = errors.New("ca: signature does not verify")
	// ErrMalformed: the bytes are no to-be-signed certificate.
	ErrMalformed = errors.New("ca: malformed to-be-signed certificate")
)

// ProfileError tells which rules a certificate breaks.
type ProfileError struct{ Findings []lint.Finding }

// Error lists the findings.
func (e *ProfileError) Error() string {
	texts := make([]string, len(e.Findings))
	for n, f := range e.Findings {
		texts[n] = f.String()
	}
	return "ca: certificate breaks its profile: " + strings.Join(texts, "; ")
}

func findings(found []lint.Finding) error {
	if len(found) == 0 {
		return nil
	}
	return &ProfileError{Findings: found}
}
