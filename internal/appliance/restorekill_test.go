package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// restoring is the argument with which this program restores, to be killed.
const restoring = "restore-for-a-test"

// restoreJob is what it restores, in a file.
type restoreJob struct {
	Config  Config
	Options RestoreOptions
}

func runRestoreJob(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var job restoreJob
	if err := json.Unmarshal(text, &job); err != nil {
		return err
	}
	return Restore(context.Background(), job.Config, job.Options, io.Discard, slog.New(slog.DiscardHandler))
}

// A restore that is killed, at moments spread over all that it does, leaves nothing that serves, until one has run to its end; each time
// custodians are asked anew where the act was used. No two runs open a log.
func TestRestoreKilled(t *testing.T) {
	v := newVaulted(t)
	a := v.run()
	a.service("records")
	file := v.backup("backup")
	a.stop()
	v.lose()
	v.cfg.Origin += "/2"
	options := v.propose(file)
	whole := v.timed(options)
	v.lose()
	options = v.propose(file)
	const runs = 8
	for n := range time.Duration(runs) {
		v.killedAfter(options, whole*n/runs+rand.N(whole/runs))
		if _, err := os.Lstat(filepath.Join(v.cfg.Dir, stagedName)); err == nil {
			if _, err := New(t.Context(), v.cfg, Options{Log: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "a restore has not ended") {
				t.Fatalf("run %d: what is half restored: %v", n, err)
			}
		}
		if err := v.finish(&options, file); err != nil {
			t.Fatalf("run %d: %v", n, err)
		}
		v.fsck()
		v.lose()
		options = v.propose(file)
	}
}

// finish restores to the end, proposing anew where the act was used.
func (v *vaulted) finish(o *RestoreOptions, file string) error {
	err := v.restore(*o)
	switch {
	case err == nil:
		return nil
	case strings.Contains(err.Error(), "never overwrites"):
		return nil // it had ended
	case strings.Contains(err.Error(), "the act is used"):
		*o = v.propose(file)
		return v.restore(*o)
	}
	return err
}

// timed is how long a whole run takes.
func (v *vaulted) timed(o RestoreOptions) time.Duration {
	v.t.Helper()
	begun := time.Now()
	if v.killedAfter(o, 5*time.Minute) {
		v.t.Fatal("a restore takes five minutes")
	}
	return time.Since(begun)
}

func (v *vaulted) killedAfter(o RestoreOptions, d time.Duration) (killed bool) {
	t := v.t
	t.Helper()
	text, err := json.Marshal(restoreJob{v.cfg, o})
	must(t, err)
	cmd := exec.CommandContext(t.Context(), os.Args[0], restoring, v.file("job.json", string(text))) // #nosec G204 -- this program
	must(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case err = <-done:
	case <-timer.C:
		must(t, cmd.Process.Kill())
		err = <-done
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status, ok := exit.Sys().(syscall.WaitStatus)
		if !ok || !status.Signaled() {
			t.Fatalf("the restore failed: %v", err)
		}
		return true
	}
	must(t, err)
	return false
}
