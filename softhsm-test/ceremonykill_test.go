package softhsmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-pki/signet/internal/devkit"
)

// A ceremony that is killed before each file that it writes, and so before and after each key, goes on to the same end.
func TestCeremonyKilled(t *testing.T) {
	r := newRite(t)
	r.refused("nobody", "approvals are missing", 3)
	approvals := []string{"--approval", r.signed(r.people[0].Sign(t, r.act())), "--approval", r.signed(r.people[1].Sign(t, r.act()))}
	trace := filepath.Join(t.TempDir(), "trace")
	kept := map[string]string{}
	when := 2
	for round := 1; ; round++ {
		// Files come into being by linkat(2): each run makes one, and is killed on its way to the next. A log begins with several at once.
		inject := fmt.Sprintf("inject=linkat:signal=KILL:when=%d", when)
		args := append([]string{"-f", "-qq", "-o", trace, "-e", "trace=linkat", "-e", inject, program("signetd"), "init", "--config", r.file()}, approvals...)
		out, code := command(t, "", nil, "strace", args...)
		before := len(kept)
		r.unchanged(kept)
		if when++; len(kept) > before {
			when = 2
		}
		if code == 0 {
			t.Logf("it was killed %d times", round-1)
			if round < 10 { // strace counts for each thread, so that a run may make several files
				t.Errorf("it was killed only %d times", round-1)
			}
			break
		}
		if strings.Contains(out, "signetd:") || round > 100 {
			t.Fatalf("round %d: exit %d\n%s", round, code, out)
		}
		if round == 2 {
			r.strangeKey(approvals)
			// Announced, and killed before it was made.
			must(t, os.WriteFile(filepath.Join(r.dir, "ceremony", "intent-jwt.json"), []byte("{}\n"), 0o600))
		}
	}
	r.holds()
}

// strangeKey puts a key where the next one would be made.
func (r *rite) strangeKey(approvals []string) {
	r.t.Helper()
	devices := filepath.Join(r.dir, "devices")
	pin, err := os.ReadFile(devkit.PINFile(devices, devkit.TokenAudit))
	must(r.t, err)
	env := []string{"SIGNET_TEST_PIN=" + strings.TrimSpace(string(pin)), "SOFTHSM2_CONF=" + filepath.Join(devices, "softhsm2.conf")}
	tool := func(args ...string) {
		r.t.Helper()
		args = append([]string{"--module", r.devices.Module(), "--token-label", devkit.TokenAudit, "--login", "--pin", "env:SIGNET_TEST_PIN"}, args...)
		if out, code := command(r.t, "", env, "pkcs11-tool", args...); code != 0 {
			r.t.Fatalf("pkcs11-tool: exit %d\n%s", code, out)
		}
	}
	tool("--keypairgen", "--key-type", "EC:prime256v1", "--label", "audit", "--id", "77")
	for range 2 { // the first refusal must not pass for an announcement
		if out, code := r.init(approvals...); code != 1 || !strings.Contains(out, "key audit") {
			r.t.Errorf("a key that nobody announced: exit %d\n%s", code, out)
		}
	}
	tool("--delete-object", "--type", "privkey", "--label", "audit")
	tool("--delete-object", "--type", "pubkey", "--label", "audit")
}

// unchanged compares the files that are there with those that were, and remembers them.
func (r *rite) unchanged(kept map[string]string) {
	r.t.Helper()
	for _, sub := range []string{"ceremony", "pki", "."} {
		entries, err := os.ReadDir(filepath.Join(r.dir, sub))
		must(r.t, err)
		for _, e := range entries {
			name := filepath.Join(sub, e.Name())
			if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") || e.Name() == "lock" {
				continue
			}
			b, err := os.ReadFile(filepath.Join(r.dir, name))
			must(r.t, err)
			if old, known := kept[name]; known && old != string(b) {
				r.t.Errorf("%s was replaced", name)
			}
			kept[name] = string(b)
		}
	}
}
