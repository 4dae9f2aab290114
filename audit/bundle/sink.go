package bundle

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Sink receives the files of a bundle one after the other: each is closed before the next is created. Paths are slash-separated, relative and
// clean.
type Sink interface {
	Create(path string) (io.WriteCloser, error)
}

// Directory writes below a directory that it creates. It refuses one that exists, and never follows a link out of it. The files
// are not synced: a bundle is a copy. Close it in the end.
type Directory struct{ root *os.Root }

// NewDirectory creates dir, whose parent must exist.
func NewDirectory(dir string) (*Directory, error) {
	if err := os.Mkdir(dir, 0o750); err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w", err)
	}
	return &Directory{root: root}, nil
}

// Create implements [Sink]; an existing file is refused.
func (d *Directory) Create(path string) (io.WriteCloser, error) {
	if !validPath(path) {
		return nil, fmt.Errorf("bundle: create %q: not a path of a bundle", path)
	}
	name := filepath.FromSlash(path)
	if err := d.root.MkdirAll(filepath.Dir(name), 0o750); err != nil {
		return nil, fmt.Errorf("bundle: create %s: %w", path, err)
	}
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return nil, fmt.Errorf("bundle: create %s: %w", path, err)
	}
	return f, nil
}

// Close releases the directory.
func (d *Directory) Close() error { return d.root.Close() }

// Tar writes a POSIX tar archive with fixed owner, mode and time, so that the same bundle is always the same bytes. It holds one file in memory at a
// time, since the size comes first. Close writes the end of the archive, not closing the writer below.
type Tar struct {
	out  *tar.Writer
	open bool
}

// NewTar writes to w.
func NewTar(w io.Writer) *Tar { return &Tar{out: tar.NewWriter(w)} }

var errOneAtATime = errors.New("bundle: tar: the previous file is still open")

// Create implements [Sink].
func (t *Tar) Create(path string) (io.WriteCloser, error) {
	if !validPath(path) {
		return nil, fmt.Errorf("bundle: create %q: not a path of a bundle", path)
	}
	if t.open {
		return nil, errOneAtATime
	}
	t.open = true
	return &tarFile{to: t, path: path}, nil
}

// Close ends the archive.
func (t *Tar) Close() error {
	if t.open {
		return errOneAtATime
	}
	return t.out.Close()
}

type tarFile struct {
	bytes.Buffer
	to   *Tar
	path string
}

func (f *tarFile) Close() error {
	f.to.open = false
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: f.path, Size: int64(f.Len()), Mode: 0o644, ModTime: time.Unix(0, 0).UTC(), Format: tar.FormatUSTAR,
	}
	if err := f.to.out.WriteHeader(header); err != nil {
		return fmt.Errorf("bundle: tar: %s: %w", f.path, err)
	}
	if _, err := f.WriteTo(f.to.out); err != nil {
		return fmt.Errorf("bundle: tar: %s: %w", f.path, err)
	}
	return nil
}
