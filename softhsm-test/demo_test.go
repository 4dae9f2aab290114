package softhsmtest

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestDemonstration runs the demonstration twice on one directory, as `make demo` does, and looks at what it leaves with
// other people's tools.
func TestDemonstration(t *testing.T) {
	dir := newDir(t)
	first := demonstrate(t, dir)
	if !strings.Contains(first, "Every step held") {
		t.Fatal(first)
	}
	before := headOf(t, dir)
	demonstrate(t, dir)
	after := headOf(t, dir)
	if before.origin != after.origin || after.size <= before.size || !bytes.Equal(before.root, after.root) {
		t.Errorf("the second run does not continue the first: %s %d, then %s %d", before.origin, before.size, after.origin, after.size)
	}
	if after.size < 50 {
		t.Errorf("a log of %d entries", after.size)
	}
	demo := filepath.Join(dir, "demo")
	t.Run("artefacts", func(t *testing.T) { artefacts(t, demo) })
	t.Run("openssl", func(t *testing.T) { opensslReads(t, demo) })
	t.Run("signet-verify", func(t *testing.T) { verifierAccepts(t, demo) })
	t.Run("README.verify", func(t *testing.T) { readmeVerifies(t, filepath.Join(demo, "bundle")) })
	t.Run("tampered", func(t *testing.T) { tampered(t, filepath.Join(demo, "bundle")) })
	t.Run("keys", func(t *testing.T) { keysStay(t, dir) })
	t.Run("fsck", func(t *testing.T) { fsck(t, dir) })
	t.Run("doctor", func(t *testing.T) { doctorIsPleased(t, dir, inTokens...) })
}

type head struct {
	origin string
	size   uint64
	root   []byte // of the CA
}

func headOf(t *testing.T, dir string) head {
	t.Helper()
	note, err := os.ReadFile(filepath.Join(dir, "demo", "bundle", "log", "checkpoint"))
	must(t, err)
	lines := strings.Split(string(note), "\n")
	if len(lines) < 3 {
		t.Fatalf("checkpoint: %q", note)
	}
	size, err := strconv.ParseUint(lines[1], 10, 64)
	must(t, err)
	root, err := os.ReadFile(filepath.Join(dir, "demo", "root.pem"))
	must(t, err)
	return head{lines[0], size, root}
}

