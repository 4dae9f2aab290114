package demo

import (
	"bytes"
	"errors"
	"io/fs"
	"os"

	"github.com/signet-pki/signet/audit/bundle"
)

// unpack writes the files of a bundle's tar below dir, which is made. bundle.OpenTar refuses what is no bundle.
func unpack(tarPath, dir string) error {
	f, err := os.Open(tarPath)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return err
	}
	files, err := bundle.OpenTar(f, info.Size())
	if err != nil {
		return err
	}
	out, err := bundle.NewDirectory(dir)
	if err != nil {
		return err
	}
	err = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		return out.Put(path, int64(len(data)), bytes.NewReader(data))
	})
	return errors.Join(err, out.Close())
}
