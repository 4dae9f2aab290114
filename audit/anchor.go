package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// errUnreachable: the TPM gave no answer.
var errUnreachable = errors.New("audit: the TPM's counter cannot be read")

// verdict is what follows from the TPM's state. The zero verdict refuses.
type verdict int

const (
	refuse  verdict = iota // the log and the TPM disagree: read-only
	proceed                // the TPM is where the last seal left it
	finish                 // the counter reached the seal in flight: finish that one
	gap                    // likewise, but the boot is another: that seal cannot be finished
	reset                  // the TPM was reset, and the counter moved no further than that allows
)

// judge compares where the TPM is expected with where it was found. Order is (reset, counter): an orderly counter may
// jump or repeat across a reset, so values alone prove nothing (TPM 2.0 Part 1, orderly NV counters).
func judge(expected Anchor, pending *checkpoint.Seal, found Anchor, bound uint64) verdict {
	switch {
	case found.Reset < expected.Reset:
		return refuse
	case found.Reset > expected.Reset:
		if distance(found.Counter, expected.Counter) > bound {
			return refuse
		}
		return reset
	case found.Counter == expected.Counter:
		return proceed
	case pending == nil || found.Counter != pending.Counter || pending.Reset != found.Reset:
		return refuse
	case pending.Restart != found.Restart:
		return gap
	default:
		return finish
	}
}

// disagreement says in words what a refusal means: who of the two is older.
func disagreement(expected, found Anchor) (word, why string) {
	if found.Reset < expected.Reset || found.Counter < expected.Counter {
		return "tpm_rolled_back", "the TPM is behind the log. It was cleared, and its counter begun anew, or its state was put back from an older copy"
	}
	return "tpm_counter", "the TPM is ahead of the log. The log is an older copy and lacks the seals made since, or something else moved the counter"
}

func distance(a, b uint64) uint64 { return max(a, b) - min(a, b) }

// greet compares the log with the TPM at Open. A TPM that does not answer leaves the log read-only until it does.
func (l *Log) greet(ctx context.Context) {
	if l.state.isBroken() {
		return
	}
	err := l.meet(ctx, func(_ context.Context, it *item) error {
		it.internal, it.done = true, make(chan result, 1)
		it.measure()
		l.commit([]*item{it})
		return (<-it.done).err
	})
	switch {
	case err == nil || l.state.isBroken():
	case errors.Is(err, errUnreachable):
		l.state.setUnverified(fmt.Sprintf("tpm_unreachable: %v", err))
	default:
		l.state.setUnverified(fmt.Sprintf("tpm_unsettled: %v", err))
	}
}

// meet reads the TPM's state and settles what follows, writing through put. Afterwards expected() is where the TPM is,
// or one before it with a pending seal to finish.
func (l *Log) meet(ctx context.Context, put func(context.Context, *item) error) error {
	found, err := l.deviceState(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreachable, err)
	}
	expected, text := l.state.expected()
	var pending *checkpoint.Seal
	if text != nil {
		p, err := checkpoint.ParseSeal(text)
		if err != nil {
			l.state.fault("seal", fmt.Errorf("seal in flight: %w", err))
			return l.state.broken()
		}
		pending = &p
	}
	v := judge(expected, pending, found, l.cfg.OrderlyBound)
	if v == refuse {
		word, why := disagreement(expected, found)
		l.state.fault(word, fmt.Errorf("expected reset %d, counter %d, found reset %d, counter %d: %s",
			expected.Reset, expected.Counter, found.Reset, found.Counter, why))
		return l.state.broken()
	}
	switch v {
	case gap:
		at := Anchor{Reset: pending.Reset, Restart: pending.Restart, Counter: pending.Counter}
		err = l.noteDevice(ctx, record.EventCounterGap, at, found, put)
	case reset:
		err = l.noteDevice(ctx, record.EventTPMReset, expected, found, put)
	case proceed:
		l.state.expect(found, nil) // a seal in flight that never reached the counter is made anew
	case finish, refuse:
	}
	if err == nil {
		l.state.setUnverified("")
	}
	return err
}

func (l *Log) deviceState(ctx context.Context) (Anchor, error) {
	ctx, cancel := context.WithTimeout(ctx, l.cfg.DeviceTimeout)
	defer cancel()
	return l.cfg.Quoter.State(ctx)
}

// noteDevice records that completeness is unproven here, and continues from where the TPM was found.
func (l *Log) noteDevice(ctx context.Context, event string, expected, found Anchor, put func(context.Context, *item) error) error {
	body := record.DeviceBody{Event: event, Expected: anchorBody(expected), Found: anchorBody(found)}
	if ref := l.state.lastSeal(); ref != nil {
		body.Seal = ref.seal.Number
	}
	it, err := l.ownEntry(record.TypeDevice, body)
	if err != nil {
		return err
	}
	value, err := json.Marshal(found)
	if err != nil {
		return fmt.Errorf("audit: encode anchor: %w", err)
	}
	it.raw = []pair{{[]byte(keyAnchor), value}, {[]byte(keyPending), nil}}
	if err := put(ctx, it); err != nil {
		return err
	}
	l.state.expect(found, nil)
	return nil
}

func anchorBody(a Anchor) *record.AnchorBody {
	return &record.AnchorBody{Reset: a.Reset, Restart: a.Restart, Counter: a.Counter}
}

// ownEntry makes an item of an entry that the log itself writes.
func (l *Log) ownEntry(t record.Type, body any) (*item, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("audit: encode %s entry: %w", t, err)
	}
	e, err := record.New(record.Envelope{Type: t, Time: l.cfg.Now().Truncate(time.Millisecond), Body: b}, nil, [record.SaltSize]byte{})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return &item{entry: e, leaf: record.LeafHash(e.Envelope), work: t != record.TypeSeal}, nil
}
