package api

import (
	"context"
	"strconv"
	"strings"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/event"
)

func (s *Server) revoke(c *call, q *v1.RevocationRequest) (v1.Revocation, error) {
	req, err := revokeRequest(q)
	if err != nil {
		return v1.Revocation{}, err
	}
	req.Idempotency = c.idem
	v, err := s.cfg.Domain.Revoke(c.ctx, c.by, req)
	if err != nil {
		return v1.Revocation{}, err
	}
	return s.revocation(v), nil
}

func revokeRequest(q *v1.RevocationRequest) (delegation.RevokeRequest, error) {
	var none delegation.RevokeRequest
	kind, err := chain.ParseRevKind(q.Kind)
	if err != nil {
		return none, invalid(codeBadRevocation, "kind", "one of certificate, agent, subtree, task, grant, user, orchestrator")
	}
	out := delegation.RevokeRequest{Kind: kind, ID: q.ID, Reason: q.Reason}
	if kind != chain.RevUser {
		if q.User != nil || q.ID == "" {
			return none, invalid(codeBadRequest, "id", "what is revoked is named by id")
		}
		if !printable(q.ID, 256) {
			return none, invalid(codeBadRequest, "id", "at most 256 printable ASCII characters")
		}
		return out, nil
	}
	u := q.User
	if u == nil || q.ID != "" {
		return none, invalid(codeBadRequest, "user", "a user is named by issuer and subject")
	}
	if err := checkUser(u); err != nil {
		return none, err
	}
	out.ID = chain.UserID(u.Issuer, u.Subject)
	return out, nil
}

// checkUser accepts a user who is named as such.
func checkUser(u *v1.User) error {
	switch {
	case u.Issuer == "" || u.Subject == "":
		return invalid(codeBadRequest, "user", "a user is named by issuer and subject")
	case strings.Contains(u.Issuer, "\x00") || strings.Contains(u.Subject, "\x00"):
		return invalid(codeBadRequest, "user", "neither part holds a zero byte")
	}
	return nil
}

func (s *Server) revocation(v delegation.Revocation) v1.Revocation {
	out := v1.Revocation{
		Seq: v.Seq, Kind: v.Kind.String(), ID: v.ID, Reason: v.Reason, Time: wireTime(v.Time), AuditReceipt: s.receipt(v.Position),
	}
	if !v.Expires.IsZero() {
		out.Expires = wireTime(v.Expires)
	}
	if v.Kind == chain.RevUser {
		issuer, subject := chain.SplitUserID(v.ID)
		out.ID, out.User = "", &v1.User{Issuer: issuer, Subject: subject}
	}
	return out
}

// maxWait bounds a long poll, in seconds.
const maxWait = 25

// wait reads how long the caller wants to wait for something new.
func (c *call) wait() (time.Duration, error) {
	text := c.query.Get("wait")
	if text == "" {
		return 0, nil
	}
	n, err := number(text)
	if err != nil || n > maxWait {
		return 0, invalid(codeBadParameter, "wait", "0 to "+strconv.Itoa(maxWait)+" seconds")
	}
	return time.Duration(n) * time.Second, nil
}

// place reads a place in the feed.
func place(text string) (delegation.Cursor, error) {
	epoch, seq, err := event.ParsePosition(text)
	if err != nil {
		return delegation.Cursor{}, invalid(codeBadParameter, "cursor", "next_cursor of an earlier page, or the id of an event")
	}
	return delegation.Cursor{Epoch: epoch, Seq: seq}, nil
}

func (s *Server) listRevocations(c *call) (v1.RevocationPage, error) {
	limit, err := c.limit()
	if err != nil {
		return v1.RevocationPage{}, err
	}
	after, err := place(c.query.Get("cursor"))
	if err != nil {
		return v1.RevocationPage{}, err
	}
	wait, err := c.wait()
	if err != nil {
		return v1.RevocationPage{}, err
	}
	page, err := s.pollRevocations(c, after, limit, wait)
	if err != nil {
		return v1.RevocationPage{}, err
	}
	out := v1.RevocationPage{
		Revocations: make([]v1.Revocation, len(page.Revocations)),
		NextCursor:  event.Position(page.Next.Epoch, page.Next.Seq),
	}
	for i, v := range page.Revocations {
		out.Revocations[i] = s.revocation(v)
	}
	return out, nil
}

// pollRevocations answers at once when there is something, and else within the time that the caller waits. Waiting takes
// one of the places for readers of the feed.
func (s *Server) pollRevocations(c *call, after delegation.Cursor, limit int, wait time.Duration) (delegation.RevocationPage, error) {
	page := s.cfg.Domain.Revocations(after, limit)
	if len(page.Revocations) > 0 || wait == 0 {
		return page, nil
	}
	if !enter(s.streams) {
		return page, refuse(delegation.Unavailable, codeOverloaded, "", "too many readers of the feed")
	}
	defer leave(s.streams)
	ctx, cancel := context.WithTimeout(c.ctx, wait)
	defer cancel()
	select {
	case <-ctx.Done():
		return page, c.ctx.Err()
	case <-s.closing:
		return page, nil
	case <-page.Changed:
	}
	// The caller may have been revoked meanwhile, by that very revocation.
	if err := s.admit(c); err != nil {
		return page, err
	}
	return s.cfg.Domain.Revocations(after, limit), nil
}
