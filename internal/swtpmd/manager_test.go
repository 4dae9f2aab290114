package swtpmd

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestManager: more objects than a TPM has places are used in turn, and after the TPM was killed none of them, but new ones.
func TestManager(t *testing.T) {
	base, err := os.MkdirTemp("", "sg") // short, for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	dir := provisioned(t, filepath.Join(base, "tpm"))
	p := started(t, dir)
	socket := filepath.Join(dir, "managed")
	m, err := Manage(t.Context(), p.Socket(), socket)
	if err != nil {
		t.Fatal(err)
	}
	tool := func(name string, args ...string) error {
		out, err := exec.CommandContext(t.Context(), name, append([]string{"-T", "swtpm:path=" + socket}, args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s (apt-get install tpm2-tools): %w\n%s", name, err, out)
		}
		return nil
	}
	handle := func(n int) string { return fmt.Sprintf("%#x", 0x80ff0000+n) }
	for range 5 {
		if err := tool("tpm2_createprimary", "-C", "o", "-G", "ecc"); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		for n := range 5 {
			if err := tool("tpm2_readpublic", "-c", handle(n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tool("tpm2_flushcontext", handle(2)); err != nil {
		t.Fatal(err)
	}
	if tool("tpm2_readpublic", "-c", handle(2)) == nil || tool("tpm2_readpublic", "-c", handle(5)) == nil {
		t.Error("an object that is not there")
	}
	p.Kill()
	if tool("tpm2_getrandom", "1") == nil {
		t.Error("a TPM that is gone answers")
	}
	started(t, dir)
	if tool("tpm2_readpublic", "-c", handle(1)) == nil {
		t.Error("an object outlived its TPM's memory")
	}
	if err := tool("tpm2_createprimary", "-C", "o", "-G", "ecc"); err != nil {
		t.Fatal(err)
	}
	if err := tool("tpm2_readpublic", "-c", handle(5)); err != nil {
		t.Error(err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	for _, path := range []string{socket, socket + ".ctrl"} {
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is left", path)
		}
	}
}

func started(t *testing.T, dir string) *Process {
	t.Helper()
	p, err := Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}
