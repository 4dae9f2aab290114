package softhsmtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// daemon is a running `signetd dev`.
type daemon struct {
	t      testing.TB
	dir    string
	url    string
	cmd    *exec.Cmd
	out    output
	exited chan struct{}
	err    error // of Wait; read after exited
}

// output keeps what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// newDir is where an appliance can be made. Its path is short, for the sockets in it. Software TPMs that a killed daemon
// leaves there end with the test.
func newDir(t testing.TB) string {
	t.Helper()
	base, err := os.MkdirTemp("", "sg")
	must(t, err)
	dir := filepath.Join(base, "dev")
	t.Cleanup(func() {
		for _, tpm := range []string{"tpm", "token-tpm"} {
			if pid, ok := pidOf(dir, tpm); ok {
				_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended by itself
			}
		}
		_ = os.RemoveAll(base)
	})
	return dir
}

// tpmPID is the software TPM of dir, if it runs.
func tpmPID(dir string) (int, bool) { return pidOf(dir, "tpm") }

func pidOf(dir, tpm string) (int, bool) {
	text, err := os.ReadFile(filepath.Join(dir, "devices", tpm, "swtpm.pid"))
	if err != nil {
		return 0, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, false
	}
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return pid, err == nil && strings.Contains(string(args), filepath.Join(dir, "devices", tpm, "state"))
}

// launch runs `signetd dev` without waiting for anything.
func launch(t testing.TB, dir string, args ...string) *daemon {
	t.Helper()
	return launchUnder(t, dir, nil, args...)
}

// launchUnder is launch with another program, such as strace, in front.
func launchUnder(t testing.TB, dir string, before []string, args ...string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: dir, exited: make(chan struct{})}
	line := slices.Concat(before, []string{program("signetd"), "dev", "--dir", dir, "--listen", "127.0.0.1:0"}, args)
	// #nosec G204 -- our own program; not CommandContext: the end of a test stops it in its own way
	d.cmd = exec.Command(line[0], line[1:]...) //nolint:noctx // see above
	d.run()
	return d
}

// run starts the program; the end of the test stops it.
func (d *daemon) run() {
	d.t.Helper()
	d.cmd.Stdout, d.cmd.Stderr = &d.out, &d.out
	must(d.t, d.cmd.Start())
	go func() { // joined by the cleanup
		d.err = d.cmd.Wait()
		close(d.exited)
	}()
	d.t.Cleanup(func() {
		d.kill()
		if d.t.Failed() {
			d.t.Logf("signetd %v in %s said:\n%s", d.cmd.Args[1:], d.dir, lastOf(d.out.String(), 1500))
		}
	})
}

func lastOf(s string, n int) string { return s[max(0, len(s)-n):] }

var serving = regexp.MustCompile(`serves at (https://\S+)`)

// start runs `signetd dev` until it says that it serves.
func start(t testing.TB, dir string, args ...string) *daemon {
	t.Helper()
	return launch(t, dir, args...).serving()
}

// serving waits until the daemon says that it serves.
func (d *daemon) serving() *daemon {
	t := d.t
	t.Helper()
	within(t, 40*time.Second, "signetd dev", func() error {
		if d.ended() {
			t.Fatalf("signetd dev ended: %v\n%s", d.err, d.out.String())
		}
		m := serving.FindStringSubmatch(d.out.String())
		if m == nil {
			return errors.New("it does not serve yet")
		}
		d.url = m[1]
		return nil
	})
	return d
}

// launchServe runs `signetd serve` with the configuration in dir, without waiting for anything.
func launchServe(t testing.TB, dir, url string) *daemon {
	t.Helper()
	d := &daemon{t: t, dir: dir, url: url, exited: make(chan struct{})}
	// #nosec G204 -- our own program; not CommandContext: the end of a test stops it in its own way
	d.cmd = exec.Command(program("signetd"), "serve", "--config", filepath.Join(dir, "signet.yaml")) //nolint:noctx // see above
	d.run()
	return d
}

// ready waits until the daemon says so to one of the staff.
func (d *daemon) ready(who *person) {
	t := d.t
	t.Helper()
	within(t, 40*time.Second, "signetd serve", func() error {
		if d.ended() {
			t.Fatalf("signetd serve ended: %v\n%s", d.err, d.out.String())
		}
		r, err := who.Ready(t.Context())
		if err == nil && r.Status != "ready" {
			err = fmt.Errorf("%+v", r)
		}
		return err
	})
}

func (d *daemon) ended() bool {
	select {
	case <-d.exited:
		return true
	default:
		return false
	}
}

// wait gives the exit code.
func (d *daemon) wait(limit time.Duration) int {
	d.t.Helper()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-d.exited:
	case <-timer.C:
		d.kill()
		d.t.Fatalf("signetd did not end within %s:\n%s", limit, d.out.String())
	}
	return d.cmd.ProcessState.ExitCode()
}

// stop ends it as Ctrl-C does.
func (d *daemon) stop() {
	d.t.Helper()
	must(d.t, d.cmd.Process.Signal(os.Interrupt))
	if code := d.wait(20 * time.Second); code != 0 {
		d.t.Fatalf("signetd exits with %d after Ctrl-C:\n%s", code, d.out.String())
	}
}

// kill ends it like a power cut, except that its TPM goes on.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill() // it may have ended
	<-d.exited
}

// demonstrate runs the demonstration in dir and returns what it printed.
func demonstrate(t testing.TB, dir string) string {
	t.Helper()
	d := launch(t, dir, "--demo", "--exit")
	if code := d.wait(90 * time.Second); code != 0 {
		t.Fatalf("the demonstration exits with %d:\n%s", code, d.out.String())
	}
	return d.out.String()
}

// fsck must find nothing wrong in the log of a stopped appliance.
func fsck(t testing.TB, dir string) {
	t.Helper()
	out := succeed(t, program("signetd"), "fsck", "--config", filepath.Join(dir, "signet.yaml"))
	if !strings.Contains(out, " 0 findings") {
		t.Fatalf("fsck: %s", out)
	}
}
