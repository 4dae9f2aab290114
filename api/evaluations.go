package api

import (
	"cmp"
	"encoding/json"
	"strconv"

	v1 "github.com/signet-pki/signet/api/v1"
)

const (
	// maxEvaluationsBody bounds the body of a request for several evaluations, each of which may bring a chain.
	maxEvaluationsBody = 512 << 10

	// evaluationWorkers is how many evaluations of one request run at a time. Their entries share the log's commits.
	evaluationWorkers = 8
)

// evaluationsBody is what is read of a request for several evaluations at first. Each evaluation is read by itself, so that a
// broken one is an error of its own.
type evaluationsBody struct {
	Subject     *v1.Subject           `json:"subject,omitempty"`
	Action      *v1.Action            `json:"action,omitempty"`
	Resource    *v1.Resource          `json:"resource,omitempty"`
	Context     *v1.EvaluationContext `json:"context,omitempty"`
	Evaluations []json.RawMessage     `json:"evaluations,omitempty"`
	Options     struct {
		Semantic *string `json:"evaluations_semantic,omitempty"`
	} `json:"options,omitzero"`
}

// decider answers one complete evaluation. Its error is what the evaluation is refused with.
type decider func(q *v1.EvaluationRequest) (v1.EvaluationResponse, error)

// evaluateAll is AuthZEN's Access Evaluations API.
func (s *Server) evaluateAll(c *call, q *evaluationsBody) (v1.EvaluationsResponse, error) {
	chains := new(presented)
	return s.boxcar(c, q, func(q *v1.EvaluationRequest) (v1.EvaluationResponse, error) { return s.decide(c, q, chains) })
}

// boxcar has each evaluation answered, in order, or the one that the request is when it has none.
func (s *Server) boxcar(c *call, q *evaluationsBody, decide decider) (v1.EvaluationsResponse, error) {
	n := len(q.Evaluations)
	if n == 0 {
		one, err := decide(q.fill(v1.Evaluation{}))
		return v1.EvaluationsResponse{Decision: &one.Decision, Context: &one.Context}, err
	}
	if n > v1.MaxEvaluations {
		return v1.EvaluationsResponse{}, invalid(codeBadRequest, "evaluations", "at most "+strconv.Itoa(v1.MaxEvaluations)+" evaluations")
	}
	answer := func(i int) v1.EvaluationResponse { return s.evaluateOne(c, q, i, decide) }
	last, err := q.semantic()
	switch {
	case err != nil:
		return v1.EvaluationsResponse{}, err
	case last == nil:
		return v1.EvaluationsResponse{Evaluations: allAnswers(n, answer)}, nil
	}
	return v1.EvaluationsResponse{Evaluations: oneByOne(n, answer, last)}, nil
}

// semantic tells which answer is the last; nil: none is before all are given.
func (q *evaluationsBody) semantic() (last func(v1.EvaluationResponse) bool, err error) {
	word := v1.ExecuteAll
	if q.Options.Semantic != nil {
		word = *q.Options.Semantic
	}
	switch word {
	case v1.ExecuteAll:
		return nil, nil
	case v1.DenyOnFirstDeny:
		return func(r v1.EvaluationResponse) bool { return !r.Decision }, nil
	case v1.PermitOnFirstPermit:
		return func(r v1.EvaluationResponse) bool { return r.Decision }, nil
	}
	return nil, invalid(codeBadRequest, "options.evaluations_semantic", "execute_all, deny_on_first_deny or permit_on_first_permit")
}

// allAnswers gives every answer.
func allAnswers(n int, answer func(int) v1.EvaluationResponse) []v1.EvaluationResponse {
	out := make([]v1.EvaluationResponse, n)
	sideBySide(n, evaluationWorkers, func(i int) { out[i] = answer(i) })
	return out
}

// oneByOne gives the answers up to the last. What comes after it is not decided, and hence not recorded either.
func oneByOne(n int, answer func(int) v1.EvaluationResponse, last func(v1.EvaluationResponse) bool) []v1.EvaluationResponse {
	var out []v1.EvaluationResponse
	for i := range n {
		r := answer(i)
		out = append(out, r)
		if last(r) {
			break
		}
	}
	return out
}

// evaluateOne is one of several. What is wrong with it is its own.
func (s *Server) evaluateOne(c *call, q *evaluationsBody, i int, decide decider) (out v1.EvaluationResponse) {
	defer func() {
		if v := recover(); v != nil {
			out = s.notDecided(c, s.fault(c, v))
		}
	}()
	var e v1.Evaluation
	if string(q.Evaluations[i]) == "null" {
		return s.notDecided(c, wrongType(s.evaluation).refusal())
	}
	if f := decode(q.Evaluations[i], s.evaluation, true, &e); f != nil {
		return s.notDecided(c, f.refusal())
	}
	out, err := decide(q.fill(e))
	if err != nil {
		return s.notDecided(c, err)
	}
	return out
}

// notDecided is a denial that says what was wrong, with its entry.
func (s *Server) notDecided(c *call, err error) v1.EvaluationResponse {
	e, status := s.judge(c, err)
	p := problemOf(e)
	return v1.EvaluationResponse{Context: v1.DecisionContext{
		AuditID: p.AuditID, Error: &v1.EvaluationError{Status: accessStatus(status), Message: accessText(p)},
	}}
}

// fill completes an evaluation with the request's defaults (Authorization API 1.0, "Default values"). An evaluation's own
// member replaces the default, its properties too; only what is required of it and left out is the default's, as the
// certification scenario has it.
func (q *evaluationsBody) fill(e v1.Evaluation) *v1.EvaluationRequest {
	subject, action, resource := cmp.Or(q.Subject, &v1.Subject{}), cmp.Or(q.Action, &v1.Action{}), cmp.Or(q.Resource, &v1.Resource{})
	out := &v1.EvaluationRequest{
		Subject: *cmp.Or(e.Subject, subject), Action: *cmp.Or(e.Action, action), Resource: *cmp.Or(e.Resource, resource),
		Context: *cmp.Or(e.Context, cmp.Or(q.Context, &v1.EvaluationContext{})),
	}
	out.Subject.Type, out.Subject.ID = cmp.Or(out.Subject.Type, subject.Type), cmp.Or(out.Subject.ID, subject.ID)
	out.Resource.Type, out.Resource.ID = cmp.Or(out.Resource.Type, resource.Type), cmp.Or(out.Resource.ID, resource.ID)
	out.Action.Name = cmp.Or(out.Action.Name, action.Name)
	return out
}
