package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	unixPrefix = "unix:"
	pollSlice  = 50 * time.Millisecond // how late a poll sees that its context has ended
)

var errDeadline = os.ErrDeadlineExceeded

// link carries one command at a time to a TPM and back. After an error the next exchange connects anew.
type link interface {
	exchange(ctx context.Context, command []byte) ([]byte, error)
	close(patience time.Duration) error
}

func newLink(path string) link {
	if socket, found := strings.CutPrefix(path, unixPrefix); found {
		return socketLink(socket)
	}
	return &deviceLink{open: func() (int, error) { return unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0) }}
}

// socketLink is the path of a software TPM's socket. It connects for each command: swtpm serves one connection at a time, and
// so tools can use it in between, and a restart needs no care.
type socketLink string

func (l socketLink) exchange(ctx context.Context, command []byte) ([]byte, error) {
	conn, err := l.dial(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // the response is here or is lost
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	response := make([]byte, maxResponse)
	if _, err := io.ReadFull(conn, response[:headerSize]); err != nil {
		return nil, err
	}
	size, err := responseSize(response)
	if err != nil {
		return nil, err
	}
	_, err = io.ReadFull(conn, response[headerSize:size])
	return response[:size], err
}

// dial waits where others are in the queue: swtpm listens with a backlog of one, and connect(2) answers EAGAIN beyond it.
func (l socketLink) dial(ctx context.Context) (net.Conn, error) {
	var dialer net.Dialer
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		conn, err := dialer.DialContext(ctx, "unix", string(l))
		if !errors.Is(err, unix.EAGAIN) {
			return conn, err
		}
		if pause(ctx, wait) != nil {
			return nil, err
		}
	}
}

func (socketLink) close(time.Duration) error { return nil }

func responseSize(header []byte) (int, error) {
	size := binary.BigEndian.Uint32(header[2:])
	if size < headerSize || size > maxResponse {
		return 0, fmt.Errorf("response claims %d bytes", size)
	}
	return int(size), nil
}

// deviceLink is a TPM character device, which works asynchronously when it is opened non-blocking (Linux 4.20 and later).
type deviceLink struct {
	open    func() (fd int, err error)
	fd      int // valid if isOpen
	isOpen  bool
	closing sync.WaitGroup // the kernel lets go of a descriptor only when the TPM has finished
}

func (l *deviceLink) exchange(ctx context.Context, command []byte) ([]byte, error) {
	if !l.isOpen {
		fd, err := l.open()
		if err != nil {
			return nil, err
		}
		l.fd, l.isOpen = fd, true
	}
	response, err := l.transact(ctx, command)
	if err != nil {
		l.drop()
		return nil, err
	}
	return response, nil
}

func (l *deviceLink) transact(ctx context.Context, command []byte) ([]byte, error) {
	if n, err := ignoringEINTR(func() (int, error) { return unix.Write(l.fd, command) }); err != nil || n != len(command) {
		return nil, errors.Join(fmt.Errorf("write: %d of %d bytes", n, len(command)), err)
	}
	response, have := make([]byte, maxResponse), 0
	for {
		if err := l.await(ctx); err != nil {
			return nil, err
		}
		n, err := ignoringEINTR(func() (int, error) { return unix.Read(l.fd, response[have:]) })
		if err != nil {
			return nil, fmt.Errorf("read: %w", err)
		}
		if n == 0 {
			return nil, io.ErrUnexpectedEOF
		}
		if have += n; have < headerSize {
			continue
		}
		size, err := responseSize(response)
		if err != nil || have >= size {
			return response[:have], err
		}
	}
}

// await polls in slices, for poll(2) knows no contexts.
func (l *deviceLink) await(ctx context.Context) error {
	fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}} // #nosec G115 -- descriptors are small
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := ignoringEINTR(func() (int, error) { return unix.Poll(fds, int(pollSlice/time.Millisecond)) })
		if err != nil {
			return fmt.Errorf("poll: %w", err)
		}
		if n > 0 && fds[0].Revents&unix.POLLIN != 0 {
			return nil
		}
		if n > 0 {
			return fmt.Errorf("poll: events %#x", fds[0].Revents)
		}
	}
}

// drop closes the descriptor aside: closing waits for the command that the TPM still works on, if it hangs for minutes.
func (l *deviceLink) drop() {
	fd := l.fd
	l.isOpen = false
	l.closing.Go(func() { _ = unix.Close(fd) }) // nothing depends on it
}

// close waits for the kernel as long as patience lasts; a TPM that hangs for longer keeps a descriptor until the process ends.
func (l *deviceLink) close(patience time.Duration) error {
	if l.isOpen {
		l.drop()
	}
	closed := make(chan struct{})
	go func() { // ends with the last close(2)
		l.closing.Wait()
		close(closed)
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-closed:
		return nil
	case <-timer.C:
		return fmt.Errorf("%w: a command is still running in the kernel", ErrTimeout)
	}
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
