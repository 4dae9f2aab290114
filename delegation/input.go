package delegation

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/policy"
)

// asked is a policy's answer with what it answered to: what an entry keeps of it, so that it can be asked again.
type asked struct {
	about  policy.Input
	input  []byte
	answer policy.Decision
}

// ask puts a document to policy.
func (s *Service) ask(ctx context.Context, in policy.Input) (asked, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return asked{}, internal("encode policy input", err)
	}
	return asked{about: in, input: b, answer: s.cfg.Policy.Decide(ctx, in)}, nil
}

// hash is the digest of the input, "" where nothing was asked.
func (a asked) hash() string {
	if a.input == nil {
		return ""
	}
	return hexOf(sha256.Sum256(a.input))
}

// permitted gives policy's no to a spawn or a token as a refusal.
func (a asked) permitted() error {
	if a.answer.Allow {
		return nil
	}
	return &Error{Kind: Forbidden, Code: "policy_denied", Detail: joinReasons(a.answer.Reasons), asked: &a}
}

// spawnInput is what policy is asked before an agent exists.
func (s *Service) spawnInput(q SpawnRequest, l lineage, child chain.Delegation) policy.Input {
	in := s.input(policy.PointSpawn, child, l.grant, l.task, l.attestation)
	in.Request = &policy.Request{Scope: q.Scope.Strings(), TTLSeconds: int64(q.TTL / time.Second), MaxDepth: q.MaxDepth}
	return in
}

// accessInput is what policy is asked at each access.
func (s *Service) accessInput(q DecisionRequest, d chain.Delegation, g *grantState, t *taskState, required []chain.Token) policy.Input {
	in := s.input(policy.PointAccess, d, g, t, s.attestation(d.Hops[0].ID))
	scope := make([]string, len(required))
	for i, tok := range required {
		scope[i] = tok.String()
	}
	in.Resource = &policy.Resource{Type: q.ResourceType, ID: q.ResourceID, RequiredScope: scope}
	in.Action = &policy.Action{Name: q.Action}
	return in
}

func (s *Service) input(point policy.Point, d chain.Delegation, g *grantState, t *taskState, attestation string) policy.Input {
	last := d.Hops[len(d.Hops)-1]
	in := policy.Input{
		Point: point,
		Time:  s.cfg.Now().UTC(),
		Agent: policy.Agent{SPIFFEID: last.ID, Scope: last.Scope.Strings(), NotAfter: last.NotAfter, Depth: len(d.Hops) - 1},
		User: policy.User{
			Issuer: g.User.Issuer, Subject: g.User.Subject, Roles: g.User.Roles, Groups: g.User.Groups,
			ACR: g.User.ACR, AMR: g.User.AMR, AuthTime: g.User.AuthTime,
		},
		Consent:      policy.Consent{Type: g.Consent},
		Task:         policy.Task{ID: t.ID, GrantID: t.GrantID, Purpose: g.Purpose, Scope: t.Scope, NotAfter: t.NotAfter},
		Orchestrator: policy.Orchestrator{ID: d.Hops[0].ID, Attestation: attestation},
	}
	in.Revocation = s.revoked.view(in.Time)
	if id, err := chain.ParseID(last.ID); err == nil {
		in.Agent.ID, in.Agent.Type = id.AgentID(), id.AgentType()
	}
	for _, h := range d.Hops {
		in.Hops = append(in.Hops, policy.Hop{ID: h.ID, Scope: h.Scope.Strings(), NotAfter: h.NotAfter, MaxDepth: h.MaxDepth, Confirmed: h.Confirmation != nil})
	}
	return in
}

// attestation is how an orchestrator proved itself, "" where that is not known.
func (s *Service) attestation(spiffe string) string {
	st, err := s.registration(identityKey(chain.Orchestrator, nameOf(spiffe)))
	if err != nil || st.identityState == nil {
		return ""
	}
	return st.Attestation
}
