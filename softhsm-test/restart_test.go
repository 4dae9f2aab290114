package softhsmtest

import (
	"bytes"
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
