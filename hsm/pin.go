package hsm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// pinForbidden are the permission bits that a PIN file must not have. Reading by the group is let through because
// systemd shows the access list of a credential (LoadCredential=) as mode 0440.
const pinForbidden fs.FileMode = 0o037

// userPIN takes the PIN that the caller brings, or reads it.
func (c Config) userPIN() (string, error) {
	if c.PIN != nil {
		return parsePIN(bytes.NewReader(c.PIN), c.PINFile)
	}
	return readPIN(c.PINFile)
}

// readPIN never puts the file's content into an error.
func readPIN(path string) (string, error) {
	if path == "" {
		return "", errors.New("pin_file: empty")
	}
	// O_NONBLOCK: opening a FIFO would wait for its writer for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0) // #nosec G304 -- the operator's configuration names it
	if err != nil {
		return "", fmt.Errorf("pin_file: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	// The mode is read from the open file, so that it cannot be swapped between check and use.
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("pin_file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("pin_file: %s is not a regular file", path)
	}
	if bad := info.Mode().Perm() & pinForbidden; bad != 0 {
		return "", fmt.Errorf("pin_file: %s has mode %04o: others must not read it, nor the group write it (chmod 0600)", path, info.Mode().Perm())
	}
	return parsePIN(f, path)
}

func parsePIN(r io.Reader, path string) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxPIN+3))
	defer clear(data)
	if err != nil {
		return "", fmt.Errorf("pin_file: %w", err)
	}
	pin := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	if pin == "" || len(pin) > maxPIN {
		return "", fmt.Errorf("pin_file: %s holds no PIN of 1..%d bytes", path, maxPIN)
	}
	if strings.ContainsAny(pin, "\n\r\x00") {
		return "", fmt.Errorf("pin_file: %s holds more than one line", path)
	}
	return pin, nil
}
