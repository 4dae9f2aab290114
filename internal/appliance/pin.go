package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// Where a PIN comes from, besides a file.
const (
	credentialPrefix     = "credential:" // #nosec G101 -- a form of the configuration
	sealedPrefix         = "sealed:"
	credentialsDirectory = "CREDENTIALS_DIRECTORY" // systemd.exec(5)
)

// maxPINFile bounds every file that has to do with a sealed PIN, in bytes.
const maxPINFile = 64 << 10

func validPINFile(p string) bool {
	if name, ok := strings.CutPrefix(p, credentialPrefix); ok {
		return name != "" && name == filepath.Base(name) && name != ".." && name != "."
	}
	return p != sealedPrefix
}

// pin unseals the PIN of a token whose configuration says so, with the TPM if it is open already; the caller clears it. Nothing is
// for a PIN in a file. On an error the token is not to be asked: it would count a wrong PIN.
func (c *Config) pin(ctx context.Context, t Token, dev *tpm.Device, log *slog.Logger) ([]byte, error) {
	if name, ok := strings.CutPrefix(t.PINFile, credentialPrefix); ok && os.Getenv(credentialsDirectory) == "" {
		return nil, fmt.Errorf("pin_no_credential: the service manager gave no credential %s: LoadCredential= or LoadCredentialEncrypted= of the unit", name)
	}
	if !strings.HasPrefix(t.PINFile, sealedPrefix) {
		return nil, nil
	}
	path := c.path(t.PINFile)
	sealed, err := loadSealedPIN(path)
	if err != nil {
		return nil, whySealed(path, err)
	}
	if sealed.Token() != t.Label {
		return nil, fmt.Errorf("pin_other_token: %s is for token %q", path, sealed.Token())
	}
	if dev == nil {
		if dev, err = c.openTPM(ctx, quote.Binding{}, log); err != nil {
			return nil, err
		}
		defer dev.Close() //nolint:errcheck // nothing was written
	}
	pin, err := dev.UnsealPIN(ctx, sealed)
	if err != nil {
		return nil, whySealed(path, err)
	}
	return pin, nil
}

// whySealed says what to do about a PIN that stays sealed.
func whySealed(path string, err error) error {
	word, fix := "", ""
	switch {
	case errors.Is(err, tpm.ErrNotApproved):
		word, fix = "pin_not_approved", "after an update that you know, have these values approved (signetd pin pcrs, approve, accept); after none, somebody "+
			"changed what this machine boots"
	case errors.Is(err, tpm.ErrSealedElsewhere):
		word, fix = "pin_other_tpm", "bring the old TPM back, or seal the PIN anew (signetd pin seal)"
	case errors.Is(err, tpm.ErrSealedCleared):
		word, fix = "pin_tpm_cleared", "seal the PIN anew (signetd pin seal)"
	case errors.Is(err, tpm.ErrSealedDamaged):
		word, fix = "pin_damaged", "bring the file back, or seal the PIN anew (signetd pin seal)"
	default:
		return err // the TPM does not answer, or there is no file
	}
	return fmt.Errorf("%s: %w; %s stays sealed and the token was not asked: %s", word, err, path, fix)
}

func loadSealedPIN(path string) (*tpm.SealedPIN, error) {
	data, err := readBounded(path, 0o022)
	if err != nil {
		return nil, err
	}
	return tpm.ParseSealedPIN(data)
}

// readBounded reads a regular file whose mode has none of the forbidden bits.
func readBounded(path string, forbidden fs.FileMode) ([]byte, error) {
	// O_NONBLOCK: opening a FIFO would wait for its writer for ever.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0) // #nosec G304 -- the operator names it
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Mode().Perm()&forbidden != 0 {
		return nil, fmt.Errorf("%s has mode %04o: chmod %04o", path, info.Mode().Perm(), info.Mode().Perm()&^forbidden)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPINFile+1))
	if err == nil && len(data) > maxPINFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxPINFile)
	}
	return data, err
}
