package delegation

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"strconv"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Bounds of what a request names, in bytes. All of it is recorded.
const (
	maxResource = 256  // a resource's type or id, an action
	maxSubject  = 2048 // a SPIFFE ID (SPIFFE-ID §2.3)
)

// Decide answers one access request, and records the answer with the whole chain before it gives it. An error is a
// request that could not be read; every other outcome is a Decision. What could not be recorded is denied.
func (s *Service) Decide(ctx context.Context, by Caller, q DecisionRequest) (Decision, error) {
	if err := s.takeCaller(ctx, by); err != nil {
		return Decision{}, s.denied(ctx, "access.evaluation", by, record.Envelope{}, err)
	}
	id, err := s.newID()
	if err != nil {
		return Decision{}, err
	}
	if err := s.mayAsk(by, q); err != nil {
		return Decision{}, s.denied(ctx, "access.evaluation", by, record.Envelope{}, err)
	}
	a := s.answer(ctx, q)
	a.ID = id
	return s.recordDecision(ctx, by, q, a), nil
}

// mayAsk admits services, which vouch for the chain that they present, and agents about themselves.
func (s *Service) mayAsk(by Caller, q DecisionRequest) error {
	if err := q.check(); err != nil {
		return err
	}
	switch {
	case by.ID.Kind() == chain.Service:
		return nil
	case by.ID.Kind() == chain.Agent && len(q.Chain) > 0 && len(by.Certs) > 0 && q.Chain[0].Equal(by.Certs[0]):
		return nil
	}
	return refuse(Forbidden, "service_required", "", "decisions are asked for by services, and by agents about themselves")
}

// check refuses a request that names too little or too much.
func (q DecisionRequest) check() error {
	if q.ResourceType == "" || q.ResourceID == "" || q.Action == "" {
		return refuse(Invalid, "bad_request", "resource", "a resource with type and id, and an action with a name")
	}
	var user chain.User
	if q.Principal != nil {
		user = *q.Principal
	}
	for _, m := range [...]struct {
		field, text string
		most        int
	}{
		{"resource", q.ResourceType, maxResource},
		{"resource", q.ResourceID, maxResource},
		{"action", q.Action, maxResource},
		{"subject", q.SubjectID, maxSubject},
		{"expected_user", user.Issuer, chain.MaxIssuerBytes},
		{"expected_user", user.Subject, chain.MaxSubjectBytes},
		{"expected_orchestrator", q.Orchestrator, maxSubject},
	} {
		if len(m.text) > m.most {
			return refuse(Invalid, "bad_request", m.field, "names of at most "+strconv.Itoa(m.most)+" bytes")
		}
	}
	return nil
}

// answer is a Decision with what its entry needs.
type answer struct {
	Decision
	report   chain.Report
	required []chain.Token
	asked    asked
}

// answer runs the hard checks, and policy only when all of them hold: policy can narrow, never widen.
func (s *Service) answer(ctx context.Context, q DecisionRequest) answer {
	var a answer
	required, known := s.cfg.Resources.Required(q.ResourceType, q.ResourceID, q.Action)
	if known {
		a.required = []chain.Token{required}
	}
	a.report = s.verify(q.Chain, a.required, q)
	a.Checks = a.report.Checks
	for _, c := range a.report.Failed() {
		a.Reasons = append(a.Reasons, c.Code)
	}
	if !known {
		a.Reasons = append(a.Reasons, "resource_unknown")
	}
	if q.SubjectID != "" && a.report.Delegation != nil && q.SubjectID != a.report.Agent.String() {
		a.Reasons = append(a.Reasons, "subject_mismatch")
	}
	if err := s.cfg.Ready(); err != nil {
		a.Reasons = append(a.Reasons, "not_ready")
	}
	if len(a.Reasons) > 0 || !a.report.Valid || a.report.Delegation == nil {
		return a.denied("chain_invalid")
	}
	return s.askPolicy(ctx, q, a)
}

// denied makes sure that a refusal says something.
func (a answer) denied(reason string) answer {
	a.Allow, a.Obligations = false, nil
	if len(a.Reasons) == 0 {
		a.Reasons = []string{reason}
	}
	return a
}

func (s *Service) askPolicy(ctx context.Context, q DecisionRequest, a answer) answer {
	d := *a.report.Delegation
	g, err := s.grant(chain.FormatUUID(d.Grant.GrantID))
	if err != nil {
		return a.denied("grant_unknown")
	}
	t, err := s.task(chain.FormatUUID(d.TaskID))
	if err != nil {
		return a.denied("task_unknown")
	}
	in := s.accessInput(q, d, g, t, a.required)
	if a.asked, err = s.ask(ctx, in); err != nil {
		return a.denied("policy_error")
	}
	policy := a.asked.answer
	a.Advice = policy.Advice
	if !policy.Allow {
		a.Reasons = policy.Reasons
		return a.denied("policy_denied")
	}
	if q.Bare && len(policy.Obligations) > 0 {
		return a.denied("obligations_unsupported")
	}
	a.Allow, a.Obligations = true, policy.Obligations
	return a
}

