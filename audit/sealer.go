package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// Backoff of signatures and seals that fail.
const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// Run commits what is appended, signs checkpoints and makes seals, until ctx ends. Then it refuses new entries, commits
// those that are queued, and makes a last seal and a last checkpoint, within DrainTimeout. Its error is about these: the
// entries are durable in any case. It ends by itself, with [ErrReopen], where opening the log again tells what became of a
// commit whose outcome is unknown. Call Close afterwards.
func (l *Log) Run(ctx context.Context) error {
	stop := make(chan struct{})
	var committer sync.WaitGroup
	committer.Go(func() { l.commits(stop) })
	var pruner sync.WaitGroup
	pruning, endPruning := context.WithCancel(ctx)
	pruner.Go(func() { l.prunes(pruning) })
	reopen := l.background(ctx)
	endPruning()  // the log may end by itself
	pruner.Wait() // it writes through the committer
	l.stopIntake()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.cfg.DrainTimeout)
	defer cancel()
	err := l.last(ctx)
	close(stop)
	committer.Wait()
	l.endWaits()
	return errors.Join(reopen, err)
}

// last waits for the queue and closes the log's story with a seal and a checkpoint.
func (l *Log) last(ctx context.Context) error {
	if err := l.own(ctx, &item{}); err != nil && l.state.refusal() == nil {
		return err
	}
	if l.state.isBroken() {
		return nil
	}
	return errors.Join(l.seal(ctx), l.sign(ctx))
}

// pace decides when something that may fail is due next.
type pace struct {
	next    time.Time
	backoff time.Duration
}

func (p *pace) succeeded(next time.Time) { p.next, p.backoff = next, 0 }

func (p *pace) failed(now time.Time) {
	p.backoff = min(max(2*p.backoff, minBackoff), maxBackoff)
	p.next = now.Add(p.backoff)
}

// schedule holds when the next seal and signature are due. Times are of the monotonic clock.
type schedule struct {
	cfg        Config
	seal, sign pace
	sealedAt   time.Time
}

// sealDue: with new work an interval after the last seal, else a heartbeat after it, but not before a retry is due.
func (s *schedule) sealDue(busy bool) time.Time {
	due := s.sealedAt.Add(s.cfg.Heartbeat)
	if busy {
		due = s.sealedAt.Add(s.cfg.SealInterval)
	}
	if s.sealedAt.IsZero() || due.Before(s.seal.next) {
		return s.seal.next
	}
	return due
}

// background signs and seals until ctx ends, or the log is to be opened again.
func (l *Log) background(ctx context.Context) error {
	s := schedule{cfg: l.cfg}
	for ctx.Err() == nil {
		if l.state.isBroken() {
			return l.awaitReopening(ctx) // nothing is signed any more
		}
		now := time.Now()
		due := s.sealDue(l.busy())
		if !now.Before(due) {
			l.trySeal(ctx, &s)
		} else if l.unsigned() && !now.Before(s.sign.next) {
			l.trySign(ctx, &s)
		} else if !l.sleep(ctx, l.nextDue(&s, due).Sub(now)) {
			return nil
		}
	}
	return nil
}

func (l *Log) nextDue(s *schedule, seal time.Time) time.Time {
	if l.unsigned() && s.sign.next.Before(seal) {
		return s.sign.next
	}
	return seal
}

// sleep returns false when ctx has ended.
func (l *Log) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-l.wake:
	case <-timer.C:
	}
	return true
}

// busy reports whether there is an entry that is neither sealed nor itself about a seal.
func (l *Log) busy() bool {
	ref := l.state.lastSeal()
	return ref == nil || l.work.Load() > ref.seal.Size
}

// unsigned reports whether the head is newer than the newest signature, not counting seals' own leaves.
func (l *Log) unsigned() bool {
	return l.state.refusal() == nil && l.work.Load() > l.state.signedSize()
}

func (l *Log) trySeal(ctx context.Context, s *schedule) {
	err := l.seal(ctx)
	now := time.Now()
	if err == nil {
		s.sealedAt = now
		s.seal.succeeded(now)
		s.sign.succeeded(now.Add(l.cfg.CheckpointInterval))
		l.state.setSigning(nil)
	} else if ctx.Err() == nil {
		s.seal.failed(now)
		l.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "no seal", slog.Any("error", err))
	}
	if ctx.Err() == nil {
		l.state.setSealing(err)
	}
}

func (l *Log) trySign(ctx context.Context, s *schedule) {
	err := l.sign(ctx)
	now := time.Now()
	if err == nil {
		s.sign.succeeded(now.Add(l.cfg.CheckpointInterval))
	} else {
		s.sign.failed(now)
		l.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "checkpoint is not signed", slog.Any("error", err))
	}
	l.state.setSigning(err)
}

// sign signs the newest durable head.
func (l *Log) sign(ctx context.Context) error {
	if err := l.state.refusal(); err != nil {
		return err
	}
	c := l.Head()
	signer, err := l.signerAt(ctx, c.Size)
	if err != nil {
		return err
	}
	signed, err := checkpoint.Sign(c, signer)
	if err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	l.signed.Store(&signed)
	l.state.setSignedSize(c.Size)
	return nil
}

// seal makes the next seal, or finishes the one in flight: text, stored, counter, statements, stored.
func (l *Log) seal(ctx context.Context) error {
	if err := l.meet(ctx, l.own); err != nil {
		return err
	}
	expected, text := l.state.expected()
	if text == nil {
		var err error
		if text, err = l.advance(ctx, expected); err != nil {
			return err
		}
	}
	sealed, seal, err := l.prove(ctx, text)
	if err != nil {
		return err
	}
	return l.keep(ctx, sealed, seal)
}

