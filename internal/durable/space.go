package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// blockUnit is the unit of st_blocks, whatever the file system's block size (stat(2)).
const blockUnit = 512

// FreeBytes is the space that an unprivileged process may still fill on the file system of dir.
func FreeBytes(dir string) (uint64, error) {
	st, err := statfs(dir)
	if err != nil {
		return 0, err
	}
	return st.Bavail * uint64(st.Bsize), nil //nolint:gosec // G115: a block size is positive
}

// TotalBytes is the size of the file system of dir.
func TotalBytes(dir string) (uint64, error) {
	st, err := statfs(dir)
	if err != nil {
		return 0, err
	}
	return st.Blocks * uint64(st.Bsize), nil //nolint:gosec // G115: a block size is positive
}

func statfs(dir string) (unix.Statfs_t, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return st, fmt.Errorf("durable: free space of %s: %w", dir, err)
	}
	return st, nil
}

// Ballast is a file that only takes space, to be given up when the disk is full so that the daemon can still close its
// log in order. It takes real blocks; on file systems that compress or deduplicate it promises nothing.
type Ballast struct {
	path string
	size int64
}

// NewBallast describes a ballast of size bytes at path; it touches no file.
func NewBallast(path string, size int64) (*Ballast, error) {
	if size <= 0 {
		return nil, fmt.Errorf("durable: ballast %s: size %d is not positive", path, size)
	}
	return &Ballast{path: path, size: size}, nil
}

// Held reports whether the file is there with all its blocks.
func (b *Ballast) Held() (bool, error) {
	var st unix.Stat_t
	err := unix.Stat(b.path, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("durable: ballast %s: %w", b.path, err)
	}
	return st.Size >= b.size && st.Blocks*blockUnit >= b.size, nil
}

// Reserve allocates the file, or completes it. It fails, leaving no file, when the space is not there (ENOSPC) or when
// the file system cannot allocate (EOPNOTSUPP).
func (b *Ballast) Reserve() error {
	if held, err := b.Held(); held || err != nil {
		return err
	}
	f, err := os.OpenFile(b.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("durable: ballast: %w", err)
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, b.size)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("durable: ballast %s: %w", b.path, err), b.Release())
	}
	return SyncDir(filepath.Dir(b.path))
}

// Release gives the space back. A ballast that is not there is no error.
func (b *Ballast) Release() error {
	if err := os.Remove(b.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("durable: ballast: %w", err)
	}
	return SyncDir(filepath.Dir(b.path))
}
