package delegation

import (
	"context"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// SignIn is a user on their own page: who it is, and when they signed in for it.
type SignIn struct {
	User chain.User
	At   time.Time
}

// CheckSignIn refuses a user who is barred, and a sign-in that the identity provider has ended since.
func (s *Service) CheckSignIn(ctx context.Context, in SignIn) error {
	if _, err := s.standing(in); err != nil {
		return s.deniedTo(ctx, "account.open", in.User, "", err)
	}
	return nil
}

// standing makes these checks now, and gives them for the moment of commit.
func (s *Service) standing(in SignIn) ([]record.Mutation, error) {
	user := chain.UserID(in.User.Issuer, in.User.Subject)
	barred := refuse(Forbidden, chain.CodeUserRevoked, "", "the user is revoked")
	if s.revoked.has(chain.RevUser, user) {
		return nil, barred
	}
	if in.At.IsZero() {
		return nil, refuse(Forbidden, "session_ended", "", "nobody knows when the user signed in")
	}
	present, err := s.signedIn(s.cfg.Pseudonym(in.User.Issuer, in.User.Subject), in.At)
	if err != nil {
		return nil, err
	}
	return []record.Mutation{must(record.Absent, revKey(chain.RevUser, user), barred), present}, nil
}

// WithdrawGrant ends one grant of a user, by their own act.
func (s *Service) WithdrawGrant(ctx context.Context, in SignIn, id string) error {
	_, err := s.standing(in)
	if err == nil {
		_, err = s.RevokeUserGrant(ctx, in.User, id, "withdrawn by the user")
	}
	if err != nil {
		return s.deniedTo(ctx, "grant.withdraw", in.User, id, err)
	}
	return nil
}

// deniedTo is denied for a user on the pages, who comes without a certificate. It names the grant where there is one.
func (s *Service) deniedTo(ctx context.Context, operation string, u chain.User, grantID string, cause error) error {
	about := record.Envelope{User: s.cfg.Pseudonym(u.Issuer, u.Subject)}
	if _, err := chain.ParseUUID(grantID); err == nil {
		about.Grant = grantID
	}
	return s.denied(ctx, operation, Caller{}, about, cause)
}
