package appliance

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/tpm/quote"
)

// InitOptions say how the first ceremony is held.
type InitOptions struct {
	DryRun    bool     // check and print; make nothing
	Approvals []string // files with custodians' signatures under the act
	Terminal  *os.File // where to ask for more of them; nil: nowhere
	Out       io.Writer
}

// Init holds the first ceremony where nobody has to agree to it: see [Ceremony].
func Init(ctx context.Context, c Config, log *slog.Logger) error {
	return Ceremony(ctx, c, InitOptions{Out: io.Discard}, log)
}

// Ceremony makes the keys in their devices, certifies them, binds the attestation key to the TPM, writes the certificates below Dir
// and begins the log with what it made. Nothing is made in a device before enough custodians agreed to exactly that ([ErrApprovals]).
//
// It refuses to touch anything that exists, but goes on where it was interrupted: each step is announced or kept in Dir/ceremony
// before the next.
func Ceremony(ctx context.Context, c Config, o InitOptions, log *slog.Logger) error {
	i, err := c.newInit(o, log)
	if err == nil {
		err = i.hold(ctx)
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return nil
}

// initiation is one run of the first ceremony.
type initiation struct {
	Config
	o       InitOptions
	log     *slog.Logger
	plan    ceremony.Plan
	set     custody.Set // zero: nobody has to agree
	records records
}

func (c Config) newInit(o InitOptions, log *slog.Logger) (*initiation, error) {
	c.Ceremony.TrustDomain, c.Ceremony.Origin = c.TrustDomain, c.Origin
	plan, err := ceremony.ParsePlan(c.Ceremony)
	set, err2 := c.custodians()
	if err := errors.Join(err, err2); err != nil {
		return nil, err
	}
	return &initiation{Config: c, o: o, log: log, plan: plan, set: set, records: records{c.ceremonyDir()}}, nil
}

// custodians reads the set. Outside development nobody can begin alone.
func (c *Config) custodians() (custody.Set, error) {
	const field = "configuration: ceremony.custodians"
	cc := c.Ceremony.Custodians
	if cc == nil {
		if c.Development {
			return custody.Set{}, nil
		}
		return custody.Set{}, fmt.Errorf("%s: missing; without custodians with development: true only", field)
	}
	var members []custody.Custodian
	for _, m := range cc.Members {
		members = append(members, custody.Custodian{Name: m.Name, Key: m.Key, Recipient: m.Recipient})
	}
	set, err := custody.NewSet(cc.Threshold, members)
	if err != nil {
		return custody.Set{}, fmt.Errorf("%s: %w", field, err)
	}
	return set, nil
}

func (c *Config) ceremonyDir() string { return filepath.Join(c.Dir, "ceremony") }

// hold goes from where the records say that the ceremony is.
func (i *initiation) hold(ctx context.Context) (err error) {
	if !i.o.DryRun {
		unlock, err := i.claim()
		if err != nil {
			return err
		}
		defer unlock()
	}
	begun, err := i.open()
	if err != nil {
		return err
	}
	keys, err := i.openCeremony(ctx, i.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, keys.Close()) }()
	keys.records = i.records
	lines, err := i.describe(ctx, keys)
	if err != nil {
		return err
	}
	if begun != nil {
		err = i.same(begun, lines)
	} else {
		err = keys.free(ctx, i.plan)
	}
	if err != nil {
		return err
	}
	if i.o.DryRun {
		return i.print(lines)
	}
	if begun == nil {
		if begun, err = i.begin(ctx, lines); err != nil {
			return err
		}
	}
	return i.run(ctx, keys, begun)
}

