package appliance

import (
	"context"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
)

func (c *Config) auditConfig(key crypto.Signer, q audit.Quoter, indexKey []byte, now func() time.Time, log *slog.Logger) audit.Config {
	return audit.Config{
		Dir: c.logDir(), Origin: c.Origin, Signer: key, Quoter: q, IndexKey: indexKey, Private: delegation.Private, Archived: delegation.Archived, Now: now, Log: log,
		PCRs:         c.TPM.selection().PCRs(),
		SealInterval: c.Audit.SealInterval, Heartbeat: c.Audit.Heartbeat, MaxSealAge: c.Audit.MaxSealAge, MinFree: c.Audit.MinFree,
	}
}

// domainLog is the log as the domain wants it.
type domainLog struct{ *audit.Log }

var (
	_ delegation.Log     = domainLog{}
	_ delegation.Records = domainLog{}
)

// Append gives the domain's kind of position.
func (l domainLog) Append(ctx context.Context, e record.Entry) (delegation.Position, error) {
	p, err := l.Log.Append(ctx, e)
	if errors.Is(err, audit.ErrUnknown) {
		err = fmt.Errorf("%w: %w", delegation.ErrUnknown, err)
	}
	return delegation.Position{Index: p.Index, LeafHash: p.LeafHash}, err
}

// Erase likewise.
func (l domainLog) Erase(ctx context.Context, e record.Entry) (delegation.Position, error) {
	p, err := l.Log.Erase(ctx, e)
	if errors.Is(err, audit.ErrUnknown) {
		err = fmt.Errorf("%w: %w", delegation.ErrUnknown, err)
	}
	return delegation.Position{Index: p.Index, LeafHash: p.LeafHash}, err
}

// pseudonyms stand for users in envelopes and indexes; without the key nobody can tell whose they are.
func pseudonyms(key []byte) func(issuer, subject string) string {
	return func(issuer, subject string) string {
		m := hmac.New(sha256.New, key)
		m.Write([]byte("signet/user@v1\x00" + issuer + "\x00" + subject))
		return hex.EncodeToString(m.Sum(nil))
	}
}
