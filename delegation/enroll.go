package delegation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"log/slog"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// maxToken bounds a token, in bytes.
const maxToken = 512

// errTokenRaced tells a redemption that another one was first.
var errTokenRaced = refuse(Conflict, "enrollment_token_used", "enrollment_token", "the token was redeemed")

func errEnrollment(code, detail string) *Error {
	return refuse(Unauthenticated, code, "enrollment_token", detail)
}

// Enroll gives an agent its certificate for a token. Whoever knows the token may: it is the only proof asked for. The
// same key again gets the same certificate; another key shows that the token is in two hands, which ends the agent.
func (s *Service) Enroll(ctx context.Context, q Enrollment) (Spawned, error) {
	out, err := s.enroll(ctx, q)
	if err == nil {
		return out, nil
	}
	// Anybody can fail here, so failures are recorded like malformed requests: a flood becomes one entry a minute.
	e := AsError(err)
	if e.asked != nil { // only with a token that is good
		return Spawned{}, s.denied(ctx, "agent.enroll", Caller{}, record.Envelope{Agent: q.AgentID}, err)
	}
	if e.Kind != Internal && e.Kind != Unavailable && e.AuditIndex == nil {
		e = s.counted(ctx, Refusal{Operation: "agent.enroll", Code: e.Code, Field: e.Field}, e)
	}
	return Spawned{}, e
}

func (s *Service) enroll(ctx context.Context, q Enrollment) (Spawned, error) {
	if err := s.cfg.Ready(); err != nil {
		return Spawned{}, notReady(err)
	}
	if _, err := chain.ParseUUID(q.AgentID); err != nil {
		return Spawned{}, errEnrollment("enrollment_token_unknown", "no agent has this token")
	}
	csr, err := parseCSR(q.CSR)
	if err != nil {
		return Spawned{}, err
	}
	done, err := s.turns.take(ctx, q.AgentID)
	if err != nil {
		return Spawned{}, err
	}
	defer done()
	out, err := s.redeem(ctx, q, csr)
	if errors.Is(err, errTokenRaced) {
		// Somebody was faster: the second look finds the token spent.
		return s.redeem(ctx, q, csr)
	}
	return out, err
}

// tokened finds the agent that the token was made for. All that is wrong with a token before it is known looks alike.
func (s *Service) tokened(q Enrollment) (st *agentState, raw []byte, err error) {
	unknown := errEnrollment("enrollment_token_unknown", "no agent has this token")
	raw, ok, err := s.cfg.Log.Get(keyAgent + q.AgentID)
	if err != nil {
		return nil, nil, internal("read agent", err)
	}
	if !ok || len(q.Token) > maxToken {
		return nil, nil, unknown
	}
	st = new(agentState)
	if err := json.Unmarshal(raw, st); err != nil {
		return nil, nil, internal("read agent", err)
	}
	if st.Enrol == nil {
		return nil, nil, unknown
	}
	hash := sha256.Sum256([]byte(q.Token))
	if subtle.ConstantTimeCompare(hash[:], st.Enrol.Token) != 1 {
		return nil, nil, unknown
	}
	return st, raw, nil
}

// redeem is one look at the token.
func (s *Service) redeem(ctx context.Context, q Enrollment, csr *chain.CSR) (Spawned, error) {
	st, raw, err := s.tokened(q)
	if err != nil {
		return Spawned{}, err
	}
	if st.Enrol.Key != nil {
		return s.redeemedAgain(ctx, q, st, csr)
	}
	if !s.cfg.Now().Before(st.Enrol.Expires) {
		return Spawned{}, errEnrollment("enrollment_token_expired", "the token was not redeemed in time")
	}
	l, req, err := s.spawned(q.AgentID, st)
	if err != nil {
		return Spawned{}, err
	}
	if err := s.takeAgent(ctx, l.parent); err != nil {
		return Spawned{}, err
	}
	hop := chain.Hop{ID: st.SPIFFEID, SPKIHash: spkiHash(csr.SPKI), Scope: req.Scope, NotAfter: st.NotAfter, MaxDepth: req.MaxDepth}
	if req.Confirmation != "" {
		sum := chain.DelegationHash(req.Confirmation)
		hop.Confirmation = &sum
	}
	child, err := extend(l.parent, hop)
	if err != nil {
		return Spawned{}, err
	}
	o, err := s.agentOrder(ctx, req, l, child, csr.SPKI, certified{enrol: st.Enrol.Token})
	if err != nil {
		return Spawned{}, err
	}
	o.mutations = func(p Prepared) ([]record.Mutation, error) {
		next, enrol := *st, *st.Enrol
		enrol.Key, next.Enrol = hop.SPKIHash[:], &enrol
		next.TBS = p.TBS()
		value, err := encode(next)
		if err != nil {
			return nil, err
		}
		stands, err := s.stands(child, l.task)
		return append([]record.Mutation{
			replace(keyAgent+q.AgentID, raw, value, l.keep(), errTokenRaced), uniqueKey(hop.SPKIHash, q.AgentID, l.keep()),
		}, stands...), err
	}
	issued, err := s.issue(ctx, o)
	return Spawned{Issued: issued, AgentID: q.AgentID}, err
}

