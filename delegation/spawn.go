package delegation

import (
	"context"
	"slices"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Spawned is an agent's identity; with a token instead of a certificate, Chain is empty.
type Spawned struct {
	Issued
	AgentID      string
	Token        string // "" if the caller made it
	TokenExpires time.Time
}

// lineage is what a new hop stands on: its parent's chain, the task and the grant.
type lineage struct {
	by          delegator
	grant       *grantState
	task        *taskState
	parent      chain.Delegation // hops end with the delegator
	delegations []string         // compact JWS by hop of parent
	types       []string         // agent types that may be spawned
	maxTTL      time.Duration
	byType      func(agentType string) TypeLimit
	confirm     bool              // a delegator's JWS is required
	attestation string            // of the orchestrator
	holds       []record.Mutation // asked again at commit: the parent has the key that it came with
}

// delegator is who spawns: the orchestrator, or an agent.
type delegator struct {
	id   chain.ID
	spki []byte
}

func delegatorOf(by Caller) delegator {
	return delegator{id: by.ID, spki: by.Certs[0].RawSubjectPublicKeyInfo}
}

// Spawn gives an agent its identity, asked for by the orchestrator that runs the task.
func (s *Service) Spawn(ctx context.Context, by Caller, q SpawnRequest) (Spawned, error) {
	out, err := s.spawn(ctx, by, q, s.fromOrchestrator)
	if err != nil {
		return Spawned{}, s.denied(ctx, "agent.spawn", by, record.Envelope{Task: uuidOrNone(q.TaskID), Agent: uuidOrNone(q.SpawnID)}, err)
	}
	return out, nil
}

// Delegate gives a sub-agent its identity, asked for by its parent.
func (s *Service) Delegate(ctx context.Context, by Caller, parentID string, q SpawnRequest) (Spawned, error) {
	from := func(by Caller, q SpawnRequest) (lineage, error) { return s.fromAgent(by, parentID, q) }
	out, err := s.spawn(ctx, by, q, from)
	if err != nil {
		about := record.Envelope{Task: uuidOrNone(q.TaskID), Agent: uuidOrNone(q.SpawnID), Parent: uuidOrNone(parentID)}
		return Spawned{}, s.denied(ctx, "agent.delegate", by, about, err)
	}
	return out, nil
}

// uuidOrNone keeps a caller's nonsense out of the envelope.
func uuidOrNone(id string) string {
	if _, err := chain.ParseUUID(id); err != nil {
		return ""
	}
	return id
}

func (s *Service) spawn(ctx context.Context, by Caller, q SpawnRequest, from func(Caller, SpawnRequest) (lineage, error)) (Spawned, error) {
	if err := s.takeCaller(ctx, by); err != nil {
		return Spawned{}, err
	}
	if _, err := chain.ParseUUID(q.SpawnID); err != nil {
		return Spawned{}, refuse(Invalid, "bad_spawn_id", "spawn_id", "a lower-case UUIDv7 that the caller chooses")
	}
	done, err := s.turns.take(ctx, q.SpawnID)
	if err != nil {
		return Spawned{}, err
	}
	defer done()
	ref, retry, err := s.replayed(by, q.Idempotency)
	if err != nil {
		return Spawned{}, err
	}
	if retry && ref != q.SpawnID {
		return Spawned{}, refuse(Conflict, "idempotency_key_reused", "Idempotency-Key", "this key was used with another request")
	}
	if err := s.cfg.Ready(); err != nil {
		return Spawned{}, notReady(err)
	}
	if out, ok, err := s.respawn(ctx, by, q); err != nil || ok {
		return out, err
	}
	if retry {
		return Spawned{}, errAgentExpired()
	}
	l, err := from(by, q)
	if err != nil {
		return Spawned{}, err
	}
	if err := s.takeTask(ctx, by, l); err != nil {
		return Spawned{}, err
	}
	return s.spawnNew(ctx, by, q, l)
}

// spawnNew checks, decides, and issues a certificate or a token.
func (s *Service) spawnNew(ctx context.Context, by Caller, q SpawnRequest, l lineage) (Spawned, error) {
	if len(q.CSR) == 0 {
		return s.spawnToken(ctx, by, q, l)
	}
	if q.EnrollmentHash != nil {
		return Spawned{}, refuse(Invalid, "enrollment_hash_with_csr", "enrollment_hash", "a token is for an agent without a CSR")
	}
	csr, err := parseCSR(q.CSR)
	if err != nil {
		return Spawned{}, err
	}
	hop, err := s.hop(q, l)
	if err != nil {
		return Spawned{}, err
	}
	limit, err := s.confirm(by, q, l, csr.Public, &hop)
	if err != nil {
		return Spawned{}, err
	}
	hop.SPKIHash = spkiHash(csr.SPKI)
	child, err := extend(l.parent, hop)
	if err != nil {
		return Spawned{}, err
	}
	o, err := s.agentOrder(ctx, q, l, child, csr.SPKI, certified{})
	if err != nil {
		return Spawned{}, err
	}
	var issued Issued
	err = s.withSlot(ctx, q.TaskID, l.keep(), func(place record.Mutation) error {
		o.mutations = func(p Prepared) ([]record.Mutation, error) {
			st := agentState{TBS: p.TBS(), NotAfter: p.Facts().NotAfter, Limit: limit}
			return s.agentMutations(by, q, l, child, st, place)
		}
		issued, err = s.issue(ctx, o)
		return err
	})
	if err != nil {
		return Spawned{}, err
	}
	return Spawned{Issued: issued, AgentID: q.SpawnID}, nil
}

// agentOrder asks what is revoked and what policy says, and gives the order of a checked child. The caller adds the mutations.
func (s *Service) agentOrder(ctx context.Context, q SpawnRequest, l lineage, child chain.Delegation, spki []byte, c certified) (order, error) {
	a, err := s.allowed(ctx, q, l, child)
	if err != nil {
		return order{}, err
	}
	if c.ext, err = child.Marshal(); err != nil {
		return order{}, refuse(Invalid, "bad_delegation", "", err.Error())
	}
	hop := child.Hops[len(child.Hops)-1]
	id, err := chain.ParseID(hop.ID)
	if err != nil {
		return order{}, internal("read child", err)
	}
	o := s.describe(l.by, q, l.grant, child, c, a)
	o.template = Template{ID: id, SPKI: spki, NotAfter: hop.NotAfter, Delegation: c.ext}
	return o, nil
}

// allowed asks the revocations and policy about a child.
func (s *Service) allowed(ctx context.Context, q SpawnRequest, l lineage, child chain.Delegation) (asked, error) {
	if code := s.revoked.lineage(child); code != "" {
		return asked{}, refuse(Forbidden, code, "", "a part of the delegation chain is revoked")
	}
	a, err := s.ask(ctx, s.spawnInput(q, l, child))
	if err != nil {
		return asked{}, err
	}
	return a, a.permitted()
}

// hop is the child's own hop, still without its key and its delegator's JWS.
func (s *Service) hop(q SpawnRequest, l lineage) (chain.Hop, error) {
	if !slices.Contains(l.types, q.AgentType) {
		return chain.Hop{}, refuse(Forbidden, "agent_type_not_allowed", "agent_type", "neither the grant nor the registration allows this agent type")
	}
	id, err := chain.AgentID(s.cfg.Trust.TrustDomain, q.AgentType, q.SpawnID)
	if err != nil {
		return chain.Hop{}, refuse(Invalid, "bad_agent_type", "agent_type", err.Error())
	}
	byType := l.byType(q.AgentType)
	if byType.MaxDepth != nil && q.MaxDepth > *byType.MaxDepth {
		return chain.Hop{}, refuse(Forbidden, "depth_exceeds_type_limit", "max_depth", "more levels of sub-agents than this agent type may have")
	}
	notAfter, err := s.deadline(q, l, byType.MaxTTL)
	if err != nil {
		return chain.Hop{}, err
	}
	return chain.Hop{ID: id.String(), Scope: q.Scope, NotAfter: notAfter, MaxDepth: q.MaxDepth}, nil
}

// extend is the parent's chain and one hop more, which never exceeds it.
func extend(parent chain.Delegation, hop chain.Hop) (chain.Delegation, error) {
	child, err := parent.Extend(hop)
	if err != nil {
		return chain.Delegation{}, refuse(Forbidden, codeOf(err), fieldOf(codeOf(err)), err.Error())
	}
	return child, nil
}

// deadline is the end of the child's life. What was asked for is never cut short in silence.
func (s *Service) deadline(q SpawnRequest, l lineage, typeTTL time.Duration) (time.Time, error) {
	now := s.cfg.Now().UTC()
	parent := l.parent.Hops[len(l.parent.Hops)-1].NotAfter
	if q.TTL < 0 {
		return time.Time{}, refuse(Invalid, "bad_ttl", "ttl", "a positive number of seconds")
	}
	if q.TTL == 0 {
		return bounded(now.Add(l.longest(typeTTL)), parent, s.cfg.Certifier.Limit(chain.Agent)).Truncate(time.Second), nil
	}
	end := now.Add(q.TTL)
	switch {
	case end.After(parent):
		return time.Time{}, refuse(Forbidden, "deadline_exceeds_parent", "ttl", "the agent would outlive what it is delegated from")
	case q.TTL > l.maxTTL:
		return time.Time{}, refuse(Forbidden, "ttl_exceeds_limit", "ttl", "longer than an agent of this orchestrator may live")
	case typeTTL > 0 && q.TTL > typeTTL:
		return time.Time{}, refuse(Forbidden, "ttl_exceeds_type_limit", "ttl", "longer than this agent type may live")
	case end.After(s.cfg.Certifier.Limit(chain.Agent)):
		return time.Time{}, refuse(Forbidden, "ttl_exceeds_limit", "ttl", "longer than the issuing CA lives")
	}
	return end.Truncate(time.Second), nil
}

// longest is how long a certificate of an agent may live.
func (l lineage) longest(typeTTL time.Duration) time.Duration {
	if typeTTL > 0 {
		return min(l.maxTTL, typeTTL)
	}
	return l.maxTTL
}

// keep is how long an agent's id, key and place are kept: they are used once in the life of the grant.
func (l lineage) keep() time.Time { return l.grant.NotAfter.Add(grace) }
