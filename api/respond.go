package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"

	"github.com/labstack/echo/v4"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
)

// buffers are reused for answers: a spawn's is some kilobytes.
type buffers struct{ pool sync.Pool }

func (b *buffers) get() *bytes.Buffer {
	if buf, ok := b.pool.Get().(*bytes.Buffer); ok {
		buf.Reset()
		return buf
	}
	return new(bytes.Buffer)
}

// put keeps no giant of a single long answer.
func (b *buffers) put(buf *bytes.Buffer) {
	if buf.Cap() <= 64<<10 {
		b.pool.Put(buf)
	}
}

// write sends an answer. An error means that nothing was sent.
func (s *Server) write(c *call, r reply) error {
	if r.done {
		return nil
	}
	if r.body == nil {
		s.send(c, r.status, r.media, r.cache, r.raw)
		return nil
	}
	return s.writeJSON(c, r.status, mediaJSON, r.body)
}

// writeJSON encodes the whole before it sends the first byte.
func (s *Server) writeJSON(c *call, status int, media string, v any) error {
	buf := s.buffers.get()
	defer s.buffers.put(buf)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("api: encode answer: %w", err)
	}
	s.send(c, status, media, "", buf.Bytes())
	return nil
}

func (s *Server) send(c *call, status int, media, cache string, body []byte) {
	w := c.echo.Response()
	s.header(c, w.Header(), media, cache)
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	w.Write(body) //nolint:errcheck // the client left: nobody to tell
}

// The headers of every answer, made once. Nobody may change them.
type headers struct{ nosniff, noStore, json, problem []string }

func newHeaders() headers {
	return headers{[]string{"nosniff"}, []string{"no-store"}, []string{mediaJSON}, []string{v1.ProblemType}}
}

func (s *Server) header(c *call, h http.Header, media, cache string) {
	h["X-Content-Type-Options"] = s.headers.nosniff
	h["Cache-Control"] = s.headers.noStore
	if cache != "" {
		h.Set("Cache-Control", cache)
	}
	switch media {
	case mediaJSON:
		h["Content-Type"] = s.headers.json
	case v1.ProblemType:
		h["Content-Type"] = s.headers.problem
	default:
		h.Set("Content-Type", media)
	}
	if c.meter != nil {
		rateLimit(c.meter, h)
	}
	if c.route.access {
		echoRequestID(c.echo, h)
	}
}

// echoRequestID is AuthZEN's correlation (Authorization API 1.0, "Request Identification").
func echoRequestID(ec echo.Context, h http.Header) {
	if id := ec.Request().Header.Get("X-Request-Id"); printable(id, 256) {
		h.Set("X-Request-ID", id)
	}
}

// writeProblem sends a refusal: a problem, or on /access/* a string as AuthZEN has it.
func (s *Server) writeProblem(c *call, e *delegation.Error, status int) {
	h := c.echo.Response().Header()
	if after := retryAfter(e, status); after != "" {
		h.Set("Retry-After", after)
	}
	if status == http.StatusUnauthorized {
		// RFC 9110 §15.5.2 wants a challenge; TLS client certificates have no registered scheme.
		h.Set("WWW-Authenticate", `ClientCertificate realm="`+s.cfg.Trust.TrustDomain+`"`)
	}
	p := problemOf(e)
	var err error
	switch {
	case c.route.access:
		err = s.writeJSON(c, accessStatus(status), mediaJSON, accessText(p))
	case c.route.setPush:
		err = s.writeJSON(c, setStatus(status), mediaJSON, setError(e))
	case c.route.grpc:
		s.refuseGRPC(c, status, accessText(p))
	default:
		err = s.writeJSON(c, status, v1.ProblemType, p)
	}
	if err != nil {
		s.send(c, http.StatusInternalServerError, mediaText, "", nil)
	}
}

// setStatus is 400 for whatever is wrong with an event (RFC 8935 §2.3).
func setStatus(status int) int {
	if status >= http.StatusInternalServerError {
		return status
	}
	return http.StatusBadRequest
}

// setError says it in the codes of RFC 8935 §2.4.
func setError(e *delegation.Error) v1.EventError {
	out := v1.EventError{Err: "invalid_request", Description: e.Code}
	switch e.Code {
	case "set_key":
		out.Err = "invalid_key"
	case "set_issuer":
		out.Err = "invalid_issuer"
	case "set_audience":
		out.Err = "invalid_audience"
	}
	return out
}

func accessText(p v1.Problem) string {
	text := p.Code
	if p.Field != "" {
		text += " (" + p.Field + ")"
	}
	if p.Detail != "" {
		text += ": " + p.Detail
	}
	return text
}
