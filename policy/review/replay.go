package review

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/policy"
)

// Bounds of a replay.
const (
	piece   = 64          // entries held in memory at a time
	atMost  = time.Minute // of evaluation, after which the caller asks for the rest
	overlap = 1024        // entries by which times may be out of order
)

// ReplayRequest says which entries to evaluate again, and with which bundle. The zero To is the end of the log, a zero time
// no bound.
type ReplayRequest struct {
	Name, Digest string
	From, To     uint64 // indexes, To excluded
	Since, Until time.Time
}

// Change is a question that the bundle answers otherwise.
type Change struct {
	Question
	After Answer
}

// Totals say what a replay did. Skipped are those of which policy's answer then and now cannot be compared.
type Totals struct {
	Digest, Revision string // of the bundle
	Replayed         uint64
	Changed          uint64
	Skipped          Skipped
	Next             *uint64 // nil: everything was looked at; else ask on from there
}

// Skipped counts by reason.
type Skipped struct {
	NotAsked   uint64 // the checks before policy denied
	Erased     uint64
	Overruled  uint64 // policy allowed, and a revocation in the same moment denied
	Busy       uint64 // there was no place to evaluate
	Pruned     uint64 // the log does not have them any more
	Unreadable uint64 // the input is not the one that the entry has the digest of
}

// Replay evaluates the questions of a range and tells each that is answered otherwise, in the order of the log. It ends
// early when ctx ends or changed fails, and after a minute with Next set.
func (r *Reviewer) Replay(ctx context.Context, q ReplayRequest, changed func(Change) error) (Totals, error) {
	if err := enter(r.replays); err != nil {
		return Totals{}, err
	}
	defer func() { <-r.replays }()
	engine, err := r.cfg.Bundles.Engine(ctx, q.Name, q.Digest)
	if err != nil {
		return Totals{}, err
	}
	run := replay{Reviewer: r, engine: engine, request: q, changed: changed, until: r.cfg.Now().Add(atMost)}
	run.totals.Digest, run.totals.Revision = engine.Digest(), engine.Revision()
	err = run.all(ctx)
	return run.totals, err
}

// replay is one on its way.
type replay struct {
	*Reviewer
	engine  Engine
	request ReplayRequest
	changed func(Change) error
	until   time.Time
	totals  Totals
}

func (r *replay) all(ctx context.Context) error {
	from, to, err := r.bounds(ctx)
	if err != nil {
		return err
	}
	for from < to {
		entries := make([]record.Stored, 0, piece)
		// Read first, evaluated afterwards: the store's snapshot is not kept for as long as policy takes.
		err := r.cfg.Log.Entries(ctx, from, min(from+piece, to), func(e record.Stored) error {
			entries = append(entries, e)
			return nil
		})
		if err != nil {
			return err
		}
		for _, e := range entries {
			if !r.cfg.Now().Before(r.until) {
				r.totals.Next = &e.Index
				return nil
			}
			if err := r.one(ctx, e); err != nil {
				return err
			}
		}
		from += piece
	}
	return nil
}

// bounds narrows the range to the times that are asked for. Entries are in the order of their times, but for those that were
// under way together.
func (r *replay) bounds(ctx context.Context) (from, to uint64, err error) {
	from, to = r.request.From, r.cfg.Log.Size()
	if r.request.To != 0 {
		to = min(to, r.request.To)
	}
	if first := min(r.cfg.Log.Minimum(), to); from < first {
		r.totals.Skipped.Pruned, from = first-from, first
	}
	if from >= to {
		return from, to, nil
	}
	if !r.request.Since.IsZero() {
		at, err := r.first(ctx, from, to, func(t time.Time) bool { return !t.Before(r.request.Since) })
		if err != nil {
			return 0, 0, err
		}
		from = max(from, at-min(at, overlap))
	}
	if !r.request.Until.IsZero() {
		at, err := r.first(ctx, from, to, func(t time.Time) bool { return t.After(r.request.Until) })
		if err != nil {
			return 0, 0, err
		}
		to = min(to, at+overlap)
	}
	return from, to, nil
}

// first finds the first entry whose time is.
func (r *replay) first(ctx context.Context, from, to uint64, is func(time.Time) bool) (uint64, error) {
	var failed error
	n := sort.Search(int(to-from), func(i int) bool { //nolint:gosec // no log is as long
		var env record.Envelope
		at := from + uint64(i) //nolint:gosec // likewise
		err := r.cfg.Log.Entries(ctx, at, at+1, func(e record.Stored) (err error) {
			env, err = record.Check(e.Envelope)
			return err
		})
		failed = errors.Join(failed, err)
		return is(env.Time)
	})
	if failed != nil {
		return 0, fmt.Errorf("review: read times: %w", failed)
	}
	return from + uint64(n), nil //nolint:gosec // likewise
}

// one evaluates an entry, if policy was asked about it.
func (r *replay) one(ctx context.Context, e record.Stored) error {
	q, err := question(e)
	if errors.Is(err, errOther) || !r.wanted(q.Time) {
		return nil
	}
	if err != nil {
		*r.skipped(err)++
		return nil
	}
	after, err := answerOf(r.decide(ctx, q.Input))
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	r.totals.Replayed++
	if after.equal(q.Answer) {
		return nil
	}
	r.totals.Changed++
	return r.changed(Change{Question: q, After: after})
}

func (r *replay) wanted(t time.Time) bool {
	return !t.Before(r.request.Since) && (r.request.Until.IsZero() || !t.After(r.request.Until))
}

// skipped is the counter of a reason.
func (r *replay) skipped(why error) *uint64 {
	s := &r.totals.Skipped
	switch {
	case errors.Is(why, ErrNoInput):
		return &s.NotAsked
	case errors.Is(why, ErrErased):
		return &s.Erased
	case errors.Is(why, errOverruled):
		return &s.Overruled
	case errors.Is(why, errBusy):
		return &s.Busy
	}
	return &s.Unreadable
}

// decide asks once more when it took too long: what a busy moment did to one evaluation is no change of policy.
func (r *replay) decide(ctx context.Context, in policy.Input) policy.Decision {
	d := r.engine.Decide(ctx, in)
	if slices.Contains(d.Reasons, policy.ReasonTimeout) && ctx.Err() == nil {
		d = r.engine.Decide(ctx, in)
	}
	return d
}
