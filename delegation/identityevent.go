package delegation

import (
	"context"
	"encoding/hex"
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
	if _, seen, err := s.cfg.Log.Get(key); err != nil {
		return internal("read event", err)
	} else if seen {
		return nil
	}
	if e.Counts {
		// Before the event is remembered: if this fails, or the appliance does, the provider sends it again.
		if _, err := s.RevokeUserGrants(ctx, e.User, "identity provider: "+short(e.Type)); err != nil {
			return AsError(err)
		}
	}
	return s.remembered(ctx, e, key)
}

// remembered records the event, with the state that lets it pass a second time.
func (s *Service) remembered(ctx context.Context, e IdentityEvent, key string) error {
	env := record.Envelope{Type: record.TypeAdmin, User: s.cfg.Pseudonym(e.User.Issuer, e.User.Subject)}
	known := refuse(Conflict, "event_known", "", "this event was received before")
	effect := "none"
	if e.Counts {
		effect = "grants revoked"
	}
	_, err := s.appendFirmly(ctx, draft{
		env: env, terms: termsOf(env),
		body:      record.AdminBody{Action: "event." + short(e.Type), Target: hex.EncodeToString(e.ID[:]), Detail: map[string]string{"effect": effect}},
		payload:   record.RevokePayload{Issuer: e.User.Issuer, Subject: e.User.Subject},
		mutations: []record.Mutation{create(key, []byte{1}, e.Expires.Add(grace), known)},
	})
	if err != nil && AsError(err).Code == known.Code {
		return nil // another request was faster with the same event
	}
	return err
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
