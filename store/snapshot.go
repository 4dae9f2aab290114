package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Snapshot makes in the empty directory to a copy of the closed store in from. The copy can be opened for writing, which
// replays the write-ahead log of a store that was not closed cleanly, without a byte of the original changing. Nothing
// is linked: Badger truncates a table before it removes it, and that would reach the original through a hard link.
func Snapshot(from, to string) error {
	if err := Guard(from, true); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return fmt.Errorf("store: snapshot: %w", err)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || e.Name() == "LOCK" {
			continue
		}
		if err := copyFile(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()), false); err != nil {
			return fmt.Errorf("store: snapshot: %w", err)
		}
	}
	return nil
}

// copyFile leaves holes where the source has zeros: memtable files are mostly unused.
func copyFile(src, dst string, sync bool) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return errors.Join(err, in.Close())
	}
	err = copySparse(out, in)
	if err == nil && sync {
		err = out.Sync()
	}
	return errors.Join(err, in.Close(), out.Close())
}

func copySparse(out, in *os.File) error {
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	buf := make([]byte, 1<<16)
	for at := int64(0); ; {
		n, err := in.ReadAt(buf, at)
		if !zero(buf[:n]) {
			if _, werr := out.WriteAt(buf[:n], at); werr != nil {
				return werr
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &fs.PathError{Op: "read", Path: in.Name(), Err: err}
		}
	}
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
