// Package swtpmd makes and runs a software TPM (swtpm) for development and tests, without root. Everything that it writes lies
// below one directory:
//
//	state/       the TPM's non-volatile memory, the only part that matters
//	ca/          a local CA that plays the TPM's manufacturer: issuercert.pem, swtpm-localca-rootca-cert.pem
//	sock         the TPM's socket (see [Process.Socket])
//	swtpm.log    what swtpm prints
//	swtpm.pid    the running process; swtpm.lock is held by who started it
//
// A software TPM protects nothing: its keys and counters are in files that can be copied back. This package never pretends otherwise.
//
// Functions on one directory must not run concurrently; the methods of a [Process] may.
package swtpmd

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

var (
	// ErrMissing means that a program of swtpm is not installed.
	ErrMissing = errors.New("swtpm is not installed: apt-get install swtpm swtpm-tools")
	// ErrExists means that the directory already holds a TPM, which is never overwritten.
	ErrExists = errors.New("a TPM exists here already")
	// ErrNotProvisioned means that the directory holds no TPM yet.
	ErrNotProvisioned = errors.New("no TPM here: provision one first")
)

const (
	stateDir = "state"
	caDir    = "ca"
	logFile  = "swtpm.log"
	pidFile  = "swtpm.pid"
	lockFile = "swtpm.lock"
	tpmState = "tpm2-00.permall"
)

// Provision manufactures a TPM below dir: RSA 2048 and ECC P-384 endorsement keys with certificates from a local CA, made on the
// first call and kept, and a SHA-256 PCR bank alone. It refuses with [ErrExists] a directory that holds a TPM. The TPM appears
// whole or not at all; a call that was cut short can be repeated.
func Provision(ctx context.Context, dir string) error {
	dir, err := cleanDir(dir)
	if err != nil {
		return err
	}
	if Provisioned(dir) {
		return fmt.Errorf("swtpmd: %w: %s", ErrExists, dir)
	}
	building := filepath.Join(dir, stateDir+".new")
	if err := os.RemoveAll(building); err != nil {
		return fmt.Errorf("swtpmd: %w", err)
	}
	for _, d := range []string{building, filepath.Join(dir, caDir)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("swtpmd: %w", err)
		}
	}
	if err := manufacture(ctx, dir, building); err != nil {
		return err
	}
	if err := os.Rename(building, filepath.Join(dir, stateDir)); err != nil {
		return fmt.Errorf("swtpmd: %w", err)
	}
	return nil
}

// Provisioned reports whether dir holds a TPM.
func Provisioned(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, stateDir, tpmState))
	return err == nil
}

// ManufacturerPEM reads the certificates of the local CA of dir.
func ManufacturerPEM(dir string) (root, intermediate []byte, err error) {
	root, rootErr := os.ReadFile(filepath.Join(dir, caDir, "swtpm-localca-rootca-cert.pem"))
	intermediate, err = os.ReadFile(filepath.Join(dir, caDir, "issuercert.pem"))
	if err := errors.Join(rootErr, err); err != nil {
		return nil, nil, fmt.Errorf("swtpmd: %w", err)
	}
	return root, intermediate, nil
}

// ManufacturerCA reads the certificates of the local CA of dir: what EK certificates verify against.
func ManufacturerCA(dir string) (roots, intermediates *x509.CertPool, err error) {
	root, intermediate, err := ManufacturerPEM(dir)
	if err != nil {
		return nil, nil, err
	}
	roots, intermediates = x509.NewCertPool(), x509.NewCertPool()
	if !roots.AppendCertsFromPEM(root) || !intermediates.AppendCertsFromPEM(intermediate) {
		return nil, nil, fmt.Errorf("swtpmd: %s holds no certificates", filepath.Join(dir, caDir))
	}
	return roots, intermediates, nil
}

// cleanDir makes dir absolute. swtpm separates its options with commas and its configuration with white space.
func cleanDir(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("swtpmd: %w", err)
	}
	if strings.ContainsAny(dir, ", \t\n$") {
		return "", fmt.Errorf("swtpmd: directory %q: swtpm cannot take commas, spaces or $ in a path", dir)
	}
	return dir, nil
}

func manufacture(ctx context.Context, dir, state string) error {
	setup, err := lookPath("swtpm_setup")
	if err != nil {
		return err
	}
	config, err := writeConfig(dir)
	if err != nil {
		return err
	}
	// #nosec G204 -- program and arguments hold no outside input but the caller's directory
	cmd := exec.CommandContext(ctx, setup, "--config", config, "--tpmstate", state, "--tpm2",
		"--create-ek-cert", "--create-platform-cert", "--ecc", "--pcr-banks", "sha256")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("swtpmd: swtpm_setup: %w: %s", err, lastLines(out))
	}
	return nil
}

// writeConfig writes the files that keep swtpm_setup and swtpm_localca from using those of the whole system.
func writeConfig(dir string) (string, error) {
	localCA, err := lookPath("swtpm_localca")
	if err != nil {
		return "", err
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	ca := path(caDir)
	files := map[string]string{
		"localca.conf": fmt.Sprintf("statedir = %s\nsigningkey = %s/signkey.pem\nissuercert = %s/issuercert.pem\ncertserial = %s/certserial\n",
			ca, ca, ca, ca),
		"localca.options": "--platform-manufacturer Signet\n--platform-version 1\n--platform-model development\n",
		"setup.conf": fmt.Sprintf("create_certs_tool = %s\ncreate_certs_tool_config = %s\ncreate_certs_tool_options = %s\nactive_pcr_banks = sha256\n",
			localCA, path("localca.conf"), path("localca.options")),
	}
	for name, text := range files {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			return "", fmt.Errorf("swtpmd: %w", err)
		}
	}
	return path("setup.conf"), nil
}

func lookPath(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("swtpmd: %w (%w)", ErrMissing, err)
	}
	return path, nil
}

// lastLines keeps an error readable: the end of what a program printed.
func lastLines(out []byte) string {
	const limit = 400
	out = bytes.TrimSpace(out)
	if len(out) > limit {
		out = out[len(out)-limit:]
	}
	return strings.ReplaceAll(string(out), "\n", "; ")
}
