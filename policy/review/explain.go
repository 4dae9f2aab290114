package review

import (
	"context"
	"errors"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/policy"
)

// ExplainRequest names what to explain: a decision, an entry or an input, one of the three, and the bundle: by default the
// active one.
type ExplainRequest struct {
	DecisionID string
	Index      *uint64
	Input      *policy.Input
	Recorded   bool   // with the bundle that the entry names
	Digest     string // or with that one
}

// Explained is an answer and how it came about.
type Explained struct {
	policy.Explanation
	Question *Question // nil where the input was given
}

// Explain evaluates once more and says how the answer came about.
func (r *Reviewer) Explain(ctx context.Context, q ExplainRequest) (Explained, error) {
	if err := enter(r.explains); err != nil {
		return Explained{}, err
	}
	defer func() { <-r.explains }()
	var out Explained
	in, want := q.Input, q.Digest
	if in == nil {
		found, err := r.find(ctx, q)
		if err != nil {
			return Explained{}, err
		}
		in, out.Question = &found.Input, &found
		if q.Recorded {
			want = found.Policy
		}
	}
	engine, err := r.cfg.Bundles.Engine(ctx, "", want)
	if err != nil {
		return Explained{}, err
	}
	out.Explanation = engine.Explain(ctx, *in)
	return out, nil
}

// find reads the entry that is to be explained. What policy did not decide alone can be explained all the same.
func (r *Reviewer) find(ctx context.Context, q ExplainRequest) (Question, error) {
	index := uint64(0)
	if q.Index != nil {
		index = *q.Index
	} else {
		found, err := r.cfg.Log.Lookup(ctx, record.Term{Kind: "decision", ID: q.DecisionID}, 0, 1)
		if err != nil {
			return Question{}, err
		}
		if len(found) == 0 {
			return Question{}, ErrNotFound
		}
		index = found[0]
	}
	if index >= r.cfg.Log.Size() {
		return Question{}, ErrNotFound
	}
	var out Question
	err := r.cfg.Log.Entries(ctx, index, index+1, func(e record.Stored) error {
		var err error
		out, err = question(e)
		return err
	})
	switch {
	case errors.Is(err, errOther):
		return out, ErrNoInput
	case errors.Is(err, errOverruled), errors.Is(err, errBusy):
		return out, nil
	}
	return out, err
}
