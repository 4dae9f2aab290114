package delegation

import (
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
	l.allow(by.reg, s.cfg.Limits.AgentTTL)
	l.parent, err = l.first(by)
	l.delegations = []string{""}
	return l, err
}

// allow takes what both the user and the orchestrator's registration allow, however deep the agent.
func (l *lineage) allow(reg *identityState, longest time.Duration) {
	l.attestation = reg.Attestation
	l.types = common(l.grant.AgentTypes, reg.AgentTypes)
	l.maxTTL = longest
	if reg.MaxTTL > 0 {
		l.maxTTL = min(longest, time.Duration(reg.MaxTTL)*time.Second)
	}
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
	st, ok, err := load[agentState](s.cfg.Log, keyAgent+parentID)
	if err != nil || !ok {
		return lineage{}, refuse(Forbidden, "parent_unknown", "id", "the log does not know this parent")
	}
	l.parent, l.delegations, l.confirm = *by.deleg, st.Delegations, true
	orch, err := chain.ParseID(l.parent.Hops[0].ID)
	if err != nil {
		return lineage{}, internal("read parent", err)
	}
	reg, err := s.registered(orch)
	if err != nil {
		return lineage{}, err
	}
	l.allow(reg, s.cfg.Limits.AgentTTL)
	return l, nil
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

// first is the chain up to the orchestrator's own hop, which holds the key of this connection.
func (l lineage) first(by Caller) (chain.Delegation, error) {
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
		Issuer: l.grant.User.Issuer, Subject: l.grant.User.Subject, GrantID: grantID, Consent: chain.OIDCNonce,
		EvidenceHash: [32]byte(l.grant.EvidenceHash), Scope: granted, NotAfter: l.grant.NotAfter, MaxDepth: l.grant.MaxDepth,
	}
	d.Hops = []chain.Hop{{
		ID: by.ID.String(), SPKIHash: spkiHash(by.Certs[0].RawSubjectPublicKeyInfo), Scope: scope,
		NotAfter: l.task.NotAfter, MaxDepth: l.task.MaxDepth,
	}}
	return d, nil
}

// agentOrder is the issuance of a checked child.
func (s *Service) agentOrder(by Caller, q SpawnRequest, l lineage, child chain.Delegation, spki []byte) (order, error) {
	ext, err := child.Marshal()
	if err != nil {
		return order{}, refuse(Invalid, "bad_delegation", "", err.Error())
	}
	hop := child.Hops[len(child.Hops)-1]
	id, err := chain.ParseID(hop.ID)
	if err != nil {
		return order{}, internal("read child", err)
	}
	o := s.describe(by, q, l.grant, child, ext, by.Certs[0].RawSubjectPublicKeyInfo)
	o.template = Template{ID: id, SPKI: spki, NotAfter: hop.NotAfter, Delegation: ext}
	o.mutations = func(p Prepared) ([]record.Mutation, error) { return s.agentMutations(by, q, l, child, ext, p) }
	return o, nil
}

// describe is what the entry of an agent's certificate says beside the certificate.
func (s *Service) describe(by Caller, q SpawnRequest, g *grantState, d chain.Delegation, ext, delegatorKey []byte) order {
	env := record.Envelope{
		Task: q.TaskID, Grant: g.ID, Agent: q.SpawnID, Orchestrator: nameOf(d.Hops[0].ID),
		User: s.cfg.Pseudonym(g.User.Issuer, g.User.Subject),
	}
	if by.ID.Kind() == chain.Agent {
		env.Parent = by.ID.AgentID()
	}
	return order{
		env: env,
		body: record.IssueBody{
			SPKIHash: hexOf(d.Hops[len(d.Hops)-1].SPKIHash), SpawnID: q.SpawnID, Hops: hopBodies(d.Hops),
			ConsentType: g.Consent, EvidenceHash: hex.EncodeToString(g.EvidenceHash),
		},
		payload: record.IssuePayload{
			Delegation: ext, JWS: q.Confirmation, DelegatorKey: delegatorKey,
			Issuer: g.User.Issuer, Subject: g.User.Subject, Roles: g.User.Roles,
		},
	}
}

// agentMutations writes the agent and re-checks, at the moment of commit, everything that a concurrent request could
// have changed since it was read.
func (s *Service) agentMutations(by Caller, q SpawnRequest, l lineage, child chain.Delegation, ext []byte, p Prepared) ([]record.Mutation, error) {
	fp := q.fingerprint(by)
	hop := child.Hops[len(child.Hops)-1]
	value, err := encode(agentState{
		SPIFFEID: hop.ID, TaskID: q.TaskID, Request: fp[:], TBS: p.TBS(), Delegation: ext, NotAfter: p.Facts().NotAfter,
		DelegatorKey: by.Certs[0].RawSubjectPublicKeyInfo,
		Delegations:  append(slices.Clone(l.delegations), q.Confirmation),
	})
	if err != nil {
		return nil, err
	}
	// An id and a key are used once in the life of the grant that they could be used under.
	keep := l.grant.NotAfter.Add(grace)
	m := []record.Mutation{
		create(keyAgent+q.SpawnID, value, keep, refuse(Conflict, "spawn_id_used", "spawn_id", "this spawn_id was used")),
		create(keySPKI+hexOf(hop.SPKIHash), []byte(q.SpawnID), keep, refuse(Conflict, "key_reused", "csr", "another agent has this key")),
	}
	m = append(m, unrevoked(child)...)
	more, err := s.remember(by, q.Idempotency, q.SpawnID)
	return append(m, more...), err
}

// AgentChain shows what an agent's identity stands on: to itself, its orchestrator, services and staff.
func (s *Service) AgentChain(by Caller, id string) (Lineage, error) {
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
	d, err := chain.Parse(st.Delegation)
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
	return Lineage{Delegation: d, Delegations: st.Delegations, GrantHash: [32]byte(g.Hash)}, nil
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

// agentOwner is the orchestrator at the head of an agent's chain.
func (s *Service) agentOwner(id string) (string, error) {
	if _, err := chain.ParseUUID(id); err != nil {
		return "", refuse(NotFound, "agent_not_found", "id", "no such agent")
	}
	st, ok, err := load[agentState](s.cfg.Log, keyAgent+id)
	if err != nil {
		return "", internal("read agent", err)
	}
	if !ok {
		return "", refuse(NotFound, "agent_not_found", "id", "no such agent")
	}
	t, err := s.task(st.TaskID)
	if err != nil {
		return "", err
	}
	return t.Orchestrator, nil
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
