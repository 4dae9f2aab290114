package delegation

import (
	"context"
	"errors"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// draft is an entry in the making.
type draft struct {
	env       record.Envelope
	body      any
	payload   any
	mutations []record.Mutation
}

// append writes the draft and waits until it is durable. A precondition's own *Error comes back as it is.
func (s *Service) append(ctx context.Context, d draft) (Position, error) {
	e, err := s.entry(d)
	if err != nil {
		return Position{}, err
	}
	pos, err := s.cfg.Log.Append(ctx, e)
	if err == nil {
		return pos, nil
	}
	var refused *Error
	if errors.As(err, &refused) {
		return Position{}, refused
	}
	if errors.Is(err, ErrUnknown) {
		return Position{}, &Error{Kind: Unavailable, Code: codeUnknown, Detail: "the audit log did not say in time whether it took the entry; ask again", Err: err}
	}
	return Position{}, &Error{Kind: Unavailable, Code: "audit_unavailable", Detail: "the audit log took no entry, so nothing was done", Err: err}
}

// ErrUnknown is wrapped by a Log's error when the entry may have been written all the same.
var ErrUnknown = errors.New("delegation: outcome of the append unknown")

// codeUnknown is the refusal of a request whose entry may exist.
const codeUnknown = "outcome_unknown"

// codeSigning is the refusal of a request whose entry exists, and whose signature does not.
const codeSigning = "signing_failed"

// appendWithin bounds an append that must not be abandoned with its request.
const appendWithin = 10 * time.Second

// appendFirmly is append for what must not depend on the caller's patience: a caller that hangs up does not undo it.
func (s *Service) appendFirmly(ctx context.Context, d draft) (Position, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendWithin)
	defer cancel()
	return s.append(ctx, d)
}

func (s *Service) entry(d draft) (record.Entry, error) {
	body, err := record.EncodeBody(d.body)
	if err != nil {
		return record.Entry{}, internal("encode entry", err)
	}
	salt, err := s.secret()
	if err != nil {
		return record.Entry{}, err
	}
	d.env.Version, d.env.Time, d.env.Body = 1, s.cfg.Now(), body
	e, err := record.New(d.env, d.payload, salt)
	if err != nil {
		return record.Entry{}, internal("make entry", err)
	}
	e.Terms, e.Mutations = record.Terms(d.env, d.body), d.mutations
	return e, nil
}

// denied records a refusal of the domain and gives it back with the entry's index. A refusal that cannot be recorded
// is still a refusal. Faults of the appliance are not the caller's doing and become no deny entry.
func (s *Service) denied(ctx context.Context, operation string, by Caller, about record.Envelope, cause error) error {
	e := AsError(cause)
	if e.Kind == Internal || e.Code == "audit_unavailable" || e.Code == codeUnknown || e.AuditIndex != nil {
		return e
	}
	if e.Code == codeRateLimited {
		return s.counted(ctx, Refusal{Operation: operation, Caller: by.ID.String(), Code: e.Code}, e)
	}
	about.Type, about.Code = record.TypeDeny, e.Code
	nameCaller(&about, by)
	pos, err := s.append(ctx, s.denyDraft(operation, about, e))
	if err != nil {
		return e
	}
	out := *e
	out.AuditIndex = &pos.Index
	return &out
}

func (s *Service) denyDraft(operation string, about record.Envelope, e *Error) draft {
	body := record.DenyBody{Operation: operation, Code: e.Code, Field: e.Field, Checks: checkWords(e.Checks)}
	d := draft{env: about}
	if a := e.asked; a != nil {
		// The payload is about a user: the pseudonym says whose it is.
		d.env.User, d.env.Grant = s.cfg.Pseudonym(a.about.User.Issuer, a.about.User.Subject), a.about.Task.GrantID
		d.env.Task, d.env.Orchestrator, d.env.Policy = a.about.Task.ID, nameOf(a.about.Orchestrator.ID), a.answer.Digest
		body.Reasons, body.InputHash = a.answer.Reasons, a.hash()
		d.payload = record.DenyPayload{Input: a.input}
	}
	d.body = body
	return d
}

// unrevoked are the checks, at the moment of commit, that nothing in a chain was revoked since it was read.
func unrevoked(d chain.Delegation) []record.Mutation {
	m := []record.Mutation{
		must(record.Absent, revKey(chain.RevUser, chain.UserID(d.Grant.Issuer, d.Grant.Subject)), refuse(Forbidden, chain.CodeUserRevoked, "", "the user is revoked")),
		must(record.Absent, revKey(chain.RevGrant, chain.FormatUUID(d.Grant.GrantID)), refuse(Forbidden, chain.CodeGrantRevoked, "", "the grant is revoked")),
		must(record.Absent, revKey(chain.RevTask, chain.FormatUUID(d.TaskID)), refuse(Forbidden, chain.CodeTaskRevoked, "", "the task is revoked")),
	}
	last := len(d.Hops) - 1
	for i, h := range d.Hops {
		// Extend and Verify have accepted every id.
		id, _ := chain.ParseID(h.ID)
		if i == 0 {
			m = append(m, must(record.Absent, revKey(chain.RevOrchestrator, id.Name()), refuse(Forbidden, chain.CodeOrchestratorRevoked, "", "the orchestrator is revoked")))
			continue
		}
		m = append(m, must(record.Absent, revKey(chain.RevAgent, id.AgentID()), refuse(Forbidden, chain.CodeAgentRevoked, "", "an agent of the chain is revoked")))
		if i < last {
			m = append(m, must(record.Absent, revKey(chain.RevSubtree, id.AgentID()), refuse(Forbidden, chain.CodeSubtreeRevoked, "", "what is below an agent of the chain is revoked")))
		}
	}
	return m
}

// stands are the checks, at the moment of commit, that what a new certificate rests on is as it was read: nothing of its
// chain is revoked, and the orchestrator's registration is the one that the user consented to.
func (s *Service) stands(d chain.Delegation, t *taskState) ([]record.Mutation, error) {
	id, err := chain.ParseID(t.Orchestrator)
	if err != nil {
		return nil, internal("read task", err)
	}
	same, err := s.unchanged(id, t.Registration)
	return append(unrevoked(d), same), err
}

// nameCaller notes who asked, where the envelope does not say it already.
func nameCaller(env *record.Envelope, by Caller) {
	set := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	switch by.ID.Kind() {
	case chain.Orchestrator:
		set(&env.Orchestrator, by.ID.Name())
	case chain.Agent:
		set(&env.Agent, by.ID.AgentID())
	case chain.Service:
		set(&env.Service, by.ID.Name())
	case chain.Operator:
		set(&env.Operator, by.ID.Name())
	case chain.KindUnknown:
	}
}

func checkWords(checks []chain.Check) map[string]string {
	if len(checks) == 0 {
		return nil
	}
	out := make(map[string]string, len(checks))
	for _, c := range checks {
		w := c.Status.String()
		if c.Status == chain.Fail {
			w += ":" + c.Code
		}
		out[string(c.Name)] = w
	}
	return out
}
