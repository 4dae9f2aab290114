// Package durable writes files so that what it reports as written survives a crash and a power cut.
//
// A success of [WriteFile], [Create] or [Append.Append] means that bytes and directory entry have reached the device
// (fsync(2), fdatasync(2)). A failed sync is never repeated: Linux drops the dirty pages and reports success the second
// time, so the state on disk is unknown and the caller has to start again from what can be read back.
//
// It refuses to replace in [Create], to continue after a failure in [Append], and a second holder in [Lock]. Functions
// and methods are safe for concurrent use; two concurrent writers of one path leave one of both contents, whole.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

var (
	// ErrExists: the path is taken and stays as it was. The error also matches [fs.ErrExist].
	ErrExists = errors.New("durable: already exists")
	// ErrPoisoned: an earlier write or sync of this file failed, so its end is unknown. Close, reopen, read back.
	ErrPoisoned = errors.New("durable: file is unusable after a failed write or sync")
	// ErrTorn: the file ends within a line, which was therefore never acknowledged.
	ErrTorn = errors.New("durable: last line is incomplete")
	// ErrLocked: another process (or another [Lock] of this one) holds the lock.
	ErrLocked = errors.New("durable: locked")
)

// tempInfix marks the temporary files of WriteFile and Create: "." + name + tempInfix + random.
const tempInfix = ".durable-"

// steps are the system calls whose failure tests inject.
type steps struct {
	syncFile func(*os.File) error
	rename   func(from, to string) error
	link     func(from, to string) error
	syncDir  func(dir string) error
}

func realSteps() steps {
	return steps{syncFile: (*os.File).Sync, rename: os.Rename, link: os.Link, syncDir: SyncDir}
}

// WriteFile replaces the file at path by data, or creates it, in one step: at every moment, also after a crash, path
// names the old bytes or the new ones, whole. The mode becomes exactly perm, whatever the umask. A symbolic link at path
// is itself replaced. After an error path holds either content.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return writeFile(realSteps(), path, data, perm)
}

func writeFile(do steps, path string, data []byte, perm fs.FileMode) error {
	temp, err := writeTemp(do, path, data, perm)
	if err != nil {
		return fmt.Errorf("durable: write %s: %w", path, err)
	}
	if err := do.rename(temp, path); err != nil {
		return errors.Join(fmt.Errorf("durable: write %s: %w", path, err), os.Remove(temp))
	}
	if err := do.syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("durable: write %s: %w", path, err)
	}
	return nil
}

// Create writes a new file. It fails with [ErrExists] when path is taken, by whatever; the file never appears in part.
// After another error the file may or may not be there.
func Create(path string, data []byte, perm fs.FileMode) error {
	return create(realSteps(), path, data, perm)
}

func create(do steps, path string, data []byte, perm fs.FileMode) error {
	temp, err := writeTemp(do, path, data, perm)
	if err != nil {
		return fmt.Errorf("durable: create %s: %w", path, err)
	}
	// link(2), unlike rename(2), does not replace.
	err = do.link(temp, path)
	err = errors.Join(err, os.Remove(temp))
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", ErrExists, err)
	}
	if err != nil {
		return fmt.Errorf("durable: create %s: %w", path, err)
	}
	if err := do.syncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("durable: create %s: %w", path, err)
	}
	return nil
}

// writeTemp leaves synced bytes in a temporary file beside path, since rename works only within a file system.
func writeTemp(do steps, path string, data []byte, perm fs.FileMode) (name string, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+tempInfix+"*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = do.syncFile(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// Sweep removes the temporary files that killed processes left in dir. Call it while holding the directory's [Lock]:
// it would take the file of a write in progress too.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("durable: sweep: %w", err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") || !strings.Contains(e.Name(), tempInfix) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("durable: sweep: %w", err)
		}
	}
	return nil
}

// SyncDir makes the entries of dir (files created, renamed, removed) durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("durable: sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("durable: sync directory %s: %w", dir, err)
	}
	return nil
}
