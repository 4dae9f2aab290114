package client

import (
	"context"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// Principal is who calls: an agent, on whose behalf, for which task, within which scope and until when. It is shared between
// requests: do not change what it points to.
type Principal struct {
	User         chain.User
	Agent        chain.ID
	Orchestrator chain.ID
	Parents      []chain.ID // agents between the two, outermost first
	TaskID       string
	GrantID      string
	Scope        chain.Scope // of the agent, or of its access token
	NotAfter     time.Time
}

// principalOf reads a delegation that verified.
func principalOf(agent chain.ID, d *chain.Delegation) Principal {
	last := len(d.Hops) - 1
	p := Principal{
		User: chain.User{Issuer: d.Grant.Issuer, Subject: d.Grant.Subject}, Agent: agent,
		TaskID: chain.FormatUUID(d.TaskID), GrantID: chain.FormatUUID(d.Grant.GrantID),
		Scope: d.Hops[last].Scope, NotAfter: d.Hops[last].NotAfter,
	}
	for i := range d.Hops[:last] {
		// The check "format" has parsed every one of them.
		id, _ := chain.ParseID(d.Hops[i].ID)
		if i == 0 {
			p.Orchestrator = id
		} else {
			p.Parents = append(p.Parents, id)
		}
	}
	return p
}

type principalKey struct{}

// FromContext gives the principal of a request that a middleware of this package, of echomw or of grpcmw let through.
func FromContext(ctx context.Context) (Principal, bool) {
	p, ok := ctx.Value(principalKey{}).(Principal)
	return p, ok
}
