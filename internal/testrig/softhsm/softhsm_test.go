package softhsm_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

func TestTokensVanishAndReturn(t *testing.T) {
	h := softhsm.New(t)
	pinFile := h.InitToken("one", "1234")
	info, err := os.Stat(pinFile)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("PIN file has mode %v", info.Mode())
	}
	if os.Getenv("SOFTHSM2_CONF") != h.Conf() {
		t.Error("SOFTHSM2_CONF does not name the private configuration")
	}
	if n := tokens(t, h); n != 1 {
		t.Fatalf("%d tokens after InitToken, want 1", n)
	}
	h.Remove()
	if _, err := os.Stat(h.TokenDir()); err == nil {
		t.Fatal("the token directory is still there after Remove")
	}
	h.Restore()
	if n := tokens(t, h); n != 1 {
		t.Fatalf("%d tokens after Restore, want 1", n)
	}
}

func tokens(t *testing.T, h *softhsm.HSM) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(h.TokenDir(), "*", "token.object"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}
