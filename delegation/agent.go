package delegation

import (
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// fromOrchestrator is the lineage of an agent: the orchestrator's own task, with the orchestrator as the first hop.
func (s *Service) fromOrchestrator(by Caller, q SpawnRequest) (lineage, error) {
	if by.ID.Kind() != chain.Orchestrator || by.reg == nil {
		return lineage{}, refuse(Forbidden, "orchestrator_required", "", "agents are spawned by orchestrators")
	}
	l, err := s.fromTask(q.TaskID)
	if err != nil {
		return lineage{}, err
	}
	if l.task.Orchestrator != by.ID.String() {
		return lineage{}, refuse(Forbidden, "task_not_yours", "task_id", "the task belongs to another orchestrator")
	}
	if l.task.Registration != by.registration {
		return lineage{}, errPredecessor("task_id")
	}
	l.by, l.delegations = delegatorOf(by), []string{""}
	s.allow(&l, by.reg)
	l.parent, err = l.first(l.by)
	return l, err
}

// allow takes what both the user and the orchestrator's registration allow, however deep the agent.
func (s *Service) allow(l *lineage, reg *identityState) {
	l.attestation = reg.Attestation
	l.types = common(l.grant.AgentTypes, reg.AgentTypes)
	l.maxTTL = s.cfg.Limits.AgentTTL
	if reg.MaxTTL > 0 {
		l.maxTTL = min(l.maxTTL, time.Duration(reg.MaxTTL)*time.Second)
	}
	l.byType = func(t string) TypeLimit { return s.cfg.Limits.AgentTypes[t].and(reg.TypeLimits[t]) }
	l.confirm = l.confirm || s.cfg.Limits.RequireConfirmation || reg.RequireConfirmation
}

// and is the narrower of both limits.
func (a TypeLimit) and(b TypeLimit) TypeLimit {
	if a.MaxTTL == 0 || b.MaxTTL > 0 && b.MaxTTL < a.MaxTTL {
		a.MaxTTL = b.MaxTTL
	}
	if a.MaxDepth == nil || b.MaxDepth != nil && *b.MaxDepth < *a.MaxDepth {
		a.MaxDepth = b.MaxDepth
	}
	return a
}

// fromAgent is the lineage of a sub-agent: its parent's chain, as the parent's certificate states it.
func (s *Service) fromAgent(by Caller, parentID string, q SpawnRequest) (lineage, error) {
	if by.ID.Kind() != chain.Agent || by.deleg == nil || by.ID.AgentID() != parentID {
		return lineage{}, refuse(Forbidden, "parent_required", "id", "a sub-agent is spawned by its parent, over the parent's own connection")
	}
	if chain.FormatUUID(by.deleg.TaskID) != q.TaskID {
		return lineage{}, refuse(Forbidden, "task_not_yours", "task_id", "the parent works on another task")
	}
	l, err := s.fromTask(q.TaskID)
	if err != nil {
		return lineage{}, err
	}
	st, same, err := s.presentKey(by)
	if err != nil {
		return lineage{}, err
	}
	l.holds = []record.Mutation{same}
	l.by, l.parent, l.delegations, l.confirm = delegatorOf(by), *by.deleg, st.Delegations, true
	return l, s.allowDeep(&l)
}

// allowDeep is allow for a chain that names its orchestrator.
func (s *Service) allowDeep(l *lineage) error {
	orch, err := chain.ParseID(l.parent.Hops[0].ID)
	if err != nil {
		return internal("read parent", err)
	}
	reg, err := s.registered(orch)
	if err != nil {
		return err
	}
	if l.task.Registration != reg.Registration {
		return errPredecessor("task_id")
	}
	s.allow(l, reg)
	return nil
}

// fromTask loads an open task and its grant.
func (s *Service) fromTask(id string) (lineage, error) {
	t, err := s.task(id)
	if err != nil {
		return lineage{}, err
	}
	if v, done := s.revoked.get(chain.RevTask, id); done {
		if v.Reason == reasonCompleted {
			return lineage{}, refuse(Forbidden, "task_completed", "task_id", "the task is completed")
		}
		return lineage{}, refuse(Forbidden, "task_revoked", "task_id", "the task is revoked")
	}
	if !s.cfg.Now().Before(t.NotAfter) {
		return lineage{}, refuse(Forbidden, "deadline_passed", "task_id", "the task's deadline has passed")
	}
	g, err := s.grant(t.GrantID)
	if err != nil {
		return lineage{}, err
	}
	return lineage{grant: g, task: t}, nil
}

// first is the chain up to the orchestrator's own hop, which holds the key that it spawns with.
func (l lineage) first(by delegator) (chain.Delegation, error) {
	var d chain.Delegation
	granted, err := chain.ParseScope(l.grant.Scope)
	if err != nil {
		return d, internal("read grant", err)
	}
	scope, err := chain.ParseScope(l.task.Scope)
	if err != nil {
		return d, internal("read task", err)
	}
	taskID, err := chain.ParseUUID(l.task.ID)
	if err != nil {
		return d, internal("read task", err)
	}
	grantID, err := chain.ParseUUID(l.grant.ID)
	if err != nil {
		return d, internal("read grant", err)
	}
	d.TaskID = taskID
	d.Grant = chain.Grant{
		Issuer: l.grant.User.Issuer, Subject: l.grant.User.Subject, GrantID: grantID, Consent: chain.ParseConsentType(l.grant.Consent),
		EvidenceHash: [32]byte(l.grant.EvidenceHash), Scope: granted, NotAfter: l.grant.NotAfter, MaxDepth: l.grant.MaxDepth,
	}
	d.Hops = []chain.Hop{{
		ID: by.id.String(), SPKIHash: spkiHash(by.spki), Scope: scope,
		NotAfter: l.task.NotAfter, MaxDepth: l.task.MaxDepth,
	}}
	return d, nil
}

// describe is what the entry of an agent's certificate says beside the certificate. Policy is not asked about what is issued again.
func (s *Service) describe(by delegator, q SpawnRequest, g *grantState, d chain.Delegation, c certified, a asked) order {
	env := s.agentEnvelope(by, q, g, d)
	env.Policy = a.answer.Digest
	return order{
		env: env,
		body: record.IssueBody{
			SPKIHash: hexOf(d.Hops[len(d.Hops)-1].SPKIHash), SpawnID: q.SpawnID, Hops: hopBodies(d.Hops),
			ConsentType: g.Consent, EvidenceHash: hex.EncodeToString(g.EvidenceHash),
			EnrollmentHash: hex.EncodeToString(c.enrol), Rekey: c.rekey, InputHash: a.hash(),
		},
		payload: record.IssuePayload{
			Delegation: c.ext, JWS: q.Confirmation, DelegatorKey: by.spki, Link: c.link,
			Issuer: g.User.Issuer, Subject: g.User.Subject, Roles: g.User.Roles, Input: a.input,
		},
	}
}

func (s *Service) agentEnvelope(by delegator, q SpawnRequest, g *grantState, d chain.Delegation) record.Envelope {
	env := record.Envelope{
		Task: q.TaskID, Grant: g.ID, Agent: q.SpawnID, Orchestrator: nameOf(d.Hops[0].ID),
		User: s.cfg.Pseudonym(g.User.Issuer, g.User.Subject),
	}
	if by.id.Kind() == chain.Agent {
		env.Parent = by.id.AgentID()
	}
	return env
}

// agentMutations writes a new agent and re-checks, at the moment of commit, everything that a concurrent request could
// have changed since it was read. What only this certificate or token knows is in st already.
func (s *Service) agentMutations(by Caller, q SpawnRequest, l lineage, child chain.Delegation, st agentState, place record.Mutation) ([]record.Mutation, error) {
	fp := q.fingerprint(by)
	hop := child.Hops[len(child.Hops)-1]
	st.SPIFFEID, st.TaskID, st.Request, st.DelegatorKey = hop.ID, q.TaskID, fp[:], l.by.spki
	st.Delegations = append(slices.Clone(l.delegations), q.Confirmation)
	value, err := encode(st)
	if err != nil {
		return nil, err
	}
	m := []record.Mutation{create(keyAgent+q.SpawnID, value, l.keep(), refuse(Conflict, "spawn_id_used", "spawn_id", "this spawn_id was used"))}
	if st.TBS != nil {
		m = append(m, uniqueKey(hop.SPKIHash, q.SpawnID, l.keep()))
	}
	m = append(m, place, must(record.Absent, revKey(chain.RevCertificate, chain.Serial(by.Certs[0])),
		refuse(Forbidden, chain.CodeCertificateRevoked, "", "the delegator's certificate is revoked")))
	stands, err := s.stands(child, l.task)
	if err != nil {
		return nil, err
	}
	m = append(append(m, stands...), l.holds...)
	more, err := s.remember(by, q.Idempotency, q.SpawnID)
	return append(m, more...), err
}

// uniqueKey lets a key be used by one agent once.
func uniqueKey(spki [32]byte, agent string, keep time.Time) record.Mutation {
	return create(keySPKI+hexOf(spki), []byte(agent), keep, refuse(Conflict, "key_reused", "csr", "another agent has this key"))
}

// AgentChain shows what an agent's identity stands on: to itself, its orchestrator, services and staff.
func (s *Service) AgentChain(ctx context.Context, by Caller, id string) (Lineage, error) {
	if _, err := chain.ParseUUID(id); err != nil {
		return Lineage{}, refuse(NotFound, "agent_not_found", "id", "no such agent")
	}
	st, ok, err := load[agentState](s.cfg.Log, keyAgent+id)
	if err != nil {
		return Lineage{}, internal("read agent", err)
	}
	if !ok {
		return Lineage{}, refuse(NotFound, "agent_not_found", "id", "no such agent")
	}
	if st.TBS == nil {
		return Lineage{}, refuse(NotFound, "agent_not_found", "id", "the agent has not redeemed its token")
	}
	d, err := st.present()
	if err != nil {
		return Lineage{}, internal("read agent", err)
	}
	if !mayRead(by, id, d) {
		return Lineage{}, refuse(NotFound, "agent_not_found", "id", "no such agent")
	}
	g, err := s.grant(chain.FormatUUID(d.Grant.GrantID))
	if err != nil {
		return Lineage{}, err
	}
	links, err := s.links(ctx, d)
	if err != nil {
		return Lineage{}, err
	}
	return Lineage{Delegation: d, Delegations: st.Delegations, Links: links, GrantHash: [32]byte(g.Hash)}, nil
}

func mayRead(by Caller, id string, d chain.Delegation) bool {
	switch by.ID.Kind() {
	case chain.Service:
		return true
	case chain.Operator:
		return by.Role != RoleNone
	case chain.Agent:
		return by.ID.AgentID() == id
	case chain.Orchestrator:
		return d.Hops[0].ID == by.ID.String()
	case chain.KindUnknown:
	}
	return false
}

// agentTask is the task that an agent works on.
func (s *Service) agentTask(id string) (*taskState, error) {
	if _, err := chain.ParseUUID(id); err != nil {
		return nil, refuse(NotFound, "agent_not_found", "id", "no such agent")
	}
	st, ok, err := load[agentState](s.cfg.Log, keyAgent+id)
	if err != nil {
		return nil, internal("read agent", err)
	}
	if !ok {
		return nil, refuse(NotFound, "agent_not_found", "id", "no such agent")
	}
	return s.task(st.TaskID)
}

func common(a, b []string) []string {
	var out []string
	for _, v := range a {
		if slices.Contains(b, v) {
			out = append(out, v)
		}
	}
	return out
}

func itoa(n int) string { return strconv.Itoa(n) }

func joinReasons(r []string) string { return strings.Join(r, ", ") }

// fieldOf names the request's field that an attenuation code is about.
func fieldOf(code string) string {
	switch code {
	case "scope_exceeds_parent":
		return "scope"
	case "deadline_exceeds_parent":
		return "ttl"
	case "depth_exceeded":
		return "max_depth"
	}
	return ""
}
