package softhsmtest

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

// TestModuleMisbehaves: the issuing token's module crashes, hangs and lies in its own process, under load. Meanwhile the API
// answers 503 and nothing is issued; when the module is well again, so is the appliance, without a restart.
func TestModuleMisbehaves(t *testing.T) {
	p := plantModule(t, func(tokens *appliance.Tokens, module string) {
		tokens.Issuing.Module, tokens.Issuing.Isolate, tokens.Issuing.Timeout = module, true, 2*time.Second
	})
	d := p.serve(t)
	l := startLoad(t, p.c, p.task, workers)
	for _, fault := range []string{"abort", "segv", "hang", "other", "error 0x30"} {
		l.signs(t)
		p.module.Tell("C_Sign " + fault)
		l.onlyFails(t)
		if d.ended() {
			t.Fatalf("%s: the daemon ended", fault)
		}
		p.module.Behave()
		well := time.Now()
		l.signs(t)
		t.Logf("%s: healed %v after the module", fault, time.Since(well).Round(time.Millisecond))
	}
	l.stop(t)
	p.c.becomes(20 * time.Second)
	must(t, p.c.works(p.task))
	l.agreesWithLog(t)
	p.verifies(t, d)
}

// TestModuleProcessEndsWithDaemon: also when the daemon is killed, and with a call in the module that does not return.
func TestModuleProcessEndsWithDaemon(t *testing.T) {
	p := plantModule(t, func(tokens *appliance.Tokens, module string) {
		tokens.Issuing.Module, tokens.Issuing.Isolate = module, true
	})
	d := p.serve(t)
	pid := moduleProcess(t, d.cmd.Process.Pid)
	calls := p.module.Calls("C_Sign")
	p.module.Tell("C_Sign hang")
	asked := make(chan error, 1)
	go func() { // joined below
		_, err := spawn(t.Context(), p.c.orchestrator, p.task)
		asked <- err
	}()
	within(t, 20*time.Second, "a call that hangs", func() error {
		if p.module.Calls("C_Sign") == calls {
			return errors.New("nobody signs")
		}
		return nil
	})
	d.kill()
	if err := <-asked; err == nil {
		t.Error("a hung module signed")
	}
	within(t, 20*time.Second, "the end of the module's process", func() error {
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
			return fmt.Errorf("it runs: %s", stat)
		}
		return nil
	})
	p.module.Behave()
	fsck(t, p.dir)
}

// moduleProcess is the one process that a daemon started for a module.
func moduleProcess(t *testing.T, daemon int) int {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", daemon))
	must(t, err)
	var found []string
	for _, path := range tasks {
		text, err := os.ReadFile(path)
		must(t, err)
		found = append(found, strings.Fields(string(text))...)
	}
	if len(found) != 1 {
		t.Fatalf("the daemon has the processes %v, want one", found)
	}
	pid, err := strconv.Atoi(found[0])
	must(t, err)
	return pid
}

// TestModuleCrashWithoutIsolation: it takes the daemon down. The log is whole, and the next start works and says what became
// of the signature.
func TestModuleCrashWithoutIsolation(t *testing.T) {
	// SoftHSM is initialised once in a process, so all tokens go through the one module.
	p := plantModule(t, func(tokens *appliance.Tokens, module string) {
		tokens.Issuing.Module, tokens.Audit.Module = module, module
	})
	d := p.serve(t)
	must(t, p.c.works(p.task))
	p.module.Tell("C_Sign segv")
	if _, err := spawn(t.Context(), p.c.orchestrator, p.task); err == nil {
		t.Error("a crashed module signed")
	}
	if code := d.wait(20 * time.Second); code == 0 {
		t.Error("the daemon ended as if nothing were wrong")
	}
	p.module.Behave()
	fsck(t, p.dir)
	d = p.serve(t)
	must(t, p.c.works(p.task))
	p.verifies(t, d)
}

// planted is an appliance with a configuration of its own; where plantModule made it, with tokens behind a module that can be told
// to misbehave.
type planted struct {
	dir    string
	url    string
	module *softhsm.Faulty
	c      *cast
	task   v1.Task
}

// plantModule puts a module in.
func plantModule(t *testing.T, change func(tokens *appliance.Tokens, module string)) planted {
	t.Helper()
	var module *softhsm.Faulty
	p := plant(t, func(cfg *appliance.Config) {
		module = softhsm.NewFaulty(t, cfg.Tokens.Issuing.Module)
		change(&cfg.Tokens, module.Module())
	})
	p.module = module
	return p
}

// plant makes an appliance and a task with the development daemon, which has the identity provider, stops it, and changes the
// configuration.
func plant(t *testing.T, change func(cfg *appliance.Config)) planted {
	t.Helper()
	p := planted{dir: newDir(t)}
	d := start(t, p.dir)
	p.url = d.url
	p.c = newCast(t, p.dir, d.url)
	_, p.task = p.c.task(p.c.orchestrator)
	d.stop()
	path := filepath.Join(p.dir, "signet.yaml")
	cfg, err := appliance.LoadConfig(path)
	must(t, err)
	change(&cfg)
	text, err := yaml.Marshal(cfg)
	must(t, err)
	must(t, os.WriteFile(path, text, 0o600))
	startTPM(t, p.dir)
	return p
}

// serve runs the daemon as an operator does, until it is ready.
func (p planted) serve(t *testing.T) *daemon {
	t.Helper()
	d := launchServe(t, p.dir, p.url)
	d.ready(p.c.auditor)
	return d
}

