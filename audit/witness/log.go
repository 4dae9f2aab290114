package witness

import (
	"errors"
	"fmt"
	"slices"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
)

// The signature types of C2SP signed-note that are read here.
const (
	typeEd25519     = 0x01
	typeECDSA       = 0x02
	typeCosignature = 0x04
)

// Log is a log with its key. Its origin is the key's name, as tlog-policy has it.
type Log struct {
	vkey
	verifier note.Verifier
	others   []note.Verifier // of other keys of the same log
}

// Also takes a further key of the same log: one that it had before it rotated its key, or has since.
func (l Log) Also(text string) (Log, error) {
	other, err := ParseLog(text)
	if err != nil {
		return Log{}, err
	}
	if other.name != l.name || other.String() == l.String() {
		return Log{}, fmt.Errorf("witness: log key: %q is no other key of %s", text, l.name)
	}
	l.others = append(slices.Clone(l.others), other.verifier)
	return l, nil
}

// signer is of the key that a checkpoint is signed with: the first of the log's that is named in it.
func (l Log) signer(signed []byte) note.Verifier {
	for _, v := range append([]note.Verifier{l.verifier}, l.others...) {
		if n, err := note.Open(signed, note.VerifierList(v)); err == nil && len(n.Sigs) > 0 {
			return v
		}
	}
	return l.verifier
}

// ParseLog reads a log's verifier key: Ed25519 or ECDSA.
func ParseLog(text string) (Log, error) {
	k, err := parseKey(text, typeEd25519, typeECDSA)
	if err != nil {
		return Log{}, err
	}
	v, err := fnote.NewVerifier(text)
	if err != nil {
		return Log{}, fmt.Errorf("witness: log key: %w", err)
	}
	return Log{vkey: k, verifier: v}, k.sameHash(v)
}

// Open verifies a signed checkpoint of the log. own is the note with the log's signature alone. Errors match
// [ErrMalformed] or [ErrUnsigned].
func (l Log) Open(signed []byte) (c checkpoint.Checkpoint, own []byte, err error) {
	verifier := l.signer(signed)
	c, err = checkpoint.Open(signed, verifier)
	switch {
	case errors.Is(err, checkpoint.ErrUnsigned) && !isNote(signed):
		return c, nil, fmt.Errorf("%w: checkpoint", ErrMalformed)
	case errors.Is(err, checkpoint.ErrUnsigned):
		return c, nil, fmt.Errorf("%w: %w", ErrUnsigned, err)
	case err != nil:
		return c, nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	case c.Origin != l.name:
		return c, nil, fmt.Errorf("%w: it is of another log, %q", ErrUnsigned, c.Origin)
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return c, nil, fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	return c, append(append(c.Body(), '\n'), line(n.Sigs[0])...), nil
}

// isNote tells a note without a signature that counts from what is no note.
func isNote(signed []byte) bool {
	_, err := note.Open(signed, note.VerifierList())
	var unverified *note.UnverifiedNoteError
	if !errors.As(err, &unverified) {
		return false
	}
	_, err = checkpoint.ParseBody([]byte(unverified.Note.Text))
	return err == nil
}

// Empty is the head of a log of which nothing was cosigned yet.
func (l Log) Empty() checkpoint.Checkpoint {
	return checkpoint.Checkpoint{Origin: l.name, Root: merkle.EmptyRoot()}
}

// Advance says whether a witness whose newest head of the log is last may cosign, and what its newest head then is. The order
// of the checks is that of tlog-witness. Errors match [ErrMalformed], [ErrUnsigned] or [ErrProof], or are a *[ConflictError].
func (l Log) Advance(last checkpoint.Checkpoint, q Request) (next checkpoint.Checkpoint, own []byte, err error) {
	next, own, err = l.Open(q.Checkpoint)
	switch {
	case err != nil:
		return last, nil, err
	case q.Old > next.Size:
		return last, nil, fmt.Errorf("%w: the old size is larger than the checkpoint's", ErrMalformed)
	case q.Old != last.Size:
		return last, own, &ConflictError{Size: last.Size, Fork: next.Size == last.Size && next.Root != last.Root}
	case next.Size == last.Size && next.Root != last.Root:
		return last, own, &ConflictError{Size: last.Size, Fork: true}
	}
	if err := merkle.VerifyConsistency(q.Proof, last.Size, next.Size, last.Root, next.Root); err != nil {
		return last, nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	return next, own, nil
}
