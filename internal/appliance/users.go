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

func signIn(in consent.SignIn) delegation.SignIn {
	return delegation.SignIn{User: chainUser(in.User), At: in.At}
}

// Given lists what the user granted and is not long over, the newest first.
func (g given) Given(ctx context.Context, in consent.SignIn) ([]consent.Given, error) {
	if err := g.domain.CheckSignIn(ctx, signIn(in)); err != nil {
		return nil, shown(err)
	}
	all, err := g.domain.GrantsOf(ctx, chainUser(in.User))
	if err != nil {
		return nil, shown(err)
	}
	out := make([]consent.Given, 0, len(all))
	for i := len(all) - 1; i >= 0; i-- {
		out = append(out, consent.Given{Request: request(all[i]), Status: string(all[i].Status), TaskID: all[i].TaskID})
	}
	return out, nil
}

// Withdraw ends a grant of the user.
func (g given) Withdraw(ctx context.Context, in consent.SignIn, grantID string) error {
	return shown(g.domain.WithdrawGrant(ctx, signIn(in), grantID))
}

// credentials are users' authenticators.
type credentials struct{ domain *delegation.Service }

var _ consent.Credentials = credentials{}

// Credentials lists a user's.
func (c credentials) Credentials(ctx context.Context, u consent.User) ([]consent.Credential, error) {
	all, err := c.domain.Credentials(ctx, chainUser(u))
	if err != nil {
		return nil, shown(err)
	}
	out := make([]consent.Credential, len(all))
	for i, one := range all {
		out[i] = consent.Credential{ID: one.ID, PublicKey: one.PublicKey}
	}
	return out, nil
}

// Register gives a user one more.
func (c credentials) Register(ctx context.Context, in consent.SignIn, k consent.Credential) error {
	return shown(c.domain.RegisterCredential(ctx, signIn(in), delegation.Credential{ID: k.ID, PublicKey: k.PublicKey}))
}

// Forget takes one away.
func (c credentials) Forget(ctx context.Context, in consent.SignIn, id []byte) error {
	return shown(c.domain.ForgetCredential(ctx, signIn(in), id))
}