// recordDecision appends the answer; without an entry there is no permission. What was revoked while policy was asked
// turns permission into a recorded refusal.
func (s *Service) recordDecision(ctx context.Context, by Caller, q DecisionRequest, a answer) Decision {
	pos, err := s.appendDecision(ctx, by, q, a)
	if refused := AsError(err); err != nil && a.Allow && refused.Kind == Forbidden {
		a.Reasons = nil
		a = a.denied(refused.Code)
		pos, err = s.appendDecision(ctx, by, q, a)
	}
	if err == nil {
		a.Position = &pos
		return a.Decision
	}
	s.cfg.Logger.Error("a decision was not recorded and is denied", slog.String("decision", a.ID), slog.Any("error", err))
	a.Reasons = append([]string{"not_recorded"}, a.Reasons...)
	a = a.denied("not_recorded")
	a.Position = nil
	return a.Decision
}

func (s *Service) appendDecision(ctx context.Context, by Caller, q DecisionRequest, a answer) (Position, error) {
	d, err := s.decisionDraft(by, q, a)
	if err != nil {
		return Position{}, err
	}
	if a.Allow {
		d.mutations = append(unrevoked(*a.report.Delegation), must(record.Absent, revKey(chain.RevCertificate, chain.Serial(q.Chain[0])),
			refuse(Forbidden, chain.CodeCertificateRevoked, "", "the certificate is revoked")))
	}
	// Who asked may have hung up; its time is a bound all the same, for many decisions can be of one request.
	until, ok := ctx.Deadline()
	if !ok {
		return s.appendFirmly(ctx, d)
	}
	ctx, cancel := context.WithDeadline(context.WithoutCancel(ctx), until)
	defer cancel()
	return s.append(ctx, d)
}

func (s *Service) decisionDraft(by Caller, q DecisionRequest, a answer) (draft, error) {
	env := record.Envelope{Type: record.TypeDecision, Policy: a.asked.answer.Digest}
	body := record.DecisionBody{
		DecisionID: a.ID, Allow: a.Allow, Reasons: a.Reasons, Checks: checkWords(a.Checks),
		ResourceType: q.ResourceType, ResourceID: q.ResourceID, Action: q.Action, RequiredScope: tokenStrings(a.required),
	}
	if len(q.Chain) > 0 {
		body.TBSHash = hexOf(tbsHash(q.Chain[0]))
	}
	body.InputHash, body.PolicyAllow = a.asked.hash(), a.asked.answer.Allow
	payload := record.DecisionPayload{
		Input: a.asked.input, Chain: rawChain(q.Chain), Subject: q.SubjectID, ExpectedOrchestrator: q.Orchestrator,
	}
	if q.Principal != nil {
		payload.ExpectedUser = &record.UserPayload{Issuer: q.Principal.Issuer, Subject: q.Principal.Subject}
	}
	var err error
	if payload.Obligations, body.ObligationsHash, err = hashed(a.Obligations); err != nil {
		return draft{}, err
	}
	if payload.Advice, body.AdviceHash, err = hashed(a.Advice); err != nil {
		return draft{}, err
	}
	if d := a.report.Delegation; d != nil && a.report.Check(chain.CheckPath).Status == chain.Pass {
		// Anybody can write names into a certificate.
		env.Task, env.Grant = chain.FormatUUID(d.TaskID), chain.FormatUUID(d.Grant.GrantID)
		env.Agent, env.Orchestrator = a.report.Agent.AgentID(), nameOf(d.Hops[0].ID)
		env.User = s.cfg.Pseudonym(d.Grant.Issuer, d.Grant.Subject)
		body.Hops = hopBodies(d.Hops)
	}
	nameCaller(&env, by)
	return draft{
		env: env, body: body,
		payload: payload,
	}, nil
}

// hashed gives objects of the policy's as they are recorded, and the digest that stays when they are erased.
func hashed(objects []json.RawMessage) (list json.RawMessage, hash string, err error) {
	if len(objects) == 0 {
		return nil, "", nil
	}
	if list, err = json.Marshal(objects); err != nil {
		return nil, "", internal("encode the policy's objects", err)
	}
	return list, hexOf(sha256.Sum256(list)), nil
}

func tokenStrings(t []chain.Token) []string {
	out := make([]string, len(t))
	for i := range t {
		out[i] = t[i].String()
	}
	return out
}

// rawChain keeps the presented certificates, up to the bound that verification looks at.
func rawChain(certs []*x509.Certificate) [][]byte {
	var out [][]byte
	for _, c := range certs[:min(len(certs), 8)] {
		out = append(out, c.Raw)
	}
	return out
}