// verifies checks what is left, with the verifier and with fsck.
func (p planted) verifies(t *testing.T, d *daemon) {
	t.Helper()
	if out, code := command(t, "", nil, program("signet-verify"), "bundle", exported(t, p.c)); code != 0 {
		t.Errorf("signet-verify: exit %d\n%s", code, out)
	}
	d.stop()
	fsck(t, p.dir)
}

// load spawns agents all the time, from several goroutines.
type load struct {
	c       *cast
	task    v1.Task
	n       int64 // workers
	from    uint64
	cancel  func()
	workers sync.WaitGroup
	failed  atomic.Int64

	mu     sync.Mutex
	issued []*agent
	codes  map[string]int // of refusals
	wrong  []error        // what is neither an agent nor a refusal as it should be
}

// workers spawn at a time: more than the token has sessions.
const workers = 8

func startLoad(t *testing.T, c *cast, task v1.Task, n int64) *load {
	t.Helper()
	l := &load{c: c, task: task, n: n, from: c.size(), codes: map[string]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	l.cancel = cancel
	for range n {
		l.workers.Go(func() {
			for ctx.Err() == nil {
				a, err := spawn(ctx, c.orchestrator, task)
				l.note(ctx, a, err)
			}
		})
	}
	t.Cleanup(func() { cancel(); l.workers.Wait() })
	return l
}

func (l *load) note(ctx context.Context, a *agent, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var p *client.Problem
	switch {
	case err == nil:
		l.issued = append(l.issued, a)
	case ctx.Err() != nil: // stopped
	case errors.As(err, &p) && p.Status == 503 && refusedWith(err, "not_ready", "signing_failed", "signing_unavailable", "audit_unavailable") == nil:
		l.failed.Add(1)
		l.codes[p.Code]++
	case errors.As(err, &p) && p.Code == "policy_denied" && tooBusy(err):
		l.codes[p.Code]++
	default:
		l.wrong = append(l.wrong, err)
	}
}

// tooBusy says that the machine had no processor for the policy in time: nothing was issued, and neither a device nor a key is to blame.
func tooBusy(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "policy_timeout") || strings.Contains(err.Error(), "policy_busy"))
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.issued)
}

// signs waits until agents are issued.
func (l *load) signs(t *testing.T) {
	t.Helper()
	was := l.count()
	within(t, 30*time.Second, "certificates", func() error {
		if n := l.count() - was; n < 4 {
			return fmt.Errorf("%d were issued", n)
		}
		return nil
	})
}

// onlyFails waits until all requests fail, and makes sure that none succeeds for a while.
func (l *load) onlyFails(t *testing.T) {
	t.Helper()
	fails := func(n int64) {
		was := l.failed.Load()
		within(t, 30*time.Second, "refusals", func() error {
			if now := l.failed.Load() - was; now < n {
				return fmt.Errorf("%d were refused", now)
			}
			return nil
		})
	}
	fails(3 * l.n) // those under way at first may still have had their signature
	was := l.count()
	fails(5 * l.n)
	if n := l.count() - was; n > 0 {
		t.Errorf("%d certificates were issued", n)
	}
}

func (l *load) stop(t *testing.T) {
	t.Helper()
	l.cancel()
	l.workers.Wait()
	for _, err := range l.wrong {
		t.Errorf("a request ended with: %v", err)
	}
	t.Logf("%d certificates, refusals: %v", len(l.issued), l.codes)
}

// agreesWithLog checks that every certificate verifies and has one entry, which was not reported as failed, and that every
// failure reported is of an entry.
func (l *load) agreesWithLog(t *testing.T) {
	t.Helper()
	issues, failed := map[string]uint64{}, map[uint64]bool{}
	for _, e := range l.c.entries(l.from) {
		switch e.Type { //nolint:exhaustive // the others are not about signatures
		case record.TypeIssue:
			if _, twice := issues[e.Body.SPIFFEID]; twice {
				t.Errorf("%s was issued twice", e.Body.SPIFFEID)
			}
			issues[e.Body.SPIFFEID] = e.index
		case record.TypeIssueFailed:
			failed[e.Body.Index] = true
		}
	}
	if len(failed) == 0 {
		t.Error("no failed signature has an entry")
	}
	serials := map[string]bool{}
	for _, a := range l.issued {
		index, ok := issues[a.issued.SPIFFEID]
		if !ok || failed[index] {
			t.Errorf("%s: entry found: %t, reported as failed: %t", a.issued.SPIFFEID, ok, failed[index])
		}
		leaf, err := x509.ParseCertificate(a.cert.Certificate[0])
		must(t, err)
		above, err := x509.ParseCertificate(a.cert.Certificate[1])
		must(t, err)
		if err := leaf.CheckSignatureFrom(above); err != nil {
			t.Errorf("%s: %v", a.issued.SPIFFEID, err)
		}
		if serial := leaf.SerialNumber.String(); serials[serial] {
			t.Errorf("serial %s was issued twice", serial)
		} else {
			serials[serial] = true
		}
		delete(issues, a.issued.SPIFFEID)
	}
	open := int64(0)
	for _, index := range issues {
		if !failed[index] {
			open++ // the client was stopped before its answer
		}
	}
	if open > l.n+1 {
		t.Errorf("%d entries have neither certificate nor failure", open)
	}
}
