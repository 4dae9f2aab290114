package siem

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/signet-pki/signet/internal/durable"
)

// cursor is the file that says how far a collector is.
type cursor struct {
	Origin string  `json:"origin"`
	Next   *uint64 `json:"next"` // index of the first entry that it may not have
}

// load gives the cursor. Where there is none it begins one, so that what comes later is not missed by a crash before the first
// save. One that cannot be read, or is another log's, is not guessed at.
func (c Config) load() (uint64, error) {
	text, err := os.ReadFile(c.Cursor)
	if errors.Is(err, fs.ErrNotExist) {
		next := uint64(0)
		if !c.FromStart {
			next = c.Log.Head().Size
		}
		return next, c.save(next)
	}
	if err != nil {
		return 0, fmt.Errorf("cursor: %w", err)
	}
	var v cursor
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		return 0, fmt.Errorf("cursor: %s: %w", c.Cursor, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) || v.Next == nil {
		return 0, fmt.Errorf("cursor: %s is not a cursor", c.Cursor)
	}
	if v.Origin != c.Origin {
		return 0, fmt.Errorf("cursor: %s is of the log %q", c.Cursor, v.Origin)
	}
	return *v.Next, nil
}

func (c Config) save(next uint64) error {
	text, err := json.Marshal(cursor{c.Origin, &next})
	if err != nil {
		return err
	}
	return durable.WriteFile(c.Cursor, append(text, '\n'), 0o600)
}
