package opa_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/signet-pki/signet/policy/opa"
)

// archive packs headers as they are; data goes into each regular file.
func archive(t testing.TB, data string, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(data))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(data)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestOpenArchiveRefuses(t *testing.T) {
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	for name, data := range map[string][]byte{
		"nothing":   nil,
		"not gzip":  []byte("policy"),
		"climbing":  archive(t, "x", reg("../a.rego")),
		"link":      archive(t, "x", tar.Header{Typeflag: tar.TypeSymlink, Name: "a.rego", Linkname: "/etc/passwd"}),
		"twice":     archive(t, "x", reg("a.rego"), reg("./a.rego")),
		"truncated": archive(t, "some text", reg("a.rego"))[:40],
		"bomb":      archive(t, string(make([]byte, 5<<20)), reg("data.json")),
	} {
		if _, err := opa.OpenArchive(data); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

// The digest depends on names and contents alone: not on where the files come from, their order, times or modes.
func TestDigestIsDeterministic(t *testing.T) {
	shipped, err := opa.Default()
	if err != nil {
		t.Fatal(err)
	}
	want := engine(t, opa.Options{}).Digest()
	dir := t.TempDir()
	err = fs.WalkDir(shipped, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(shipped, name)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	old := time.Unix(1, 0)
	if err := os.Chtimes(filepath.Join(dir, "access.rego"), old, old); err != nil {
		t.Fatal(err)
	}
	if got := engine(t, opa.Options{Bundle: os.DirFS(dir)}).Digest(); got != want {
		t.Errorf("from a directory %s, embedded %s", got, want)
	}
	f, err := os.OpenFile(filepath.Join(dir, "access.rego"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("\n# a comment\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if got := engine(t, opa.Options{Bundle: os.DirFS(dir)}).Digest(); got == want {
		t.Error("a changed bundle kept its digest")
	}
}

func FuzzOpenArchive(f *testing.F) {
	f.Add(archive(f, "package a", tar.Header{Typeflag: tar.TypeReg, Name: "a.rego"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := opa.OpenArchive(data)
		if err != nil {
			return
		}
		err = fs.WalkDir(files, ".", func(string, fs.DirEntry, error) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
	})
}
