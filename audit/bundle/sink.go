package bundle

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Sink receives the files of a bundle one after the other. Paths are slash-separated, relative and clean; content has size bytes and is read before
// Put returns.
type Sink interface {
	Put(path string, size int64, content io.Reader) error
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

// Put implements [Sink]; an existing file is refused.
func (d *Directory) Put(path string, size int64, content io.Reader) error {
	if !validPath(path) {
		return fmt.Errorf("bundle: create %q: not a path of a bundle", path)
	}
	name := filepath.FromSlash(path)
	if err := d.root.MkdirAll(filepath.Dir(name), 0o750); err != nil {
		return fmt.Errorf("bundle: create %s: %w", path, err)
	}
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return fmt.Errorf("bundle: create %s: %w", path, err)
	}
	_, err = io.CopyN(f, content, size)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("bundle: write %s: %w", path, err)
	}
	return nil
}

// Close releases the directory.
func (d *Directory) Close() error { return d.root.Close() }

// Tar writes a POSIX tar archive with fixed owner, mode and time, so that the same bundle is always the same bytes. Close writes the end of the
// archive, not closing the writer below.
type Tar struct{ out *tar.Writer }

// NewTar writes to w.
func NewTar(w io.Writer) *Tar { return &Tar{out: tar.NewWriter(w)} }

// Put implements [Sink].
func (t *Tar) Put(path string, size int64, content io.Reader) error {
	if !validPath(path) {
		return fmt.Errorf("bundle: create %q: not a path of a bundle", path)
	}
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: path, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0).UTC(), Format: tar.FormatUSTAR,
	}
	if err := t.out.WriteHeader(header); err != nil {
		return fmt.Errorf("bundle: tar: %s: %w", path, err)
	}
	if _, err := io.CopyN(t.out, content, size); err != nil {
		return fmt.Errorf("bundle: tar: %s: %w", path, err)
	}
	return nil
}

// Close ends the archive.
func (t *Tar) Close() error { return t.out.Close() }
