package api

import (
	"errors"
	"net/http"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation/chain"
)

// exportBundle streams. Whoever reads too slowly is cut off, and so is an export that breaks: a tar without its end
// must not look whole.
func (s *Server) exportBundle(c *call) (reply, error) {
	return s.export(c, Selection{})
}

// exportSelection likewise. It is a POST since people are not named in URLs, which end up in logs.
func (s *Server) exportSelection(c *call) (reply, error) {
	q := new(v1.ExportRequest)
	if err := s.read(c, q); err != nil {
		return reply{}, err
	}
	of, err := selectionOf(q)
	if err != nil {
		return reply{}, err
	}
	if err := http.NewResponseController(c.echo.Response()).SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return reply{}, err
	}
	return s.export(c, of)
}

// selectionOf reads a request by the same rules for each of its members.
func selectionOf(q *v1.ExportRequest) (of Selection, err error) {
	named := 0
	for _, id := range []struct {
		field, value string
		valid        func(string) bool
		to           *string
		form         string
	}{
		{"task", q.Task, isUUID, &of.Task, "a UUID"},
		{"agent", q.Agent, isUUID, &of.Agent, "a UUID"},
		{"pseudonym", q.Pseudonym, isDigest, &of.Pseudonym, "64 lower-case hex digits"},
	} {
		if id.value == "" {
			continue
		}
		if !id.valid(id.value) {
			return Selection{}, invalid(codeBadRequest, id.field, id.form)
		}
		*id.to = id.value
		named++
	}
	if u := q.User; u != nil {
		if err := checkUser(u); err != nil {
			return Selection{}, err
		}
		of.User = &chain.User{Issuer: u.Issuer, Subject: u.Subject}
		named++
	}
	if named != 1 {
		return Selection{}, invalid(codeBadRequest, "task", "exactly one of task, agent, user and pseudonym is named")
	}
	return of, nil
}

func isUUID(text string) bool {
	_, err := chain.ParseUUID(text)
	return err == nil
}

func (s *Server) export(c *call, of Selection) (reply, error) {
	w := c.echo.Response()
	s.header(c, w.Header(), c.route.produces, "")
	w.Header().Set("Content-Disposition", `attachment; filename="evidence.tar"`)
	out := &patient{w: w, now: s.cfg.Now, limit: s.cfg.Limits.Slow}
	// A selection reads the whole log before the first byte.
	err := extend(w, s.cfg.Now().Add(s.cfg.Limits.Slow))
	if err == nil {
		err = s.cfg.Log.Export(c.ctx, out, of)
	}
	if err != nil {
		w.Header().Del("Content-Disposition")
		return reply{}, err
	}
	return reply{done: true}, nil
}
