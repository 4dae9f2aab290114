package swtpmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stopOrphan ends the swtpm that a killed predecessor left running on dir; it holds the state's lock.
func stopOrphan(ctx context.Context, dir string) error {
	pid, found := orphan(dir)
	if !found {
		return nil
	}
	_ = shutdown(ctx, filepath.Join(dir, "sock")) // best effort: the socket may be elsewhere
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("swtpmd: stop process %d left on %s: %w", pid, dir, err)
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if _, found := orphan(dir); !found {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("swtpmd: process %d left on %s does not stop: %w", pid, dir, ctx.Err())
		case <-tick.C:
		}
	}
}

// orphan reads the pid file and believes it only if that process is a swtpm on this very state directory: ids are reused.
func orphan(dir string) (pid int, found bool) {
	text, err := os.ReadFile(filepath.Join(dir, pidFile))
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0, false
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return 0, false
	}
	args := strings.Split(string(cmdline), "\x00")
	return pid, filepath.Base(args[0]) == "swtpm" && strings.Contains(string(cmdline), "\x00dir="+filepath.Join(dir, stateDir)+"\x00")
}
