package api

import (
	"encoding/hex"
	"math"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

func (s *Server) spawn(c *call, q *v1.SpawnRequest) (v1.Spawned, error) {
	req, err := spawnRequest(c, q)
	if err != nil {
		return v1.Spawned{}, err
	}
	return s.spawned(s.cfg.Domain.Spawn(c.ctx, c.by, req))
}

func (s *Server) delegate(c *call, q *v1.SpawnRequest) (v1.Spawned, error) {
	req, err := spawnRequest(c, q)
	if err != nil {
		return v1.Spawned{}, err
	}
	return s.spawned(s.cfg.Domain.Delegate(c.ctx, c.by, c.param("id"), req))
}

func spawnRequest(c *call, q *v1.SpawnRequest) (delegation.SpawnRequest, error) {
	scope, err := parseScope("scope", q.Scope)
	if err != nil {
		return delegation.SpawnRequest{}, err
	}
	ttl, err := seconds("ttl", q.TTL)
	if err != nil {
		return delegation.SpawnRequest{}, err
	}
	if q.MaxDepth < 0 || q.MaxDepth > math.MaxInt32 {
		return delegation.SpawnRequest{}, invalid(codeBadRequest, "max_depth", "a number of levels that is not negative")
	}
	return delegation.SpawnRequest{
		TaskID: q.TaskID, SpawnID: q.SpawnID, AgentType: q.AgentType, Scope: scope, TTL: ttl, MaxDepth: q.MaxDepth,
		CSR: []byte(q.CSR), Confirmation: q.Confirmation, Idempotency: c.idem,
	}, nil
}

func (s *Server) spawned(a delegation.Spawned, err error) (v1.Spawned, error) {
	if err != nil {
		return v1.Spawned{}, err
	}
	return v1.Spawned{
		AgentID: a.AgentID, SPIFFEID: a.ID.String(), CertificateChain: pemChain(a.Chain), NotAfter: wireTime(a.NotAfter),
		AuditReceipt: s.receipt(a.Position),
	}, nil
}

func (s *Server) agentChain(c *call) (v1.AgentChain, error) {
	id := c.param("id")
	l, err := s.cfg.Domain.AgentChain(c.by, id)
	if err != nil {
		return v1.AgentChain{}, err
	}
	d := wireDelegation(l.Delegation)
	for i := range d.Hops {
		if i < len(l.Delegations) {
			d.Hops[i].Delegation = l.Delegations[i]
		}
	}
	return v1.AgentChain{AgentID: id, Delegation: d, GrantHash: hex.EncodeToString(l.GrantHash[:])}, nil
}

func wireDelegation(d chain.Delegation) v1.Delegation {
	out := v1.Delegation{
		TaskID: chain.FormatUUID(d.TaskID),
		Grant: v1.DelegationGrant{
			GrantID: chain.FormatUUID(d.Grant.GrantID), Issuer: d.Grant.Issuer, Subject: d.Grant.Subject,
			ConsentType: d.Grant.Consent.String(), EvidenceHash: hex.EncodeToString(d.Grant.EvidenceHash[:]),
			Scope: d.Grant.Scope.Strings(), NotAfter: wireTime(d.Grant.NotAfter), MaxDepth: d.Grant.MaxDepth,
		},
		Hops: make([]v1.Hop, len(d.Hops)),
	}
	for i, h := range d.Hops {
		out.Hops[i] = v1.Hop{
			ID: h.ID, SPKIHash: hex.EncodeToString(h.SPKIHash[:]), Scope: h.Scope.Strings(), NotAfter: wireTime(h.NotAfter), MaxDepth: h.MaxDepth,
		}
		if h.Confirmation != nil {
			out.Hops[i].ConfirmationHash = hex.EncodeToString(h.Confirmation[:])
		}
	}
	return out
}