// spawned is the lineage and the request of a spawn, from what it left in the state. The task must still be open, and the
// registration must still allow the type.
func (s *Service) spawned(id string, st *agentState) (lineage, SpawnRequest, error) {
	l, err := s.fromTask(st.TaskID)
	if err != nil {
		return l, SpawnRequest{}, err
	}
	l.by.spki = st.DelegatorKey
	if st.Enrol.Parent == nil {
		if l.by.id, err = chain.ParseID(l.task.Orchestrator); err != nil {
			return l, SpawnRequest{}, internal("read task", err)
		}
		l.parent, err = l.first(l.by)
	} else if l.parent, err = chain.Parse(st.Enrol.Parent); err == nil {
		l.by.id, err = chain.ParseID(l.parent.Hops[len(l.parent.Hops)-1].ID)
	}
	if err != nil {
		return l, SpawnRequest{}, internal("read agent", err)
	}
	scope, err := chain.ParseScope(st.Enrol.Scope)
	if err != nil {
		return l, SpawnRequest{}, internal("read agent", err)
	}
	return l, SpawnRequest{
		TaskID: st.TaskID, SpawnID: id, Scope: scope, MaxDepth: st.Enrol.MaxDepth, Confirmation: st.Delegations[len(st.Delegations)-1],
		TTL: st.NotAfter.Sub(s.cfg.Now()),
	}, s.allowDeep(&l)
}

// redeemedAgain answers who shows a spent token: the one who redeemed it gets the same certificate again. With any
// other key one of the two is a thief, and nobody here can tell which: the agent is revoked, and an alarm recorded.
func (s *Service) redeemedAgain(ctx context.Context, q Enrollment, st *agentState, csr *chain.CSR) (Spawned, error) {
	key := spkiHash(csr.SPKI)
	if bytes.Equal(key[:], st.Enrol.Key) {
		if !s.cfg.Now().Before(st.NotAfter) {
			return Spawned{}, errAgentExpired()
		}
		d, err := delegationIn(st.TBS)
		if err != nil {
			return Spawned{}, internal("read agent", err)
		}
		if err := s.takeAgent(ctx, d); err != nil {
			return Spawned{}, err
		}
		return s.reissue(ctx, q.AgentID, st, st.first())
	}
	// No quota stands in the way of the alarm, which is raised once.
	if err := s.alarm(ctx, q.AgentID, st, key); err != nil {
		return Spawned{}, err
	}
	return Spawned{}, errEnrollment("enrollment_token_reused", "the token was redeemed by another key; the agent is revoked")
}

// alarm revokes an agent whose token is in two hands, and records it once. The revocation comes first: it is what
// protects. Both are owed even if the caller hangs up.
func (s *Service) alarm(ctx context.Context, id string, st *agentState, refused [32]byte) error {
	d, err := delegationIn(st.TBS)
	if err != nil {
		return internal("read agent", err)
	}
	about := record.Envelope{Task: st.TaskID, Grant: chain.FormatUUID(d.Grant.GrantID), Agent: id, Orchestrator: nameOf(d.Hops[0].ID)}
	if !s.revoked.has(chain.RevAgent, id) {
		if _, err := s.end(ctx, Caller{}, RevokeRequest{Kind: chain.RevAgent, ID: id, Reason: record.EventTokenReused}, revocable{about: about, end: d.Grant.NotAfter}); err != nil {
			return err
		}
	}
	if _, raised, err := s.cfg.Log.Get(keyAlarm + id); err != nil || raised {
		return err
	}
	about.Type, about.Code = record.TypeAlarm, record.EventTokenReused
	_, err = s.appendFirmly(ctx, draft{
		env:       about,
		body:      record.AlarmBody{Event: record.EventTokenReused, SPKIHash: hexOf([32]byte(st.Enrol.Key)), RefusedSPKIHash: hexOf(refused)},
		mutations: []record.Mutation{create(keyAlarm+id, nil, d.Grant.NotAfter.Add(grace), errRaced)},
	})
	if err != nil && AsError(err).Code != errRaced.Code {
		return err
	}
	s.cfg.Logger.Warn("an enrolment token is in two hands; its agent is revoked", slog.String("agent", id))
	return nil
}
