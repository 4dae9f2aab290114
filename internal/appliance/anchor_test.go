package appliance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/internal/testrig/swtpm"
	"github.com/signet-pki/signet/tpm/quote"
)

func realTPM(t *testing.T) audit.Quoter {
	t.Helper()
	c := Config{TPM: TPM{Path: swtpm.New(t).Path(), PCRs: "sha256:0,1,2,3,4,5,6,7", Timeout: 30 * time.Second}}
	dev, err := c.openTPM(t.Context(), quote.Binding{}, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { must(t, dev.Close()) })
	k := ceremonyKeys{tpm: dev, records: records{t.TempDir()}}
	_, _, err = k.bindTPM(t.Context())
	must(t, err)
	return quoter{dev}
}

func taskEntry(t *testing.T) record.Entry {
	t.Helper()
	e, err := record.New(record.Envelope{Type: record.TypeTask, Time: time.Now().Truncate(time.Millisecond)}, nil, [record.SaltSize]byte{})
	must(t, err)
	return e
}

// sealsOne appends an entry to a log, waits until it is sealed, and closes. It returns the seal's number.
func sealsOne(t *testing.T, cfg audit.Config) uint64 {
	t.Helper()
	l, err := audit.Open(t.Context(), cfg)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	pos, err := l.Append(t.Context(), taskEntry(t))
	if err == nil {
		_, err = l.WaitSealed(t.Context(), pos.Index)
	}
	stop()
	must(t, errors.Join(err, <-ended))
	n := l.Status().LastSeal
	must(t, l.Close())
	return n
}

// An older copy of the log in its place is read-only, with the TPM's word for a reason, and nothing is sealed over it: the newer one
// goes on when it is back, from where the TPM is.
func TestOlderCopy(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	base := t.TempDir()
	q := realTPM(t)
	cfg := audit.Config{
		Dir: filepath.Join(base, "log"), Origin: "signet.test/log", Signer: key, Quoter: q, PCRs: []int{0, 1, 2, 3, 4, 5, 6, 7}, IndexKey: make([]byte, 32), Now: time.Now,
		Log: slog.New(slog.DiscardHandler), SealInterval: 50 * time.Millisecond, MinFree: 1 << 20, Ballast: 1 << 20,
	}
	must(t, audit.Create(t.Context(), cfg, []record.Entry{taskEntry(t)}))
	sealsOne(t, cfg)
	must(t, os.CopyFS(filepath.Join(base, "older"), os.DirFS(cfg.Dir)))
	newest := sealsOne(t, cfg)

	must(t, os.Rename(cfg.Dir, filepath.Join(base, "newer")))
	must(t, os.Rename(filepath.Join(base, "older"), cfg.Dir))
	before, err := q.State(t.Context())
	must(t, err)
	l, err := audit.Open(t.Context(), cfg)
	must(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	if st := l.Status(); st.Writable || len(st.Reasons) != 1 || !strings.HasPrefix(st.Reasons[0], "tpm_counter: ") || !strings.Contains(st.Reasons[0], "older copy") {
		t.Errorf("status %+v", st)
	}
	if _, err := l.Append(t.Context(), taskEntry(t)); !errors.Is(err, audit.ErrReadOnly) {
		t.Errorf("append: %v", err)
	}
	if n := l.Status().LastSeal; n >= newest {
		t.Errorf("seal %d of the older copy, the newest was %d", n, newest)
	}
	stop()
	must(t, errors.Join(<-ended, l.Close()))
	if after, err := q.State(t.Context()); err != nil || after != before {
		t.Errorf("the TPM went from %+v to %+v, %v", before, after, err)
	}

	must(t, os.RemoveAll(cfg.Dir))
	must(t, os.Rename(filepath.Join(base, "newer"), cfg.Dir))
	if n := sealsOne(t, cfg); n <= newest {
		t.Errorf("seal %d after %d", n, newest)
	}
}
