package audit

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/internal/durable"
)

// Anchor is the state of the TPM that a seal is tied to.
type Anchor struct {
	Reset   uint32 `json:"reset"`   // resetCount
	Restart uint32 `json:"restart"` // restartCount
	Counter uint64 `json:"counter"` // monotonic NV counter
}

// Statement is what the TPM signed: a marshalled TPMS_ATTEST, its signature (DER), and for a quote the PCR values.
type Statement struct {
	Attest, Signature, PCRs []byte
}

// Quoter is the TPM as the sealer sees it. Calls are never concurrent. An error of Increment leaves open whether the
// counter moved; the sealer finds out by State.
type Quoter interface {
	State(ctx context.Context) (Anchor, error)
	Increment(ctx context.Context) (uint64, error)                              // returns the new value
	Quote(ctx context.Context, qualifying [32]byte) (Statement, error)          // TPM2_Quote over the platform PCRs
	CertifyCounter(ctx context.Context, qualifying [32]byte) (Statement, error) // TPM2_NV_Certify
}

// Config describes a log. Zero durations and sizes take the defaults named beside them.
type Config struct {
	Dir    string        // holds everything of the log, mode 0700
	Origin string        // name of the log and of its key, like appliance.example/log
	Signer crypto.Signer // ECDSA P-256, the key that leaf 0 names. Fsck needs only its Public.
	// Keys finds a later audit key by its label; nil: there is none.
	Keys     func(ctx context.Context, label string) (crypto.Signer, error)
	Quoter   Quoter
	IndexKey []byte // 32 secret bytes that key the index terms
	// PCRs are the registers that Quoter quotes, in the order of their values in a Statement.
	PCRs []int
	// Private says which keys of domain state hold what an entry's erasure takes with it; nil: none.
	Private func(key string) bool
	// Archived says which of these an archive of the entry holds too, so that pruning the entry takes them with it. The others keep
	// their entry from being pruned. nil: none.
	Archived func(key string) bool
	// Replay compares domain state with the entries, for Fsck alone; nil: it is not compared.
	Replay Replay
	Now    func() time.Time
	Log    *slog.Logger

	SealInterval       time.Duration // 5s: least time between seals when busy
	Heartbeat          time.Duration // 1m: time between seals when idle
	MaxSealAge         time.Duration // 10m: Fresh fails beyond
	CheckpointInterval time.Duration // 1s: least time between signatures of a head outside seals
	DeviceTimeout      time.Duration // 30s: for one call of the Quoter
	DrainTimeout       time.Duration // 30s: for the last checkpoint and seal when Run ends
	ClockTolerance     time.Duration // 5s: how far the clock may be behind the last entry, and an entry ahead of it
	OrderlyBound       uint64        // 256: TPM_PT_ORDERLY_COUNT, how far the counter may move either way with a reset
	MinFree            uint64        // bytes that must stay free on the file system; 0 = a tenth of it
	Ballast            int64         // 64 MiB: size of the file that is given up so that a full disk still lets the log close

	hooks hooks
}

// hooks are seams for tests: a full disk, and death or failure at named points.
type hooks struct {
	space func(dir string) (free, total uint64, err error)
	at    func(point string) error
}

func (h hooks) reach(point string) error {
	if h.at == nil {
		return nil
	}
	return h.at(point)
}

// withDefaults checks what every use of the log needs and fills in the rest.
func (c Config) withDefaults() (Config, error) {
	if c.Dir == "" || c.Now == nil || c.Log == nil {
		return c, errors.New("audit: config: Dir, Now and Log are required")
	}
	if err := checkpoint.CheckOrigin(c.Origin); err != nil {
		return c, fmt.Errorf("audit: config: Origin: %w", err)
	}
	if c.Signer == nil {
		return c, errors.New("audit: config: Signer is required")
	}
	set(&c.SealInterval, 5*time.Second)
	set(&c.Heartbeat, time.Minute)
	set(&c.MaxSealAge, 10*time.Minute)
	set(&c.CheckpointInterval, time.Second)
	set(&c.DeviceTimeout, 30*time.Second)
	set(&c.DrainTimeout, 30*time.Second)
	set(&c.ClockTolerance, 5*time.Second)
	set(&c.OrderlyBound, 256)
	set(&c.Ballast, 64<<20)
	if c.SealInterval < 0 || c.Heartbeat < c.SealInterval || c.MaxSealAge < c.Heartbeat {
		return c, errors.New("audit: config: want SealInterval ≤ Heartbeat ≤ MaxSealAge")
	}
	if c.Private == nil {
		c.Private = func(string) bool { return false }
	}
	if c.Archived == nil {
		c.Archived = func(string) bool { return false }
	}
	if c.hooks.space == nil {
		c.hooks.space = space
	}
	return c, nil
}

// forWriting checks what Create and Open need beyond Fsck.
func (c Config) forWriting() (Config, error) {
	c, err := c.withDefaults()
	if err != nil {
		return c, err
	}
	if c.Quoter == nil || len(c.IndexKey) < 32 {
		return c, errors.New("audit: config: Quoter and an IndexKey of at least 32 bytes are required")
	}
	return c, nil
}

func set[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

func space(dir string) (free, total uint64, err error) {
	if free, err = durable.FreeBytes(dir); err != nil {
		return 0, 0, err
	}
	total, err = durable.TotalBytes(dir)
	return free, total, err
}
