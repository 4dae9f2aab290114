package api

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/quota"
)

// call is one request on its way.
type call struct {
	ctx   context.Context
	echo  echo.Context
	route *route
	by    delegation.Caller // zero where the route needs none
	query url.Values
	idem  delegation.Idempotency
	meter *quota.Meter // nil where no quota counts
}

func (c *call) param(name string) string { return c.echo.Param(name) }

// peer is the certificate chain whose key the handshake proved; nothing about it is verified yet.
func (c *call) peer() []*x509.Certificate {
	if t := c.echo.Request().TLS; t != nil {
		return t.PeerCertificates
	}
	return nil
}

// hand gives the request to a handler that answers by itself.
func (c *call) hand(h http.Handler) (reply, error) {
	h.ServeHTTP(c.echo.Response(), c.echo.Request().WithContext(c.ctx))
	return reply{done: true}, nil
}

// serve is the one way through the server: place, caller, role, parameters, body, domain, answer.
func (s *Server) serve(r *route) echo.HandlerFunc {
	seen := s.metrics.of(r)
	return func(ec echo.Context) error {
		started := s.cfg.Now()
		c := &call{ctx: ec.Request().Context(), echo: ec, route: r}
		s.answer(c)
		took := s.cfg.Now().Sub(started)
		seen.done(ec.Response().Status, took)
		if s.cfg.Logger.Enabled(c.ctx, slog.LevelDebug) {
			s.cfg.Logger.LogAttrs(c.ctx, slog.LevelDebug, "request", slog.String("endpoint", r.id),
				slog.String("caller", c.by.ID.String()), slog.Int("status", ec.Response().Status), slog.Duration("took", took))
		}
		return nil
	}
}

func (s *Server) answer(c *call) {
	defer s.survive(c)
	if !c.route.free {
		places := s.places(c.route)
		if !enter(places) {
			s.refuse(c, refuse(delegation.Unavailable, codeOverloaded, "", "too many requests at a time"))
			return
		}
		defer leave(places)
	}
	if !c.route.slow && !c.route.stream {
		ctx, cancel := context.WithTimeout(c.ctx, s.cfg.Limits.Request)
		defer cancel()
		c.ctx = ctx
	}
	if c.route.limited {
		c.ctx, c.meter = quota.Watch(c.ctx)
	}
	rep, err := s.run(c)
	if err == nil {
		err = s.write(c, rep)
	}
	if err != nil {
		s.refuse(c, err)
	}
}

// places keeps apart what could starve the rest: exports, and callers who need no identity to hold a place.
func (s *Server) places(r *route) chan struct{} {
	switch {
	case r.stream:
		return s.streams
	case r.slow:
		return s.waits
	case r.heavy || r.upload != "":
		return s.heavy
	case r.allowed&anyone != 0 && r.method != http.MethodGet:
		return s.knocks
	case r.allowed&anyone != 0:
		return s.public
	}
	return s.work
}

func enter(places chan struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	default:
		return false
	}
}

func leave(places chan struct{}) { <-places }

// survive turns a fault of ours into an answer without detail. http.ErrAbortHandler is how a broken stream is cut off.
func (s *Server) survive(c *call) {
	v := recover()
	if v == nil {
		return
	}
	if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(v)
	}
	s.refuse(c, s.fault(c, v))
}

// fault logs what a handler panicked with, and gives what its caller learns of it.
func (s *Server) fault(c *call, v any) error {
	s.cfg.Logger.LogAttrs(c.ctx, slog.LevelError, "panic in a handler", slog.String("endpoint", c.route.id),
		slog.String("panic", fmt.Sprint(v)), slog.String("stack", string(debug.Stack())))
	return errors.New("api: panic")
}

func (s *Server) run(c *call) (reply, error) {
	if err := s.admit(c); err != nil {
		return reply{}, err
	}
	if err := c.parameters(); err != nil {
		return reply{}, err
	}
	if err := c.idempotency(); err != nil {
		return reply{}, err
	}
	return c.route.handle(s, c)
}

