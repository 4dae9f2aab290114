package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// child is a server in a process of its own.
type child struct {
	cmd  *exec.Cmd
	url  string
	log  string
	done chan error
}

const readyWithin = 60 * time.Second

// startChild runs a server and waits for the line of its output with "serves at URL".
func startChild(ctx context.Context, logFile, program string, args ...string) (*child, error) {
	cmd := exec.Command(program, args...) //nolint:gosec,noctx // what this benchmark built; stop ends it in good order
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	errs, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	defer func() { _ = errs.Close() }() // the child has its own
	cmd.Stderr = errs
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, log: logFile, done: make(chan error, 1)}
	lines := make(chan string, 1)
	go func() {
		for sc := bufio.NewScanner(out); sc.Scan(); {
			if _, url, ok := strings.Cut(sc.Text(), "serves at "); ok {
				lines <- url
			}
		}
		c.done <- cmd.Wait()
	}()
	select {
	case c.url = <-lines:
		return c, nil
	case err = <-c.done:
		return nil, fmt.Errorf("%s ended: %w: %s", filepath.Base(program), err, c.lastWords())
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(readyWithin):
		err = fmt.Errorf("%s was not ready within %s: %s", filepath.Base(program), readyWithin, c.lastWords())
	}
	return nil, errors.Join(err, c.stop())
}

func (c *child) cpu() (time.Duration, error) { return pid(c.cmd.Process.Pid).cpu() }

// stop asks the server to end and waits until it has.
func (c *child) stop() error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	if err := <-c.done; err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(c.cmd.Path), err, c.lastWords())
	}
	return nil
}

// lastWords is the end of what the server logged.
func (c *child) lastWords() string {
	b, err := os.ReadFile(c.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-1500):])
}

// build makes signetd from this source tree, once.
func (b *bench) build(ctx context.Context) (out string, err error) {
	if b.signetd == "" {
		b.signetd, err = b.goBuild(ctx, "github.com/signet-pki/signet/cmd/signetd")
	}
	if err != nil {
		return "", err
	}
	return filepath.Abs(b.signetd)
}

// goBuild makes a program from a package of this module, or of one that go.mod names.
func (b *bench) goBuild(ctx context.Context, pkg string) (string, error) {
	out := filepath.Join(b.tmp, "bin", path.Base(pkg))
	progress("building %s", path.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, pkg) //nolint:gosec // our own path
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w: %s", err, text)
	}
	return out, nil
}
