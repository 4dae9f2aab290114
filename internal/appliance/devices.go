package appliance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// devices are what holds the keys.
type devices struct {
	issuing keyring
	audit   keyring
	tpm     *tpm.Device
	binding quote.Binding // what the ceremony knew of the TPM
}

// moduleProcess is the program that runs, whatever has taken its place in the file system since.
var moduleProcess = []string{"/proc/self/exe", "module"}

// ServeModule is the process of a token that is isolated: the command "module" of every program that opens one.
func ServeModule() error { return hsm.ServeModule() }

// openToken takes the TPM that is open already, if one is: it may keep the PIN.
func (c *Config) openToken(ctx context.Context, t Token, dev *tpm.Device, log *slog.Logger) (*hsm.Token, error) {
	pin, err := c.pin(ctx, t, dev, log)
	if err != nil {
		return nil, fmt.Errorf("token %q: %w", t.Label, err)
	}
	defer clear(pin)
	return c.openTokenWith(ctx, t, pin, log)
}

// openTokenWith takes the PIN; without one it is in the file.
func (c *Config) openTokenWith(ctx context.Context, t Token, pin []byte, log *slog.Logger) (*hsm.Token, error) {
	cfg := hsm.Config{
		Module: t.Module, Token: t.Label, PINFile: c.path(t.PINFile), PIN: pin, Sessions: t.Sessions, Queue: t.Queue, Timeout: t.Timeout,
	}
	if t.Isolate {
		cfg.Process = moduleProcess
	}
	tok, err := hsm.Open(ctx, cfg, log.With(slog.String("token", t.Label)))
	if err != nil {
		return nil, fmt.Errorf("token %q: %w", t.Label, err)
	}
	return tok, nil
}

// openTPM takes the names that the ceremony gave to the attestation key and the counter: others are refused. Before the ceremony
// there are none.
func (c *Config) openTPM(ctx context.Context, ceremony quote.Binding, log *slog.Logger) (*tpm.Device, error) {
	cfg := tpm.Config{
		Path: c.TPM.Path, Timeout: c.TPM.Timeout, PCRs: c.TPM.selection(), AKName: ceremony.AKName, CounterName: ceremony.NVName,
	}
	if ceremony.AKName != nil {
		srk, err := c.readHeld(ceremony)
		if err != nil {
			return nil, err
		}
		if srk != nil {
			cfg.SRKName = srk.Name()
		}
	}
	dev, err := tpm.Open(ctx, cfg, log.With(slog.String("device", "tpm")))
	if err != nil {
		return nil, fmt.Errorf("tpm %s: %w", c.TPM.Path, err)
	}
	return dev, nil
}

// openDevices opens what serving needs; on an error nothing stays open.
func (c *Config) openDevices(ctx context.Context, log *slog.Logger) (d devices, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.binding, err = c.readBinding(); err != nil {
		return d, err
	}
	if d.tpm, err = c.openTPM(ctx, d.binding, log); err != nil {
		return d, err
	}
	if d.issuing, err = c.openKeys(ctx, "issuing", c.Tokens.Issuing, d.tpm, log); err != nil {
		return d, err
	}
	if d.audit, err = c.openKeys(ctx, "audit", c.Tokens.Audit, d.tpm, log); err != nil {
		return d, err
	}
	return d, errors.Join(c.checkTPM(ctx, d.tpm, d.binding), c.checkToken(ctx, d.issuing), c.checkToken(ctx, d.audit))
}

// checkTPM asks for the attestation key and the counter of the ceremony, and refuses a simulated TPM outside development.
func (c *Config) checkTPM(ctx context.Context, dev *tpm.Device, ceremony quote.Binding) error {
	if err := dev.Check(ctx); err != nil {
		return whatHappened(ctx, dev, ceremony, err)
	}
	if !c.Development && dev.Simulated(ctx) {
		return errors.New("tpm: this is a software or virtual TPM, which protects nothing; it is allowed with development: true only")
	}
	return nil
}

// checkToken refuses a software token outside development. It is the module's own word: a check against mistakes.
func (c *Config) checkToken(ctx context.Context, keys keyring) error {
	t, ok := keys.(tokenKeys)
	if c.Development || !ok {
		return nil
	}
	info, err := t.Info(ctx)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	if isSoftHSM(info) {
		return errors.New("token: SoftHSM keeps its keys in files; it is allowed with development: true only")
	}
	return nil
}

func isSoftHSM(info hsm.Info) bool {
	return strings.Contains(strings.ToLower(info.Manufacturer+info.Model+info.Library), "softhsm")
}

// Close closes what is open, the keys last.
func (d devices) Close() error { return closeAll(d.tpm, d.audit, d.issuing) }

func closeAll(dev *tpm.Device, rings ...keyring) error {
	var errs []error
	if dev != nil {
		errs = append(errs, dev.Close())
	}
	for _, k := range rings {
		if t, ok := k.(tokenKeys); ok { // keys in the TPM end with it
			errs = append(errs, t.Close())
		}
	}
	return errors.Join(errs...)
}

// quoter is the TPM as the log wants it.
type quoter struct{ dev *tpm.Device }

var _ audit.Quoter = quoter{}

// State gives the anchor of the present boot.
func (q quoter) State(ctx context.Context) (audit.Anchor, error) {
	s, err := q.dev.State(ctx)
	return audit.Anchor{Reset: s.Reset, Restart: s.Restart, Counter: s.Counter}, err
}

// Increment moves the counter.
func (q quoter) Increment(ctx context.Context) (uint64, error) { return q.dev.Increment(ctx) }

// Quote quotes the PCRs.
func (q quoter) Quote(ctx context.Context, digest [32]byte) (audit.Statement, error) {
	return statement(q.dev.Quote(ctx, digest))
}

// CertifyCounter certifies the counter.
func (q quoter) CertifyCounter(ctx context.Context, digest [32]byte) (audit.Statement, error) {
	return statement(q.dev.CertifyCounter(ctx, digest))
}

func statement(s quote.Statement, err error) (audit.Statement, error) {
	return audit.Statement{Attest: s.Attest, Signature: s.Signature, PCRs: s.PCRs}, err
}
