package appliance

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/signet-pki/signet/audit"
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
	certs, err := readCertificates(filepath.Join(c.pkiDir(), "audit.pem"))
	if err != nil {
		return err
	}
	r, err := audit.Fsck(ctx, c.auditConfig(publicOnly{certs[0].PublicKey}, nil, nil, time.Now, log))
	if err != nil {
		return err
	}
	for _, f := range r.Findings {
		if _, err := fmt.Fprintln(w, f); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(w, "%d entries, %d payloads (%d absent), %d seals, %d findings\n", r.Entries, r.Payloads, r.Absent, r.Seals, len(r.Findings)); err != nil {
		return err
	}
	if !r.OK() {
		return ErrDamaged
	}
	return nil
}
