package swtpmd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/signet-pki/signet/internal/durable"
)

func provisioned(t *testing.T, dir string) string {
	t.Helper()
	if err := Provision(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestProvisionRefusesExistingState(t *testing.T) {
	dir := provisioned(t, t.TempDir())
	before, err := os.ReadFile(filepath.Join(dir, stateDir, tpmState))
	if err != nil {
		t.Fatal(err)
	}
	if err := Provision(t.Context(), dir); !errors.Is(err, ErrExists) {
		t.Fatalf("second Provision: %v, want ErrExists", err)
	}
	after, err := os.ReadFile(filepath.Join(dir, stateDir, tpmState))
	if err != nil || string(after) != string(before) {
		t.Fatalf("state changed (%v)", err)
	}
	if _, _, err := ManufacturerCA(dir); err != nil {
		t.Fatal(err)
	}
}

func TestProvisionCutShortCanBeRepeated(t *testing.T) {
	dir := t.TempDir()
	half := filepath.Join(dir, stateDir+".new")
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(half, tpmState), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), dir); !errors.Is(err, ErrNotProvisioned) {
		t.Fatalf("Start: %v, want ErrNotProvisioned", err)
	}
	provisioned(t, dir)
}

func TestStartStop(t *testing.T) {
	short, err := os.MkdirTemp("", "sg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(short) })
	long := filepath.Join(t.TempDir(), strings.Repeat("a-long-name/", 8))
	for name, dir := range map[string]string{"short": short, "long": long} {
		t.Run(name, func(t *testing.T) {
			provisioned(t, dir)
			p, err := Start(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			if own := filepath.Dir(p.Socket()) == dir; own != (name == "short") || len(p.Socket()) > maxSocket {
				t.Errorf("socket %s", p.Socket())
			}
			if _, err := Start(t.Context(), dir); !errors.Is(err, durable.ErrLocked) {
				t.Errorf("second Start: %v, want ErrLocked", err)
			}
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
			if err := p.Stop(); err != nil {
				t.Errorf("second Stop: %v", err)
			}
			if _, err := os.Stat(p.Socket()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("socket is left: %v", err)
			}
		})
	}
}

func TestKillAndStartAgain(t *testing.T) {
	dir := provisioned(t, t.TempDir())
	p, err := Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	p.Kill()
	if p.Wait() == nil {
		t.Error("Wait returned nil for a killed process")
	}
	again, err := Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Stop(); err != nil {
		t.Error(err)
	}
}

func TestStartTakesOverAnOrphan(t *testing.T) {
	dir := provisioned(t, t.TempDir())
	orphaned, err := Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	orphaned.unlock() // as the kernel does when the starter dies
	p, err := Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	<-orphaned.Done()
	if err := syscall.Kill(orphaned.Pid(), 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the orphan lives: %v", err)
	}
}

func TestStartReportsWhy(t *testing.T) {
	dir := provisioned(t, t.TempDir())
	if err := os.WriteFile(filepath.Join(dir, stateDir, tpmState), []byte("not a TPM"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Start(t.Context(), dir)
	if err == nil {
		p.Kill()
		t.Fatal("a TPM started from garbage")
	}
	if !strings.Contains(err.Error(), "swtpm.log") {
		t.Errorf("error does not show the log: %v", err)
	}
}

func TestDirectoryThatSwtpmCannotTake(t *testing.T) {
	if err := Provision(t.Context(), filepath.Join(t.TempDir(), "a,b")); err == nil {
		t.Fatal("no error")
	}
}