// admit authenticates the caller and asks the table.
func (s *Server) admit(c *call) error {
	if c.route.allowed&anyone != 0 {
		return nil
	}
	by, err := s.cfg.Domain.Authenticate(c.peer())
	if err != nil {
		return err
	}
	c.by = by
	if c.route.allowed&roleOf(by) == 0 {
		return refuse(delegation.Forbidden, codeRole, "", "this endpoint is for "+c.route.allowed.String())
	}
	return nil
}

// visitor authenticates where no certificate is needed but one makes a difference. An identity that does not hold is
// nobody's.
func (s *Server) visitor(c *call) role {
	peer := c.peer()
	if len(peer) == 0 {
		return 0
	}
	by, err := s.cfg.Domain.Authenticate(peer)
	if err != nil {
		return 0
	}
	c.by = by
	return roleOf(by)
}

// refuse answers with a problem, and has the refusal recorded where the domain did not do so.
func (s *Server) refuse(c *call, err error) {
	e, status := s.judge(c, err)
	if c.echo.Response().Committed {
		// Half an answer is worse than none: the client must see that it broke off.
		panic(http.ErrAbortHandler)
	}
	s.writeProblem(c, e, status)
}

// judge makes a refusal of any error, has it recorded and, if it is a fault of ours, logged.
func (s *Server) judge(c *call, err error) (*delegation.Error, int) {
	e := s.classify(c, err)
	status := StatusOf(e)
	if s.recorded(c, e, status) {
		out := *e
		out.AuditIndex = s.note(c, e)
		e = &out
	}
	if status >= http.StatusInternalServerError && e.Code != codeOverloaded {
		s.cfg.Logger.LogAttrs(c.ctx, slog.LevelError, "request failed", slog.String("endpoint", c.route.id),
			slog.String("code", e.Code), slog.Any("error", errors.Join(e, e.Err)))
	}
	return e, status
}

// classify makes a refusal of any error.
func (s *Server) classify(c *call, err error) *delegation.Error {
	var e *delegation.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, ErrNotFound):
		return refuse(delegation.NotFound, codeNotFound, "", "there is no such thing")
	case errors.Is(err, ErrPruned):
		return refuse(delegation.NotFound, codePruned, "", "this entry was pruned: GET /v1/audit/retention names the entry that says where it is")
	case errors.Is(err, ErrNotSealed):
		return refuse(delegation.Conflict, codeNotSealed, "", "nothing signed or sealed covers that yet; ask again, or with wait=sealed where it is offered")
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return &delegation.Error{Kind: delegation.Unavailable, Code: "timeout", Detail: "it took too long", Err: err}
	}
	return delegation.AsError(err)
}

// recorded says whether a refusal still needs its entry. Public reads of what is not there yet are no refusals, and
// faults of ours are not the caller's doing.
func (s *Server) recorded(c *call, e *delegation.Error, status int) bool {
	switch {
	case e.AuditIndex != nil || e.Counted || status >= http.StatusInternalServerError:
		return false
	case s.scenario != nil:
		return false // the conformance profile has no log
	case c.route.allowed&anyone != 0 && c.route.method == http.MethodGet:
		return false
	}
	return e.Code != codeNotSealed
}

// noteFor is how long a refusal waits for its entry.
const noteFor = 5 * time.Second

func (s *Server) note(c *call, e *delegation.Error) *uint64 {
	// The caller may have hung up; its attempt is recorded all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), noteFor)
	defer cancel()
	return s.cfg.Domain.RecordRefusal(ctx, delegation.Refusal{
		Operation: c.route.method + " " + c.route.path, Caller: c.by.ID.String(), Code: e.Code, Field: e.Field,
	})
}

// unrouted answers what is in no row of the table.
func (s *Server) unrouted(err error, ec echo.Context) {
	c := &call{ctx: ec.Request().Context(), echo: ec, route: &route{id: "none", method: "-", path: "-"}}
	c.route.access = strings.HasPrefix(ec.Request().URL.Path, "/access/")
	e := refuse(delegation.NotFound, codeRouteNotFound, "", "there is no such endpoint")
	var he *echo.HTTPError
	if errors.As(err, &he) && he.Code == http.StatusMethodNotAllowed {
		e = refuse(delegation.Invalid, codeMethod, "", "this endpoint has another method; see the Allow header")
	}
	defer s.survive(c)
	s.refuse(c, e)
	s.metrics.unrouted.Inc()
}
