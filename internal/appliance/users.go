package appliance

import (
	"context"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/consent"
)

func chainUser(u consent.User) chain.User { return chain.User{Issuer: u.Issuer, Subject: u.Subject} }

// given is the domain's grants as the user's own page wants them.
type given struct{ domain *delegation.Service }

var _ consent.Grants = given{}

// Given lists what the user granted and is not long over, the newest first.
func (g given) Given(ctx context.Context, u consent.User) ([]consent.Given, error) {
	all, err := g.domain.GrantsOf(ctx, chainUser(u))
	if err != nil {
		return nil, err
	}
	out := make([]consent.Given, 0, len(all))
	for i := len(all) - 1; i >= 0; i-- {
		out = append(out, consent.Given{Request: request(all[i]), Status: string(all[i].Status), TaskID: all[i].TaskID})
	}
	return out, nil
}

// Withdraw ends a grant of the user.
func (g given) Withdraw(ctx context.Context, u consent.User, grantID string) error {
	_, err := g.domain.RevokeUserGrant(ctx, chainUser(u), grantID, "withdrawn by the user")
	return notPending(err)
}

// credentials are users' authenticators.
type credentials struct{ domain *delegation.Service }

var _ consent.Credentials = credentials{}

// Credentials lists a user's.
func (c credentials) Credentials(ctx context.Context, u consent.User) ([]consent.Credential, error) {
	all, err := c.domain.Credentials(ctx, chainUser(u))
	if err != nil {
		return nil, err
	}
	out := make([]consent.Credential, len(all))
	for i, one := range all {
		out[i] = consent.Credential{ID: one.ID, PublicKey: one.PublicKey}
	}
	return out, nil
}

// Register gives a user one more.
func (c credentials) Register(ctx context.Context, u consent.User, k consent.Credential) error {
	return c.domain.RegisterCredential(ctx, chainUser(u), delegation.Credential{ID: k.ID, PublicKey: k.PublicKey})
}

// Forget takes one away.
func (c credentials) Forget(ctx context.Context, u consent.User, id []byte) error {
	return notPending(c.domain.ForgetCredential(ctx, chainUser(u), id))
}
