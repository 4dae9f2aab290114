package delegation

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// Proofs verifies consents that users give elsewhere than on the consent pages, and what identity providers say of users. Its errors are *Error.
type Proofs interface {
	// Event verifies a Security Event Token of an identity provider.
	Event(ctx context.Context, set string) (IdentityEvent, error)
	// Signed verifies a grant document under the signature of a user's certificate.
	Signed(jws string) (Approval, error)
	// Exchanged verifies a user's token that an orchestrator holds. document gives the grant for the token's user.
	Exchanged(ctx context.Context, orchestrator string, x TokenExchange, document func(issuer, subject string) ([]byte, error)) (Approval, error)
}

// TokenExchange is a user's token in an orchestrator's hands (RFC 8693 §2.1).
type TokenExchange struct {
	SubjectToken     string
	SubjectTokenType string
}

// Once is what may be used for one grant alone, until it expires.
type Once struct {
	Hash    [32]byte
	Expires time.Time
}

// GrantDocumentFor gives the orchestrator that asked for a grant, and staff, the document that a user of theirs is to sign.
func (s *Service) GrantDocumentFor(by Caller, id, issuer, subject string) ([]byte, error) {
	if _, err := s.Grant(by, id); err != nil {
		return nil, err
	}
	g, _, err := s.pending(id)
	if err != nil {
		return nil, err
	}
	return s.document(g, issuer, subject)
}

// ApproveSigned makes a grant active by the user's signature under its document. The signature is the only proof: anybody may
// bring it, and failures are recorded like malformed requests, so that a flood becomes one entry a minute.
func (s *Service) ApproveSigned(ctx context.Context, id, jws string) (Grant, error) {
	a, err := s.cfg.Proofs.Signed(jws)
	if err == nil {
		err = s.approve(ctx, id, a)
	}
	if err == nil {
		return s.approved(id)
	}
	e := *AsError(err)
	if e.Kind != Internal && e.Kind != Unavailable {
		e.AuditIndex = s.RecordRefusal(ctx, Refusal{Operation: "grant.sign", Code: e.Code, Field: e.Field})
	}
	return Grant{}, &e
}

// ApproveExchanged makes a grant active by a token of its user, presented by the orchestrator that asked for the grant.
func (s *Service) ApproveExchanged(ctx context.Context, by Caller, id string, x TokenExchange) (Grant, error) {
	g, err := s.approveExchanged(ctx, by, id, x)
	if err != nil {
		return Grant{}, s.denied(ctx, "grant.exchange", by, record.Envelope{}, err)
	}
	return g, nil
}

func (s *Service) approveExchanged(ctx context.Context, by Caller, id string, x TokenExchange) (Grant, error) {
	if err := s.takeCaller(ctx, by); err != nil {
		return Grant{}, err
	}
	g, _, err := s.pending(id)
	if err != nil {
		return Grant{}, err
	}
	if by.ID.Kind() != chain.Orchestrator || by.ID.String() != g.Orchestrator {
		return Grant{}, refuse(NotFound, "grant_not_found", "id", "no such grant")
	}
	a, err := s.cfg.Proofs.Exchanged(ctx, by.ID.Name(), x, func(issuer, subject string) ([]byte, error) { return s.document(g, issuer, subject) })
	if err != nil {
		return Grant{}, err
	}
	if err := s.approve(ctx, id, a); err != nil {
		return Grant{}, err
	}
	return s.approved(id)
}

func (s *Service) approved(id string) (Grant, error) {
	g, err := s.grant(id)
	if err != nil {
		return Grant{}, err
	}
	return g.public(s.cfg.Now()), nil
}

// spend makes a token unusable for any other grant. It is written with the grant, so a restart does not forget it.
func spend(o *Once) record.Mutation {
	return create(keySpent+hex.EncodeToString(o.Hash[:]), []byte{1}, o.Expires.Add(grace), refuse(Conflict, "token_replayed", "subject_token", "this token was used before"))
}
