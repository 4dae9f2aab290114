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
	what, err := s.revocable(by, q)
	if err != nil {
		return Revocation{}, err
	}
	if _, _, err := s.replayed(by, q.Idempotency); err != nil {
		return Revocation{}, err
	}
	v, err := s.end(ctx, by, q, what)
	if err == nil && q.Kind == chain.RevCertificate {
		err = s.endRenewed(ctx, by, q.ID)
	}
	return v, err
}

// revocable is a thing that may be revoked: what its entry's envelope says, and when nothing valid names it any more
// (zero: never).
type revocable struct {
	about record.Envelope
	end   time.Time
}

// expires is when the revocation can be forgotten.
func (r revocable) expires() time.Time {
	if r.end.IsZero() {
		return time.Time{}
	}
	return r.end.Add(grace).UTC()
}

// revocable checks that q names something that by may end.
func (s *Service) revocable(by Caller, q RevokeRequest) (revocable, error) {
	var r revocable
	var err error
	staff := by.Role == RoleOperator || by.Role == RoleOfficer
	switch q.Kind {
	case chain.RevTask:
		r.about.Task = q.ID
		t, err := s.task(q.ID)
		if err := own(by, staff, t.orchestrator(), err); err != nil {
			return r, err
		}
		r.end, err = s.grantEnd(t)
		return r, err
	case chain.RevAgent, chain.RevSubtree:
		r.about.Agent = q.ID
		t, err := s.agentTask(q.ID)
		if err := own(by, staff, t.orchestrator(), err); err != nil {
			return r, err
		}
		r.end, err = s.grantEnd(t)
		return r, err
	case chain.RevGrant:
		r.about.Grant = q.ID
		g, err := s.grant(q.ID)
		if err := own(by, staff, g.orchestrator(), err); err != nil {
			return r, err
		}
		r.end = g.NotAfter
		return r, nil
	case chain.RevOrchestrator:
		r.about.Orchestrator = q.ID
		return r, own(by, staff, "", nil)
	case chain.RevUser:
		return r, own(by, staff, "", nil)
	case chain.RevCertificate:
		if err := own(by, staff, "", nil); err != nil {
			return r, err
		}
		r.end, err = s.certificateEnd(q.ID)
		return r, err
	case chain.RevUnknown:
		fallthrough
	default:
		return r, refuse(Invalid, "bad_revocation_kind", "kind", kindsText)
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

// maxEnding bounds how many revocations are numbered and appended together.
const maxEnding = 256

// ending is one revocation on its way into the log.
type ending struct {
	ctx  context.Context // of its caller, for the values alone
	by   Caller
	q    RevokeRequest
	what revocable

	done chan struct{} // closed once v and err say how it went
	v    Revocation
	err  error
}

// end appends a revocation, and puts it in force here. Once it has begun it does not depend on the caller any more. A
// revocation that may have been written is in force: what is revoked by mistake can be granted again, not the reverse.
//
// Whoever has the turn takes along what waits: numbers go up in the order of the feed, and a thousand revocations at once
// cost a few writes.
func (s *Service) end(ctx context.Context, by Caller, q RevokeRequest, what revocable) (Revocation, error) {
	return s.ended(s.begin(ctx, by, q, what))
}

func (s *Service) begin(ctx context.Context, by Caller, q RevokeRequest, what revocable) *ending {
	e := &ending{ctx: context.WithoutCancel(ctx), by: by, q: q, what: what, done: make(chan struct{})}
	s.revoked.wait(e)
	return e
}

// ended waits for what has begun, and does it when it has the turn.
func (s *Service) ended(e *ending) (Revocation, error) {
	for {
		select {
		case <-e.done:
			return e.v, e.err
		case s.revoked.turn <- struct{}{}:
			s.endTogether(s.revoked.take(maxEnding))
			<-s.revoked.turn
		}
	}
}

// endTogether numbers, appends and publishes. The caller has the turn.
func (s *Service) endTogether(all []*ending) {
	first := map[string]*ending{}
	var fresh []*ending
	for _, e := range all {
		key := revKey(e.q.Kind, e.q.ID)
		v, known := s.revoked.get(e.q.Kind, e.q.ID)
		switch {
		case known:
			e.v = v
		case first[key] != nil:
		default:
			first[key] = e
			fresh = append(fresh, e)
		}
	}
	drafts := s.number(fresh)
	var wg sync.WaitGroup
	for i, e := range fresh {
		if e.err == nil {
			wg.Go(func() { e.v.Position, e.err = s.appendFirmly(e.ctx, drafts[i]) })
		}
	}
	wg.Wait()
	s.publish(fresh)
	for _, e := range all {
		if f := first[revKey(e.q.Kind, e.q.ID)]; f != nil {
			e.v, e.err = f.v, f.err
		}
		close(e.done)
	}
}

// number gives each its number and its entry, which holds the highest number of them all.
func (s *Service) number(fresh []*ending) []draft {
	drafts := make([]draft, len(fresh))
	if len(fresh) == 0 {
		return drafts
	}
	epoch, next, err := s.reserve(fresh[0].ctx, uint64(len(fresh)))
	if err != nil {
		for _, e := range fresh {
			e.err = err
		}
		return drafts
	}
	head, err := encode(feedState{Epoch: epoch, Seq: next + uint64(len(fresh)) - 1 + reserved})
	for i, e := range fresh {
		e.v = Revocation{
			Seq: next + uint64(i), Kind: e.q.Kind, ID: e.q.ID, Reason: e.q.Reason, Time: s.cfg.Now().UTC(), Expires: e.what.expires(),
		}
		if e.err = err; err != nil {
			continue
		}
		drafts[i], e.err = s.revokeDraft(e.by, e.q, e.what.about, e.v)
		drafts[i].mutations = append(drafts[i].mutations, record.Mutation{Key: keyFeed, Value: head})
	}
	return drafts
}

// reserve gives the first of n numbers, all of which the log will not let be used again. The caller has the turn.
func (s *Service) reserve(ctx context.Context, n uint64) (epoch, first uint64, err error) {
	if err := s.speakFor(ctx); err != nil {
		return 0, 0, &Error{Kind: Unavailable, Code: "audit_unavailable", Detail: "the audit log does not take the numbers of revocations, so nothing was done", Err: err}
	}
	return s.revoked.reserve(n)
}

// speakFor has the log speak for numbers before the first of them is seen by anybody: it may be lost with its entry, and a
// later start would give it to another revocation. The caller has the turn.
func (s *Service) speakFor(ctx context.Context) error {
	head, needed := s.revoked.unspoken()
	if !needed {
		return nil
	}
	value, err := encode(head)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, appendWithin)
	defer cancel()
	if err := s.cfg.Log.Put(ctx, []record.Mutation{{Key: keyFeed, Value: value}}); err != nil {
		return err
	}
	s.revoked.spoken(head)
	return nil
}

// publish puts in force what was written, or may have been.
func (s *Service) publish(fresh []*ending) {
	var out []Revocation
	written := false
	for _, e := range fresh {
		written = written || e.err == nil
		if e.err == nil || AsError(e.err).Code == codeUnknown {
			out = append(out, e.v)
		}
	}
	s.revoked.add(written, out...)
}

func (s *Service) revokeDraft(by Caller, q RevokeRequest, about record.Envelope, v Revocation) (draft, error) {
	value, err := encode(revokedState{Seq: v.Seq, Reason: v.Reason, Time: v.Time, Expires: v.Expires})
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
		body:      record.RevokeBody{Kind: q.Kind.String(), ID: q.ID, Reason: q.Reason, Seq: v.Seq, Expires: v.Expires},
		mutations: append(m, create(revKey(q.Kind, q.ID), value, v.Expires, errRaced)),
	}
	if q.Kind == chain.RevUser {
		// The envelope has the pseudonym; who it is stands in the payload, where it can be erased.
		iss, sub := chain.SplitUserID(q.ID)
		d.env.User = s.cfg.Pseudonym(iss, sub)
		d.body = record.RevokeBody{Kind: q.Kind.String(), ID: d.env.User, Reason: q.Reason, Seq: v.Seq}
		d.payload = record.RevokePayload{Issuer: iss, Subject: sub}
	}
	return d, nil
}

// Revocations lists up to limit revocations behind a place in the feed: all of them for a place in another epoch.
func (s *Service) Revocations(after Cursor, limit int) RevocationPage {
	return s.revoked.page(after, limit)
}
