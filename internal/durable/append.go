package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// tailFile is what [Append] asks of an open file; tests give one that fails.
type tailFile interface {
	Write(p []byte) (int, error)
	Datasync() error
	Close() error
}

// Append is a file of lines that only grows. After the first failed write or sync every call fails with [ErrPoisoned]:
// a line may then be on disk in whole, in part or not at all, and only reopening tells.
type Append struct {
	mu   sync.Mutex
	file tailFile
	err  error // set once
}

// CreateAppend makes an empty file and its directory entry durable. An existing path is [ErrExists].
func CreateAppend(path string, perm fs.FileMode) (*Append, error) {
	if err := Create(path, nil, perm); err != nil {
		return nil, err
	}
	return OpenAppend(path)
}

// OpenAppend opens an existing file. What it holds is synced first, so that lines found there may be relied on even if
// they were written by a process that died before its sync. A file that ends within a line is [ErrTorn].
func OpenAppend(path string) (*Append, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err != nil {
		return nil, fmt.Errorf("durable: open: %w", err)
	}
	if err := errors.Join(f.Sync(), checkTail(f)); err != nil {
		return nil, errors.Join(fmt.Errorf("durable: open %s: %w", path, err), f.Close())
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Append{file: osTail{f}}, nil
}

// Append writes line and an LF in one write(2) and returns nil once both are on the device. The line holds no LF.
func (a *Append) Append(line []byte) error {
	if bytes.IndexByte(line, '\n') >= 0 {
		return errors.New("durable: append: line holds a line feed")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	if err := a.write(append(line[:len(line):len(line)], '\n')); err != nil {
		a.err = fmt.Errorf("%w: %w", ErrPoisoned, err)
	}
	return a.err
}

func (a *Append) write(p []byte) error {
	n, err := a.file.Write(p)
	if err != nil {
		return err
	}
	if n != len(p) {
		return io.ErrShortWrite
	}
	return a.file.Datasync()
}

// Close releases the file. Further calls of Append fail.
func (a *Append) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if errors.Is(a.err, fs.ErrClosed) {
		return nil
	}
	a.err = fmt.Errorf("durable: append: %w", fs.ErrClosed)
	return a.file.Close()
}

func checkTail(f *os.File) error {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	last := make([]byte, 1)
	if _, err := f.ReadAt(last, info.Size()-1); err != nil {
		return err
	}
	if last[0] != '\n' {
		return ErrTorn
	}
	return nil
}

// osTail adds fdatasync(2), which spares the journal write for the modification time but covers the new size.
type osTail struct{ *os.File }

func (t osTail) Datasync() error {
	raw, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var syncErr error
	err = raw.Control(func(fd uintptr) {
		for syncErr = unix.EINTR; errors.Is(syncErr, unix.EINTR); {
			syncErr = unix.Fdatasync(int(fd))
		}
	})
	return errors.Join(err, syncErr)
}
