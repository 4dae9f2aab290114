// Package softhsm gives a test a SoftHSM of its own: configuration file, token directory and tokens, all under the
// test's temporary directory.
//
// SoftHSM is a library that reads SOFTHSM2_CONF when it is initialised (C_Initialize), and both the variable and the
// initialised state belong to the process. So New sets the variable with testing.TB.Setenv, which refuses parallel
// tests, and a test must close every token before it ends: the next test's SoftHSM is seen only after C_Finalize.
package softhsm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Install is the command that brings what this package needs.
const Install = "apt-get install softhsm2"

// SOPIN is the security officer's PIN of every token made here.
const SOPIN = "so-secret-0"

// HSM is one private SoftHSM.
type HSM struct {
	t      testing.TB
	module string
	conf   string
	tokens string
	away   string
	pins   string
}

// New makes an empty SoftHSM and points the process at it until the test ends. A machine without SoftHSM fails the
// test: signing on a real PKCS#11 module is what is tested.
func New(t testing.TB) *HSM {
	t.Helper()
	dir := t.TempDir()
	h := &HSM{
		t:      t,
		module: findModule(t),
		conf:   filepath.Join(dir, "softhsm2.conf"),
		tokens: filepath.Join(dir, "tokens"),
		away:   filepath.Join(dir, "tokens.away"),
		pins:   filepath.Join(dir, "pins"),
	}
	for _, d := range []string{h.tokens, h.pins} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", h.tokens)
	if err := os.WriteFile(h.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", h.conf)
	return h
}

func findModule(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("softhsm2-util"); err != nil {
		t.Fatalf("softhsm2-util is missing: %s", Install)
	}
	for _, pattern := range []string{
		"/usr/lib/softhsm/libsofthsm2.so",
		"/usr/lib/*/softhsm/libsofthsm2.so",
		"/usr/lib64/pkcs11/libsofthsm2.so",
		"/usr/local/lib/softhsm/libsofthsm2.so",
	} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	t.Fatalf("libsofthsm2.so is missing: %s", Install)
	return ""
}

// Module is the path of the PKCS#11 library.
func (h *HSM) Module() string { return h.module }

// Conf is the path of the configuration file, for processes that get SOFTHSM2_CONF handed to them.
func (h *HSM) Conf() string { return h.conf }

// TokenDir is the directory that holds the tokens' files.
func (h *HSM) TokenDir() string { return h.tokens }

// InitToken makes a token in a free slot and writes its PIN to a file of mode 0600, whose path it returns. Tokens may
// share a label; the file's name does not.
func (h *HSM) InitToken(label, pin string) (pinFile string) {
	h.t.Helper()
	h.run("softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", SOPIN, "--pin", pin)
	return h.WritePIN(label, pin, 0o600)
}

// WritePIN writes a PIN file with the given mode and returns its path.
func (h *HSM) WritePIN(name, pin string, mode os.FileMode) string {
	h.t.Helper()
	f, err := os.CreateTemp(h.pins, name+"-*.pin")
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := f.WriteString(pin + "\n"); err != nil {
		h.t.Fatal(err)
	}
	if err := f.Chmod(mode); err != nil {
		h.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		h.t.Fatal(err)
	}
	return f.Name()
}

// Remove takes the token directory away: to whoever has the module open, the HSM has vanished.
func (h *HSM) Remove() { h.rename(h.tokens, h.away) }

// Restore brings the token directory back.
func (h *HSM) Restore() { h.rename(h.away, h.tokens) }

func (h *HSM) rename(from, to string) {
	h.t.Helper()
	if err := os.Rename(from, to); err != nil {
		h.t.Fatal(err)
	}
}

func (h *HSM) run(name string, args ...string) {
	h.t.Helper()
	// The command sees this SoftHSM through the environment that New set.
	out, err := exec.CommandContext(h.t.Context(), name, args...).CombinedOutput() // #nosec G204 -- fixed tool, test arguments
	if err != nil {
		h.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
