package softhsmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// bin holds the programs under test; TestMain fills it.
var bin string

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "softhsm-test:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if bin, err = os.MkdirTemp("", "sgbin"); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(bin)) }()
	build := exec.CommandContext(context.Background(), "go", "build", "-o", bin, "./cmd/signetd", "./cmd/signet", "./cmd/signet-verify", "./examples/records", "github.com/open-policy-agent/opa") // #nosec G204 -- our own directory
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build: %w: %s", err, out)
	}
	return m.Run(), nil
}

func program(name string) string { return filepath.Join(bin, name) }

// must ends the test at a step that is not what is tested.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within asks again and again until nothing is wrong any more.
func within(t testing.TB, d time.Duration, what string, wrong func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := wrong()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, d, err)
		case <-tick.C:
		}
	}
}

// install names the package of a program.
var install = map[string]string{
	"openssl": "openssl", "pkcs11-tool": "opensc", "tpm2_checkquote": "tpm2-tools", "tpm2_clear": "tpm2-tools", "xxd": "xxd", "sha256sum": "coreutils",
	"nginx": "nginx-light", "curl": "curl", "certtool": "gnutls-bin", "gnutls-cli": "gnutls-bin",
}

// command runs a program and gives what it printed and its exit code.
func command(t testing.TB, dir string, env []string, name string, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...) // #nosec G204 -- the tests' own arguments
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	b, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit):
		code = exit.ExitCode()
	case errors.Is(err, exec.ErrNotFound):
		t.Fatalf("%s is missing: apt-get install %s", name, install[name])
	default:
		t.Fatal(err)
	}
	return string(b), code
}

// succeed runs a program that must exit with 0.
func succeed(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, code := command(t, "", nil, name, args...)
	if code != 0 {
		t.Fatalf("%s %v: exit %d\n%s", filepath.Base(name), args, code, out)
	}
	return out
}
