package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/delegation"
)

// ExportFormer writes the evidence bundle of a former log, Dir/log.N, up to its last seal. It needs no device, and may run beside the
// daemon, which does not open that log.
func ExportFormer(ctx context.Context, c Config, n int, origin, out string, log *slog.Logger) (err error) {
	cfg, err := c.formerConfig(filepath.Join(c.Dir, "log."+strconv.Itoa(n)), origin, log)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	l, err := audit.Open(ctx, cfg)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if l.Head().Origin != origin {
		return fmt.Errorf("export: %v", l.Status().Reasons)
	}
	f, err := os.OpenFile(out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	err = c.writeFormer(ctx, l, f)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("export: %w", err), os.Remove(out))
	}
	return nil
}

// formerBallast is small: nothing is written to a former log.
const formerBallast = 4 << 10

// formerConfig opens a log that does not go on, with what a certificate says of its key.
func (c *Config) formerConfig(dir, origin string, log *slog.Logger) (audit.Config, error) {
	cfg, err := c.fsckConfig(log)
	cfg.Dir, cfg.Origin, cfg.Quoter, cfg.Replay, cfg.Ballast = dir, origin, unreachable{}, nil, formerBallast
	return cfg, err
}

func (c *Config) writeFormer(ctx context.Context, l *audit.Log, w io.Writer) error {
	seal, _, ok := l.LastSeal()
	if !ok {
		return errors.New("the log was never sealed")
	}
	t, err := c.loadTrust()
	if err != nil {
		return err
	}
	certs, err := c.certificates(t)
	if err != nil {
		return err
	}
	tar := bundle.NewTar(w)
	err = bundle.Write(ctx, tar, l, bundle.WriteOptions{
		Head: seal, Minimum: l.Minimum(), Certificates: certs, Attachments: attachments{l, delegation.NewPast(domainLog{l})},
	})
	if err != nil {
		return err
	}
	return tar.Close()
}

// formerLog is where the log of a backup is put: beside those that it succeeded itself.
func formerLog(dir string) string {
	last := lastFormer(dir)
	if last == "" {
		return filepath.Join(dir, "log.1")
	}
	n, _ := strconv.Atoi(filepath.Ext(last)[1:]) // it is ours
	return filepath.Join(dir, "log."+strconv.Itoa(n+1))
}

// lastFormer is the newest of the former logs; "" if there is none.
func lastFormer(dir string) string {
	last := ""
	for n := 1; ; n++ {
		path := filepath.Join(dir, "log."+strconv.Itoa(n))
		if _, err := os.Lstat(path); err != nil {
			return last
		}
		last = path
	}
}
