package ceremony_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/ca/ceremony"
)

func TestWriteReplacesNothing(t *testing.T) {
	plan := mustPlan(t, config(t))
	r := hold(t, config(t), &softKeys{})
	dir := t.TempDir()
	kept := filepath.Join(dir, "service-ca-2.pem")
	if err := os.WriteFile(kept, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "operator.pem")); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{"Write": r.Write(dir), "CheckOutputs": plan.CheckOutputs(dir)} {
		if !errors.Is(err, ceremony.ErrExists) || !strings.Contains(err.Error(), "service-ca-2.pem") || !strings.Contains(err.Error(), "operator.pem") {
			t.Errorf("%s: %v", name, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("directory now holds %v (%v)", entries, err)
	}
	if got, err := os.ReadFile(kept); err != nil || string(got) != "mine" {
		t.Errorf("kept file: %q %v", got, err)
	}
	if err := (ceremony.Result{}).Write(dir); err == nil {
		t.Error("an empty result was written")
	}
}

func TestWriteMakesTheNamedFiles(t *testing.T) {
	cfg, dir := config(t), t.TempDir()
	plan, r := mustPlan(t, cfg), hold(t, cfg, &softKeys{rootCurve: elliptic.P384()})
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	want := plan.Outputs()
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("files %v, want %v", names, want)
	}
	root, err := os.ReadFile(filepath.Join(dir, "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(root); block == nil || !bytes.Equal(block.Bytes, r.Root.DER) {
		t.Error("root.pem is not the root")
	}
	for _, args := range [][]string{
		{"agent-ca-1.pem"},
		{"agent-ca-3.pem"},
		{"service-ca-2.pem"},
		{"audit.pem"},
		{"jwt.pem"},
		{"ak-cert.pem"},
		{"-untrusted", "service-ca-1.pem", "operator.pem"},
	} {
		cmd := exec.CommandContext(t.Context(), "openssl", append([]string{"verify", "-no_check_time", "-x509_strict", "-CAfile", "root.pem"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("openssl verify %v: %s (apt-get install openssl)", args, out)
		}
	}
}
