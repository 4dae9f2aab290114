package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/tpm"
)

// ErrUnwell means that a check of the doctor failed; the lines say which.
var ErrUnwell = errors.New("not everything is in order")

// finding is one line of the doctor: what was looked at, and what is wrong with it and how to mend it.
type finding struct {
	what string
	word string // "" is ok
	note string
	err  error
}

// Doctor looks at devices and files and prints a line for each, changing nothing. It may run beside the daemon, except
// that a TPM without a resource manager has one user at a time.
func Doctor(ctx context.Context, c Config, w io.Writer, log *slog.Logger) error {
	unwell := false
	for _, check := range []func(context.Context, *slog.Logger) []finding{c.examineTokens, c.examineTPM, c.examineFiles} {
		for _, f := range check(ctx, log) {
			orElse(&f.word, "ok")
			if f.err != nil {
				f.word, f.note, unwell = "FAIL", f.err.Error(), true
			}
			if _, err := fmt.Fprintf(w, "%-4s  %-16s %s\n", f.word, f.what, f.note); err != nil {
				return err
			}
		}
	}
	if unwell {
		return ErrUnwell
	}
	return nil
}

func (c *Config) examineTokens(ctx context.Context, log *slog.Logger) []finding {
	var out []finding
	for _, t := range []struct {
		what string
		cfg  Token
	}{{"token issuing", c.Tokens.Issuing}, {"token audit", c.Tokens.Audit}} {
		out = append(out, c.examineToken(ctx, t.what, t.cfg, log)...)
	}
	return out
}

func (c *Config) examineToken(ctx context.Context, what string, t Token, log *slog.Logger) []finding {
	tok, err := c.openToken(ctx, t, log)
	if err != nil {
		return []finding{{what: what, err: err}}
	}
	defer tok.Close() //nolint:errcheck // looked at only
	info, err := tok.Info(ctx)
	if err != nil {
		return []finding{{what: what, err: err}}
	}
	f := finding{what: what, note: fmt.Sprintf("%s %s, firmware %s", info.Manufacturer, info.Model, info.Firmware)}
	if info.LoginTriesLow {
		f.err = errors.New("the PIN was entered wrongly before: check who tries")
	}
	return append([]finding{f}, describedToken(what, info).advisories()...)
}

func (c *Config) examineTPM(ctx context.Context, log *slog.Logger) []finding {
	binding, err := c.readBinding()
	if err != nil {
		return []finding{{what: "tpm", err: err}}
	}
	dev, err := c.openTPM(ctx, binding, log)
	if err != nil {
		return []finding{{what: "tpm", err: err}}
	}
	defer dev.Close() //nolint:errcheck // looked at only
	info, err := dev.Info(ctx)
	if err != nil {
		return []finding{{what: "tpm", err: err}}
	}
	chip := describedTPM(info)
	out := []finding{
		{what: "tpm", note: fmt.Sprintf("%s %s, firmware %s", info.Manufacturer, info.Vendor, chip.device.Firmware)},
		{what: "tpm keys", note: "attestation key and counter are there", err: c.checkTPM(ctx, dev, binding)},
		{what: "tpm clear", note: clearNote(info)},
		{what: "tpm pcrs", note: "tpm.pcr_values accepts them, or names none", err: c.TPM.checkPCRs(ctx, dev)},
	}
	ek, err := dev.EK(ctx)
	f := finding{what: "tpm identity", err: err, note: "endorsement key with a certificate"}
	if err == nil && ek.Certificate == nil {
		f.note = "endorsement key without a certificate: nobody vouches for this TPM"
	}
	return append(append(out, f), chip.advisories()...)
}

// clearNote is for people to weigh: the firmware can clear a TPM in any case.
func clearNote(info tpm.Info) string {
	if info.ClearDisabled {
		return "only the firmware can clear it"
	}
	return "whoever may use it can clear it, which begins its counter anew: tpm2_clearcontrol -C l s"
}

func (c *Config) examineFiles(context.Context, *slog.Logger) []finding {
	out := []finding{{what: "certificates", note: c.pkiDir()}}
	if _, err := c.loadTrust(); err != nil {
		out[0].err = err
	}
	f := finding{what: "index key", note: "only its owner can read it"}
	if info, err := os.Stat(c.indexKey()); err != nil {
		f.err = err
	} else if info.Mode().Perm()&0o077 != 0 {
		f.err = fmt.Errorf("%s has mode %v: chmod 600", c.indexKey(), info.Mode().Perm())
	}
	out = append(out, f)
	free, err := durable.FreeBytes(c.Dir)
	return append(out, finding{what: "disk", note: fmt.Sprintf("%d MiB free", free>>20), err: err})
}