// advance stores the text of the next seal and then moves the counter to the value that it names.
func (l *Log) advance(ctx context.Context, at Anchor) ([]byte, error) {
	c := l.Head()
	next := checkpoint.Seal{
		Origin: c.Origin, Size: c.Size, Root: c.Root, Number: 1, Counter: at.Counter + 1, Reset: at.Reset, Restart: at.Restart,
		Time: l.cfg.Now().UTC().Truncate(time.Second),
	}
	if ref := l.state.lastSeal(); ref != nil {
		next.Number, next.Previous = ref.seal.Number+1, ref.sealed.Digest()
	}
	text := next.Text()
	if err := l.own(ctx, &item{raw: []pair{{[]byte(keyPending), text}}}); err != nil {
		return nil, err
	}
	l.state.expect(at, text)
	if err := l.cfg.hooks.reach("pending"); err != nil {
		return nil, err
	}
	device, cancel := context.WithTimeout(ctx, l.cfg.DeviceTimeout)
	defer cancel()
	value, err := l.cfg.Quoter.Increment(device)
	if err != nil {
		return nil, fmt.Errorf("audit: increment the counter: %w", err)
	}
	if value != next.Counter {
		l.state.fault("tpm_counter", fmt.Errorf("incremented %d, got %d: something else moved the counter", at.Counter, value))
		return nil, l.state.broken()
	}
	return text, l.cfg.hooks.reach("incremented")
}

// prove collects the signatures over a seal's text.
func (l *Log) prove(ctx context.Context, text []byte) (checkpoint.Sealed, checkpoint.Seal, error) {
	seal, err := checkpoint.ParseSeal(text)
	if err != nil {
		return checkpoint.Sealed{}, seal, fmt.Errorf("audit: seal in flight: %w", err)
	}
	sealed := checkpoint.Sealed{Number: seal.Number, Text: text}
	signer, err := l.signerAt(ctx, seal.Size)
	if err != nil {
		l.state.setSigning(err)
		return sealed, seal, err
	}
	note, err := checkpoint.Sign(checkpoint.Checkpoint{Origin: seal.Origin, Size: seal.Size, Root: seal.Root}, signer)
	if err != nil {
		l.state.setSigning(err)
		return sealed, seal, fmt.Errorf("audit: %w", err)
	}
	sealed.Checkpoint = note
	device, cancel := context.WithTimeout(ctx, l.cfg.DeviceTimeout)
	defer cancel()
	quote, err := l.cfg.Quoter.Quote(device, sealed.Digest())
	if err != nil {
		return sealed, seal, fmt.Errorf("audit: quote: %w", err)
	}
	counter, err := l.cfg.Quoter.CertifyCounter(device, sealed.Digest())
	if err != nil {
		return sealed, seal, fmt.Errorf("audit: certify the counter: %w", err)
	}
	if len(quote.PCRs) != pcrSize*len(l.cfg.PCRs) {
		return sealed, seal, fmt.Errorf("audit: quote: %d bytes of values for %d registers", len(quote.PCRs), len(l.cfg.PCRs))
	}
	sealed.Quote, sealed.QuoteSig, sealed.PCRs = quote.Attest, quote.Signature, quote.PCRs
	sealed.NV, sealed.NVSig = counter.Attest, counter.Signature
	// A TPM that was reset in between has signed another boot than the text names.
	now, err := l.cfg.Quoter.State(device)
	if err != nil {
		return sealed, seal, fmt.Errorf("audit: read the TPM's counter: %w", err)
	}
	if want := (Anchor{Reset: seal.Reset, Restart: seal.Restart, Counter: seal.Counter}); now != want {
		return sealed, seal, fmt.Errorf("audit: the TPM moved while it sealed: %+v, expected %+v", now, want)
	}
	return sealed, seal, l.cfg.hooks.reach("quoted")
}

// keep stores a finished seal, its leaf, what it shows to have changed, and the new anchor in one transaction.
func (l *Log) keep(ctx context.Context, sealed checkpoint.Sealed, seal checkpoint.Seal) error {
	digest := sealed.Digest()
	it, err := l.ownEntry(record.TypeSeal, record.SealBody{Number: seal.Number, Digest: fmt.Sprintf("%x", digest), Size: seal.Size})
	if err != nil {
		return err
	}
	anchor := Anchor{Reset: seal.Reset, Restart: seal.Restart, Counter: seal.Counter}
	for _, w := range []struct {
		key   []byte
		value any
	}{{numbered(prefixSeal, seal.Number), sealed}, {[]byte(keyLastSeal), seal.Number}, {[]byte(keyAnchor), anchor}} {
		value, err := json.Marshal(w.value)
		if err != nil {
			return fmt.Errorf("audit: encode seal: %w", err)
		}
		it.raw = append(it.raw, pair{w.key, value})
	}
	it.raw = append(it.raw, pair{[]byte(keyPending), nil})
	if it.with, err = l.measured(sealed, anchor); err != nil {
		return err
	}
	if err := l.own(ctx, it); err != nil {
		return err
	}
	l.state.finished(&sealRef{seal: seal, sealed: sealed}, anchor)
	if l.state.signedSize() < seal.Size {
		l.signed.Store(&sealed.Checkpoint)
		l.state.setSignedSize(seal.Size)
	}
	return l.cfg.hooks.reach("sealed")
}
