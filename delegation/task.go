package delegation

import (
	"context"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// OpenTask opens the one task that a grant is for.
func (s *Service) OpenTask(ctx context.Context, by Caller, q TaskRequest) (Task, error) {
	t, err := s.openTask(ctx, by, q)
	if err != nil {
		return Task{}, s.denied(ctx, "task.open", by, record.Envelope{Grant: uuidOrNone(q.GrantID)}, err)
	}
	return t, nil
}

func (s *Service) openTask(ctx context.Context, by Caller, q TaskRequest) (Task, error) {
	if err := s.takeCaller(ctx, by); err != nil {
		return Task{}, err
	}
	if ref, ok, err := s.replayed(by, q.Idempotency); err != nil || ok {
		if err != nil {
			return Task{}, err
		}
		return s.Task(by, ref)
	}
	if err := s.cfg.Ready(); err != nil {
		return Task{}, notReady(err)
	}
	g, err := s.usableGrant(by, q.GrantID)
	if err != nil {
		return Task{}, err
	}
	t, err := newTask(g, q, s.cfg.Now())
	if err != nil {
		return Task{}, err
	}
	pos, err := s.appendTask(ctx, by, q.Idempotency, g, t)
	if err != nil {
		return Task{}, err
	}
	out := s.publicTask(t)
	out.Position = pos
	return out, nil
}

// usableGrant gives an active grant of the caller's.
func (s *Service) usableGrant(by Caller, id string) (*grantState, error) {
	g, err := s.grant(id)
	if err != nil {
		return nil, err
	}
	switch {
	case g.Orchestrator != by.ID.String():
		return nil, refuse(Forbidden, "grant_not_yours", "grant_id", "the user consented to another orchestrator")
	case g.Registration != by.registration:
		return nil, errPredecessor("grant_id")
	case s.revoked.has(chain.RevGrant, id):
		return nil, refuse(Forbidden, "grant_revoked", "grant_id", "the grant is revoked")
	case g.Status != GrantActive:
		return nil, refuse(Conflict, "grant_pending", "grant_id", "the user has not consented yet")
	case !s.cfg.Now().Before(g.NotAfter):
		return nil, refuse(Forbidden, "deadline_passed", "grant_id", "the grant's deadline has passed")
	}
	return g, nil
}

// errPredecessor is for what an orchestrator of the same name was given, before an operator replaced its registration:
// who has the name now may be another machine, or another's, and nobody consented to that one.
func errPredecessor(field string) *Error {
	return refuse(Forbidden, "grant_of_predecessor", field, "the user consented to an earlier registration of this orchestrator")
}

func newTask(g *grantState, q TaskRequest, now time.Time) (*taskState, error) {
	granted, err := chain.ParseScope(g.Scope)
	if err != nil {
		return nil, internal("read grant", err)
	}
	t := &taskState{ID: g.TaskID, GrantID: g.ID, Scope: g.Scope, NotAfter: g.NotAfter, MaxDepth: g.MaxDepth, Orchestrator: g.Orchestrator, Registration: g.Registration}
	if len(q.Scope) > 0 {
		if !q.Scope.Subset(granted) {
			return nil, refuse(Forbidden, "scope_exceeds_parent", "scope", "the task asks for more than the user granted")
		}
		t.Scope = q.Scope.Strings()
	}
	if q.NotAfter.IsZero() {
		return t, nil
	}
	t.NotAfter = q.NotAfter.UTC().Truncate(time.Second)
	if t.NotAfter.After(g.NotAfter) {
		return nil, refuse(Forbidden, "deadline_exceeds_parent", "not_after", "the task would outlive its grant")
	}
	if !t.NotAfter.After(now) {
		return nil, refuse(Invalid, "deadline_passed", "not_after", "the deadline is in the past")
	}
	return t, nil
}

func (s *Service) appendTask(ctx context.Context, by Caller, idem Idempotency, g *grantState, t *taskState) (Position, error) {
	value, err := encode(t)
	if err != nil {
		return Position{}, err
	}
	more, err := s.remember(by, idem, t.ID)
	if err != nil {
		return Position{}, err
	}
	same, err := s.unchanged(by.ID, t.Registration)
	if err != nil {
		return Position{}, err
	}
	env := record.Envelope{
		Type: record.TypeTask, Task: t.ID, Grant: g.ID, Orchestrator: by.ID.Name(),
		User: s.cfg.Pseudonym(g.User.Issuer, g.User.Subject),
	}
	return s.append(ctx, draft{
		env:  env,
		body: record.TaskBody{TaskID: t.ID, GrantID: g.ID, Status: "open", Scope: t.Scope, NotAfter: t.NotAfter, MaxDepth: t.MaxDepth},
		mutations: append([]record.Mutation{
			same,
			create(keyTask+t.ID, value, g.NotAfter.Add(grace), refuse(Conflict, "grant_used", "grant_id", "the task of this grant was opened already")),
			must(record.Absent, revKey(chain.RevTask, t.ID), refuse(Forbidden, chain.CodeTaskRevoked, "grant_id", "the grant's task is revoked")),
		}, append(unrevokedGrant(g), more...)...),
	})
}

// CompleteTask ends a task: its agents are revoked with it.
func (s *Service) CompleteTask(ctx context.Context, by Caller, id string) (Task, error) {
	out, err := s.completeTask(ctx, by, id)
	if err != nil {
		return Task{}, s.denied(ctx, "task.complete", by, record.Envelope{Task: uuidOrNone(id)}, err)
	}
	return out, nil
}

func (s *Service) completeTask(ctx context.Context, by Caller, id string) (Task, error) {
	t, err := s.task(id)
	if err != nil {
		return Task{}, err
	}
	if t.Orchestrator != by.ID.String() {
		return Task{}, refuse(Forbidden, "task_not_yours", "id", "the task belongs to another orchestrator")
	}
	if _, done := s.revoked.get(chain.RevTask, id); !done {
		env := record.Envelope{Task: id, Grant: t.GrantID}
		until, err := s.grantEnd(t)
		if err != nil {
			return Task{}, err
		}
		if _, err := s.end(ctx, by, RevokeRequest{Kind: chain.RevTask, ID: id, Reason: reasonCompleted}, revocable{env, until}); err != nil {
			return Task{}, err
		}
	}
	return s.publicTask(t), nil
}

// reasonCompleted is the reason of the revocation that ends a task in good order.
const reasonCompleted = "completed"

// Task shows a task to its orchestrator and to staff.
func (s *Service) Task(by Caller, id string) (Task, error) {
	t, err := s.task(id)
	if err != nil {
		return Task{}, err
	}
	if by.Role == RoleNone && t.Orchestrator != by.ID.String() {
		return Task{}, refuse(NotFound, "task_not_found", "id", "no such task")
	}
	return s.publicTask(t), nil
}

func (s *Service) task(id string) (*taskState, error) {
	if t, ok := s.tasks.get(id); ok {
		return t, nil
	}
	if _, err := chain.ParseUUID(id); err != nil {
		return nil, refuse(NotFound, "task_not_found", "task_id", "no such task")
	}
	t, ok, err := load[taskState](s.cfg.Log, keyTask+id)
	if err != nil {
		return nil, internal("read task", err)
	}
	if !ok {
		return nil, refuse(NotFound, "task_not_found", "task_id", "no such task")
	}
	s.tasks.put(id, t)
	return t, nil
}

func (t *taskState) orchestrator() string {
	if t == nil {
		return ""
	}
	return t.Orchestrator
}

func (s *Service) publicTask(t *taskState) Task {
	// Ours, checked when it was made.
	scope, _ := chain.ParseScope(t.Scope)
	orch, _ := chain.ParseID(t.Orchestrator)
	out := Task{ID: t.ID, GrantID: t.GrantID, Status: "open", Scope: scope, NotAfter: t.NotAfter, MaxDepth: t.MaxDepth, Orchestrator: orch}
	if v, ok := s.revoked.get(chain.RevTask, t.ID); ok {
		out.Status = "revoked"
		if v.Reason == reasonCompleted {
			out.Status = "completed"
		}
	} else if !s.cfg.Now().Before(t.NotAfter) {
		out.Status = "expired"
	}
	return out
}
