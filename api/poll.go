package api

import (
	"context"
	"strconv"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/event"
)

// pollPage bounds the events of one answer.
const pollPage = 256

// maxSetErr bounds a reader's code for what is wrong with an event, in bytes; the registered ones are shorter.
const maxSetErr = 64

// pollEvents serves the signed feed by polls (RFC 8936). What is acknowledged stays so, whatever becomes of the answer;
// what is sent comes again until it is acknowledged.
func (s *Server) pollEvents(c *call, q *v1.FeedPoll) (v1.FeedEvents, error) {
	var none v1.FeedEvents
	wait, err := c.pollWait(q)
	if err != nil {
		return none, err
	}
	req, err := feedPoll(q)
	if err != nil {
		return none, err
	}
	page := s.cfg.Domain.PollFeed(c.by, req)
	if len(page.Events) == 0 && req.Limit > 0 && wait > 0 {
		if page, err = s.awaitEvents(c, page, req.Limit, wait); err != nil {
			return none, err
		}
	}
	out := v1.FeedEvents{Sets: make(map[string]string, len(page.Events)), MoreAvailable: page.More}
	for _, e := range page.Events {
		out.Sets[event.Position(page.Next.Epoch, e.Seq)] = e.SET
	}
	return out, nil
}

// pollWait is how long the caller waits: as long as it may, if it does not say.
func (c *call) pollWait(q *v1.FeedPoll) (time.Duration, error) {
	wait, err := c.wait()
	if err == nil && c.query.Get("wait") == "" {
		wait = maxWait * time.Second
	}
	if q.ReturnImmediately {
		wait = 0
	}
	return wait, err
}

// feedPoll reads a poll. A jti that can be none of the feed's is ignored, like one that is not in it (any more).
func feedPoll(q *v1.FeedPoll) (delegation.FeedPoll, error) {
	out := delegation.FeedPoll{Limit: pollPage, Refused: make(map[delegation.Cursor]string, len(q.SetErrs))}
	if n := q.MaxEvents; n != nil {
		if *n < 0 {
			return out, invalid(codeBadRequest, "maxEvents", "0 or more")
		}
		out.Limit = int(min(*n, pollPage))
	}
	if len(q.Ack)+len(q.SetErrs) > v1.MaxFeedAcks {
		return out, invalid(codeBadRequest, "ack", "at most "+strconv.Itoa(v1.MaxFeedAcks)+" events, with those of setErrs")
	}
	for _, jti := range q.Ack {
		if at, err := place(jti); err == nil {
			out.Acked = append(out.Acked, at)
		}
	}
	for jti, e := range q.SetErrs {
		if !printable(e.Err, maxSetErr) {
			return out, invalid(codeBadRequest, "setErrs."+shown([]byte(jti))+".err", "at most "+strconv.Itoa(maxSetErr)+" printable ASCII characters")
		}
		if at, err := place(jti); err == nil {
			out.Refused[at] = e.Err
		}
	}
	return out, nil
}

// awaitEvents waits until there is an event for the caller. Waiting takes one of the places for readers of the feed.
func (s *Server) awaitEvents(c *call, page delegation.FeedPage, limit int, wait time.Duration) (delegation.FeedPage, error) {
	if !enter(s.streams) {
		return page, refuse(delegation.Unavailable, codeOverloaded, "", "too many readers of the feed")
	}
	defer leave(s.streams)
	ctx, cancel := context.WithTimeout(c.ctx, wait)
	defer cancel()
	for len(page.Events) == 0 {
		select {
		case <-ctx.Done():
			return page, c.ctx.Err()
		case <-s.closing:
			return page, nil
		case <-page.Changed: // also by a heartbeat
		}
		// The caller may have been revoked meanwhile, by that very event.
		if err := s.admit(c); err != nil {
			return page, err
		}
		page = s.cfg.Domain.PollFeed(c.by, delegation.FeedPoll{Limit: limit})
	}
	return page, nil
}
