package api

import (
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
)

func (s *Server) issueToken(c *call, q *v1.TokenRequest) (v1.Token, error) {
	scope, err := parseScope("scope", q.Scope)
	if err != nil {
		return v1.Token{}, err
	}
	ttl, err := seconds("ttl", q.TTL)
	if err != nil {
		return v1.Token{}, err
	}
	t, err := s.cfg.Domain.IssueToken(c.ctx, c.by, delegation.TokenRequest{Audience: q.Audience, Scope: scope, TTL: ttl})
	if err != nil {
		return v1.Token{}, err
	}
	return v1.Token{
		AccessToken: t.Compact, TokenType: "Bearer", ExpiresIn: max(int64(t.NotAfter.Sub(s.cfg.Now())/time.Second), 0),
		Scope: t.Scope.String(), AuditReceipt: s.receipt(t.Position),
	}, nil
}
