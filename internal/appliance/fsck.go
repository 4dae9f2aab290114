package appliance

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/delegation"
)

// ErrDamaged means that fsck found something; the lines say what.
var ErrDamaged = errors.New("the log is not in order")

// publicOnly is a signer that cannot sign: fsck checks signatures and makes none, so it needs no token.
type publicOnly struct{ key crypto.PublicKey }

// Public is the audit key.
func (p publicOnly) Public() crypto.PublicKey { return p.key }

// Sign refuses.
func (p publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("fsck signs nothing")
}

// Fsck recomputes the log from its entries and compares; it changes nothing, and needs the daemon stopped.
func Fsck(ctx context.Context, c Config, w io.Writer, log *slog.Logger) error {
	cfg, err := c.fsckConfig(log)
	if err != nil {
		return err
	}
	r, err := audit.Fsck(ctx, cfg)
	if err != nil {
		return err
	}
	if err := printReport(w, r); err != nil {
		return err
	}
	if !r.OK() {
		return ErrDamaged
	}
	return nil
}

// Repair makes anew what is derived from the entries, if Fsck finds nothing else wrong, and checks again.
func Repair(ctx context.Context, c Config, w io.Writer, log *slog.Logger) error {
	cfg, err := c.fsckConfig(log)
	if err != nil {
		return err
	}
	r, err := audit.Repair(ctx, cfg)
	if err := errors.Join(printReport(w, r), err); err != nil || r.OK() {
		return err
	}
	if _, err := fmt.Fprintln(w, "repaired; once more:"); err != nil {
		return err
	}
	return Fsck(ctx, c, w, log)
}

func (c *Config) fsckConfig(log *slog.Logger) (audit.Config, error) {
	certs, err := readCertificates(filepath.Join(c.pkiDir(), "audit.pem"))
	if err != nil {
		return audit.Config{}, err
	}
	indexKey, err := os.ReadFile(c.indexKey())
	if err != nil {
		return audit.Config{}, err
	}
	cfg := c.auditConfig(publicOnly{certs[0].PublicKey}, nil, indexKey, time.Now, log)
	cfg.Replay = delegation.NewReplay(time.Now(), pseudonyms(indexKey))
	return cfg, nil
}

func printReport(w io.Writer, r audit.Report) error {
	for _, f := range r.Findings {
		if _, err := fmt.Fprintln(w, f); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%d entries, %d payloads (%d erased), %d pruned entries, %d seals, %d findings\n", r.Entries, r.Payloads, r.Erased, r.Pruned, r.Seals, len(r.Findings))
	return err
}
