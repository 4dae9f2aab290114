package delegation

import (
	"context"
	"sync"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// maxReason bounds the text of a revocation.
const maxReason = 256

// revocations is the set of all revoked things, in memory: an access decision asks it a handful of times.
type revocations struct {
	mu   sync.RWMutex
	set  map[string]Revocation
	list []Revocation
}

// loadRevocations reads the projection's revocations, in the order of their keys.
func loadRevocations(ctx context.Context, log Log) (*revocations, error) {
	r := &revocations{set: make(map[string]Revocation)}
	after := ""
	for {
		n := 0
		err := log.Scan(ctx, keyRevoked, after, 1000, func(key string, value []byte) error {
			n, after = n+1, key
			return r.read(key, value)
		})
		if err != nil {
			return nil, err
		}
		if n < 1000 {
			break
		}
	}
	r.sort()
	return r, nil
}

func (r *revocations) has(kind chain.RevKind, id string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, ok := r.set[revKey(kind, id)]
	return ok
}

// current is the set as chain.Verify wants it: the appliance's own is complete at the moment that is verified for.
type current struct {
	*revocations
	at time.Time
}

// Revoked asks the set.
func (c current) Revoked(kind chain.RevKind, id string) bool { return c.has(kind, id) }

// FreshAt is that moment.
func (c current) FreshAt() time.Time { return c.at }

func (r *revocations) add(v Revocation) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := revKey(v.Kind, v.ID)
	if _, ok := r.set[k]; ok {
		return
	}
	r.set[k] = v
	r.list = append(r.list, v)
}

// next is the sequence number of the next revocation. Two at once may get the same; the log's index orders them.
func (r *revocations) next() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return uint64(len(r.list)) + 1
}

// page gives up to limit revocations after the first `from` ones.
func (r *revocations) page(from, limit int) []Revocation {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if from >= len(r.list) {
		return nil
	}
	return append([]Revocation(nil), r.list[from:min(from+limit, len(r.list))]...)
}

// lineage gives the code of the first revoked part of a chain, "" when there is none.
func (r *revocations) lineage(d chain.Delegation) string {
	switch {
	case r.has(chain.RevUser, chain.UserID(d.Grant.Issuer, d.Grant.Subject)):
		return chain.CodeUserRevoked
	case r.has(chain.RevGrant, chain.FormatUUID(d.Grant.GrantID)):
		return chain.CodeGrantRevoked
	case r.has(chain.RevTask, chain.FormatUUID(d.TaskID)):
		return chain.CodeTaskRevoked
	}
	for i, h := range d.Hops {
		id, err := chain.ParseID(h.ID)
		if err != nil {
			return chain.CodeHopID
		}
		if i == 0 && r.has(chain.RevOrchestrator, id.Name()) {
			return chain.CodeOrchestratorRevoked
		}
		if i > 0 && r.has(chain.RevAgent, id.AgentID()) {
			return chain.CodeAgentRevoked
		}
	}
	return ""
}

// Revoke ends a thing and all below it, at once for issuance and decisions here.
func (s *Service) Revoke(ctx context.Context, by Caller, q RevokeRequest) (Revocation, error) {
	v, err := s.revoke(ctx, by, q)
	if err != nil {
		return Revocation{}, s.denied(ctx, "revoke", by, record.Envelope{}, err)
	}
	return v, nil
}

func (s *Service) revoke(ctx context.Context, by Caller, q RevokeRequest) (Revocation, error) {
	about, err := s.revocable(by, q)
	if err != nil {
		return Revocation{}, err
	}
	if _, _, err := s.replayed(by, q.Idempotency); err != nil {
		return Revocation{}, err
	}
	if v, ok := s.revoked.get(q.Kind, q.ID); ok {
		return v, nil
	}
	return s.end(ctx, by, q, about)
}

// end appends a revocation.
func (s *Service) end(ctx context.Context, by Caller, q RevokeRequest, about record.Envelope) (Revocation, error) {
	v := Revocation{Seq: s.revoked.next(), Kind: q.Kind, ID: q.ID, Reason: q.Reason, Time: s.cfg.Now().UTC()}
	value, err := encode(revokedState{Seq: v.Seq, Reason: v.Reason, Time: v.Time})
	if err != nil {
		return Revocation{}, err
	}
	m, err := s.remember(by, q.Idempotency, q.ID)
	if err != nil {
		return Revocation{}, err
	}
	about.Type = record.TypeRevoke
	nameCaller(&about, by)
	pos, err := s.append(ctx, draft{
		env:       about,
		body:      record.RevokeBody{Kind: q.Kind.String(), ID: s.publicID(q.Kind, q.ID), Reason: q.Reason, Seq: v.Seq},
		terms:     termsOf(about),
		mutations: append(m, record.Mutation{Key: revKey(q.Kind, q.ID), Value: value}),
	})
	if err != nil {
		return Revocation{}, err
	}
	v.Position = pos
	s.revoked.add(v)
	return v, nil
}

// publicID keeps a user's name out of the envelope.
func (s *Service) publicID(kind chain.RevKind, id string) string {
	if kind != chain.RevUser {
		return id
	}
	iss, sub := splitUser(id)
	return s.cfg.Pseudonym(iss, sub)
}

// revocable checks that q names something that by may end.
func (s *Service) revocable(by Caller, q RevokeRequest) (record.Envelope, error) {
	var env record.Envelope
	if len(q.Reason) > maxReason || q.ID == "" || len(q.ID) > 1024 {
		return env, refuse(Invalid, "bad_request", "reason", "an id of 1 to 1024 and a reason of at most 256 bytes")
	}
	staff := by.Role == RoleOperator || by.Role == RoleOfficer
	switch q.Kind {
	case chain.RevTask:
		env.Task = q.ID
		t, err := s.task(q.ID)
		return env, own(by, staff, t.orchestrator(), err)
	case chain.RevAgent:
		env.Agent = q.ID
		owner, err := s.agentOwner(q.ID)
		return env, own(by, staff, owner, err)
	case chain.RevGrant:
		env.Grant = q.ID
		g, err := s.grant(q.ID)
		return env, own(by, staff, g.orchestrator(), err)
	case chain.RevCertificate, chain.RevUser, chain.RevOrchestrator:
		return env, own(by, staff, "", nil)
	case chain.RevUnknown:
		fallthrough
	default:
		return env, refuse(Invalid, "bad_revocation_kind", "kind", "one of certificate, agent, task, grant, user, orchestrator")
	}
}

// own admits staff, and the orchestrator that the thing belongs to. To others it does not exist.
func own(by Caller, staff bool, owner string, err error) error {
	if err != nil {
		return err
	}
	if staff || (owner != "" && by.ID.String() == owner) {
		return nil
	}
	return refuse(Forbidden, "not_yours", "id", "only an operator or the orchestrator that it belongs to may revoke it")
}

// Revocations lists up to limit revocations after the first `from` ones.
func (s *Service) Revocations(from, limit int) []Revocation { return s.revoked.page(from, limit) }
