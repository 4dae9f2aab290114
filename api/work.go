package api

import (
	"encoding/hex"
	"mime"
	"net/http"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

func (s *Server) requestGrant(c *call, q *v1.GrantRequest) (v1.Grant, error) {
	scope, err := parseScope("scope", q.Scope)
	if err != nil {
		return v1.Grant{}, err
	}
	g, err := s.cfg.Domain.RequestGrant(c.ctx, c.by, delegation.GrantRequest{
		Purpose: q.Task, Scope: scope, NotAfter: q.NotAfter, MaxDepth: q.MaxDepth, AgentTypes: q.AgentTypes, Idempotency: c.idem,
	})
	if err != nil {
		return v1.Grant{}, err
	}
	return s.grant(g), nil
}

func (s *Server) readGrant(c *call) (v1.Grant, error) {
	g, err := s.cfg.Domain.Grant(c.by, c.param("id"))
	if err != nil {
		return v1.Grant{}, err
	}
	return s.grant(g), nil
}

func (s *Server) grant(g delegation.Grant) v1.Grant {
	out := v1.Grant{
		GrantID: g.ID, TaskID: g.TaskID, Status: string(g.Status), Task: g.Purpose, Scope: g.Scope.Strings(), NotAfter: wireTime(g.NotAfter),
		MaxDepth: g.MaxDepth, AgentTypes: g.AgentTypes, Orchestrator: g.Orchestrator.String(), AuditReceipt: s.receipt(g.Position),
	}
	if g.Status == delegation.GrantPending {
		out.ConsentURL = s.cfg.PublicURL + "/consent/" + g.ID
	}
	if g.Hash != [32]byte{} {
		out.GrantHash = hex.EncodeToString(g.Hash[:])
	}
	return out
}

func (s *Server) grantDocument(c *call) (reply, error) {
	doc, err := s.cfg.Domain.GrantDocumentFor(c.by, c.param("id"), c.query.Get("issuer"), c.query.Get("subject"))
	if err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusOK, raw: doc, media: mediaJSON, cache: "no-store"}, nil
}

func (s *Server) signGrant(c *call, q *v1.GrantSignature) (v1.GrantConsent, error) {
	return consented(s.cfg.Domain.ApproveSigned(c.ctx, c.param("id"), q.JWS))
}

func (s *Server) exchangeToken(c *call, q *v1.TokenExchange) (v1.GrantConsent, error) {
	return consented(s.cfg.Domain.ApproveExchanged(c.ctx, c.by, c.param("id"), delegation.TokenExchange{
		SubjectToken: q.SubjectToken, SubjectTokenType: q.SubjectTokenType,
	}))
}

// consented says no more than that: who signed need not be who asked.
func consented(g delegation.Grant, err error) (v1.GrantConsent, error) {
	if err != nil {
		return v1.GrantConsent{}, err
	}
	return v1.GrantConsent{GrantID: g.ID, Status: string(g.Status), GrantHash: hex.EncodeToString(g.Hash[:])}, nil
}

// receiveEvent takes a token of type application/secevent+jwt (RFC 8935 §2.1).
func (s *Server) receiveEvent(c *call) (reply, error) {
	media, _, err := mime.ParseMediaType(c.echo.Request().Header.Get("Content-Type"))
	if err != nil || media != mediaEvent || c.echo.Request().Header.Get("Content-Encoding") != "" {
		return reply{}, invalid(codeMediaType, "Content-Type", mediaEvent)
	}
	body, err := s.body(c)
	if err != nil {
		return reply{}, err
	}
	if err := s.cfg.Domain.ReceiveEvent(c.ctx, string(body)); err != nil {
		return reply{}, err
	}
	return reply{status: http.StatusAccepted, raw: []byte{}, media: mediaJSON}, nil
}

func (s *Server) openTask(c *call, q *v1.TaskRequest) (v1.Task, error) {
	req := delegation.TaskRequest{GrantID: q.GrantID, NotAfter: q.NotAfter, Idempotency: c.idem}
	if q.Scope != nil {
		scope, err := parseScope("scope", q.Scope)
		if err != nil {
			return v1.Task{}, err
		}
		req.Scope = scope
	}
	return s.task(s.cfg.Domain.OpenTask(c.ctx, c.by, req))
}

func (s *Server) readTask(c *call) (v1.Task, error) {
	return s.task(s.cfg.Domain.Task(c.by, c.param("id")))
}

func (s *Server) completeTask(c *call) (v1.Task, error) {
	return s.task(s.cfg.Domain.CompleteTask(c.ctx, c.by, c.param("id")))
}

func (s *Server) task(t delegation.Task, err error) (v1.Task, error) {
	if err != nil {
		return v1.Task{}, err
	}
	return v1.Task{
		TaskID: t.ID, GrantID: t.GrantID, Status: t.Status, Scope: t.Scope.Strings(), NotAfter: wireTime(t.NotAfter), MaxDepth: t.MaxDepth,
		Orchestrator: t.Orchestrator.String(), AuditReceipt: s.receipt(t.Position),
	}, nil
}

func parseScope(field string, tokens []string) (chain.Scope, error) {
	scope, err := chain.ParseScope(tokens)
	if err != nil {
		return nil, invalid(codeBadScope, field, err.Error())
	}
	return scope, nil
}
