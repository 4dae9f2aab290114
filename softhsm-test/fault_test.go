package softhsmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

// TestFaults takes one device after the other away from a running appliance. Without it nothing is issued or allowed, and
// readyz says which; with it back everything works again without a restart.
func TestFaults(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	must(t, c.works(task))

	t.Run("identity provider", func(t *testing.T) { c.on(t).withoutIdP(t, dir, task) })
	t.Run("HSM", func(t *testing.T) { c.on(t).withoutHSM(t, dir, task, a) })
	restart := func() { startTPM(t, dir) } // the TPM outlives its part
	t.Run("TPM", func(t *testing.T) { c.on(t).withoutTPM(t, dir, task, a, restart) })

	bundle := exported(t, c)
	if out, code := command(t, "", nil, program("signet-verify"), "bundle", bundle); code != 0 {
		t.Errorf("signet-verify: exit %d\n%s", code, out)
	}
	d.stop()
	fsck(t, dir)
}

// exported is the evidence bundle, as a tar.
func exported(t *testing.T, c *cast) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bundle.tar")
	f, err := os.Create(path)
	must(t, err)
	must(t, errors.Join(c.auditor.Export(t.Context(), f), f.Close()))
	return path
}

func (c *cast) withoutIdP(t *testing.T, dir string, task v1.Task) {
	stopped := filepath.Join(dir, "idp.stopped")
	must(t, os.WriteFile(stopped, nil, 0o600))
	var p *client.Problem
	within(t, 5*time.Second, "no new grant", func() error {
		_, err := c.orchestrator.RequestGrant(t.Context(), grantRequest())
		if !errors.As(err, &p) || p.Code != "idp_unavailable" {
			return fmt.Errorf("want idp_unavailable, got %w", orAllowed(err))
		}
		return nil
	})
	if p.Status != 503 || p.Detail == "" {
		t.Errorf("%+v", p)
	}
	must(t, c.works(task)) // everything else goes on
	if got := unwell(t, c.auditor); len(got) > 0 {
		t.Errorf("readyz: %v", got)
	}
	must(t, os.Remove(stopped))
	within(t, 10*time.Second, "a new grant", func() error {
		_, err := c.orchestrator.RequestGrant(t.Context(), grantRequest())
		return err
	})
	_, again := c.task(c.orchestrator)
	must(t, c.works(again))
}

// nothingGoes tries a spawn and a decision, which must both be refused.
func (c *cast) nothingGoes(t *testing.T, task v1.Task, a *agent) {
	t.Helper()
	_, err := spawn(t.Context(), c.orchestrator, task)
	if err := refusedWith(err, "not_ready", "signing_failed", "audit_unavailable"); err != nil {
		t.Errorf("spawn: %v", err)
	}
	d, err := decide(t.Context(), c.service, a)
	if d.Decision {
		t.Errorf("a decision allows: %+v, %v", d, err)
	}
}

func (c *cast) withoutHSM(t *testing.T, dir string, task v1.Task, a *agent) {
	from := c.size()
	tokens := filepath.Join(dir, "devices", "tokens")
	must(t, os.Rename(tokens, tokens+".away"))
	// Before the appliance has noticed, the signature itself fails.
	_, err := spawn(t.Context(), c.orchestrator, task)
	if err := refusedWith(err, "not_ready", "signing_failed"); err != nil {
		t.Errorf("at once: %v", err)
	}
	c.becomes(5*time.Second, "hsm_issuing", "hsm_audit")
	c.nothingGoes(t, task, a)
	c.nothingIssued(from)
	must(t, os.Rename(tokens+".away", tokens))
	within(t, 20*time.Second, "spawning again", func() error { return c.works(task) })
	c.becomes(10 * time.Second)
	for _, e := range c.entries(from) {
		if e.Type == "issue_failed" {
			return
		}
	}
	t.Error("the failed signature has no entry")
}

func (c *cast) withoutTPM(t *testing.T, dir string, task v1.Task, a *agent, restart func()) {
	from := c.size()
	takeTPM(t, dir, "tpm")
	c.becomes(5*time.Second, "tpm")
	from = max(from, c.size())
	c.nothingGoes(t, task, a)
	c.nothingIssued(from)
	restart()
	within(t, 30*time.Second, "spawning again", func() error { return c.works(task) })
	c.becomes(10 * time.Second)
	for _, e := range c.entries(from) {
		if e.Type == "device" {
			return
		}
	}
	t.Error("the TPM's restart has no entry")
}

// startTPM runs the software TPM on its old state, as the appliance did. It is the test's own: the lock of its directory
// is the running appliance's.
func startTPM(t testing.TB, dir string) {
	t.Helper()
	startDevice(t, filepath.Join(dir, "devices", "tpm"))
}

// takeTPM kills a software TPM of a running appliance, as a power cut does, and gives what starts it again.
func takeTPM(t testing.TB, dir, name string) (bring func()) {
	t.Helper()
	pid, ok := pidOf(dir, name)
	if !ok {
		t.Fatalf("no TPM %s runs", name)
	}
	must(t, syscall.Kill(pid, syscall.SIGKILL))
	within(t, 10*time.Second, "the end of the TPM", func() error {
		if _, runs := pidOf(dir, name); runs {
			return errors.New("it runs")
		}
		return nil
	})
	return func() { startDevice(t, filepath.Join(dir, "devices", name)) }
}

func startDevice(t testing.TB, tpm string) {
	t.Helper()
	socket := filepath.Join(tpm, "sock")
	for _, path := range []string{socket, socket + ".ctrl"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	//nolint:noctx // the cleanup ends it
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+filepath.Join(tpm, "state"), // #nosec G204 -- the test's own directory
		"--pid", "file="+filepath.Join(tpm, "swtpm.pid"), "--server", "type=unixio,path="+socket,
		"--ctrl", "type=unixio,path="+socket+".ctrl", "--flags", "not-need-init,startup-clear")
	must(t, cmd.Start())
	done := make(chan struct{})
	go func() { // joined by the cleanup
		_ = cmd.Wait() // it is killed
		close(done)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended with the appliance
		<-done
	})
}
