package delegation

import (
	"context"
	"errors"
	"strings"

	"github.com/signet-pki/signet/delegation/chain"
)

// givenKey is the projection's key of a grant that a user gave; it goes when the grant does.
func givenKey(pseudonym, grantID string) string { return keyGiven + pseudonym + "/" + grantID }

// maxGiven bounds how many grants of one user are listed at a time.
const maxGiven = 10_000

// GrantsOf lists the grants that a user gave and that are not long over, oldest first: ids grow with time.
func (s *Service) GrantsOf(ctx context.Context, u chain.User) ([]Grant, error) {
	out, _, err := s.grantsAfter(ctx, u, "")
	return out, err
}

// grantsAfter lists a page of them, and gives the place of the next one: "" if this was the last.
func (s *Service) grantsAfter(ctx context.Context, u chain.User, after string) (out []Grant, next string, err error) {
	prefix := givenKey(s.cfg.Pseudonym(u.Issuer, u.Subject), "")
	err = s.cfg.Log.Scan(ctx, prefix, after, maxGiven, func(key string, _ []byte) error {
		next = key
		g, err := s.grant(strings.TrimPrefix(key, prefix))
		if err != nil {
			return err
		}
		shown := g.public(s.cfg.Now())
		if s.revoked.has(chain.RevGrant, g.ID) {
			shown.Status = GrantRevoked
		}
		out = append(out, shown)
		return nil
	})
	if err != nil {
		return nil, "", AsError(err)
	}
	if len(out) < maxGiven {
		next = ""
	}
	return out, next, nil
}

// RevokeUserGrants ends all present grants of a user, and does not bar later ones. It is the user's own act, or that of
// their identity provider: who asks was established by the caller. It goes on after a failure, and says so; called again
// it does what is left.
func (s *Service) RevokeUserGrants(ctx context.Context, u chain.User, reason string) ([]Revocation, error) {
	if len(reason) > maxReason {
		return nil, refuse(Invalid, "bad_request", "reason", "at most 256 bytes")
	}
	var out []Revocation
	var failed []error
	for after := ""; ; {
		grants, next, err := s.grantsAfter(ctx, u, after)
		if err != nil {
			return out, errors.Join(append(failed, err)...)
		}
		for _, g := range grants {
			if g.Status != GrantActive {
				continue
			}
			v, err := s.RevokeUserGrant(ctx, u, g.ID, reason)
			if err != nil {
				failed = append(failed, err)
				continue
			}
			out = append(out, v)
		}
		if after = next; after == "" {
			return out, errors.Join(failed...)
		}
	}
}

// RevokeUserGrant ends one grant of a user, likewise. To others than who gave it the grant does not exist.
func (s *Service) RevokeUserGrant(ctx context.Context, u chain.User, id, reason string) (Revocation, error) {
	g, err := s.grant(id)
	if err != nil {
		return Revocation{}, err
	}
	if g.Status != GrantActive || g.User.Issuer != u.Issuer || g.User.Subject != u.Subject {
		return Revocation{}, refuse(NotFound, "grant_not_found", "id", "no such grant")
	}
	what := revocable{end: g.NotAfter}
	what.about.Grant, what.about.User = g.ID, s.cfg.Pseudonym(u.Issuer, u.Subject)
	return s.end(ctx, Caller{}, RevokeRequest{Kind: chain.RevGrant, ID: g.ID, Reason: reason}, what)
}
