package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/review"
)

const mediaLines = "application/x-ndjson"

// maxInputBody is what a body with a policy input may be: the document's own bound, and what is around it.
const maxInputBody = policy.MaxDocument + 4<<10

// explain tells how policy comes to an answer. What it evaluates is about a user, so who asked is recorded first.
func (s *Server) explain(c *call, q *v1.ExplainRequest) (v1.Explanation, error) {
	req, target, err := explainRequest(q)
	if err != nil {
		return v1.Explanation{}, err
	}
	pos, err := s.cfg.Domain.RecordReview(c.ctx, c.by, "policy.explain", target, map[string]string{"bundle": orActive(q.Bundle)})
	if err != nil {
		return v1.Explanation{}, err
	}
	x, err := s.cfg.Reviews.Explain(c.ctx, req)
	if err != nil {
		return v1.Explanation{}, reviewRefusal(err)
	}
	out := v1.Explanation{
		Allow: x.Allow, Reasons: x.Reasons, Obligations: x.Obligations, Advice: x.Advice,
		Bundle: v1.BundleRef{Digest: x.Digest, Revision: x.Revision}, Steps: make([]v1.ExplainStep, len(x.Steps)),
		Truncated: x.Truncated, AuditID: pos.Index,
	}
	for i, t := range x.Steps {
		out.Steps[i] = v1.ExplainStep{Outcome: string(t.Outcome), Depth: t.Depth, Rule: t.Rule, File: t.File, Line: t.Line, Text: t.Text}
	}
	if r := x.Question; r != nil {
		out.Recorded = &v1.RecordedAnswer{
			Index: r.Index, DecisionID: r.DecisionID, Point: string(r.Input.Point), Time: r.Time, Digest: r.Policy, Answer: wireAnswer(r.Answer),
		}
	}
	return out, nil
}

func orActive(bundle string) string {
	if bundle == "" {
		return "active"
	}
	return bundle
}

// explainRequest reads a request, and gives the target that its entry names.
func explainRequest(q *v1.ExplainRequest) (req review.ExplainRequest, target string, err error) {
	given := 0
	if q.DecisionID != "" {
		given++
		if _, err := chain.ParseUUID(q.DecisionID); err != nil {
			return req, "", invalid(codeBadRequest, "decision_id", "a lower-case UUIDv7")
		}
		req.DecisionID, target = q.DecisionID, "decision "+q.DecisionID
	}
	if q.Index != nil {
		given++
		req.Index, target = q.Index, "entry "+strconv.FormatUint(*q.Index, 10)
	}
	if q.Input != nil {
		given++
		in, err := policy.Parse(q.Input)
		if err != nil {
			return req, "", invalid(codeBadRequest, "input", err.Error())
		}
		req.Input, target = &in, "input"
	}
	if given != 1 {
		return req, "", invalid(codeBadRequest, "", "exactly one of decision_id, index and input")
	}
	switch {
	case q.Bundle == "recorded" && q.Input == nil:
		req.Recorded = true
	case q.Bundle == "" || isDigest(q.Bundle):
		req.Digest = q.Bundle
	default:
		return req, "", invalid(codeBadRequest, "bundle", "recorded, with an entry; or a digest, 64 lower-case hex digits")
	}
	return req, target, nil
}

func isDigest(text string) bool {
	for _, c := range []byte(text) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return len(text) == 64
}

// replay streams the recorded questions that a bundle answers otherwise, as lines of JSON. A stream that breaks off has no
// totals at its end.
func (s *Server) replay(c *call) (reply, error) {
	q := new(v1.ReplayRequest)
	if err := s.read(c, q); err != nil {
		return reply{}, err
	}
	name := c.param("name")
	if !printable(name, 64) {
		return reply{}, invalid(codeBadRequest, "name", "the name of a bundle")
	}
	if q.Digest != "" && !isDigest(q.Digest) {
		return reply{}, invalid(codeBadRequest, "digest", "64 lower-case hex digits")
	}
	detail := map[string]string{"digest": q.Digest, "from": strconv.FormatUint(q.From, 10), "to": strconv.FormatUint(q.To, 10)}
	pos, err := s.cfg.Domain.RecordReview(c.ctx, c.by, "policy.replay", name, detail)
	if err != nil {
		return reply{}, err
	}
	lines := &lines{s: s, c: c}
	// The connection's deadline for the request would end what takes longer.
	if err := http.NewResponseController(c.echo.Response()).SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return reply{}, err
	}
	if err := extend(c.echo.Response(), s.cfg.Now().Add(s.cfg.Limits.Slow+s.cfg.Limits.Request)); err != nil {
		return reply{}, err
	}
	totals, err := s.cfg.Reviews.Replay(c.ctx, review.ReplayRequest{
		Name: name, Digest: q.Digest, From: q.From, To: q.To, Since: q.Since, Until: q.Until,
	}, func(x review.Change) error {
		return lines.write(v1.ReplayLine{Change: &v1.ReplayChange{
			Index: x.Index, DecisionID: x.DecisionID, Point: string(x.Input.Point), Time: x.Time, Before: wireAnswer(x.Answer), After: wireAnswer(x.After),
		}})
	})
	if err != nil {
		return reply{}, reviewRefusal(err)
	}
	return reply{done: true}, lines.write(v1.ReplayLine{Totals: wireTotals(totals, pos.Index)})
}

func wireAnswer(a review.Answer) v1.PolicyAnswer {
	return v1.PolicyAnswer{Allow: a.Allow, Reasons: a.Reasons, ObligationsHash: a.ObligationsHash}
}

func wireTotals(t review.Totals, entry uint64) *v1.ReplayTotals {
	return &v1.ReplayTotals{
		Bundle: v1.BundleRef{Digest: t.Digest, Revision: t.Revision}, Replayed: t.Replayed, Changed: t.Changed,
		Skipped: v1.ReplaySkipped(t.Skipped), Next: t.Next, AuditID: entry,
	}
}

// lines writes JSON, a value a line. Nothing is sent before the first, so that what fails before has a status of its own.
type lines struct {
	s     *Server
	c     *call
	begun bool
}

func (l *lines) write(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w := l.c.echo.Response()
	if !l.begun {
		l.begun = true
		l.s.header(l.c, w.Header(), mediaLines, "")
		w.WriteHeader(http.StatusOK)
	}
	out := &patient{w: w, now: l.s.cfg.Now, limit: l.s.cfg.Limits.Slow}
	_, err = out.Write(append(b, '\n'))
	return err
}

// reviewRefusal says why there is no review.
func reviewRefusal(err error) error {
	switch {
	case errors.Is(err, review.ErrBusy):
		return refuse(delegation.Unavailable, codeReviewBusy, "", "another review is under way")
	case errors.Is(err, review.ErrNoBundle):
		return refuse(delegation.NotFound, codeBundleUnknown, "", "there is no such bundle")
	case errors.Is(err, review.ErrPruned):
		return ErrPruned
	case errors.Is(err, review.ErrNotFound):
		return errNoEntry()
	case errors.Is(err, review.ErrNoInput):
		return refuse(delegation.Conflict, codeNotAsked, "", "policy was not asked about this entry; its checks say why")
	case errors.Is(err, review.ErrErased):
		return refuse(delegation.Conflict, codeInputErased, "", "what policy was asked is erased")
	}
	return err
}
