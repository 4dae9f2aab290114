package api

import (
	"bytes"
	"net/http"
	"time"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/event"
)

// streamPage is how many events are written at a time: what a stream holds in memory.
const streamPage = 32

const mediaEvents = "text/event-stream"

// stream serves the signed feed as server-sent events (HTML Living Standard §9.2): the id is the event's place, the data
// a Security Event Token. A reader takes what there is at its own pace; one that takes too long for a piece is cut off, and
// nobody waits for it. Its certificate, revocation and role are asked again before each piece.
func (s *Server) stream(c *call) (reply, error) {
	after, err := place(resumeAt(c))
	if err != nil {
		return reply{}, err
	}
	w := c.echo.Response()
	// The connection's deadline for an answer would be over long before the stream is. That for a request is net/http's, which
	// lifts it when the request is there.
	if err := extend(w, time.Time{}); err != nil {
		return reply{}, err
	}
	s.header(c, w.Header(), mediaEvents, "")
	w.WriteHeader(http.StatusOK)
	w.Flush()
	for {
		page := s.cfg.Domain.Feed(after, streamPage)
		if err := s.piece(c, page); err != nil {
			return reply{}, err
		}
		after = page.Next
		if !page.More {
			select {
			case <-c.ctx.Done():
				return reply{done: true}, nil
			case <-s.closing:
				return reply{done: true}, nil
			case <-page.Changed:
			}
		}
		if err := s.admit(c); err != nil {
			return reply{}, err
		}
	}
}

// resumeAt is where the reader was: a browser's EventSource sends the last id by itself.
func resumeAt(c *call) string {
	if id := c.echo.Request().Header.Get("Last-Event-ID"); id != "" {
		return id
	}
	return c.query.Get("cursor")
}

// piece writes a page, and the heartbeat where it is behind the last event.
func (s *Server) piece(c *call, page delegation.FeedPage) error {
	var out bytes.Buffer
	for _, e := range page.Events {
		out.WriteString("id: " + event.Position(page.Next.Epoch, e.Seq) + "\ndata: " + e.SET + "\n\n")
	}
	if page.Heartbeat != "" {
		out.WriteString("event: heartbeat\ndata: " + page.Heartbeat + "\n\n")
	}
	if out.Len() == 0 {
		return nil
	}
	w := c.echo.Response()
	// The wall clock: deadlines are the network's.
	if err := extend(w, time.Now().Add(s.cfg.Limits.StreamWrite)); err != nil {
		return err
	}
	if _, err := w.Write(out.Bytes()); err != nil {
		return err
	}
	if err := http.NewResponseController(w).Flush(); err != nil {
		return err
	}
	return extend(w, time.Time{})
}
