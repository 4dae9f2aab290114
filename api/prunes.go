package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
)

// maxPruning bounds a prune, of which the archive takes the time: it is written, read back and verified.
const maxPruning = 10 * time.Minute

func (s *Server) prune(c *call, q *v1.PruneRequest) (v1.Prune, error) {
	// The connection's deadlines for the request would end what takes longer.
	if err := http.NewResponseController(c.echo.Response()).SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return v1.Prune{}, err
	}
	if err := extend(c.echo.Response(), s.cfg.Now().Add(maxPruning+s.cfg.Limits.Request)); err != nil {
		return v1.Prune{}, err
	}
	ctx, cancel := context.WithTimeout(c.ctx, maxPruning)
	defer cancel()
	done, err := s.cfg.Domain.Prune(ctx, c.by, delegation.PruneRequest{Before: q.Before, Reason: q.Reason, DryRun: q.DryRun})
	if err != nil {
		return v1.Prune{}, err
	}
	out := v1.Prune{From: done.From, To: done.To, Archive: done.Archive, SHA256: done.SHA256}
	if done.Position != nil {
		out.AuditReceipt = s.receipt(*done.Position)
	}
	return out, nil
}

func (s *Server) readRetention(*call) (v1.Retention, error) {
	minimum, entry, ok := s.cfg.Log.Pruned()
	if !ok {
		return v1.Retention{}, nil
	}
	return v1.Retention{MinimumIndex: minimum, PruneEntry: &entry}, nil
}
