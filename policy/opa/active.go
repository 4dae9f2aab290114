package opa

import (
	"context"
	"sync/atomic"

	"github.com/signet-pki/signet/policy"
)

// Active is the engine that decides now. It changes at once and for all: a decision is made by one engine from its
// beginning to its end. The zero Active denies everything. It is safe for concurrent use.
type Active struct{ engine atomic.Pointer[Engine] }

// Use makes e decide from now on; nil denies everything.
func (a *Active) Use(e *Engine) { a.engine.Store(e) }

// Engine is the engine that decides now; nil if none does.
func (a *Active) Engine() *Engine { return a.engine.Load() }

// Decide asks the engine that is active when it is called.
func (a *Active) Decide(ctx context.Context, in policy.Input) policy.Decision {
	e := a.engine.Load()
	if e == nil {
		return policy.Decision{Reasons: []string{policy.ReasonUnavailable}}
	}
	return e.Decide(ctx, in)
}
