package devkit_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/devkit"
	"github.com/signet-pki/signet/tpm"
)

func TestMakeAndStart(t *testing.T) {
	base, err := os.MkdirTemp("", "sg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	t.Setenv("SOFTHSM2_CONF", "")
	dir := filepath.Join(base, "dev")
	if devkit.Provisioned(dir) {
		t.Fatal("an absent directory counts as provisioned")
	}
	if err := devkit.Make(t.Context(), dir, devkit.InSoftHSM); err != nil {
		t.Fatal(err)
	}
	if !devkit.Provisioned(dir) {
		t.Fatal("not provisioned after Make")
	}
	if err := devkit.Make(t.Context(), dir, devkit.InSoftHSM); err == nil {
		t.Fatal("Make overwrote existing devices")
	}
	d, err := devkit.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}()
	useAll(t, d, dir)
	found(t, dir)
}

// found wants the devices of dir used where nobody says which, and only there.
func found(t *testing.T, dir string) {
	t.Helper()
	conf := filepath.Join(dir, "softhsm2.conf")
	for _, c := range []struct{ dir, set, want string }{
		{dir, "", conf}, {dir, "/etc/mine.conf", "/etc/mine.conf"}, {filepath.Dir(dir), "", ""},
	} {
		t.Setenv("SOFTHSM2_CONF", c.set)
		if err := devkit.Find(c.dir); err != nil || os.Getenv("SOFTHSM2_CONF") != c.want {
			t.Errorf("%s with %q: %q, %v", c.dir, c.set, os.Getenv("SOFTHSM2_CONF"), err)
		}
	}
}

// useAll makes a key on each token and talks to the TPM.
func useAll(t *testing.T, d *devkit.Devices, dir string) {
	t.Helper()
	for _, label := range []string{devkit.TokenRoot, devkit.TokenIssuing, devkit.TokenAudit} {
		tok, err := hsm.Open(t.Context(), hsm.Config{Module: d.Module(), Token: label, PINFile: devkit.PINFile(dir, label)}, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		defer tok.Close()
		if _, err := tok.Generate(t.Context(), "key", hsm.P256); err != nil {
			t.Fatal(err)
		}
	}
	dev, err := tpm.Open(t.Context(), tpm.Config{Path: d.TPMPath()}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if !dev.Simulated(t.Context()) {
		t.Error("a swtpm does not count as simulated")
	}
}