// claim keeps a second run away.
func (i *initiation) claim() (unlock func(), err error) {
	for _, dir := range []string{i.ceremonyDir(), i.pkiDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	unlock, err = durable.Lock(filepath.Join(i.ceremonyDir(), "lock"))
	if err != nil {
		return nil, fmt.Errorf("another signetd init runs: %w", err)
	}
	return unlock, nil
}

// open reads how the ceremony began; nil: it has not, and nothing is there yet. What killed runs left half written goes.
func (i *initiation) open() (*beginning, error) {
	begun, over, err := i.records.begun()
	if err == nil && begun == nil {
		err = i.checkFresh(i.plan)
	}
	if over {
		err = fmt.Errorf("%s exists; a ceremony never overwrites", i.logDir())
	}
	if err != nil || begun == nil || i.o.DryRun {
		return begun, err
	}
	for _, dir := range []string{i.ceremonyDir(), i.pkiDir(), i.Dir} {
		if err := durable.Sweep(dir); err != nil {
			return nil, err
		}
	}
	return begun, nil
}

// checkFresh refuses a directory in which an appliance exists.
func (c *Config) checkFresh(plan ceremony.Plan) error {
	for _, p := range []string{
		c.logDir(), c.indexKey(), c.keysDir(), filepath.Join(c.pkiDir(), bindingFile), filepath.Join(c.pkiDir(), ekFile), filepath.Join(c.pkiDir(), heldFile),
		filepath.Join(c.pkiDir(), transcriptFile), filepath.Join(c.pkiDir(), summaryFile),
	} {
		if _, err := os.Lstat(p); err == nil {
			return fmt.Errorf("%s exists; a ceremony never overwrites", p)
		}
	}
	return plan.CheckOutputs(c.pkiDir())
}

func (i *initiation) print(lines []string) error {
	_, err := fmt.Fprintf(i.o.Out, "would be made:\n  %s\nnothing was made\n", strings.Join(lines, "\n  "))
	return err
}

// same refuses to go on with another configuration, or other devices, than those that the ceremony began with.
func (i *initiation) same(b *beginning, lines []string) error {
	if err := unchanged(b.Plan, lines); err != nil {
		return err
	}
	if i.set.Threshold() == 0 {
		return nil
	}
	_, err := i.set.Approved(b.Act, b.Signatures)
	return err
}

// unchanged names the first line of a plan that is not as it was.
func unchanged(was, is []string) error {
	if slices.Equal(was, is) {
		return nil
	}
	for n := range max(len(was), len(is)) {
		line := func(of []string) string {
			if n < len(of) {
				return of[n]
			}
			return "nothing"
		}
		if a, b := line(was), line(is); a != b {
			return fmt.Errorf("the configuration, or a device, is not the one that was planned: %q is now %q", a, b)
		}
	}
	return nil
}

// The files of a ceremony besides the certificates.
const (
	bindingFile    = "ak-binding.json"
	ekFile         = "ek.pem"
	transcriptFile = "transcript.txt"
	summaryFile    = "summary.txt"
)

// run makes what was agreed to, and what an interrupted run has not made yet.
func (i *initiation) run(ctx context.Context, keys *ceremonyKeys, begun *beginning) error {
	binding, ak, err := keys.bindTPM(ctx)
	if err != nil {
		return err
	}
	if i.Tokens.inTPM() {
		if err := ensureSRK(ctx, keys.tpm); err != nil {
			return err
		}
	}
	result, err := ceremony.Continue(ctx, i.plan, keys, i.records, ak.Public(), begun.Time)
	if err != nil {
		return err
	}
	if err := result.Write(i.pkiDir()); err != nil {
		return err
	}
	if err := i.writeBinding(binding); err != nil {
		return err
	}
	if err := i.writeHeld(ctx, keys.tpm, binding, keys.root, keys.issuing, keys.audit); err != nil {
		return err
	}
	indexKey, err := i.makeIndexKey()
	if err != nil {
		return err
	}
	made := product{result: result, binding: binding, begun: begun, indexKey: indexKey}
	if err := i.beginLog(ctx, keys, made); err != nil {
		return err
	}
	return i.records.put(recordOver, struct{}{})
}

// makeIndexKey makes it once.
func (c *Config) makeIndexKey() ([]byte, error) {
	have, err := os.ReadFile(c.indexKey())
	if err == nil && len(have) != indexKeySize {
		err = fmt.Errorf("%s: not %d bytes", c.indexKey(), indexKeySize)
	}
	if err == nil || !errors.Is(err, os.ErrNotExist) {
		return have, err
	}
	key := make([]byte, indexKeySize)
	if _, err := rand.Read(key); err != nil {
		return nil, err
	}
	return key, durable.Create(c.indexKey(), key, 0o600)
}

const indexKeySize = 32

func (c *Config) writeBinding(b quote.Binding) error {
	text, err := bindingText(b)
	if err != nil {
		return err
	}
	if err := writeOnce(filepath.Join(c.pkiDir(), bindingFile), text); err != nil {
		return err
	}
	if b.EKCertificate == "" {
		return nil
	}
	return writeOnce(filepath.Join(c.pkiDir(), ekFile), []byte(b.EKCertificate))
}

// writeOnce makes a public file that may be there already, as it is to be.
func writeOnce(path string, data []byte) error {
	err := durable.Create(path, data, 0o644)
	if !errors.Is(err, durable.ErrExists) {
		return err
	}
	have, readErr := os.ReadFile(path)
	if readErr != nil || string(have) != string(data) {
		return fmt.Errorf("%s exists; a ceremony never overwrites", path)
	}
	return nil
}

// now is what the ceremony's records and certificates are dated with.
func now() time.Time { return time.Now().UTC().Truncate(time.Second) }
