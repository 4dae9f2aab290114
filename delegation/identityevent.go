package delegation

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// IdentityEvent is what an identity provider says happened to one of its users.
type IdentityEvent struct {
	User    chain.User
	Type    string // the event's URI
	Counts  bool   // it ends the user's grants
	ID      [32]byte
	Expires time.Time // from then on it would be refused by itself
}

// ReceiveEvent takes a Security Event Token of an identity provider (RFC 8935): a revoked session ends all present grants of
// the user. It bars nobody: who signs in again can consent again. An event that was received before does nothing.
// The token's signature is the only proof, so failures are recorded like malformed requests.
func (s *Service) ReceiveEvent(ctx context.Context, set string) error {
	err := s.receiveEvent(ctx, set)
	if err == nil {
		return nil
	}
	e := *AsError(err)
	if e.Kind != Internal && e.Kind != Unavailable {
		e.AuditIndex = s.RecordRefusal(ctx, Refusal{Operation: "event", Code: e.Code, Field: e.Field})
	}
	return &e
}

func (s *Service) receiveEvent(ctx context.Context, set string) error {
	e, err := s.cfg.Proofs.Event(ctx, set)
	if err != nil {
		return err
	}
	key := keyEvent + hex.EncodeToString(e.ID[:])
	state, seen, err := s.cfg.Log.Get(key)
	if err != nil {
		return internal("read event", err)
	}
	if seen && (string(state) == eventDone || !e.Counts) {
		return nil
	}
	if !seen {
		// Before the grants are looked for: one that is approved meanwhile is either among them or refused.
		if err := s.remembered(ctx, e, key); err != nil {
			return err
		}
	}
	if !e.Counts {
		return nil
	}
	if _, err := s.RevokeUserGrants(ctx, e.User, "identity provider: "+short(e.Type)); err != nil {
		return AsError(err)
	}
	// If this is lost, or what is above failed, the provider sends the event again, and it is acted on again.
	return s.put(ctx, []record.Mutation{{Key: key, Value: []byte(eventDone), Expires: e.Expires.Add(grace)}})
}

// What is known of an event that counts: it is recorded, and then acted on.
const eventBegun, eventDone = "begun", "done"

// endedLife is longer than any proof of a sign-in is taken.
const endedLife = 24 * time.Hour

// remembered records the event. One that counts ends at the same moment what the user's sign-ins until then are good for.
func (s *Service) remembered(ctx context.Context, e IdentityEvent, key string) error {
	env := record.Envelope{Type: record.TypeAdmin, User: s.cfg.Pseudonym(e.User.Issuer, e.User.Subject)}
	known := refuse(Conflict, "event_known", "", "this event was received before")
	effect := "none"
	m := []record.Mutation{create(key, []byte(eventBegun), e.Expires.Add(grace), known)}
	if e.Counts {
		effect = "grants revoked"
		now := s.cfg.Now().UTC()
		value, err := encode(endedState{Time: now, Event: e.ID[:]})
		if err != nil {
			return err
		}
		m = append(m, record.Mutation{Key: keyEnded + env.User, Value: value, Expires: now.Add(endedLife)})
	}
	_, err := s.appendFirmly(ctx, draft{
		env:       env,
		body:      record.AdminBody{Action: "event." + short(e.Type), Target: hex.EncodeToString(e.ID[:]), Detail: map[string]string{"effect": effect}},
		payload:   record.RevokePayload{Issuer: e.User.Issuer, Subject: e.User.Subject},
		mutations: m,
	})
	if err != nil && AsError(err).Code == known.Code {
		return nil // another request was faster with the same event
	}
	return err
}

// signedIn refuses a proof that rests on a sign-in which the provider has ended since, and gives the check that at commit
// it has ended none. Tokens count seconds, so one of the very second of the event passes.
func (s *Service) signedIn(user string, at time.Time) (record.Mutation, error) {
	ended := refuse(Forbidden, "session_ended", "", "the identity provider has ended the user's session since; sign in again")
	key := keyEnded + user
	raw, ok, err := s.cfg.Log.Get(key)
	if err != nil {
		return record.Mutation{}, internal("read sessions", err)
	}
	if !ok {
		return must(record.Absent, key, ended), nil
	}
	var st endedState
	if err := json.Unmarshal(raw, &st); err != nil {
		return record.Mutation{}, internal("read sessions", err)
	}
	if !at.IsZero() && at.Before(st.Time.Truncate(time.Second)) {
		return record.Mutation{}, ended
	}
	return record.Mutation{Key: key, CheckOnly: true, Pre: record.Precondition{Op: record.Equal, Value: raw, Err: ended}}, nil
}

// short is the last part of an event's URI.
func short(uri string) string {
	for i := len(uri) - 1; i >= 0; i-- {
		if uri[i] == '/' {
			return uri[i+1:]
		}
	}
	return uri
}
