// Package devkit gives a development appliance its devices: a SoftHSM with three tokens and a software TPM, all below
// one directory and without root. They protect nothing: their keys are files.
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

// ErrMissing means that SoftHSM is not installed.
var ErrMissing = errors.New("SoftHSM is not installed: apt-get install softhsm2")

// Devices are the running development devices.
type Devices struct {
	dir    string
	module string
	tpm    *swtpmd.Process
}

// Provisioned reports whether dir holds devices.
func Provisioned(dir string) bool {
	_, err := os.Stat(confFile(dir))
	return err == nil && swtpmd.Provisioned(tpmDir(dir))
}

// Make manufactures the devices in dir, which must not exist yet.
func Make(ctx context.Context, dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	if err := swtpmd.Provision(ctx, tpmDir(dir)); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	return makeTokens(dir)
}

func makeTokens(dir string) error {
	module, err := findModule()
	if err != nil {
		return err
	}
	for _, d := range []string{tokenDir(dir), filepath.Join(dir, "pins")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return fmt.Errorf("devkit: %w", err)
		}
	}
	if err := useSoftHSM(dir); err != nil {
		return err
	}
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
	return pointTo(conf)
}

func pointTo(conf string) error {
	if err := os.Setenv(softHSMConf, conf); err != nil {
		return fmt.Errorf("devkit: %w", err)
	}
	return nil
}

// Find points this process at the SoftHSM of dir, if there is one and nobody has named another. It changes nothing there.
func Find(dir string) error {
	if os.Getenv(softHSMConf) != "" || !Provisioned(dir) {
		return nil
	}
	return pointTo(confFile(dir))
}

// Start points this process at the SoftHSM of dir and runs its TPM. Stop ends it.
func Start(ctx context.Context, dir string) (*Devices, error) {
	module, err := findModule()
	if err != nil {
		return nil, err
	}
	if err := useSoftHSM(dir); err != nil {
		return nil, err
	}
	p, err := swtpmd.Start(ctx, tpmDir(dir))
	if err != nil {
		return nil, fmt.Errorf("devkit: %w", err)
	}
	return &Devices{dir: dir, module: module, tpm: p}, nil
}

// Module is the path of SoftHSM's library.
func (d *Devices) Module() string { return d.module }

// TPMPath is the TPM's path for the configuration.
func (d *Devices) TPMPath() string { return "unix:" + d.tpm.Socket() }

// Stop shuts the TPM down in good order.
func (d *Devices) Stop() error { return d.tpm.Stop() }

// PINFile is the file with the PIN of a token.
func PINFile(dir, label string) string { return filepath.Join(dir, "pins", label+".pin") }

func confFile(dir string) string { return filepath.Join(dir, "softhsm2.conf") }
func tokenDir(dir string) string { return filepath.Join(dir, "tokens") }
func tpmDir(dir string) string   { return filepath.Join(dir, "tpm") }

func findModule() (string, error) {
	for _, pattern := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0], nil
		}
	}
	return "", ErrMissing
}
