package appliance

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"golang.org/x/term"

	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// maxTypedPIN is one more than the longest line that can be a PIN: hsm takes 255 bytes.
const maxTypedPIN = 255 + 3

// ReadPIN reads a PIN, one line; a terminal does not show it. The caller clears it.
func ReadPIN(in *os.File, prompt io.Writer) ([]byte, error) {
	if fd := int(in.Fd()); term.IsTerminal(fd) { // #nosec G115 -- descriptors are small
		_, _ = fmt.Fprint(prompt, "PIN: ")
		pin, err := term.ReadPassword(fd)
		_, _ = fmt.Fprintln(prompt)
		return pin, err
	}
	buffer := make([]byte, maxTypedPIN)
	n, err := io.ReadFull(in, buffer)
	if err == nil {
		clear(buffer)
		return nil, errors.New("pin: the input is too long")
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("pin: %w", err)
	}
	return bytes.TrimSuffix(bytes.TrimSuffix(buffer[:n], []byte("\n")), []byte("\r")), nil
}

// SealPIN seals the PIN of the token of a role (root, issuing, audit) to the TPM and writes a new file. The token is asked once
// whether it is its PIN.
func SealPIN(ctx context.Context, c Config, role, approverFile, out string, pin []byte, log *slog.Logger) error {
	t, ok := map[string]Token{"root": c.Tokens.Root, "issuing": c.Tokens.Issuing, "audit": c.Tokens.Audit}[role]
	if !ok || t.Label == "" {
		return fmt.Errorf("pin seal: the configuration has no token %q", role)
	}
	approver, err := readBlock(approverFile, "PUBLIC KEY", 0)
	if err != nil {
		return fmt.Errorf("pin seal: %w", err)
	}
	key, err := tpm.ParseApprover(approver)
	if err != nil {
		return fmt.Errorf("pin seal: %s: %w", approverFile, err)
	}
	if _, err := os.Lstat(out); err == nil {
		return fmt.Errorf("pin seal: %s exists", out)
	}
	if len(pin) == 0 {
		return errors.New("pin seal: no PIN on standard input")
	}
	t.PINFile = "standard input"
	token, err := c.openTokenWith(ctx, t, pin, log)
	if err != nil {
		return fmt.Errorf("pin seal: %w", err)
	}
	if err := token.Close(); err != nil {
		return fmt.Errorf("pin seal: %w", err)
	}
	dev, err := c.openTPM(ctx, quote.Binding{}, log)
	if err != nil {
		return fmt.Errorf("pin seal: %w", err)
	}
	sealed, err := dev.SealPIN(ctx, t.Label, pin, key)
	if err := errors.Join(err, dev.Close()); err != nil {
		return fmt.Errorf("pin seal: %w", err)
	}
	return writeNew(out, sealed.Marshal)
}

// PrintPCRs prints the values of the registers of tpm.pcrs, for an approver.
func PrintPCRs(ctx context.Context, c Config, w io.Writer, log *slog.Logger) error {
	dev, err := c.openTPM(ctx, quote.Binding{}, log)
	if err != nil {
		return fmt.Errorf("pin pcrs: %w", err)
	}
	pcrs, err := dev.PCRs(ctx)
	if err := errors.Join(err, dev.Close()); err != nil {
		return fmt.Errorf("pin pcrs: %w", err)
	}
	text, err := tpm.MarshalPCRs(pcrs)
	if err != nil {
		return fmt.Errorf("pin pcrs: %w", err)
	}
	_, err = w.Write(text)
	return err
}

// ApprovePIN signs, with the approver's key, that a sealed PIN may be released under the values in a file, and writes that
// approval to a new one. It touches no device.
func ApprovePIN(sealedFile, valuesFile, keyFile, out string) error {
	sealed, err := loadSealedPIN(sealedFile)
	if err != nil {
		return fmt.Errorf("pin approve: %s: %w", sealedFile, err)
	}
	text, err := readBounded(valuesFile, 0)
	if err != nil {
		return fmt.Errorf("pin approve: %w", err)
	}
	pcrs, err := tpm.ParsePCRs(text)
	if err != nil {
		return fmt.Errorf("pin approve: %s: %w", valuesFile, err)
	}
	key, err := readApprover(keyFile)
	if err != nil {
		return fmt.Errorf("pin approve: %w", err)
	}
	approval, err := sealed.Approve(key, pcrs)
	if err != nil {
		return fmt.Errorf("pin approve: %w", err)
	}
	return writeNew(out, approval.Marshal)
}

// AcceptPIN puts an approval into the file of the sealed PIN, if it is the approver's and for that one.
func AcceptPIN(sealedFile, approvalFile string, w io.Writer) error {
	sealed, err := loadSealedPIN(sealedFile)
	if err != nil {
		return fmt.Errorf("pin accept: %s: %w", sealedFile, err)
	}
	text, err := readBounded(approvalFile, 0)
	if err != nil {
		return fmt.Errorf("pin accept: %w", err)
	}
	approval, err := tpm.ParsePINApproval(text)
	if err != nil {
		return fmt.Errorf("pin accept: %s: %w", approvalFile, err)
	}
	if sealed, err = sealed.Accept(approval); err != nil {
		return fmt.Errorf("pin accept: %s: %w", approvalFile, err)
	}
	if text, err = sealed.Marshal(); err != nil {
		return fmt.Errorf("pin accept: %w", err)
	}
	if err := durable.WriteFile(sealedFile, text, 0o600); err != nil {
		return fmt.Errorf("pin accept: %w", err)
	}
	_, err = fmt.Fprintf(w, "the PIN of token %q is released under values of PCRs %s; approved: %d\n",
		sealed.Token(), strings.Trim(fmt.Sprint(approval.PCRs()), "[]"), sealed.Approvals())
	return err
}

// readApprover reads the approver's key, PKCS #8 in PEM, that only its owner can read.
func readApprover(path string) (crypto.Signer, error) {
	der, err := readBlock(path, "PRIVATE KEY", 0o077)
	if err != nil {
		return nil, err
	}
	defer clear(der)
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: not a private key (PKCS #8)", path)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: not a signing key", path)
	}
	return key, nil
}

func readBlock(path, kind string, forbidden os.FileMode) ([]byte, error) {
	text, err := readBounded(path, forbidden)
	if err != nil {
		return nil, err
	}
	defer clear(text)
	block, rest := pem.Decode(text)
	if block == nil || block.Type != kind || len(bytes.TrimSpace(rest)) != 0 {
		return nil, fmt.Errorf("%s: not one PEM block %q", path, kind)
	}
	return block.Bytes, nil
}

func writeNew(path string, marshal func() ([]byte, error)) error {
	text, err := marshal()
	if err != nil {
		return err
	}
	return durable.Create(path, text, 0o600)
}
