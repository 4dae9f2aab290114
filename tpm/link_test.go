package tpm

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/signet-pki/signet/internal/testrig/swtpm"
)

// device gives a deviceLink whose descriptors behave like /dev/tpmrm0: one message per write and read, poll(2) in between.
func device(t *testing.T, rig *swtpm.TPM) *deviceLink {
	t.Helper()
	return &deviceLink{open: func() (int, error) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		file := os.NewFile(uintptr(fds[1]), "device")
		near, err := net.FileConn(file)
		if err != nil {
			return 0, err
		}
		file.Close()
		far, err := (&net.Dialer{}).DialContext(t.Context(), "unix", strings.TrimPrefix(rig.Path(), unixPrefix))
		if err != nil {
			near.Close()
			unix.Close(fds[0])
			return 0, err
		}
		go func() { _, _ = io.Copy(far, near); far.Close() }()
		go func() { _, _ = io.Copy(near, far); near.Close() }()
		return fds[0], nil
	}}
}

func TestDeviceLink(t *testing.T) {
	rig := swtpm.New(t)
	d := &Device{
		config: Config{Path: "/dev/tpmrm0", Timeout: 500 * time.Millisecond}, log: slog.New(slog.DiscardHandler), link: device(t, rig),
		done: make(chan struct{}), turn: make(chan struct{}, 1), suspect: true,
	}
	must(t, d.config.complete())
	d.turn <- struct{}{}
	ctx := t.Context()
	must(t, d.CreateAK(ctx))
	must(t, d.CreateCounter(ctx))
	_, err := d.Quote(ctx, qualifying("x"))
	must(t, err)

	release := rig.Hang()
	_, err = d.State(ctx)
	want(t, err, ErrTimeout)
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, err = d.State(short)
	want(t, err, context.DeadlineExceeded)
	release()
	_, err = d.State(ctx)
	must(t, err)

	rig.Kill()
	_, err = d.State(ctx)
	want(t, err, ErrUnavailable)
	rig.Restart()
	_, err = d.Quote(ctx, qualifying("x"))
	must(t, err)
	must(t, d.Close())
	must(t, d.Close())
	_, err = d.State(ctx)
	want(t, err, ErrClosed)
}
