package appliance

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// chipLatency is the published median of real chips for one signature. Here every command takes it.
const chipLatency = 200 * time.Millisecond

// heard is a TPM whose commands are listened to.
type heard struct {
	audit.Quoter
	before func(what string) // may wait

	mu     sync.Mutex
	said   []string
	inside atomic.Int32
	most   atomic.Int32 // calls at a time
}

func (h *heard) enter(what string) func() {
	if n := h.inside.Add(1); n > h.most.Load() {
		h.most.Store(n)
	}
	h.mu.Lock()
	h.said = append(h.said, what)
	h.mu.Unlock()
	if h.before != nil {
		h.before(what)
	}
	return func() { h.inside.Add(-1) }
}

func (h *heard) State(ctx context.Context) (audit.Anchor, error) {
	defer h.enter("state")()
	return h.Quoter.State(ctx)
}

func (h *heard) Increment(ctx context.Context) (uint64, error) {
	defer h.enter("increment")()
	return h.Quoter.Increment(ctx)
}

func (h *heard) Quote(ctx context.Context, digest [32]byte) (audit.Statement, error) {
	defer h.enter("quote")()
	return h.Quoter.Quote(ctx, digest)
}

func (h *heard) CertifyCounter(ctx context.Context, digest [32]byte) (audit.Statement, error) {
	defer h.enter("certify")()
	return h.Quoter.CertifyCounter(ctx, digest)
}

// oneSealInFlight checks that no seal was begun before the one before it was finished, and no two calls met.
func (h *heard) oneSealInFlight(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	var seals strings.Builder
	for _, what := range h.said {
		if what != "state" {
			seals.WriteString(what + " ")
		}
	}
	const one = "increment quote certify "
	if got := seals.String(); !strings.HasPrefix(strings.Repeat(one, len(h.said)), got) || h.most.Load() != 1 {
		t.Errorf("%d calls at a time: %q", h.most.Load(), got)
	}
}

// firstOver is the first seal from n on that covers an entry.
func firstOver(t *testing.T, l *audit.Log, n, index uint64) uint64 {
	t.Helper()
	for ; ; n++ {
		sealed, err := l.Seal(t.Context(), n)
		must(t, err)
		s, err := checkpoint.ParseSeal(sealed.Text)
		must(t, err)
		if s.Size > index {
			return n
		}
	}
}

// With a TPM as slow as a chip, whenever an entry is appended, the second seal that is finished afterwards covers it at the latest: a
// receipt with wait=sealed arrives within two quotes. It counts seals, not time.
func TestReceiptWithinTwoQuotesOfASlowTPM(t *testing.T) {
	a := newAnchored(t)
	tpm := &heard{Quoter: a.log.Quoter}
	a.log.Quoter = tpm
	appended, called := make(chan struct{}), make(chan struct{})
	var open atomic.Bool
	tpm.before = func(string) { // each call waits for one entry: they come at every moment of a seal
		if open.Load() {
			select {
			case called <- struct{}{}:
			case <-appended:
			}
		}
	}
	a.rig.SetLatency(chipLatency)
	l, stop := a.run()
	open.Store(true)
	s := &served{t: t, log: l}
	s.listen(&apiLog{log: l, witnesses: &witnesses{log: l}})
	c, _ := s.reader(s.auditor)
	var g errgroup.Group
	for range 7 { // a seal is five calls
		<-called // the call goes on beside what follows
		p, err := l.Append(t.Context(), numberedEntry(t, record.TypeAdmin, 1))
		must(t, err)
		finished := l.Status().LastSeal
		g.Go(func() error {
			status, _, body, err := get(t.Context(), c, fmt.Sprintf("%sv1/audit/entries/%d/receipt?wait=sealed", s.url, p.Index))
			if err != nil || status != 200 {
				return fmt.Errorf("entry %d: %d %s, %w", p.Index, status, body, err)
			}
			var r bundle.Receipt
			if err := json.Unmarshal(body, &r); err != nil || r.Seal == nil {
				return fmt.Errorf("entry %d: no seal in %s: %w", p.Index, body, err)
			}
			if n := firstOver(t, l, finished+1, p.Index); n > finished+2 {
				return fmt.Errorf("entry %d, appended after seal %d, is covered by seal %d", p.Index, finished, n)
			}
			return nil
		})
	}
	close(appended)
	must(t, g.Wait())
	a.rig.SetLatency(0)
	stop()
	tpm.oneSealInFlight(t)
}

// While a quote takes as long as it likes, entries become durable and are acknowledged.
func TestAppendsDoNotWaitForAQuote(t *testing.T) {
	a := newAnchored(t)
	quoting, release := make(chan struct{}, 1), make(chan struct{})
	tpm := &heard{Quoter: a.log.Quoter, before: func(what string) {
		if what == "quote" {
			select {
			case quoting <- struct{}{}:
			default:
			}
			<-release
		}
	}}
	a.log.Quoter = tpm
	l, stop := a.run()
	<-quoting
	const writers, each = 16, 40
	var g errgroup.Group
	for range writers {
		g.Go(func() error {
			for i := range each {
				if _, err := l.Append(t.Context(), numberedEntry(t, record.TypeAdmin, i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	must(t, g.Wait())
	last := l.Head().Size - 1
	if s := l.Status(); s.LastSeal != 0 || last < writers*each {
		t.Errorf("seal %d, last entry %d", s.LastSeal, last)
	}
	close(release)
	n, err := l.WaitSealed(t.Context(), last)
	must(t, err)
	if first := firstOver(t, l, 1, last); n < first || first != 2 {
		t.Errorf("seal %d covers what was appended during the quote of seal 1, want 2", first)
	}
	stop()
	tpm.oneSealInFlight(t)
}

// TestSoakSlowTPM compares what sixteen writers commit beside a TPM that answers at once, and beside one as slow as a chip.
func TestSoakSlowTPM(t *testing.T) {
	if os.Getenv("SIGNET_SOAK") == "" {
		return
	}
	a := newAnchored(t)
	l, _ := a.run()
	commits := func(latency time.Duration) float64 {
		a.rig.SetLatency(latency)
		const lasting = 10 * time.Second
		var g errgroup.Group
		var done atomic.Int64
		end := time.Now().Add(lasting)
		for range 16 {
			g.Go(func() error {
				for time.Now().Before(end) {
					if _, err := l.Append(t.Context(), numberedEntry(t, record.TypeAdmin, 1)); err != nil {
						return err
					}
					done.Add(1)
				}
				return nil
			})
		}
		must(t, g.Wait())
		return float64(done.Load()) / lasting.Seconds()
	}
	commits(0) // warms up
	fast, slow := commits(0), commits(chipLatency)
	t.Logf("16 writers: %.0f entries/s, %.0f with %v for each command of the TPM", fast, slow, chipLatency)
	if slow < fast/2 {
		t.Error("a slow TPM slows appends down")
	}
}
