package softhsmtest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRestart: one process at a time has a directory, and the next one continues its log and its identity.
func TestRestart(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	must(t, c.works(task))
	root, err := os.ReadFile(filepath.Join(dir, "pki", "root.pem"))
	must(t, err)

	second := launch(t, dir)
	if code := second.wait(10 * time.Second); code != 1 || !strings.Contains(second.out.String(), "another signetd dev uses "+dir) {
		t.Errorf("a second daemon: exit %d: %s", code, second.out.String())
	}
	// fsck beside a running daemon would read a moving log.
	if out, code := command(t, "", nil, program("signetd"), "fsck", "--config", filepath.Join(dir, "signet.yaml")); code != 1 {
		t.Errorf("fsck beside the daemon: exit %d: %s", code, out)
	}
	must(t, c.works(task)) // neither hurt it

	before := c.entries(0)
	d.stop()
	if pid, runs := tpmPID(dir); runs {
		t.Errorf("Ctrl-C leaves the TPM running as %d", pid)
	}
	fsck(t, dir)

	d = start(t, dir)
	c = c.moved(d.url)
	must(t, c.works(task))
	again, err := os.ReadFile(filepath.Join(dir, "pki", "root.pem"))
	must(t, err)
	after := c.entries(0)
	if !bytes.Equal(root, again) || len(after) <= len(before) {
		t.Fatalf("%d entries after %d", len(after), len(before))
	}
	for i, e := range before {
		if !bytes.Equal(e.raw, after[i].raw) {
			t.Errorf("entry %d changed", e.index)
		}
	}
	d.stop()
	fsck(t, dir)
}

// TestOlderCopy: an older copy of the log in its place is read-only, with the TPM's word for a reason, and nothing is sealed over it: the
// log that it was made of goes on when it is back.
func TestOlderCopy(t *testing.T) {
	dir := newDir(t)
	log, older, newer := filepath.Join(dir, "log"), filepath.Join(t.TempDir(), "older"), filepath.Join(dir, "newer")
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	must(t, c.works(task))
	d.stop()
	must(t, os.CopyFS(older, os.DirFS(log)))
	d = start(t, dir)
	c = c.moved(d.url)
	must(t, c.works(task))
	head := len(c.entries(0))
	d.stop()

	must(t, os.Rename(log, newer))
	must(t, os.CopyFS(log, os.DirFS(older)))
	before := fscked(t, dir)
	old := launch(t, dir)
	within(t, 25*time.Second, "the reason", func() error {
		if out := old.out.String(); !strings.Contains(out, `reason="tpm_counter: `) || !strings.Contains(out, "the log is an older copy") {
			return fmt.Errorf("%s", lastOf(out, 500))
		}
		return nil
	})
	must(t, old.cmd.Process.Signal(os.Interrupt))
	old.wait(20 * time.Second)
	if strings.Contains(old.out.String(), "serves at") {
		t.Error("it became ready")
	}
	if after := fscked(t, dir); after != before {
		t.Errorf("fsck said %q, now %q", before, after)
	}

	must(t, os.RemoveAll(log))
	must(t, os.Rename(newer, log))
	d = start(t, dir)
	c = c.moved(d.url)
	must(t, c.works(task))
	if n := len(c.entries(0)); n <= head {
		t.Errorf("%d entries after %d", n, head)
	}
	d.stop()
	fsck(t, dir)
}

// fscked is what fsck counts in a log in which it finds nothing.
func fscked(t *testing.T, dir string) string {
	t.Helper()
	out := succeed(t, program("signetd"), "fsck", "--config", filepath.Join(dir, "signet.yaml"))
	if !strings.Contains(out, " 0 findings") {
		t.Fatalf("fsck: %s", out)
	}
	return out
}
