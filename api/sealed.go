package api

import (
	"context"
	"sync"

	v1 "github.com/signet-pki/signet/api/v1"
)

// waitParam asks for the second of the log's acknowledgements; without it an answer means that the entry is durable.
var waitParam = param{"wait", "sealed: answer when a seal covers the entry, or say that none does yet"}

// sealable rows take it; their handler comes from awaiting.
func (r route) sealable() route {
	r.params = append(r.params, waitParam)
	return r
}

// waitsSealed reads it.
func (c *call) waitsSealed() (bool, error) {
	switch c.query.Get("wait") {
	case "":
		return false, nil
	case "sealed":
		return true, nil
	}
	return false, invalid(codeBadParameter, "wait", "sealed")
}

// recordedAs is an entry that an answer names, and where the answer tells whether it is sealed.
type recordedAs struct {
	index  uint64
	sealed **bool
	seal   **uint64
}

// awaiting makes a handler wait until what it recorded is sealed, if its caller asks for that. The handler's answer is given
// in any case: what was done is done.
func awaiting[Q, R any](h func(*Server, *call, *Q) (R, error), entries func(*R) []recordedAs) func(*Server, *call, *Q) (R, error) {
	return func(s *Server, c *call, q *Q) (R, error) {
		wait, err := c.waitsSealed()
		if err != nil {
			var none R
			return none, err
		}
		out, err := h(s, c, q)
		if err == nil && wait {
			s.awaitSeals(c.ctx, entries(&out))
		}
		return out, err
	}
}

// awaitSeals waits until the entries are sealed, and no longer than the request, with time to answer, or the server lasts.
// Where too many wait nobody more does.
func (s *Server) awaitSeals(ctx context.Context, entries []recordedAs) {
	ctx, done := s.patience(ctx)
	defer done()
	for _, e := range entries {
		// After the end of ctx this gives what is sealed already.
		seal, err := s.cfg.Log.WaitSealed(ctx, e.index)
		sealed := err == nil
		*e.sealed = &sealed
		if sealed {
			*e.seal = &seal
		}
	}
}

// patience is how long a request waits for a seal. The function gives its place back.
func (s *Server) patience(ctx context.Context) (context.Context, func()) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = s.cfg.Now() // nobody waits without end
	}
	ctx, cancel := context.WithDeadline(ctx, deadline.Add(-s.cfg.Limits.Request/6))
	if !enter(s.sealing) {
		cancel()
		return ctx, cancel
	}
	var ended sync.WaitGroup
	ended.Go(func() {
		select {
		case <-s.closing:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel()
		ended.Wait()
		leave(s.sealing)
	}
}

// entryOf is the entry of a receipt's, if the answer has one.
func entryOf(r *v1.AuditReceipt) []recordedAs {
	if r == nil {
		return nil
	}
	return []recordedAs{{r.Index, &r.Sealed, &r.Seal}}
}

func spawnEntry(r *v1.Spawned) []recordedAs { return entryOf(r.AuditReceipt) }

func batchEntries(r *v1.SpawnBatchResults) []recordedAs {
	var out []recordedAs
	for i := range r.Results {
		if a := r.Results[i].Agent; a != nil {
			out = append(out, entryOf(a.AuditReceipt)...)
		}
	}
	return out
}

func decisionEntry(r *v1.EvaluationResponse) []recordedAs { return contextEntry(&r.Context) }

func contextEntry(r *v1.DecisionContext) []recordedAs {
	if r == nil || r.AuditID == nil {
		return nil
	}
	return []recordedAs{{*r.AuditID, &r.AuditSealed, &r.AuditSeal}}
}

func decisionEntries(r *v1.EvaluationsResponse) []recordedAs {
	out := contextEntry(r.Context)
	for i := range r.Evaluations {
		out = append(out, decisionEntry(&r.Evaluations[i])...)
	}
	return out
}
