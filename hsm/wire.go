package hsm

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Between the appliance and the process of a module go frames: four bytes of length, big-endian, and as much JSON.

// maxFrame has room for the longest message in base64.
const maxFrame = 2 * maxMessage

// operation is what is asked of the process of a module.
type operation string

const (
	opOpen     operation = "open" // first, and once
	opCheck    operation = "check"
	opFind     operation = "find"
	opSign     operation = "sign"
	opGenerate operation = "generate"
	opInfo     operation = "info"
	opExamine  operation = "examine" // first, or after another one of it
)

type request struct {
	ID        uint64    `json:"id"`
	Op        operation `json:"op"`
	Open      *opening  `json:"open,omitempty"`
	URI       string    `json:"uri,omitempty"`
	Digest    []byte    `json:"digest,omitempty"`
	Label     string    `json:"label,omitempty"`
	Algorithm Algorithm `json:"algorithm,omitempty"`
	Step      Step      `json:"step,omitempty"`
}

// opening is a Config that has been checked, and the PIN, which no argument, environment or file of the process holds.
type opening struct {
	Module   string        `json:"module"`
	Token    string        `json:"token"`
	PIN      string        `json:"pin"`
	PINFile  string        `json:"pin_file"` // for messages
	Sessions int           `json:"sessions"`
	Timeout  time.Duration `json:"timeout"`
}

type reply struct {
	ID        uint64    `json:"id"`
	Error     *failure  `json:"error,omitempty"`
	Public    []byte    `json:"public,omitempty"`    // SubjectPublicKeyInfo
	Signature []byte    `json:"signature,omitempty"` // as the module made it: nothing is verified yet
	Info      *Info     `json:"info,omitempty"`
	PIN       *PINState `json:"pin,omitempty"`
	Found     []Found   `json:"found,omitempty"`
}

// failure is an error that crossed the pipe: its text, and the names of what callers may branch on.
type failure struct {
	Text  string   `json:"text"`
	Kinds []string `json:"kinds,omitempty"`
}

// kinds are the errors that keep their identity.
var kinds = map[string]error{
	"config": ErrConfig, "uri": ErrURI, "key_not_found": ErrKeyNotFound, "key_exists": ErrKeyExists, "ambiguous": ErrAmbiguous,
	"key_changed": ErrKeyChanged, "exportable": ErrExportable, "uses": ErrUses, "unsupported": ErrUnsupported, "digest": ErrDigest,
	"pin": ErrPIN, "unavailable": ErrUnavailable, "busy": ErrBusy, "hung": ErrHung, "closed": ErrClosed, "deadline": context.DeadlineExceeded,
}

func failed(err error) *failure {
	f := &failure{Text: err.Error()}
	for name, kind := range kinds {
		if errors.Is(err, kind) {
			f.Kinds = append(f.Kinds, name)
		}
	}
	return f
}

// maxText bounds what of the other process's words gets into errors and logs.
const maxText = 1 << 10

func (f *failure) Error() string { return f.Text[:min(len(f.Text), maxText)] }

// Is finds the sentinels; unknown names are none.
func (f *failure) Is(target error) bool {
	for _, name := range f.Kinds {
		if kind, ok := kinds[name]; ok && kind == target {
			return true
		}
	}
	return false
}

func writeFrame(w io.Writer, v any) error {
	frame := make([]byte, 4, 512)
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	if len(text) > maxFrame {
		return fmt.Errorf("frame of %d bytes", len(text))
	}
	binary.BigEndian.PutUint32(frame, uint32(len(text))) // #nosec G115 -- bounded above
	_, err = w.Write(append(frame, text...))
	return err
}

// readFrame fills v. io.EOF means that the other side has gone, between two frames.
func readFrame(r io.Reader, v any) error {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxFrame {
		return fmt.Errorf("frame of %d bytes", n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return fmt.Errorf("frame: %w", errors.Join(io.ErrUnexpectedEOF, err))
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("frame: %w", err)
	}
	return nil
}

// publicHalf reads the key of a reply: of the kinds that this package knows, and no other.
func (r *reply) publicHalf() (Algorithm, publicKey, error) {
	key, err := x509.ParsePKIXPublicKey(r.Public)
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return algorithmOf(key)
}
