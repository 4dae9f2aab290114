package devkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/signet-pki/signet/internal/swtpmd"
)

// The variables from which tpm2-pkcs11 knows its place.
const (
	storeVariable = "TPM2_PKCS11_STORE"
	tctiVariable  = "TPM2_PKCS11_TCTI"
)

// ErrMissingTPM2PKCS11 means that tpm2-pkcs11 is not installed.
var ErrMissingTPM2PKCS11 = errors.New("tpm2-pkcs11 is not installed: apt-get install libtpm2-pkcs11-1")

// FindTPM2PKCS11 is the path of tpm2-pkcs11's library, or ErrMissingTPM2PKCS11.
func FindTPM2PKCS11() (string, error) {
	return findLibrary(ErrMissingTPM2PKCS11, "/usr/lib/*/libtpm2_pkcs11.so.1", "/usr/lib*/libtpm2_pkcs11.so.1", "/usr/local/lib/libtpm2_pkcs11.so")
}

// overTPM is the software TPM of the tokens, behind a resource manager: the module leaves objects in it.
type overTPM struct {
	tpm     *swtpmd.Process
	manager *swtpmd.Manager
}

func overTPMDir(dir string) string { return filepath.Join(dir, "token-tpm") }
func storeDir(dir string) string   { return filepath.Join(dir, "store") }

func makeOverTPM(ctx context.Context, dir string) (err error) {
	module, err := FindTPM2PKCS11()
	if err != nil {
		return err
	}
	if err := os.Mkdir(storeDir(dir), 0o700); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	if err := swtpmd.Provision(ctx, overTPMDir(dir)); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	o, err := startOverTPM(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.stop()) }() //nolint:contextcheck // stopping has a deadline of its own
	// Each kill would count as a wrong PIN.
	if err := o.tpm.NeverLock(ctx); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	return makeTokens(dir, module)
}

// startOverTPM points this process at the store of dir and runs its TPM.
func startOverTPM(ctx context.Context, dir string) (*overTPM, error) {
	p, err := swtpmd.Start(ctx, overTPMDir(dir))
	if err != nil {
		return nil, fmt.Errorf("devkit: %w", err)
	}
	socket := filepath.Join(filepath.Dir(p.Socket()), managedName)
	m, err := swtpmd.Manage(ctx, p.Socket(), socket)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("devkit: %w", err), p.Stop()) //nolint:contextcheck // stopping has a deadline of its own
	}
	o := &overTPM{tpm: p, manager: m}
	if err := errors.Join(pointTo(storeVariable, storeDir(dir)), pointTo(tctiVariable, "swtpm:path="+socket)); err != nil {
		return nil, errors.Join(err, o.stop()) //nolint:contextcheck // stopping has a deadline of its own
	}
	return o, nil
}

// managedName is short, for its path is that of a socket.
const managedName = "rm"

func (o *overTPM) stop() error {
	if o == nil {
		return nil
	}
	return errors.Join(o.manager.Close(), o.tpm.Stop())
}

// findOverTPM is for a process beside the one that runs the devices.
func findOverTPM(dir string) error {
	if os.Getenv(storeVariable) != "" {
		return nil
	}
	return errors.Join(pointTo(storeVariable, storeDir(dir)), pointTo(tctiVariable, "swtpm:path="+filepath.Join(overTPMDir(dir), managedName)))
}
