package api

import (
	"crypto/sha256"
	"encoding/base64"
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
	out := delegation.SpawnRequest{
		TaskID: q.TaskID, SpawnID: q.SpawnID, AgentType: q.AgentType, Scope: scope, TTL: ttl, MaxDepth: q.MaxDepth,
		CSR: []byte(q.CSR), Confirmation: q.Confirmation, Idempotency: c.idem,
	}
	if q.EnrollmentHash == "" {
		return out, nil
	}
	hash, err := base64.RawURLEncoding.Strict().DecodeString(q.EnrollmentHash)
	if err != nil || len(hash) != sha256.Size || [sha256.Size]byte(hash) == [sha256.Size]byte{} {
		return out, invalid(codeBadEnrollmentHash, "enrollment_hash", "unpadded base64url of a SHA-256")
	}
	out.EnrollmentHash = (*[sha256.Size]byte)(hash)
	return out, nil
}

func (s *Server) spawned(a delegation.Spawned, err error) (v1.Spawned, error) {
	if err != nil {
		return v1.Spawned{}, err
	}
	out := v1.Spawned{
		AgentID: a.AgentID, SPIFFEID: a.ID.String(), CertificateChain: pemChain(a.Chain), NotAfter: wireTime(a.NotAfter),
		EnrollmentToken: a.Token, AuditReceipt: s.receipt(a.Position),
	}
	if !a.TokenExpires.IsZero() {
		expires := wireTime(a.TokenExpires)
		out.EnrollmentExpires = &expires
	}
	return out, nil
}

// certifyAgent redeems a token, or replaces the key of the agent whose connection this is.
func (s *Server) certifyAgent(c *call, q *v1.AgentCertificateRequest) (v1.Spawned, error) {
	switch {
	case q.EnrollmentToken != "" && q.Link != "":
		return v1.Spawned{}, invalid(codeBadRequest, "link", "a token is redeemed, or a key replaced")
	case q.EnrollmentToken != "":
		return s.spawned(s.cfg.Domain.Enroll(c.ctx, delegation.Enrollment{
			AgentID: c.param("id"), Token: q.EnrollmentToken, CSR: []byte(q.CSR),
		}))
	case q.Link == "":
		return v1.Spawned{}, invalid(codeBadRequest, "enrollment_token", "a token to redeem, or the link of a re-key")
	}
	by, err := s.cfg.Domain.Authenticate(c.peer())
	if err != nil {
		return v1.Spawned{}, err
	}
	c.by = by
	return s.spawned(s.cfg.Domain.Rekey(c.ctx, by, delegation.RekeyRequest{
		AgentID: c.param("id"), CSR: []byte(q.CSR), Link: q.Link,
	}))
}

func (s *Server) agentChain(c *call) (v1.AgentChain, error) {
	id := c.param("id")
	l, err := s.cfg.Domain.AgentChain(c.ctx, c.by, id)
	if err != nil {
		return v1.AgentChain{}, err
	}
	d := wireDelegation(l.Delegation)
	for i := range d.Hops {
		if i < len(l.Delegations) {
			d.Hops[i].Delegation = l.Delegations[i]
		}
		if i < len(l.Links) {
			d.Hops[i].Links = wireLinks(l.Links[i])
		}
	}
	return v1.AgentChain{AgentID: id, Delegation: d, GrantHash: hex.EncodeToString(l.GrantHash[:])}, nil
}

func wireLinks(links []chain.Link) []v1.Link {
	var out []v1.Link
	for _, l := range links {
		out = append(out, v1.Link{Link: l.JWS, Key: l.Key})
	}
	return out
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
