package audit

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
)

// Status is how the log is doing. The zero Status is not writable.
type Status struct {
	Writable    bool
	Reasons     []string // why not, each "word: detail"; the word is stable
	Size        uint64
	LastSeal    uint64        // number; 0 = none
	LastSealAge time.Duration // since the last seal's time; meaningless without one
	SealTooOld  bool          // as Fresh
	Signing     error         // why the newest checkpoint is not signed; nil = no trouble
	Sealing     error         // likewise the seal
}

// state is what goroutines tell each other about the log's health and seals.
type state struct {
	mu         sync.Mutex
	faults     []string // read-only until reopened
	doubtful   bool     // reopening may clear them
	unverified string   // read-only until the TPM has answered
	signing    error
	sealing    error
	signedAt   uint64 // size of the newest signed checkpoint
	last       *sealRef
	anchor     Anchor        // where the TPM is expected
	pending    []byte        // text of the seal in flight
	sealed     chan struct{} // closed and replaced at each seal
}

// sealRef is the last finished seal.
type sealRef struct {
	seal   checkpoint.Seal
	sealed checkpoint.Sealed
}

// fault makes the log read-only for good.
func (s *state) fault(word string, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reason := fmt.Sprintf("%s: %v", word, cause)
	if !slices.Contains(s.faults, reason) && len(s.faults) < 32 {
		s.faults = append(s.faults, reason)
	}
}

// doubt makes the log read-only until it is opened again: something may be on disk or not.
func (s *state) doubt(cause error) {
	s.fault("commit_unknown", cause)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubtful = true
}

func (s *state) inDoubt() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.doubtful
}

func (s *state) setUnverified(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unverified = reason
}

func (s *state) reasons() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.faults)
	if s.unverified != "" {
		out = append(out, s.unverified)
	}
	return out
}

// broken returns the reasons that only reopening can clear, as an error.
func (s *state) broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrReadOnly, strings.Join(s.faults, "; "))
}

func (s *state) isBroken() bool { return s.broken() != nil }

// refusal returns why nothing may be written now, or nil.
func (s *state) refusal() error {
	if err := s.broken(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unverified != "" {
		return fmt.Errorf("%w: %s", ErrReadOnly, s.unverified)
	}
	return nil
}

func (s *state) lastSeal() *sealRef {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// expected returns where the TPM's counter should be and the text of the seal in flight, if any.
func (s *state) expected() (Anchor, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.anchor, s.pending
}

func (s *state) expect(a Anchor, pending []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.anchor, s.pending = a, pending
}

// finished notes a seal and wakes those who wait for it.
func (s *state) finished(ref *sealRef, a Anchor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.anchor, s.pending = ref, a, nil
	close(s.sealed)
	s.sealed = make(chan struct{})
}

func (s *state) setSigning(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signing = err
}

func (s *state) setSealing(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealing = err
}

func (s *state) signedSize() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signedAt
}

func (s *state) setSignedSize(n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signedAt = n
}

func (s *state) troubles() (signing, sealing error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.signing, s.sealing
}

// Status reports the log's health now, disk and clock included.
func (l *Log) Status() Status {
	now := l.cfg.Now()
	st := Status{Size: l.Head().Size, Reasons: l.state.reasons(), SealTooOld: l.Fresh() != nil}
	st.Signing, st.Sealing = l.state.troubles()
	if ref := l.state.lastSeal(); ref != nil {
		st.LastSeal, st.LastSealAge = ref.seal.Number, now.Sub(ref.seal.Time)
	}
	if free, watermark, err := l.space(); err != nil {
		st.Reasons = append(st.Reasons, fmt.Sprintf("disk_unknown: %v", err))
	} else if free < watermark {
		st.Reasons = append(st.Reasons, fmt.Sprintf("disk_full: %d bytes free, %d wanted", free, watermark))
	}
	if last := l.snap.Load().head.at; now.Before(last.Add(-l.cfg.ClockTolerance)) {
		st.Reasons = append(st.Reasons, fmt.Sprintf("clock_behind: last entry at %s", last.Format(time.RFC3339)))
	}
	select {
	case <-l.closing:
		st.Reasons = append(st.Reasons, "closed: the log was closed")
	default:
	}
	st.Writable = len(st.Reasons) == 0
	return st
}

// Fresh returns [ErrSealTooOld] when the last seal is older than MaxSealAge, or there is none. What issues or allows asks
// first.
func (l *Log) Fresh() error {
	ref := l.state.lastSeal()
	if ref == nil {
		return fmt.Errorf("%w: there is none yet", ErrSealTooOld)
	}
	// The seal's time has whole seconds, rounded down.
	if age := l.cfg.Now().Sub(ref.seal.Time); age > l.cfg.MaxSealAge+time.Second {
		return fmt.Errorf("%w: %s", ErrSealTooOld, age.Round(time.Second))
	}
	return nil
}

// WaitSealed returns the number of a seal that covers the entry, as soon as there is one; at once where there is one
// already, also when ctx has ended. It fails with [ErrNotFound] for an entry that does not exist, with [ErrClosed] when Run ends
// before, and after MaxSealAge: by then nothing is issued any more, and nobody need wait for that.
func (l *Log) WaitSealed(ctx context.Context, index uint64) (uint64, error) {
	if index >= l.Head().Size {
		return 0, fmt.Errorf("%w: entry %d", ErrNotFound, index)
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.MaxSealAge)
	defer cancel()
	for {
		l.state.mu.Lock()
		ref, next := l.state.last, l.state.sealed
		l.state.mu.Unlock()
		if ref != nil && index < ref.seal.Size {
			return ref.seal.Number, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return 0, fmt.Errorf("audit: wait for a seal: %w", ctx.Err())
		case <-l.ended:
			return 0, ErrClosed
		}
	}
}

// space returns the free bytes and the watermark below which the log refuses to write.
func (l *Log) space() (free, watermark uint64, err error) {
	free, total, err := l.cfg.hooks.space(l.cfg.Dir)
	if err != nil {
		return 0, 0, fmt.Errorf("audit: %w", err)
	}
	if l.cfg.MinFree > 0 {
		return free, l.cfg.MinFree, nil
	}
	return free, total / 10, nil
}

func (l *Log) diskLow() (bool, error) {
	free, watermark, err := l.space()
	return free < watermark, err
}
