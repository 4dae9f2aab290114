// Package review evaluates again what policy was asked: to explain an answer, and to show what another bundle would change.
//
// It reads the log and changes nothing: who asked for a review is recorded by the domain before. It works on one replay and a
// few explanations at a time, in a place of its own beside the decisions, and refuses others with ErrBusy. It is safe for
// concurrent use.
package review

import (
	"context"
	"errors"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/policy"
)

// Reasons why there is nothing to review.
var (
	ErrBusy       = errors.New("review: another one is under way")
	ErrNoBundle   = errors.New("review: no such bundle")
	ErrNotFound   = errors.New("review: no such entry")
	ErrPruned     = errors.New("review: the entry was pruned")
	ErrNoInput    = errors.New("review: policy was not asked for this entry")
	ErrErased     = errors.New("review: what policy was asked is erased")
	ErrUnreadable = errors.New("review: the recorded input is not what the entry says")
)

// Engine is a bundle to evaluate with.
type Engine interface {
	Decide(ctx context.Context, in policy.Input) policy.Decision
	Explain(ctx context.Context, in policy.Input) policy.Explanation
	Digest() string
	Revision() string
}

// Active is the name of the bundle that decides now, whatever its own.
const Active = "active"

// Bundles finds engines that no decision waits for, by name or digest or both; without either it is the active one. Of a name
// without a digest it is the candidate. An error that wraps ErrNoBundle says that there is none.
type Bundles interface {
	Engine(ctx context.Context, name, digest string) (Engine, error)
}

// Log is where the questions are. Lookup and Entries are those of the audit log; a missing entry is ErrNotFound.
type Log interface {
	Size() uint64
	Minimum() uint64 // entries before it may have been pruned; one that was is ErrPruned
	Lookup(ctx context.Context, term record.Term, from uint64, limit int) ([]uint64, error)
	Entries(ctx context.Context, from, to uint64, fn func(record.Stored) error) error
}

// Config is what a Reviewer needs.
type Config struct {
	Log     Log
	Bundles Bundles
	Now     func() time.Time
}

// explanations at a time.
const explanations = 2

// Reviewer does reviews. Make it with New.
type Reviewer struct {
	cfg      Config
	replays  chan struct{}
	explains chan struct{}
}

// New makes a Reviewer.
func New(cfg Config) (*Reviewer, error) {
	if cfg.Log == nil || cfg.Bundles == nil || cfg.Now == nil {
		return nil, errors.New("review: log, bundles and clock are required")
	}
	return &Reviewer{cfg: cfg, replays: make(chan struct{}, 1), explains: make(chan struct{}, explanations)}, nil
}

func enter(places chan struct{}) error {
	select {
	case places <- struct{}{}:
		return nil
	default:
		return ErrBusy
	}
}
