package bundle

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
	"unique"

	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/tpm/quote"
)

// orderlyCount is how far an orderly counter may jump over a power loss, either way: TPM_PT_ORDERLY_COUNT, which is 255 where it was measured, and one.
const orderlyCount = 256

// silence is how long a log that runs never goes without a seal: it makes one each minute even when nothing happens.
const silence = 10 * time.Minute

// sealInfo is a seal whose text could be read.
type sealInfo struct {
	checkpoint.Seal
	digest hash
	ok     bool
	pcrs   unique.Handle[string] // the quoted values, one after the other; the zero handle where no quote shows them
}

// jump is an interval that needs a device entry to be explained, and stays unproven even then.
type jump struct {
	seal     uint64
	from, to uint64 // entries between the two seals
	event    string
	detail   string
	moved    uint64 // how far the counter is from where it would be without a reset
	back     bool   // the counter fell
}

// seals verifies every seal by itself, in parallel, then the chain.
func (v *verifier) seals(ctx context.Context) error {
	numbers := v.sealNumbers()
	v.sealed = make([]sealInfo, len(numbers))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(v.opts.Parallel)
	for i, n := range numbers {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			v.sealed[i] = v.seal(n)
			return ctx.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	v.sealed = slices.DeleteFunc(v.sealed, func(s sealInfo) bool { return !s.ok })
	for i := 1; i < len(v.sealed); i++ {
		v.link(&v.sealed[i-1], &v.sealed[i])
	}
	v.ends()
	return nil
}

// sealNumbers lists all seals that have at least one file.
func (v *verifier) sealNumbers() []uint64 {
	var all []uint64
	for _, suffix := range sealSuffixes() {
		all = append(all, v.files.numbered(dirSeals, suffix)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// seal checks one seal's text and both statements over it.
func (v *verifier) seal(n uint64) sealInfo {
	text, err := v.files.read(sealPath(n, ".txt"))
	if err != nil {
		v.tally.fail(CheckSeal, at(n, sealPath(n, ".txt")), "%v", err)
		return sealInfo{}
	}
	parsed, err := checkpoint.ParseSeal(text)
	if err == nil && parsed.Number != n {
		err = fmt.Errorf("it says that it is seal %d", parsed.Number)
	}
	if err == nil && parsed.Origin != v.anchors.origin {
		err = fmt.Errorf("it is of another log, %q", parsed.Origin)
	}
	if !v.tally.check(CheckSeal, at(n, sealPath(n, ".txt")), err) {
		return sealInfo{}
	}
	info := sealInfo{Seal: parsed, digest: parsed.Digest(), ok: true}
	v.tally.check(CheckQuote, at(n, sealPath(n, ".quote")), v.quote(n, &info))
	v.tally.check(CheckCounter, at(n, sealPath(n, ".nv")), v.counter(n, &info))
	return info
}

// readParts reads files of a seal in the order given.
func (v *verifier) readParts(n uint64, suffixes ...string) ([][]byte, error) {
	parts := make([][]byte, len(suffixes))
	var errs []error
	for i, suffix := range suffixes {
		var err error
		if parts[i], err = v.files.read(sealPath(n, suffix)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", sealPath(n, suffix), err))
		}
	}
	return parts, errors.Join(errs...)
}

func (v *verifier) quote(n uint64, s *sealInfo) error {
	parts, err := v.readParts(n, ".quote", ".quote.sig", ".pcrs")
	if err != nil {
		return err
	}
	return v.anchors.quote(s, quote.Statement{Attest: parts[0], Signature: parts[1], PCRs: parts[2]})
}

func (v *verifier) counter(n uint64, s *sealInfo) error {
	parts, err := v.readParts(n, ".nv", ".nv.sig")
	if err != nil {
		return err
	}
	return v.anchors.counter(s, quote.Statement{Attest: parts[0], Signature: parts[1]})
}

var errNoAK = errors.New("no attestation key to verify with")

// quote checks the PCR statement over a seal: signer, qualifying data, registers, boot, and the values that the auditor demands.
func (a *anchors) quote(s *sealInfo, st quote.Statement) error {
	if a.ak == nil {
		return errNoAK
	}
	q, err := a.ak.VerifyQuote(st, s.digest[:], a.pcrs)
	if err != nil {
		return otherTPM(err)
	}
	s.pcrs = unique.Make(string(st.PCRs))
	return errors.Join(a.accepted.Check(q.PCRs), sameBoot(s, q.Clock))
}

// counter checks the NV statement over a seal: signer, qualifying data, index, value and boot.
func (a *anchors) counter(s *sealInfo, st quote.Statement) error {
	if a.ak == nil {
		return errNoAK
	}
	c, err := a.ak.VerifyCounter(st, s.digest[:], a.nvName)
	if err != nil {
		return otherTPM(err)
	}
	if c.Value != s.Counter {
		return fmt.Errorf("the TPM certified counter %d, the seal says %d", c.Value, s.Counter)
	}
	return sameBoot(s, c.Clock)
}

func sameBoot(s *sealInfo, c quote.Clock) error {
	if c.Reset != s.Reset || c.Restart != s.Restart {
		return fmt.Errorf("the TPM was in boot %d.%d, the seal says %d.%d", c.Reset, c.Restart, s.Reset, s.Restart)
	}
	return nil
}

// link checks a seal against the one before it (design: order is (resetCount, counter)).
func (v *verifier) link(previous, s *sealInfo) {
	where := at(s.Number, sealPath(s.Number, ".txt"))
	if s.Number != previous.Number+1 {
		v.tally.fail(CheckSealChain, at(previous.Number+1, sealPath(previous.Number+1, ".txt")),
			"missing: seal %d is followed by seal %d. %s", previous.Number, s.Number, meansSealLost)
		return
	}
	var errs []error
	if s.Previous != previous.digest {
		errs = append(errs, fmt.Errorf("it does not cite seal %d as it is", previous.Number))
	}
	if s.Size < previous.Size {
		errs = append(errs, fmt.Errorf("the tree shrank from %d to %d", previous.Size, s.Size))
	}
	if s.Time.Before(previous.Time) {
		errs = append(errs, fmt.Errorf("its time is before that of seal %d", previous.Number))
	}
	if gap := s.Time.Sub(previous.Time); gap > silence {
		v.tally.unsure(CheckTime, where, "no seal for %v before it, although an idle log makes one each minute: completeness unproven since the seal before", gap)
	}
	errs = append(errs, v.order(previous, s))
	v.tally.check(CheckSealChain, where, errors.Join(errs...))
}

// order checks (resetCount, counter) and notes what a device entry must explain.
func (v *verifier) order(previous, s *sealInfo) error {
	gap := jump{seal: s.Number, from: previous.Size, to: s.Size}
	switch {
	case s.Reset < previous.Reset, s.Reset == previous.Reset && s.Restart < previous.Restart:
		return fmt.Errorf("boot %d.%d comes after %d.%d. %s", s.Reset, s.Restart, previous.Reset, previous.Restart, meansBack)
	case s.Reset == previous.Reset && s.Counter == previous.Counter+1:
		return nil
	case s.Reset == previous.Reset && s.Counter <= previous.Counter:
		return fmt.Errorf("counter %d comes after %d in one boot. %s", s.Counter, previous.Counter, meansBack)
	case s.Reset == previous.Reset:
		gap.event = eventGap
		gap.detail = fmt.Sprintf("the counter went from %d to %d in one boot", previous.Counter, s.Counter)
	default:
		gap.event, gap.moved, gap.back = eventReset, distance(s.Counter, previous.Counter+1), s.Counter < previous.Counter
		gap.detail = fmt.Sprintf("the TPM was reset (%d to %d), the counter went from %d to %d",
			previous.Reset, s.Reset, previous.Counter, s.Counter)
	}
	v.jumps = append(v.jumps, gap)
	return nil
}

func distance(a, b uint64) uint64 { return max(a, b) - min(a, b) }

// ends checks the first and the last seal: a bundle begins where the auditor's range begins, and ends at the checkpoint.
func (v *verifier) ends() {
	if len(v.sealed) == 0 {
		v.tally.fail(CheckSealChain, in(dirSeals), "there is no seal")
		return
	}
	first, last := v.sealed[0], v.sealed[len(v.sealed)-1]
	if first.Number != sealOne && (v.opts.Range == nil || first.Size > v.from) {
		v.tally.fail(CheckSealChain, at(first.Number-1, sealPath(first.Number-1, ".txt")),
			"missing: the first seal here is %d. %s", first.Number, meansSealLost)
	}
	if v.head != nil && (last.Size != v.head.Size || last.Root != v.head.Root) {
		v.tally.fail(CheckSeal, at(last.Number, sealPath(last.Number, ".txt")), "the checkpoint is not the one of the last seal. %s", meansEndLost)
	}
}

// interval is the time between two seals, for the entries up to but not including to.
type interval struct {
	to            uint64
	before, after time.Time // zero: there is no such seal
}

// covering returns the seals around an entry, and for which entries after it they are the same: the last that does not cover it and the first that does.
func (v *verifier) covering(index uint64) interval {
	i, _ := slices.BinarySearchFunc(v.sealed, index, func(s sealInfo, index uint64) int {
		if s.Size > index {
			return 1
		}
		return -1
	})
	around := interval{to: math.MaxUint64}
	if i > 0 {
		around.before = v.sealed[i-1].Time
	}
	if i < len(v.sealed) {
		around.to, around.after = v.sealed[i].Size, v.sealed[i].Time
	}
	return around
}
