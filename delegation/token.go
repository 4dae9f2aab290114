package delegation

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// enrolment is what the fingerprint of a request takes of the token.
func (q SpawnRequest) enrolment() string {
	if q.EnrollmentHash == nil {
		return ""
	}
	return string(q.EnrollmentHash[:])
}

// spawnToken makes an agent that gets its certificate later, for a token. All but its key is decided now.
func (s *Service) spawnToken(ctx context.Context, by Caller, q SpawnRequest, l lineage) (Spawned, error) {
	hop, err := s.hop(q, l)
	if err != nil {
		return Spawned{}, err
	}
	limit, err := s.confirm(by, q, l, nil, &hop)
	if err != nil {
		return Spawned{}, err
	}
	token, hash := s.token(by, q)
	// The token stands in for the key, which nobody knows yet; this chain is in no certificate.
	hop.SPKIHash = hash
	child, err := extend(l.parent, hop)
	if err != nil {
		return Spawned{}, err
	}
	st := agentState{NotAfter: hop.NotAfter, Limit: limit, Enrol: &enrolState{
		Token: hash[:], Expires: bounded(s.cfg.Now().UTC().Add(s.cfg.Limits.Enrollment), hop.NotAfter).Truncate(time.Second), Chosen: q.EnrollmentHash != nil,
		Scope: q.Scope.Strings(), MaxDepth: q.MaxDepth,
	}}
	if len(l.parent.Hops) > 1 {
		if st.Enrol.Parent, err = l.parent.Marshal(); err != nil {
			return Spawned{}, internal("encode parent", err)
		}
	}
	d, err := s.tokenDraft(ctx, q, l, child, st)
	if err != nil {
		return Spawned{}, err
	}
	var pos Position
	err = s.withSlot(ctx, q.TaskID, l.keep(), func(place record.Mutation) error {
		if d.mutations, err = s.agentMutations(by, q, l, child, st, place); err != nil {
			return err
		}
		pos, err = s.append(ctx, d)
		return err
	})
	if err != nil {
		return Spawned{}, err
	}
	return s.tokenAnswer(q, hop.ID, token, st.Enrol.Expires, hop.NotAfter, pos)
}

// token gives the token and its hash. One that the appliance makes follows from the request and from a secret of this
// process: a retry gets the same one, and it is kept nowhere. One that the caller made is known to it alone.
func (s *Service) token(by Caller, q SpawnRequest) (token string, hash [32]byte) {
	if q.EnrollmentHash != nil {
		return "", *q.EnrollmentHash
	}
	return s.madeToken(q.fingerprint(by))
}

func (s *Service) madeToken(request [32]byte) (token string, hash [32]byte) {
	mac := hmac.New(sha256.New, s.tokens[:])
	mac.Write(request[:])
	token = base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	return token, sha256.Sum256([]byte(token))
}

// tokenDraft asks revocations and policy, and gives the entry of a token.
func (s *Service) tokenDraft(ctx context.Context, q SpawnRequest, l lineage, child chain.Delegation, st agentState) (draft, error) {
	a, err := s.allowed(ctx, q, l, child)
	if err != nil {
		return draft{}, err
	}
	env := s.agentEnvelope(l.by, q, l.grant, child)
	env.Type, env.Policy = record.TypeEnrollment, a.answer.Digest
	hops := hopBodies(child.Hops)
	own := &hops[len(hops)-1]
	own.SPKIHash = ""
	return draft{
		env: env,
		body: record.EnrollmentBody{
			SpawnID: q.SpawnID, SPIFFEID: own.ID, TokenHash: hex.EncodeToString(st.Enrol.Token), Expires: st.Enrol.Expires, Hops: hops,
			InputHash: a.hash(),
		},
		payload: record.EnrollmentPayload{JWS: q.Confirmation, DelegatorKey: l.by.spki, Input: a.input},
	}, nil
}

// tokenAgain answers a retry of a spawn with a token. After a restart a token that the appliance made is lost.
func (s *Service) tokenAgain(q SpawnRequest, st *agentState) (Spawned, error) {
	token := ""
	if !st.Enrol.Chosen {
		var hash [32]byte
		if token, hash = s.madeToken([32]byte(st.Request)); subtle.ConstantTimeCompare(hash[:], st.Enrol.Token) != 1 {
			return Spawned{}, refuse(Conflict, "enrollment_token_lost", "spawn_id", "the appliance was restarted meanwhile; spawn another agent")
		}
	}
	return s.tokenAnswer(q, st.SPIFFEID, token, st.Enrol.Expires, st.NotAfter, Position{})
}

func (s *Service) tokenAnswer(q SpawnRequest, id, token string, expires, notAfter time.Time, pos Position) (Spawned, error) {
	spiffe, err := chain.ParseID(id)
	if err != nil {
		return Spawned{}, internal("read agent", err)
	}
	return Spawned{
		Issued: Issued{ID: spiffe, NotAfter: notAfter, Position: pos}, AgentID: q.SpawnID, Token: token, TokenExpires: expires,
	}, nil
}
