package softhsmtest

import (
	"bytes"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/internal/devkit"
)

// TestTokensOverTPM runs the demonstration with tokens of tpm2-pkcs11, over a TPM that is not the log's, twice on one directory.
func TestTokensOverTPM(t *testing.T) {
	dir := newDir(t)
	first := launch(t, dir, "--tpm2-pkcs11", "--demo", "--exit")
	if code := first.wait(90 * time.Second); code != 0 || !strings.Contains(first.out.String(), "Every step held") {
		t.Fatalf("exit %d:\n%s", code, first.out.String())
	}
	before := headOf(t, dir)
	demonstrate(t, dir)
	if after := headOf(t, dir); before.origin != after.origin || after.size <= before.size || !bytes.Equal(before.root, after.root) {
		t.Errorf("the second run does not continue the first: %s %d, then %s %d", before.origin, before.size, after.origin, after.size)
	}
	t.Run("signet-verify", func(t *testing.T) { verifierAccepts(t, filepath.Join(dir, "demo")) })
	t.Run("keys", func(t *testing.T) { keysStayOverTPM(t, dir) })
	t.Run("fsck", func(t *testing.T) { fsck(t, dir) })
	t.Run("doctor", func(t *testing.T) { doctorIsPleased(t, dir, inTokens...) })
	t.Run("the tokens' TPM vanishes", func(t *testing.T) { tokensTPMVanishes(t, dir) })
}

// keysStayOverTPM asks OpenSC what the tokens hold.
func keysStayOverTPM(t *testing.T, dir string) {
	for _, variable := range []string{"SOFTHSM2_CONF", "TPM2_PKCS11_STORE", "TPM2_PKCS11_TCTI"} {
		t.Setenv(variable, "") // back to what it was when the test ends
	}
	devices := filepath.Join(dir, "devices")
	d, err := devkit.Start(t.Context(), devices)
	must(t, err)
	defer func() { must(t, d.Stop()) }()
	module, err := devkit.FindTPM2PKCS11()
	must(t, err)
	for label, want := range map[string][]string{
		devkit.TokenRoot:    {"root"},
		devkit.TokenIssuing: {"agent-ca-1", "agent-ca-2", "agent-ca-3", "agent-ca-4", "jwt", "service-ca-1", "service-ca-2", "service-ca-3", "service-ca-4"},
		devkit.TokenAudit:   {"audit"},
	} {
		pin := strings.TrimSpace(string(read(t, devkit.PINFile(devices, label))))
		out, code := command(t, "", []string{"SIGNET_TEST_PIN=" + pin}, "pkcs11-tool", "--module", module, "--token-label", label,
			"--login", "--pin", "env:SIGNET_TEST_PIN", "--list-objects", "--type", "privkey")
		if code != 0 {
			t.Fatalf("%s: exit %d\n%s", label, code, out)
		}
		var found []string
		for name, access := range privateKeys(out) {
			found = append(found, name)
			if access != "sensitive, always sensitive, never extractable, local" {
				t.Errorf("%s in %s: %q", name, label, access)
			}
		}
		slices.Sort(found)
		if !slices.Equal(found, want) {
			t.Errorf("%s holds %v, want %v", label, found, want)
		}
		if uses := regexp.MustCompile(`(?m)^  Usage: +(.*)$`).FindAllStringSubmatch(out, -1); len(uses) != len(want) || slices.ContainsFunc(uses, func(u []string) bool { return u[1] != "sign" }) {
			t.Errorf("%s: keys are for %v", label, uses)
		}
	}
	noKeyFiles(t, dir)
}

// tokensTPMVanishes: the daemon notices that by itself, for nobody asks it for signatures, and issues again when the TPM is back.
func tokensTPMVanishes(t *testing.T, dir string) {
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	must(t, c.works(task))
	bring := takeTPM(t, dir, "token-tpm")
	c.becomes(10*time.Second, "hsm_issuing", "hsm_audit")
	if _, err := spawn(t.Context(), c.orchestrator, task); err == nil {
		t.Error("issued without the tokens' TPM")
	}
	bring()
	c.becomes(20 * time.Second)
	must(t, c.works(task))
	d.stop()
	fsck(t, dir)
}
