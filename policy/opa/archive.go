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

	"github.com/signet-pki/signet/policy"
)

// Bounds of a bundle.
const (
	maxFiles   = 512
	maxFile    = 4 << 20
	maxArchive = 16 << 20
	maxRego    = 1 << 20 // of all modules: what OPA makes of them takes some hundred times the room, and no deadline ends it
	maxName    = 255     // bytes of a name; folders are looked through one by one
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
// archive, files twice and more than the bounds above; what a bundle may consist of is checked by New. Its refusals are
// *policy.BundleError.
func OpenArchive(data []byte) (fs.FS, error) {
	if len(data) > maxArchive {
		return nil, policy.RefuseBundle(policy.BundleTooLarge, "the archive is larger than %d bytes", maxArchive)
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, unreadable(err)
	}
	files, in, total := fstest.MapFS{}, tar.NewReader(&bounded{r: z, left: maxArchive}), 0
	for headers := 0; ; headers++ {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			return files, checkFolders(files)
		case err != nil:
			return nil, unreadable(err)
		case headers >= 2*maxFiles:
			return nil, policy.RefuseBundle(policy.BundleTooLarge, "more than %d files and folders", 2*maxFiles)
		}
		n, err := unpack(files, h, in)
		if err != nil {
			return nil, err
		}
		// A sparse file takes less room in an archive than in memory.
		if total += n; total > maxArchive {
			return nil, errUnpacked()
		}
	}
}

// bounded fails where io.LimitReader would end: an archive that is too large is not one that was cut off.
type bounded struct {
	r    io.Reader
	left int
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errUnpacked()
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func errUnpacked() error {
	return policy.RefuseBundle(policy.BundleTooLarge, "more than %d bytes when unpacked", maxArchive)
}

func unreadable(err error) error {
	var refused *policy.BundleError
	if errors.As(err, &refused) {
		return refused
	}
	return &policy.BundleError{Code: policy.BundleUnreadable, Detail: "not a .tar.gz, or cut off: " + err.Error(), Err: err}
}

func unpack(files fstest.MapFS, h *tar.Header, in io.Reader) (int, error) {
	if h.Typeflag == tar.TypeDir {
		return 0, nil
	}
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if h.Typeflag != tar.TypeReg || !fs.ValidPath(name) || strings.Contains(h.Name, "..") || len(h.Name) > maxName {
		return 0, policy.RefuseBundle(policy.BundleFile, "%.100q is not a plain file", h.Name)
	}
	_, twice := files[name]
	switch {
	case twice && signatureFile(name):
		return 0, policy.RefuseBundle(policy.BundleSignatures, "%s is there twice", signatures)
	case twice:
		return 0, policy.RefuseBundle(policy.BundleFile, "%.100q is there twice", h.Name)
	case len(files) >= maxFiles:
		return 0, policy.RefuseBundle(policy.BundleTooLarge, "more than %d files", maxFiles)
	}
	b, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return 0, unreadable(err)
	}
	if len(b) > maxFile {
		return 0, tooLarge(name)
	}
	files[name] = &fstest.MapFile{Data: b, Mode: 0o644}
	return len(b), nil
}

// checkFolders refuses a file in the place of a folder: what is below it would be hidden.
func checkFolders(files fstest.MapFS) error {
	for name := range files {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if _, ok := files[dir]; ok {
				return policy.RefuseBundle(policy.BundleFile, "%.100q is a file and a folder", dir)
			}
		}
	}
	return nil
}

func tooLarge(name string) error {
	return policy.RefuseBundle(policy.BundleTooLarge, "%.100q is larger than %d bytes", name, maxFile)
}

// collect reads the files of a bundle: .manifest, data.json and *.rego, in any folder, and the signatures of one that is
// to be signed. Anything else is refused rather than ignored, so that the digest covers all that is there and nothing is
// there without effect.
func collect(bundle fs.FS, signed bool) (map[string][]byte, error) {
	files, total, rego := map[string][]byte{}, 0, 0
	err := fs.WalkDir(bundle, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		if err := belongs(name, d, signed); err != nil {
			return err
		}
		if files[name], err = readFile(bundle, name); err != nil {
			return err
		}
		if total += len(files[name]); total > maxArchive || len(files) > maxFiles {
			return policy.RefuseBundle(policy.BundleTooLarge, "more than %d files or %d bytes", maxFiles, maxArchive)
		}
		if strings.HasSuffix(name, ".rego") {
			rego += len(files[name])
		}
		if rego > maxRego {
			return policy.RefuseBundle(policy.BundleTooLarge, "more than %d bytes of Rego", maxRego)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("opa: read bundle: %w", err)
	}
	return files, nil
}

func belongs(name string, d fs.DirEntry, signed bool) error {
	base := path.Base(name)
	switch {
	case !d.Type().IsRegular():
	case signed && signatureFile(name) && name != signatures:
		return policy.RefuseBundle(policy.BundleSignatures, "%.100q: signatures stand at the top alone", name)
	case name == ".manifest" || signed && name == signatures || base == "data.json" || strings.HasSuffix(base, ".rego"):
		return nil
	}
	return policy.RefuseBundle(policy.BundleFile, "%.100q does not belong in a bundle", name)
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
		return nil, tooLarge(name)
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
			return nil, policy.RefuseBundle(policy.BundleFile, "%.100q: not a name of USTAR: ASCII, 100 bytes after the last folder that fits into 155", name)
		}
		if _, err := t.Write(files[name]); err != nil {
			return nil, fmt.Errorf("opa: pack %q: %w", name, err)
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, fmt.Errorf("opa: pack bundle: %w", err)
	}
	if out.Len() > maxArchive {
		return nil, policy.RefuseBundle(policy.BundleTooLarge, "the bundle is larger than %d bytes", maxArchive)
	}
	return out.Bytes(), nil
}
