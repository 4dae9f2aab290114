// Package devkit gives a development appliance its devices: three tokens, in a SoftHSM or in tpm2-pkcs11 over a software TPM of
// its own, and a software TPM for the log, all below one directory and without root. They protect nothing: their keys are files.
//
// Make builds a device directory whole or not at all; Start runs what is in it. One process at a time uses a directory.
package devkit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/swtpmd"
)

// The labels of the tokens.
const (
	TokenRoot    = "signet-root"
	TokenIssuing = "signet-issuing"
	TokenAudit   = "signet-audit"
)

// softHSMConf is the variable that names SoftHSM's configuration.
const softHSMConf = "SOFTHSM2_CONF"

// Tokens are where the tokens are.
type Tokens int

// The kinds of Tokens.
const (
	InSoftHSM Tokens = iota
	OverTPM          // tpm2-pkcs11
)

// ErrMissing means that SoftHSM is not installed.
var ErrMissing = errors.New("SoftHSM is not installed: apt-get install softhsm2")

// Devices are the running development devices.
type Devices struct {
	dir    string
	module string
	tpm    *swtpmd.Process
	over   *overTPM // where the tokens are, if they are over a TPM
}

// Provisioned reports whether dir holds devices.
func Provisioned(dir string) bool {
	_, err := os.Stat(confFile(dir))
	return (err == nil || TokensOf(dir) == OverTPM) && swtpmd.Provisioned(tpmDir(dir))
}

// TokensOf tells where the tokens of dir are.
func TokensOf(dir string) Tokens {
	if swtpmd.Provisioned(overTPMDir(dir)) {
		return OverTPM
	}
	return InSoftHSM
}

// Make manufactures the devices in dir, which must not exist yet.
func Make(ctx context.Context, dir string, tokens Tokens) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	if err := swtpmd.Provision(ctx, tpmDir(dir)); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "pins"), 0o700); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	if tokens == OverTPM {
		return makeOverTPM(ctx, dir)
	}
	return makeSoftHSM(dir)
}

func makeSoftHSM(dir string) error {
	module, err := findModule()
	if err != nil {
		return err
	}
	if err := os.Mkdir(tokenDir(dir), 0o700); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	if err := useSoftHSM(dir); err != nil {
		return err
	}
	return makeTokens(dir, module)
}

func makeTokens(dir, module string) error {
	for _, label := range []string{TokenRoot, TokenIssuing, TokenAudit} {
		if err := makeToken(dir, module, label); err != nil {
			return err
		}
	}
	return nil
}

func makeToken(dir, module, label string) error {
	var raw [16]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	pin := hex.EncodeToString(raw[:])
	if err := os.WriteFile(PINFile(dir, label), []byte(pin+"\n"), 0o600); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	return hsm.InitToken(module, label, pin, pin)
}

// useSoftHSM writes the configuration for where dir is now and points this process at it. SoftHSM reads the variable
// when the module is initialised.
func useSoftHSM(dir string) error {
	conf := confFile(dir)
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n", tokenDir(dir))
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	return pointTo(softHSMConf, conf)
}

func pointTo(variable, value string) error {
	if err := os.Setenv(variable, value); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	return nil
}

// Find points this process at the tokens of dir, if there are any and nobody has named others. It changes nothing there.
func Find(dir string) error {
	switch {
	case !Provisioned(dir):
		return nil
	case TokensOf(dir) == OverTPM:
		return findOverTPM(dir)
	case os.Getenv(softHSMConf) != "":
		return nil
	}
	return pointTo(softHSMConf, confFile(dir))
}

// Start points this process at the tokens of dir and runs its TPMs. Stop ends them.
func Start(ctx context.Context, dir string) (*Devices, error) {
	d := &Devices{dir: dir}
	if err := d.startTokens(ctx); err != nil {
		return nil, err
	}
	var err error
	if d.tpm, err = swtpmd.Start(ctx, tpmDir(dir)); err != nil {
		return nil, errors.Join(fmt.Errorf("devkit: %w", err), d.over.stop()) //nolint:contextcheck // stopping has a deadline of its own
	}
	return d, nil
}

func (d *Devices) startTokens(ctx context.Context) (err error) {
	if TokensOf(d.dir) == OverTPM {
		if d.module, err = FindTPM2PKCS11(); err == nil {
			d.over, err = startOverTPM(ctx, d.dir)
		}
		return err
	}
	if d.module, err = findModule(); err != nil {
		return err
	}
	return useSoftHSM(d.dir)
}

// Module is the path of the tokens' library.
func (d *Devices) Module() string { return d.module }

// TPMPath is the TPM's path for the configuration.
func (d *Devices) TPMPath() string { return "unix:" + d.tpm.Socket() }

// Stop shuts the TPMs down in good order.
func (d *Devices) Stop() error { return errors.Join(d.tpm.Stop(), d.over.stop()) }

// PINFile is the file with the PIN of a token.
func PINFile(dir, label string) string { return filepath.Join(dir, "pins", label+".pin") }

func confFile(dir string) string { return filepath.Join(dir, "softhsm2.conf") }
func tokenDir(dir string) string { return filepath.Join(dir, "tokens") }
func tpmDir(dir string) string   { return filepath.Join(dir, "tpm") }

func findModule() (string, error) {
	return findLibrary(ErrMissing, "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so")
}

func findLibrary(missing error, patterns ...string) (string, error) {
	for _, pattern := range patterns {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", missing
}
