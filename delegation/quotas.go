package delegation

import (
	"context"
	"errors"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/quota"
)

// codeRateLimited refuses a request because of a quota: nothing was done for it. The *quota.Exceeded is its cause.
const codeRateLimited = "rate_limited"

// takeCaller counts a request for who asks, before anything is done for it: an orchestrator and a service for themselves, an
// agent for all that its certificate stands on.
func (s *Service) takeCaller(ctx context.Context, by Caller) error {
	switch by.ID.Kind() {
	case chain.Orchestrator:
		return s.take(ctx, quota.Uses{Orchestrator: by.ID.Name()})
	case chain.Service:
		return s.take(ctx, quota.Uses{Service: by.ID.Name()})
	case chain.Agent:
		if by.deleg != nil {
			return s.takeAgent(ctx, *by.deleg)
		}
	case chain.Operator, chain.KindUnknown:
	}
	return nil
}

// takeAgent counts a request for the task, user and orchestrator of an agent's chain.
func (s *Service) takeAgent(ctx context.Context, d chain.Delegation) error {
	return s.take(ctx, quota.Uses{
		Task: chain.FormatUUID(d.TaskID), User: chain.UserID(d.Grant.Issuer, d.Grant.Subject), Orchestrator: nameOf(d.Hops[0].ID),
	})
}

// takeTask counts what an orchestrator asks for under a task that is its own. For an agent takeCaller has done so.
func (s *Service) takeTask(ctx context.Context, by Caller, l lineage) error {
	if by.ID.Kind() != chain.Orchestrator {
		return nil
	}
	return s.take(ctx, quota.Uses{Task: l.task.ID, User: chain.UserID(l.grant.User.Issuer, l.grant.User.Subject)})
}

func (s *Service) take(ctx context.Context, u quota.Uses) error {
	err := s.quotas.Take(ctx, s.cfg.Now(), u)
	var exceeded *quota.Exceeded
	if errors.As(err, &exceeded) {
		return &Error{Kind: Exhausted, Code: codeRateLimited, Detail: exceeded.Error(), Err: exceeded}
	}
	return err
}

// counted is a refusal that many can bring about: the first of a minute have entries of their own, the others are counted.
func (s *Service) counted(ctx context.Context, r Refusal, e *Error) *Error {
	// The caller may have hung up; its attempt is recorded all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendWithin)
	defer cancel()
	out := *e
	out.AuditIndex, out.Counted = s.RecordRefusal(ctx, r), true
	return &out
}
