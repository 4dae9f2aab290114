package softhsmtest

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A TPM that somebody clears is named so by readyz while the appliance runs, and by the appliance that does not start any more. Nothing is issued.
func TestClearedTPM(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	from := c.size()
	succeed(t, "tpm2_clear", "-T", "swtpm:path="+filepath.Join(dir, "devices", "tpm", "sock"))
	within(t, 20*time.Second, "readyz to say what happened", func() error {
		if reason := unwell(t, c.auditor)["tpm"]; !strings.HasPrefix(reason, "tpm_cleared: ") {
			return fmt.Errorf("it says %q", reason)
		}
		return nil
	})
	c.nothingGoes(t, task, a)
	c.nothingIssued(from)
	d.kill()
	again := launch(t, dir)
	if code := again.wait(30 * time.Second); code == 0 || !strings.Contains(again.out.String(), "tpm_cleared: ") {
		t.Errorf("started again: exit %d\n%s", code, lastOf(again.out.String(), 1500))
	}
	fsck(t, dir)
}
