package api

import (
	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

func (s *Server) erase(c *call, q *v1.ErasureRequest) (v1.Erasure, error) {
	req := delegation.EraseRequest{Entries: q.Entries, Reason: q.Reason, DryRun: q.DryRun}
	if u := q.User; u != nil {
		if err := checkUser(u); err != nil {
			return v1.Erasure{}, err
		}
		req.User = &chain.User{Issuer: u.Issuer, Subject: u.Subject}
	}
	done, err := s.cfg.Domain.Erase(c.ctx, c.by, req)
	if err != nil {
		return v1.Erasure{}, err
	}
	out := v1.Erasure{Entries: uint64(done.Entries), Redactions: make([]v1.AuditReceipt, 0, len(done.Redactions))} //nolint:gosec // G115: a length
	for _, p := range done.Redactions {
		out.Redactions = append(out.Redactions, *s.receipt(p))
	}
	return out, nil
}