func artefacts(t *testing.T, demo string) {
	for _, name := range []string{
		"root.pem", "issuing.pem", "agent.pem", "subagent.pem", "agent.receipt",
		"bundle/MANIFEST.sha256", "bundle/README.verify", "bundle/policy.txt", "bundle/log/checkpoint", "bundle/log/tile",
		"bundle/entries/0.jsonl", "bundle/payloads/0.jsonl", "bundle/delegators/0.jsonl", "bundle/evidence", "bundle/policy",
		"bundle/seals/1.txt", "bundle/seals/1.quote", "bundle/seals/1.quote.sig", "bundle/seals/1.pcrs", "bundle/seals/1.nv", "bundle/seals/1.nv.sig",
		"bundle/certs/issued", "bundle/certs/root.pem", "bundle/certs/audit.pem", "bundle/certs/ak-cert.pem", "bundle/certs/ek.pem",
		"bundle/certs/issuing-0.pem", "bundle/certs/ak.pem", "bundle/certs/ak-binding.json",
	} {
		info, err := os.Stat(filepath.Join(demo, name))
		if err != nil || info.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func opensslReads(t *testing.T, demo string) {
	for leaf, agentType := range map[string]string{"agent.pem": "research", "subagent.pem": "reader"} {
		path := filepath.Join(demo, leaf)
		out := succeed(t, "openssl", "verify", "-no_check_time", "-CAfile", filepath.Join(demo, "root.pem"), "-untrusted", filepath.Join(demo, "issuing.pem"), path)
		if !strings.HasSuffix(strings.TrimSpace(out), ": OK") {
			t.Errorf("%s: %s", leaf, out)
		}
		text := succeed(t, "openssl", "x509", "-in", path, "-noout", "-text")
		for _, want := range []string{
			`X509v3 Subject Alternative Name: (critical)?\s*\n\s+URI:spiffe://` + regexp.QuoteMeta(trustDomain) + `/agent/` + agentType + `/[0-9a-f-]{36}\n`,
			`X509v3 Key Usage: critical\n\s+Digital Signature\n`,
			`X509v3 Extended Key Usage: \n\s+TLS Web (Client|Server) Authentication, TLS Web (Client|Server) Authentication\n`,
			// noRevAvail (RFC 9608) is newer than OpenSSL 3.0, which shows its number. Both are non-critical and hold NULL.
			`(2\.5\.29\.56|X509v3 No Revocation Available): *\n`,
			// The delegation: some other OID, non-critical.
			`1\.2\.840\.113556\.1\.8000\.2554[0-9.]*: *\n`,
		} {
			if !regexp.MustCompile(want).MatchString(text) {
				t.Errorf("%s: openssl does not show %s in:\n%s", leaf, want, text)
			}
		}
		if strings.Contains(text, "CRL Distribution") || strings.Contains(text, "CA:TRUE") {
			t.Errorf("%s has a CRL pointer, or is a CA", leaf)
		}
	}
	// A stranger's root does not do: that openssl says OK means something.
	out, code := command(t, "", nil, "openssl", "verify", "-no_check_time", "-no-CAfile", "-no-CApath", "-untrusted", filepath.Join(demo, "issuing.pem"), filepath.Join(demo, "agent.pem"))
	if code == 0 {
		t.Error(out)
	}
}

func verifierAccepts(t *testing.T, demo string) {
	verify := program("signet-verify")
	if out := succeed(t, verify, "bundle", filepath.Join(demo, "bundle")); !strings.Contains(out, "valid") || !strings.Contains(out, "self-asserted") {
		t.Error(out)
	}
	succeed(t, verify, "bundle", filepath.Join(demo, "bundle.tar"))
	succeed(t, verify, "receipt", filepath.Join(demo, "agent.receipt"))
	args := func(at time.Time, more ...string) []string {
		return append([]string{
			"cert", "--root", filepath.Join(demo, "root.pem"), "--untrusted", filepath.Join(demo, "issuing.pem"), "--at", at.UTC().Format(time.RFC3339),
		}, append(more, filepath.Join(demo, "agent.pem"))...)
	}
	made, err := os.Stat(filepath.Join(demo, "agent.pem"))
	must(t, err)
	succeed(t, verify, args(made.ModTime())...)
	succeed(t, verify, args(made.ModTime(), "--scope", patients)...)
	for name, bad := range map[string][]string{
		"too late":    args(made.ModTime().Add(time.Hour)),
		"wrong scope": args(made.ModTime(), "--scope", "database:write:patients"),
	} {
		if out, code := command(t, "", nil, verify, bad...); code != 1 {
			t.Errorf("%s: exit %d\n%s", name, code, out)
		}
	}
	if out, code := command(t, "", nil, verify, "receipt", filepath.Join(demo, "agent.pem")); code != 2 {
		t.Errorf("a certificate is no receipt: exit %d\n%s", code, out)
	}
}

// readmeVerifies does what README.verify itself tells an auditor to do, with stock tools alone.
func readmeVerifies(t *testing.T, bundle string) {
	for _, tool := range []string{"openssl", "tpm2_checkquote", "xxd", "sha256sum"} {
		command(t, "", nil, tool, "--version")
	}
	const how = `sh -c "$(sed -n 's/^    //p' README.verify)"`
	text, err := os.ReadFile(filepath.Join(bundle, "README.verify"))
	must(t, err)
	if !strings.Contains(string(text), how) {
		t.Fatalf("README.verify does not say to run %s", how)
	}
	out, code := command(t, bundle, nil, "sh", "-c", how)
	if code != 0 || !strings.HasSuffix(out, "verified\n") {
		t.Fatalf("exit %d\n%s", code, out)
	}
	bad := copyBundle(t, bundle)
	bad.flip("entries/0.jsonl", bad.place("entries/0.jsonl", 20, `"time":"`))
	bad.remanifest()
	out, code = command(t, bad.dir, nil, "sh", "-c", how)
	if code == 0 || !strings.Contains(out, "FAILED: Merkle root") {
		t.Errorf("one flipped bit of an entry: exit %d\n%s", code, out)
	}
}
