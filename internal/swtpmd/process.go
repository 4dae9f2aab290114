package swtpmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/signet-pki/signet/internal/durable"
)

const (
	startTimeout = 10 * time.Second
	stopTimeout  = 5 * time.Second
	pollInterval = 5 * time.Millisecond

	// maxSocket leaves room for ".ctrl" and the final NUL in the 108 bytes of sun_path (unix(7)).
	maxSocket = 108 - len(".ctrl") - 1
)

// Process is a running swtpm. It keeps running until [Process.Stop] or [Process.Kill], whatever becomes of the context it was
// started with; if its parent dies without either, the next [Start] on the directory takes over.
type Process struct {
	cmd    *exec.Cmd
	socket string
	tmp    string // directory of the socket, if it is not the TPM's own
	unlock func()
	exited chan struct{} // closed when the process has been waited for
	err    error         // of Wait; read after exited
	stop   sync.Mutex    // one Stop or Kill at a time
}

// Start runs the TPM of dir and returns when it answers; ctx bounds the start only. A swtpm that a crashed predecessor left
// running on this directory is stopped orderly first; one whose starter lives is left alone, with [durable.ErrLocked].
// [ErrNotProvisioned] means that there is nothing to run.
func Start(ctx context.Context, dir string) (*Process, error) {
	dir, err := cleanDir(dir)
	if err != nil {
		return nil, err
	}
	if !Provisioned(dir) {
		return nil, fmt.Errorf("swtpmd: %w: %s", ErrNotProvisioned, dir)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	unlock, err := durable.Lock(filepath.Join(dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("swtpmd: %w", err)
	}
	p, err := takeOver(ctx, dir)
	if err != nil {
		unlock()
		return nil, err
	}
	p.unlock = unlock
	if err := p.awaitReady(ctx); err != nil {
		p.Kill()
		return nil, fmt.Errorf("swtpmd: %w; %s says: %s", err, logFile, readLog(dir))
	}
	return p, nil
}

// Socket is the path of the TPM's Unix socket. It is dir/sock, and so the same after each start, unless that is longer than a
// Unix socket's address may be: then it lies in a fresh directory below [os.TempDir]. The control socket has ".ctrl" appended,
// as the tools' TCTI `swtpm:path=` expects.
func (p *Process) Socket() string { return p.socket }

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Wait returns when the process has ended, with its error if it was not stopped here.
func (p *Process) Wait() error {
	<-p.exited
	return p.err
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.exited }

// Stop shuts the TPM down as an operating system does, so that its orderly counters keep their values, and ends the process. It
// takes at most about ten seconds and kills what does not stop. Stopping twice is no error.
func (p *Process) Stop() error {
	p.stop.Lock()
	defer p.stop.Unlock()
	if p.ended() {
		return p.cleanUp()
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	shutdownErr := shutdown(ctx, p.socket)
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended meanwhile
	select {
	case <-p.exited:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.exited
		shutdownErr = errors.Join(shutdownErr, errors.New("swtpmd: did not stop and was killed"))
	}
	return errors.Join(shutdownErr, p.cleanUp())
}

// Kill ends the process at once, like a power loss, and returns when it is gone.
func (p *Process) Kill() {
	p.stop.Lock()
	defer p.stop.Unlock()
	_ = p.cmd.Process.Kill() // fails only if it has ended
	<-p.exited
	_ = p.cleanUp()
}

func (p *Process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (p *Process) cleanUp() error {
	err := errors.Join(removeFile(p.socket), removeFile(p.socket+".ctrl"))
	if p.tmp != "" {
		err = errors.Join(err, os.RemoveAll(p.tmp))
	}
	p.unlock()
	return err
}

func takeOver(ctx context.Context, dir string) (*Process, error) {
	if err := stopOrphan(ctx, dir); err != nil {
		return nil, err
	}
	return launch(ctx, dir)
}

func launch(ctx context.Context, dir string) (*Process, error) {
	program, err := lookPath("swtpm")
	if err != nil {
		return nil, err
	}
	socket, tmp, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	output, err := os.OpenFile(filepath.Join(dir, logFile), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("swtpmd: %w", err)
	}
	defer func() { _ = output.Close() }() // the child has its own descriptor
	// #nosec G204 -- program and arguments hold no outside input but the caller's directory
	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, "socket", "--tpm2",
		"--tpmstate", "dir="+filepath.Join(dir, stateDir), "--pid", "file="+filepath.Join(dir, pidFile),
		"--server", "type=unixio,path="+socket, "--ctrl", "type=unixio,path="+socket+".ctrl",
		"--flags", "not-need-init,startup-clear")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, output, output
	// Its own group: Ctrl-C at a terminal reaches the parent alone, which then stops the TPM in its turn.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("swtpmd: %w", err)
	}
	p := &Process{cmd: cmd, socket: socket, tmp: tmp, exited: make(chan struct{})}
	go func() { // joined by Stop, Kill and Wait
		p.err = cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

// socketPath chooses the socket's place and removes what a killed process left there.
func socketPath(dir string) (socket, tmp string, err error) {
	socket = filepath.Join(dir, "sock")
	if len(socket) > maxSocket {
		if tmp, err = os.MkdirTemp("", "sg"); err != nil {
			return "", "", fmt.Errorf("swtpmd: %w", err)
		}
		socket = filepath.Join(tmp, "sock")
	}
	if err := errors.Join(removeFile(socket), removeFile(socket+".ctrl")); err != nil {
		return "", "", fmt.Errorf("swtpmd: %w", err)
	}
	return socket, tmp, nil
}

// awaitReady waits until the TPM accepts a connection, and plays the firmware.
func (p *Process) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", p.socket)
		if err == nil {
			return errors.Join(conn.Close(), measure(ctx, p.socket))
		}
		select {
		case <-p.exited:
			return fmt.Errorf("swtpm ended at once: %w", errors.Join(p.err, err))
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w: %w", ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func readLog(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, logFile))
	if err != nil {
		return err.Error()
	}
	return lastLines(text)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
