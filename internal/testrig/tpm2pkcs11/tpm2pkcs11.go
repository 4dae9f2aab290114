// Package tpm2pkcs11 gives a test a second real PKCS#11 module: tpm2-pkcs11, over a software TPM and a store of its own. The module
// reads its environment when it is initialised, as SoftHSM does: see package softhsm for what that asks of tests.
package tpm2pkcs11

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/devkit"
	"github.com/signet-pki/signet/internal/swtpmd"
	"github.com/signet-pki/signet/internal/testrig/swtpm"
)

// HSM is a private tpm2-pkcs11.
type HSM struct {
	*swtpm.TPM
	t      testing.TB
	module string
	pins   string
}

// New makes an empty store over a new TPM, and points the process at it until the test ends. A machine without the module fails the
// test.
func New(t testing.TB) *HSM {
	t.Helper()
	module, err := devkit.FindTPM2PKCS11()
	if err != nil {
		t.Fatal(err)
	}
	h := &HSM{TPM: swtpm.New(t), t: t, module: module, pins: t.TempDir()}
	dir, err := os.MkdirTemp("", "sg") // short, for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "managed")
	manager, err := swtpmd.Manage(t.Context(), strings.TrimPrefix(h.TCTI(), "swtpm:path="), socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := manager.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TPM2_PKCS11_STORE", t.TempDir())
	t.Setenv("TPM2_PKCS11_TCTI", "swtpm:path="+socket)
	return h
}

// Module is the path of the PKCS#11 library.
func (h *HSM) Module() string { return h.module }

// InitToken makes a token and writes its PIN to a file of mode 0600, whose path it returns.
func (h *HSM) InitToken(label, pin string) (pinFile string) {
	h.t.Helper()
	if err := hsm.InitToken(h.module, label, "so-secret-0", pin); err != nil {
		h.t.Fatal(err)
	}
	return h.WritePIN(label, pin)
}

// WritePIN writes a PIN file and returns its path.
func (h *HSM) WritePIN(name, pin string) string {
	h.t.Helper()
	path := filepath.Join(h.pins, name+".pin")
	if err := os.WriteFile(path, []byte(pin+"\n"), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return path
}

// WrongTries is how many wrong PINs the TPM has counted, of all its users (TPM_PT_LOCKOUT_COUNTER).
func (h *HSM) WrongTries() int {
	h.t.Helper()
	out, err := exec.CommandContext(h.t.Context(), "tpm2_getcap", "-T", h.TCTI(), "properties-variable").CombinedOutput() // #nosec G204 -- the test's own TPM
	if err != nil {
		h.t.Fatalf("tpm2_getcap (apt-get install tpm2-tools): %v\n%s", err, out)
	}
	m := regexp.MustCompile(`TPM2_PT_LOCKOUT_COUNTER: 0x([0-9A-F]+)`).FindSubmatch(out)
	if m == nil {
		h.t.Fatalf("no counter in:\n%s", out)
	}
	n, err := strconv.ParseInt(string(m[1]), 16, 32)
	if err != nil {
		h.t.Fatal(err)
	}
	return int(n)
}
