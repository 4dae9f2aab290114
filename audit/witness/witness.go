// Package witness is the protocol between a log and its witnesses: C2SP tlog-witness (a request and when it may be
// cosigned), tlog-cosignature (Ed25519) and tlog-policy (which cosignatures are enough).
//
// It refuses keys that are not Ed25519 cosigners', checkpoints with extension lines, and requests in any other spelling
// than the one that it writes. It has no clock, network or files: who uses it stores a log's newest head before it
// cosigns. Values are immutable and safe for concurrent use, a [Signer] as far as its crypto.Signer is.
package witness

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
)

// Path is where a witness takes checkpoints, below its URL.
const Path = "/add-checkpoint"

// MediaSize is the media type of a 409's body, the size that the witness has.
const MediaSize = "text/x.tlog.size"

// Bounds, in bytes and in hashes.
const (
	MaxRequest = 32 << 10
	MaxAnswer  = 16 << 10
	maxProof   = 63
)

var (
	// ErrMalformed: not in the one accepted spelling (400).
	ErrMalformed = errors.New("witness: malformed")
	// ErrUnsigned: no valid signature of the log's key (403).
	ErrUnsigned = errors.New("witness: not signed by the log")
	// ErrProof: the tree that was cosigned last is not shown to be a prefix (422).
	ErrProof = errors.New("witness: consistency proof refused")
)

// ConflictError: the request is not about the head that was cosigned last, which has this size (409). With Fork the log signed
// another root at that size: there are two logs of one name.
type ConflictError struct {
	Size uint64
	Fork bool
}

func (e *ConflictError) Error() string {
	if e.Fork {
		return fmt.Sprintf("witness: another root was cosigned at size %d", e.Size)
	}
	return fmt.Sprintf("witness: the newest cosigned checkpoint has size %d", e.Size)
}

// Request asks for a cosignature: a signed checkpoint, and the proof that it continues the tree of size Old.
type Request struct {
	Old        uint64
	Proof      []merkle.Hash
	Checkpoint []byte // signed note
}

// Marshal is the body of add-checkpoint.
func (q Request) Marshal() []byte {
	out := fmt.Appendf(nil, "old %d\n", q.Old)
	for _, h := range q.Proof {
		out = append(out, base64.StdEncoding.EncodeToString(h[:])...)
		out = append(out, '\n')
	}
	return append(append(out, '\n'), q.Checkpoint...)
}

// ParseRequest reads what Marshal writes, and nothing else. Errors match [ErrMalformed].
func ParseRequest(body []byte) (Request, error) {
	head, signed, ok := bytes.Cut(body, []byte("\n\n"))
	if !ok || len(body) > MaxRequest {
		return Request{}, fmt.Errorf("%w: no checkpoint behind an empty line, or more than %d bytes", ErrMalformed, MaxRequest)
	}
	lines := strings.Split(string(head), "\n")
	text, ok := strings.CutPrefix(lines[0], "old ")
	old, err := parseSize(text)
	if !ok || err != nil || len(lines)-1 > maxProof {
		return Request{}, fmt.Errorf("%w: old size, or a proof of more than %d lines", ErrMalformed, maxProof)
	}
	q := Request{Old: old, Checkpoint: signed}
	for _, line := range lines[1:] {
		h, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(h) != merkle.HashSize {
			return Request{}, fmt.Errorf("%w: a line of the proof is no hash", ErrMalformed)
		}
		q.Proof = append(q.Proof, merkle.Hash(h))
	}
	if !bytes.Equal(q.Marshal(), body) {
		return Request{}, fmt.Errorf("%w: not in the one accepted spelling", ErrMalformed)
	}
	return q, nil
}

// Origin is the first line of the checkpoint; nothing of it is verified.
func (q Request) Origin() string {
	line, _, _ := bytes.Cut(q.Checkpoint, []byte("\n"))
	return string(line)
}

// Body is the body of a 409.
func (e *ConflictError) Body() []byte { return fmt.Appendf(nil, "%d\n", e.Size) }

// ParseSize reads the body of a 409. Errors match [ErrMalformed].
func ParseSize(body []byte) (uint64, error) {
	text, ok := strings.CutSuffix(string(body), "\n")
	if !ok {
		return 0, fmt.Errorf("%w: size", ErrMalformed)
	}
	return parseSize(text)
}

func parseSize(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > checkpoint.MaxSize || strconv.FormatUint(n, 10) != text {
		return 0, fmt.Errorf("%w: size %.32q", ErrMalformed, text)
	}
	return n, nil
}
