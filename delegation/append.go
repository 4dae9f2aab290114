package delegation

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// draft is an entry in the making.
type draft struct {
	env       record.Envelope
	body      any
	payload   any
	terms     []record.Term
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
	return Position{}, &Error{Kind: Unavailable, Code: "audit_unavailable", Detail: "the audit log took no entry, so nothing was done", Err: err}
}

func (s *Service) entry(d draft) (record.Entry, error) {
	body, err := json.Marshal(d.body)
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
	e.Terms, e.Mutations = d.terms, d.mutations
	return e, nil
}

// denied records a refusal of the domain and gives it back with the entry's index. A refusal that cannot be recorded
// is still a refusal. Faults of the appliance are not the caller's doing and become no deny entry.
func (s *Service) denied(ctx context.Context, operation string, by Caller, about record.Envelope, cause error) error {
	e := AsError(cause)
	if e.Kind == Internal || e.Code == "audit_unavailable" || e.AuditIndex != nil {
		return e
	}
	about.Type, about.Code = record.TypeDeny, e.Code
	nameCaller(&about, by)
	d := draft{
		env:   about,
		body:  record.DenyBody{Operation: operation, Code: e.Code, Field: e.Field, Checks: checkWords(e.Checks)},
		terms: termsOf(about),
	}
	pos, err := s.append(ctx, d)
	if err != nil {
		return e
	}
	out := *e
	out.AuditIndex = &pos.Index
	return &out
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

// termsOf indexes an entry by the ids that its envelope names.
func termsOf(env record.Envelope) []record.Term {
	var out []record.Term
	for _, t := range []record.Term{
		{Kind: "user", ID: env.User},
		{Kind: "agent", ID: env.Agent},
		{Kind: "agent", ID: env.Parent},
		{Kind: "task", ID: env.Task},
		{Kind: "grant", ID: env.Grant},
		{Kind: "orchestrator", ID: env.Orchestrator},
	} {
		if t.ID != "" {
			out = append(out, t)
		}
	}
	return out
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
