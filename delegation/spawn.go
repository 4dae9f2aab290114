package delegation

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Spawned is an agent's identity.
type Spawned struct {
	Issued
	AgentID string
}

// lineage is what a new hop stands on: its parent's chain, the task and the grant.
type lineage struct {
	grant       *grantState
	task        *taskState
	parent      chain.Delegation // hops end with the delegator
	delegations []string         // compact JWS by hop of parent
	types       []string         // agent types that may be spawned
	maxTTL      time.Duration
	confirm     bool   // a delegator's JWS is required
	attestation string // of the orchestrator
}

// Spawn gives an agent its identity, asked for by the orchestrator that runs the task.
func (s *Service) Spawn(ctx context.Context, by Caller, q SpawnRequest) (Spawned, error) {
	out, err := s.spawn(ctx, by, q, s.fromOrchestrator)
	if err != nil {
		return Spawned{}, s.denied(ctx, "agent.spawn", by, record.Envelope{Task: q.TaskID, Agent: uuidOrNone(q.SpawnID)}, err)
	}
	return out, nil
}

// Delegate gives a sub-agent its identity, asked for by its parent.
func (s *Service) Delegate(ctx context.Context, by Caller, parentID string, q SpawnRequest) (Spawned, error) {
	from := func(by Caller, q SpawnRequest) (lineage, error) { return s.fromAgent(by, parentID, q) }
	out, err := s.spawn(ctx, by, q, from)
	if err != nil {
		about := record.Envelope{Task: q.TaskID, Agent: uuidOrNone(q.SpawnID), Parent: uuidOrNone(parentID)}
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
	if _, err := chain.ParseUUID(q.SpawnID); err != nil {
		return Spawned{}, refuse(Invalid, "bad_spawn_id", "spawn_id", "a lower-case UUIDv7 that the caller chooses")
	}
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
	return s.spawnNew(ctx, by, q, l)
}

// respawn answers a retry with the certificate of the first attempt, signed again from the stored bytes.
func (s *Service) respawn(ctx context.Context, by Caller, q SpawnRequest) (Spawned, bool, error) {
	st, ok, err := load[agentState](s.cfg.Log, keyAgent+q.SpawnID)
	if err != nil {
		return Spawned{}, false, internal("read agent", err)
	}
	if !ok {
		return Spawned{}, false, nil
	}
	want := q.fingerprint(by)
	if subtle.ConstantTimeCompare(st.Request, want[:]) != 1 {
		return Spawned{}, false, refuse(Conflict, "spawn_id_used", "spawn_id", "this spawn_id was used with another request")
	}
	if !s.cfg.Now().Before(st.NotAfter) {
		return Spawned{}, false, errAgentExpired()
	}
	id, err := chain.ParseID(st.SPIFFEID)
	if err != nil {
		return Spawned{}, false, internal("read agent", err)
	}
	o, err := s.orderAgain(by, q, st, id)
	if err != nil {
		return Spawned{}, false, err
	}
	issued, err := s.issueAgain(ctx, o, st.TBS)
	return Spawned{Issued: issued, AgentID: q.SpawnID}, true, err
}

func errAgentExpired() *Error {
	return refuse(Conflict, "agent_expired", "spawn_id", "this agent's life is over")
}

// orderAgain is the order of an agent that was issued before, from its state.
func (s *Service) orderAgain(by Caller, q SpawnRequest, st *agentState, id chain.ID) (order, error) {
	d, err := chain.Parse(st.Delegation)
	if err != nil {
		return order{}, internal("read agent", err)
	}
	if code := s.revoked.lineage(d); code != "" {
		return order{}, refuse(Forbidden, code, "", "a part of the delegation chain is revoked")
	}
	g, err := s.grant(chain.FormatUUID(d.Grant.GrantID))
	if err != nil {
		return order{}, err
	}
	o := s.describe(by, q, g, d, st.Delegation, st.DelegatorKey)
	o.template.ID = id
	o.mutations = func(Prepared) ([]record.Mutation, error) { return unrevoked(d), nil }
	return o, nil
}

// fingerprint is the SHA-256 of what decides about the certificate: who asked, and for what.
func (q SpawnRequest) fingerprint(by Caller) [32]byte {
	h := sha256.New()
	for _, part := range append([]string{
		by.ID.String(), q.TaskID, q.SpawnID, q.AgentType, q.TTL.String(), itoa(q.MaxDepth), string(q.CSR), q.Confirmation,
	}, q.Scope.Strings()...) {
		h.Write([]byte(itoa(len(part))))
		h.Write([]byte{':'})
		h.Write([]byte(part))
	}
	return [32]byte(h.Sum(nil))
}

// spawnNew checks, decides, and issues.
func (s *Service) spawnNew(ctx context.Context, by Caller, q SpawnRequest, l lineage) (Spawned, error) {
	csr, err := parseCSR(q.CSR)
	if err != nil {
		return Spawned{}, err
	}
	child, err := s.child(by, q, l, csr)
	if err != nil {
		return Spawned{}, err
	}
	if code := s.revoked.lineage(child); code != "" {
		return Spawned{}, refuse(Forbidden, code, "", "a part of the delegation chain is revoked")
	}
	decision := s.cfg.Policy.Decide(ctx, s.spawnInput(q, l, child))
	if !decision.Allow {
		return Spawned{}, &Error{Kind: Forbidden, Code: "policy_denied", Detail: joinReasons(decision.Reasons)}
	}
	o, err := s.agentOrder(by, q, l, child, csr.SPKI)
	if err != nil {
		return Spawned{}, err
	}
	o.env.Policy = decision.Digest
	issued, err := s.issue(ctx, o)
	if err != nil {
		return Spawned{}, err
	}
	return Spawned{Issued: issued, AgentID: q.SpawnID}, nil
}

// child is the parent's chain and one hop more, which never exceeds it.
func (s *Service) child(by Caller, q SpawnRequest, l lineage, csr *chain.CSR) (chain.Delegation, error) {
	if !slices.Contains(l.types, q.AgentType) {
		return chain.Delegation{}, refuse(Forbidden, "agent_type_not_allowed", "agent_type", "neither the grant nor the registration allows this agent type")
	}
	id, err := chain.AgentID(s.cfg.Trust.TrustDomain, q.AgentType, q.SpawnID)
	if err != nil {
		return chain.Delegation{}, refuse(Invalid, "bad_agent_type", "agent_type", err.Error())
	}
	notAfter, err := s.deadline(q, l)
	if err != nil {
		return chain.Delegation{}, err
	}
	hop := chain.Hop{ID: id.String(), SPKIHash: spkiHash(csr.SPKI), Scope: q.Scope, NotAfter: notAfter, MaxDepth: q.MaxDepth}
	if err := s.confirm(by, q, l, csr, &hop); err != nil {
		return chain.Delegation{}, err
	}
	child, err := l.parent.Extend(hop)
	if err != nil {
		return chain.Delegation{}, refuse(Forbidden, codeOf(err), fieldOf(codeOf(err)), err.Error())
	}
	return child, nil
}

// deadline is the end of the child's life. What was asked for is never cut short in silence.
func (s *Service) deadline(q SpawnRequest, l lineage) (time.Time, error) {
	now := s.cfg.Now().UTC()
	parent := l.parent.Hops[len(l.parent.Hops)-1].NotAfter
	longest := now.Add(min(l.maxTTL, s.cfg.Limits.AgentTTL))
	if q.TTL < 0 {
		return time.Time{}, refuse(Invalid, "bad_ttl", "ttl", "a positive number of seconds")
	}
	if q.TTL == 0 {
		return bounded(longest, parent, s.cfg.Certifier.Limit(chain.Agent)).Truncate(time.Second), nil
	}
	end := now.Add(q.TTL)
	if end.After(parent) {
		return time.Time{}, refuse(Forbidden, "deadline_exceeds_parent", "ttl", "the agent would outlive what it is delegated from")
	}
	if end.After(longest) {
		return time.Time{}, refuse(Forbidden, "ttl_exceeds_limit", "ttl", "longer than this agent type may live")
	}
	if end.After(s.cfg.Certifier.Limit(chain.Agent)) {
		return time.Time{}, refuse(Forbidden, "ttl_exceeds_limit", "ttl", "longer than the issuing CA lives")
	}
	return end.Truncate(time.Second), nil
}

// confirm checks the delegator's JWS, where there is one or must be one, and ties it to the hop.
func (s *Service) confirm(by Caller, q SpawnRequest, l lineage, csr *chain.CSR, hop *chain.Hop) error {
	if q.Confirmation == "" {
		if l.confirm {
			return refuse(Invalid, "confirmation_required", "confirmation", "a sub-agent needs its parent's signed delegation")
		}
		return nil
	}
	claims, err := chain.VerifyDelegation(q.Confirmation, by.Certs[0].PublicKey)
	if err != nil {
		return refuse(Forbidden, "confirmation_invalid", "confirmation", err.Error())
	}
	jkt, err := chain.Thumbprint(csr.Public)
	if err != nil {
		return refuse(Invalid, "bad_csr_key", "csr", err.Error())
	}
	if field := confirms(claims, by, q, l, hop, jkt, s.cfg.Origin); field != "" {
		return refuse(Forbidden, "confirmation_mismatch", "confirmation", "the signed "+field+" is not that of this request")
	}
	sum := sha256.Sum256([]byte(q.Confirmation))
	hop.Confirmation = &sum
	return nil
}

// confirms compares each claim with the request; it gives the first claim that differs.
func confirms(c chain.Claims, by Caller, q SpawnRequest, l lineage, hop *chain.Hop, jkt [32]byte, origin string) string {
	parentHash := [32]byte(l.grant.Hash)
	if last := l.parent.Hops[len(l.parent.Hops)-1]; last.Confirmation != nil {
		parentHash = *last.Confirmation
	}
	switch {
	case c.Issuer != by.ID.String():
		return "iss"
	case c.Subject != hop.ID:
		return "sub"
	case c.Audience != origin:
		return "aud"
	case c.JTI != q.SpawnID:
		return "jti"
	case c.TaskID != q.TaskID:
		return "task_id"
	case !hop.Scope.Subset(c.Scope):
		return "scope"
	case hop.NotAfter.After(c.Expiry):
		return "exp"
	case hop.MaxDepth > c.MaxDepth:
		return "del_max_depth"
	case c.ParentHash != parentHash:
		return "par_hash"
	case c.KeyHash != jkt:
		return "cnf.jkt"
	}
	return ""
}
