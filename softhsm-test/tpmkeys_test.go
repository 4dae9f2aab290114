package softhsmtest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/tpm/quote"
)

// TestKeysInTPM runs the demonstration on a TPM alone, twice, and then spoils what the keys are found by.
func TestKeysInTPM(t *testing.T) {
	dir := newDir(t)
	first := launch(t, dir, "--tpm-keys", "--demo", "--exit")
	if code := first.wait(90 * time.Second); code != 0 || !strings.Contains(first.out.String(), "Every step held") {
		t.Fatalf("exit %d:\n%s", code, first.out.String())
	}
	before := headOf(t, dir)
	demonstrate(t, dir)
	if after := headOf(t, dir); before.origin != after.origin || after.size <= before.size || !bytes.Equal(before.root, after.root) {
		t.Errorf("the second run does not continue the first: %s %d, then %s %d", before.origin, before.size, after.origin, after.size)
	}
	t.Run("signet-verify", func(t *testing.T) { verifierAccepts(t, filepath.Join(dir, "demo")) })
	t.Run("fsck", func(t *testing.T) { fsck(t, dir) })
	t.Run("doctor", func(t *testing.T) {
		doctorIsPleased(t, dir, "hsm_keys         token issuing: 9 keys are in the TPM", "hsm_keys         token audit: 1 keys are in the TPM")
	})
	t.Run("no keys in tokens", func(t *testing.T) { tokensAreEmpty(t, dir) })
	t.Run("statements", func(t *testing.T) { everyKeyIsCertified(t, dir) })
	t.Run("spoiled", func(t *testing.T) { spoiled(t, dir) })
}

// tokensAreEmpty looks for objects besides the tokens themselves.
func tokensAreEmpty(t *testing.T, dir string) {
	objects, err := filepath.Glob(filepath.Join(dir, "devices", "tokens", "*", "*.object"))
	must(t, err)
	for _, path := range objects {
		if filepath.Base(path) != "token.object" {
			t.Errorf("%s: a key in a token", path)
		}
	}
	if len(objects) == 0 {
		t.Error("there are no tokens: this test looks in the wrong place")
	}
}

// everyKeyIsCertified compares the bundle's statements with the certificates of the ceremony.
func everyKeyIsCertified(t *testing.T, dir string) {
	data, err := os.ReadFile(filepath.Join(dir, "demo", "bundle", "certs", "tpm-keys.json"))
	must(t, err)
	held, err := quote.ParseHeldKeys(data)
	must(t, err)
	files, err := filepath.Glob(filepath.Join(dir, "keys", "*", "*.pem"))
	must(t, err)
	if len(files) != len(held.Keys) || len(files) < 11 { // root, audit, jwt, four CAs of each kind
		t.Errorf("%d key files, %d statements", len(files), len(held.Keys))
	}
	for _, path := range files {
		if _, ok := held.Keys[strings.TrimSuffix(filepath.Base(path), ".pem")]; !ok {
			t.Errorf("nothing is stated about %s", path)
		}
	}
}

// spoiled starts with what somebody changed, and puts it back.
func spoiled(t *testing.T, dir string) {
	issuing := filepath.Join(dir, "keys", "issuing")
	for what, tc := range map[string]struct {
		path   string
		change func(was []byte) []byte // nil: gone
		says   string
	}{
		"a key file is gone":     {filepath.Join(issuing, "agent-ca-1.pem"), nil, "no such file"},
		"another key":            {filepath.Join(issuing, "agent-ca-1.pem"), func([]byte) []byte { return read(t, filepath.Join(issuing, "jwt.pem")) }, "agent-ca-1"},
		"a key file was changed": {filepath.Join(dir, "keys", "audit", "audit.pem"), func(b []byte) []byte { return bytes.Replace(b, []byte("TSS2"), []byte("TSS3"), 2) }, "not a loadable TSS2 key file"},
		"no statements":          {filepath.Join(dir, "pki", "tpm-keys.json"), nil, "tpm-keys.json"},
		"a changed statement":    {filepath.Join(dir, "pki", "tpm-keys.json"), misstated(t), "signature does not verify"},
	} {
		was := read(t, tc.path)
		must(t, os.Remove(tc.path))
		if tc.change != nil {
			must(t, os.WriteFile(tc.path, tc.change(was), 0o600))
		}
		d := launch(t, dir)
		if code := d.wait(30 * time.Second); code == 0 || !strings.Contains(d.out.String(), tc.says) {
			t.Errorf("%s: exit %d, and it does not say %q:\n%s", what, code, tc.says, d.out.String())
		}
		must(t, os.WriteFile(tc.path, was, 0o600))
	}
	demonstrate(t, dir)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	must(t, err)
	return b
}

func misstated(t *testing.T) func([]byte) []byte {
	return func(b []byte) []byte {
		held, err := quote.ParseHeldKeys(b)
		must(t, err)
		audit, jwt := held.Keys["audit"], held.Keys["jwt"]
		audit.Signature = jwt.Signature
		held.Keys["audit"] = audit
		text, err := json.Marshal(held)
		must(t, err)
		return text
	}
}
