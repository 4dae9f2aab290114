package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// maxFile bounds a file of certificates, a key, a CSR or a token, in bytes.
const maxFile = 1 << 20

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only: nothing is lost
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return data, nil
}

// readToken reads a secret of one line.
func readToken(path string) (string, error) {
	data, err := readFile(path, maxFile)
	if err != nil {
		return "", err
	}
	token := strings.TrimRight(string(data), "\r\n")
	if token == "" || strings.ContainsAny(token, " \t\r\n") {
		return "", fmt.Errorf("%s: not one token on one line", path)
	}
	return token, nil
}

// absent refuses an output file that exists, before anything is done that would be lost with it.
func absent(flag, path string) error {
	if path == "" {
		return nil
	}
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %s exists, and nothing is overwritten", flag, path)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return nil
}

// writeNew writes a file that does not exist yet, and leaves none behind when that fails.
func writeNew(path string, mode os.FileMode, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func writeBytes(path string, mode os.FileMode, data []byte) error {
	return writeNew(path, mode, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// moment is a point in time as an argument: RFC 3339, or +DURATION from now.
type moment struct {
	at time.Time
	in time.Duration
}

// UnmarshalText parses the argument.
func (m *moment) UnmarshalText(text []byte) error {
	var err error
	if in, relative := strings.CutPrefix(string(text), "+"); relative {
		m.in, err = time.ParseDuration(in)
		if err == nil && m.in <= 0 {
			err = errors.New("a duration from now is positive")
		}
		return err
	}
	m.at, err = time.Parse(time.RFC3339, string(text))
	return err
}

// from is the point in time; zero if the argument was not given.
func (m moment) from(now time.Time) time.Time {
	if m.in != 0 {
		return now.Add(m.in).UTC().Truncate(time.Second)
	}
	return m.at.UTC()
}

// wholeSeconds is a duration as the API has it.
func wholeSeconds(flag string, d time.Duration) (int64, error) {
	if d < 0 || d%time.Second != 0 {
		return 0, fmt.Errorf("%s: a number of whole seconds", flag)
	}
	return int64(d / time.Second), nil
}
