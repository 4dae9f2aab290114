package durable

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxPid bounds what is read of a lock file that something else may have filled.
const maxPid = 20

// Lock takes the exclusive flock(2) on path, which it creates with mode 0600 and never removes, and notes this
// process's pid in it. A held lock is [ErrLocked] at once, with the holder's pid in the message. The lock ends with
// unlock (further calls do nothing) or with the process, however that dies; child processes do not inherit it.
func Lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("durable: lock: %w", err)
	}
	if err := flock(f); err != nil {
		return nil, errors.Join(lockError(f, err), f.Close())
	}
	if err := notePid(f); err != nil {
		return nil, errors.Join(fmt.Errorf("durable: lock %s: %w", path, err), f.Close())
	}
	var once sync.Once
	return func() {
		// Closing releases the lock whatever it returns, and the pid was only for a message.
		once.Do(func() { _ = f.Close() })
	}, nil
}

func flock(f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func lockError(f *os.File, err error) error {
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("durable: lock %s: %w", f.Name(), err)
	}
	text, readErr := io.ReadAll(io.LimitReader(f, maxPid))
	pid, convErr := strconv.Atoi(strings.TrimSpace(string(text)))
	if readErr != nil || convErr != nil {
		return fmt.Errorf("%w: %s is held by another process", ErrLocked, f.Name())
	}
	return fmt.Errorf("%w: %s is held by process %d", ErrLocked, f.Name(), pid)
}

func notePid(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}
