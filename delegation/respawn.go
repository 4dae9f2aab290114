package delegation

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

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
	if st.Enrol != nil {
		out, err := s.tokenAgain(q, st)
		return out, true, err
	}
	out, err := s.reissue(ctx, q.SpawnID, st, st.first())
	return out, true, err
}

// certified is one certificate of an agent, as its state keeps it.
type certified struct {
	tbs, ext []byte
	enrol    []byte            // SHA-256 of the token that it was redeemed with
	rekey    *record.RekeyBody // of the link that it was given for
	link     string
}

func (st *agentState) first() certified {
	out := certified{tbs: st.TBS}
	if st.Enrol != nil {
		out.enrol = st.Enrol.Token
	}
	return out
}

// reissue answers a retry: it signs the stored bytes once more.
func (s *Service) reissue(ctx context.Context, id string, st *agentState, c certified) (Spawned, error) {
	o, err := s.orderAgain(id, st, c)
	if err != nil {
		return Spawned{}, err
	}
	issued, err := s.issueAgain(ctx, o, c.tbs)
	return Spawned{Issued: issued, AgentID: id}, err
}

func errAgentExpired() *Error {
	return refuse(Conflict, "agent_expired", "spawn_id", "this agent's life is over")
}

// orderAgain is the order of an agent that was issued before, from its state.
func (s *Service) orderAgain(id string, st *agentState, c certified) (order, error) {
	var err error
	if c.ext, err = chain.ExtractTBS(c.tbs); err != nil {
		return order{}, internal("read agent", err)
	}
	d, err := chain.Parse(c.ext)
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
	by, err := chain.ParseID(d.Hops[len(d.Hops)-2].ID)
	if err != nil {
		return order{}, internal("read agent", err)
	}
	q := SpawnRequest{TaskID: st.TaskID, SpawnID: id, Confirmation: st.Delegations[len(st.Delegations)-1]}
	o := s.describe(delegator{by, st.DelegatorKey}, q, g, d, c, asked{})
	if o.template.ID, err = chain.ParseID(st.SPIFFEID); err != nil {
		return order{}, internal("read agent", err)
	}
	t, err := s.task(st.TaskID)
	if err != nil {
		return order{}, err
	}
	o.mutations = func(Prepared) ([]record.Mutation, error) { return s.stands(d, t) }
	return o, nil
}

// fingerprint is the SHA-256 of what decides about the certificate: who asked, and for what.
func (q SpawnRequest) fingerprint(by Caller) [32]byte {
	h := sha256.New()
	for _, part := range append([]string{
		by.ID.String(), by.registration, q.TaskID, q.SpawnID, q.AgentType, q.TTL.String(), itoa(q.MaxDepth), string(q.CSR), q.Confirmation, q.enrolment(),
	}, q.Scope.Strings()...) {
		h.Write([]byte(itoa(len(part))))
		h.Write([]byte{':'})
		h.Write([]byte(part))
	}
	return [32]byte(h.Sum(nil))
}
