package opa

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing/fstest"
	"time"
)

// Bounds of a bundle.
const (
	maxFiles   = 512
	maxFile    = 4 << 20
	maxArchive = 16 << 20
)

//go:embed all:bundle
var embedded embed.FS

// Default gives the bundle that ships with Signet.
func Default() (fs.FS, error) {
	sub, err := fs.Sub(embedded, "bundle")
	if err != nil {
		return nil, fmt.Errorf("opa: default bundle: %w", err)
	}
	return sub, nil
}

// OpenArchive reads a bundle from the bytes of a .tar.gz. It refuses whatever is no regular file, names that leave the
// archive, files twice and more than the bounds above; what a bundle may consist of is checked by New.
func OpenArchive(data []byte) (fs.FS, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("opa: read archive: %w", err)
	}
	files := fstest.MapFS{}
	in := tar.NewReader(io.LimitReader(z, maxArchive))
	for {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, fmt.Errorf("opa: read archive: %w", err)
		}
		if err := unpack(files, h, in); err != nil {
			return nil, err
		}
	}
}

func unpack(files fstest.MapFS, h *tar.Header, in io.Reader) error {
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if h.Typeflag != tar.TypeReg || !fs.ValidPath(name) || strings.Contains(h.Name, "..") {
		return fmt.Errorf("opa: read archive: %q is not a plain file", h.Name)
	}
	if _, ok := files[name]; ok || len(files) >= maxFiles {
		return fmt.Errorf("opa: read archive: %q is there twice or one too many", h.Name)
	}
	b, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return fmt.Errorf("opa: read archive: %q: %w", h.Name, err)
	}
	if len(b) > maxFile {
		return fmt.Errorf("opa: read archive: %q is larger than %d bytes", h.Name, maxFile)
	}
	files[name] = &fstest.MapFile{Data: b, Mode: 0o644}
	return nil
}

// collect reads the files of a bundle: .manifest, data.json and *.rego, in any folder. Anything else is refused rather
// than ignored, so that the digest covers all that is there and nothing is there without effect.
func collect(bundle fs.FS) (map[string][]byte, error) {
	files := map[string][]byte{}
	err := fs.WalkDir(bundle, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if !d.Type().IsRegular() || !bundled(name) {
			return fmt.Errorf("%q does not belong in a bundle", name)
		}
		if len(files) >= maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		files[name], err = readFile(bundle, name)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opa: read bundle: %w", err)
	}
	return files, nil
}

func bundled(name string) bool {
	base := path.Base(name)
	return name == ".manifest" || base == "data.json" || strings.HasSuffix(base, ".rego")
}

func readFile(bundle fs.FS, name string) ([]byte, error) {
	f, err := bundle.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only: nothing is lost
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("%q is larger than %d bytes", name, maxFile)
	}
	return b, nil
}

// pack makes the archive whose SHA-256 names the bundle: sorted USTAR entries without owners or times, in gzip without
// compression, since the output of a compressor may change with its version and the digest must not.
func pack(files map[string][]byte) ([]byte, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.NoCompression)
	if err != nil {
		return nil, fmt.Errorf("opa: pack bundle: %w", err)
	}
	t := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		h := &tar.Header{
			Typeflag: tar.TypeReg, Name: name, Size: int64(len(files[name])), Mode: 0o644,
			ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR,
		}
		if err := t.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("opa: pack %q: %w", name, err)
		}
		if _, err := t.Write(files[name]); err != nil {
			return nil, fmt.Errorf("opa: pack %q: %w", name, err)
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, fmt.Errorf("opa: pack bundle: %w", err)
	}
	if out.Len() > maxArchive {
		return nil, fmt.Errorf("opa: bundle is larger than %d bytes", maxArchive)
	}
	return out.Bytes(), nil
}
