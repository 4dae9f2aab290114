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

// revocations is the set of all revoked things, in memory: an access decision asks it a handful of times. The list is
// in the order of sequence numbers, which is the order of the log.
type revocations struct {
	// order is held from taking a sequence number until the revocation stands in set and list, so that a reader of the
	// feed never sees a later one first.
	order sync.Mutex

	mu   sync.RWMutex
	set  map[string]Revocation
	list []Revocation
}

// loadRevocations reads the projection's revocations.
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

// next is the sequence number of the next revocation. The caller holds order.
func (r *revocations) next() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.list) == 0 {
		return 1
	}
	return r.list[len(r.list)-1].Seq + 1
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
	id, err := s.revocationID(q)
	if err != nil {
		return Revocation{}, err
	}
	q.ID = id
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

// end appends a revocation, and puts it in force here. Once it has begun it does not depend on the caller any more. A
// revocation that may have been written is in force: what is revoked by mistake can be granted again, not the reverse.
func (s *Service) end(ctx context.Context, by Caller, q RevokeRequest, about record.Envelope) (Revocation, error) {
	s.revoked.order.Lock()
	defer s.revoked.order.Unlock()
	if v, ok := s.revoked.get(q.Kind, q.ID); ok {
		return v, nil
	}
	v := Revocation{Seq: s.revoked.next(), Kind: q.Kind, ID: q.ID, Reason: q.Reason, Time: s.cfg.Now().UTC()}
	d, err := s.revokeDraft(by, q, about, v)
	if err != nil {
		return Revocation{}, err
	}
	pos, err := s.appendFirmly(ctx, d)
	if err != nil {
		if AsError(err).Code == codeUnknown {
			s.revoked.add(v)
		}
		return Revocation{}, err
	}
	v.Position = pos
	s.revoked.add(v)
	return v, nil
}

func (s *Service) revokeDraft(by Caller, q RevokeRequest, about record.Envelope, v Revocation) (draft, error) {
	value, err := encode(revokedState{Seq: v.Seq, Reason: v.Reason, Time: v.Time})
	if err != nil {
		return draft{}, err
	}
	m, err := s.remember(by, q.Idempotency, q.ID)
	if err != nil {
		return draft{}, err
	}
	about.Type = record.TypeRevoke
	nameCaller(&about, by)
	d := draft{
		env:       about,
		body:      record.RevokeBody{Kind: q.Kind.String(), ID: q.ID, Reason: q.Reason, Seq: v.Seq},
		mutations: append(m, create(revKey(q.Kind, q.ID), value, time.Time{}, errRaced)),
	}
	if q.Kind == chain.RevUser {
		// The envelope has the pseudonym; who it is stands in the payload, where it can be erased.
		iss, sub := splitUser(q.ID)
		d.env.User = s.cfg.Pseudonym(iss, sub)
		d.body = record.RevokeBody{Kind: q.Kind.String(), ID: d.env.User, Reason: q.Reason, Seq: v.Seq}
		d.payload = record.RevokePayload{Issuer: iss, Subject: sub}
	}
	d.terms = termsOf(d.env)
	return d, nil
}

// revocable checks that q names something that by may end.
func (s *Service) revocable(by Caller, q RevokeRequest) (record.Envelope, error) {
	var env record.Envelope
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
	case chain.RevOrchestrator:
		env.Orchestrator = q.ID
		return env, own(by, staff, "", nil)
	case chain.RevCertificate, chain.RevUser:
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
