package swtpmd

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// shutdown sends TPM2_Shutdown(TPM_SU_CLEAR) (Part 3, 9.4). Without it the next start is a power loss to the TPM.
func shutdown(socket string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("swtpmd: shutdown: %w", err)
	}
	defer func() { _ = conn.Close() }() // nothing is left to lose
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("swtpmd: shutdown: %w", err)
	}
	if _, err := conn.Write([]byte{0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0}); err != nil {
		return fmt.Errorf("swtpmd: shutdown: %w", err)
	}
	response := make([]byte, 10)
	if _, err := io.ReadFull(conn, response); err != nil {
		return fmt.Errorf("swtpmd: shutdown: %w", err)
	}
	if !bytes.Equal(response[6:], []byte{0, 0, 0, 0}) {
		return fmt.Errorf("swtpmd: shutdown: response code %x", response[6:])
	}
	return nil
}

// stopOrphan ends the swtpm that a killed predecessor left running on dir; it holds the state's lock.
func stopOrphan(ctx context.Context, dir string) error {
	pid, found := orphan(dir)
	if !found {
		return nil
	}
	_ = shutdown(filepath.Join(dir, "sock"), stopTimeout) // best effort: the socket may be elsewhere
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
