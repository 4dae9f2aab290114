package bundle

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

// spool is text that is written in pieces and read once in the end. It is in a file without a name, since a manifest has a line for each certificate
// and an export may have millions.
type spool struct {
	file *os.File
	out  *bufio.Writer
	size int64
}

func newSpool() (*spool, error) {
	f, err := os.CreateTemp("", "signet-manifest-")
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(fmt.Errorf("manifest: %w", err), f.Close())
	}
	return &spool{file: f, out: bufio.NewWriterSize(f, 64<<10)}, nil
}

func (s *spool) Write(p []byte) (int, error) {
	n, err := s.out.Write(p)
	s.size += int64(n)
	return n, err
}

// reader ends the writing.
func (s *spool) reader() (io.Reader, error) {
	if err := s.out.Flush(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return io.NewSectionReader(s.file, 0, s.size), nil
}

func (s *spool) close() error { return s.file.Close() }
