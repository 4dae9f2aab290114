package softhsm

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// InstallCompiler is the command that brings what builds a module. cgo needs it too.
const InstallCompiler = "apt-get install gcc libc6-dev"

//go:embed testdata/faulty.c
var faultySource string

// Faulty is a PKCS#11 module that forwards every call to another one, and misbehaves while it is told to. It is written
// in C, as vendors' modules are, so what it does to the process is what theirs can do.
type Faulty struct {
	t       testing.TB
	module  string
	control string
}

// Faulty is a module in front of this SoftHSM.
func (h *HSM) Faulty() *Faulty {
	h.t.Helper()
	return NewFaulty(h.t, h.module)
}

// NewFaulty builds a module in front of another one.
func NewFaulty(t testing.TB, forwards string) *Faulty {
	t.Helper()
	dir := t.TempDir()
	f := &Faulty{t: t, module: filepath.Join(dir, "faulty.so"), control: filepath.Join(dir, "control")}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		t.Fatalf("the headers of PKCS#11 are not found: %v", err)
	}
	// #nosec G204 -- the compiler, on our own source
	cmd := exec.CommandContext(t.Context(), "gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-I", strings.TrimSpace(string(out)),
		`-DREAL="`+forwards+`"`, `-DCONTROL="`+f.control+`"`, "-x", "c", "-o", f.module, "-", "-ldl")
	cmd.Stdin = strings.NewReader(faultySource)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("gcc (%s): %v\n%s", InstallCompiler, err, out)
	}
	return f
}

// Module is the path of the library.
func (f *Faulty) Module() string { return f.module }

// Tell makes functions of PKCS #11 misbehave from now on, and all others behave: each told as a function and its fault.
//
//	hang                until told otherwise
//	slow MILLISECONDS   before the call
//	abort, segv, exit   the end of the process: by itself, by a wild pointer, with success
//	error CKR           instead of the call
//	short, empty, zero, bit, other, huge   C_Sign: a wrong signature; other: a good one, over something else; huge: of a length that is not there
//	garbage             C_GetAttributeValue: all values
//	derives             C_GetAttributeValue: CKA_DERIVE is true
//	empty               C_GetMechanismList
//	flags BITS          C_GetTokenInfo: these flags too
func (f *Faulty) Tell(faults ...string) { f.write(strings.Join(faults, "\n") + "\n") }

// Behave ends all misbehaviour; what hangs goes on.
func (f *Faulty) Behave() { f.write("") }

// write replaces the file, so that the module never reads half of it.
func (f *Faulty) write(text string) {
	f.t.Helper()
	next := f.control + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(next, f.control); err != nil {
		f.t.Fatal(err)
	}
}

// Calls is how often a function was called since the module was built, in whatever process.
func (f *Faulty) Calls(function string) int {
	f.t.Helper()
	text, err := os.ReadFile(f.control + ".calls")
	if err != nil && !os.IsNotExist(err) {
		f.t.Fatal(err)
	}
	return strings.Count("\n"+string(text), "\n"+function+" ")
}
