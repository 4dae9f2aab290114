package consent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/evidence"
)

// TokenExchange says which of a provider's tokens an orchestrator may exchange for a grant: consent type token_exchange.
type TokenExchange struct {
	Audience string            // the appliance's own at the provider; neither consent's nor any other client
	MaxAge   time.Duration     // since the token was issued
	Clients  map[string]string // orchestrator's name → client_id that its tokens were issued to; without a line any client will do
}

// The kinds of token that RFC 8693 §3 names and that can be exchanged here. An ID token is not among them: it tells a client
// that its user logged in, and a login is no consent.
const (
	TypeAccessToken = "urn:ietf:params:oauth:token-type:access_token" // #nosec G101 -- a name
	TypeJWT         = "urn:ietf:params:oauth:token-type:jwt"          // #nosec G101 -- a name
)

const maxJTI = 256

// exchangeClaims are those that go-oidc does not check.
type exchangeClaims struct {
	claims
	JTI      string           `json:"jti"`
	ClientID string           `json:"client_id"`
	Nonce    *json.RawMessage `json:"nonce"`
	AtHash   *json.RawMessage `json:"at_hash"`
}

// Exchange verifies a user's token that an orchestrator presents. document gives the canonical grant for its user.
func Exchange(ctx context.Context, providers []*Provider, orchestrator, kind, raw string, document func(User) ([]byte, error)) (Approval, error) {
	if kind != TypeAccessToken && kind != TypeJWT {
		return Approval{}, refuse("token_type_unsupported", fmt.Errorf("%.64q cannot be exchanged", kind))
	}
	issuer, err := issuerOf(raw)
	if err != nil {
		return Approval{}, refuse("token_invalid", err)
	}
	for _, p := range providers {
		if p.cfg.Issuer == issuer && p.cfg.Exchange != nil {
			return p.exchangeToken(ctx, orchestrator, raw, document)
		}
	}
	return Approval{}, refuse("issuer_unknown", errors.New("no configured provider with that issuer has an exchange"))
}

// issuerOf reads whom a token says it is from, to know whom to ask. Nothing is believed yet.
func issuerOf(raw string) (string, error) {
	if len(raw) > maxToken {
		return "", errors.New("token too large")
	}
	jws, err := jose.ParseSignedCompact(raw, evidence.TokenAlgorithms())
	if err != nil {
		return "", err
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &c); err != nil {
		return "", errors.New("its claims are not JSON")
	}
	return c.Issuer, nil
}

func (p *Provider) exchangeToken(ctx context.Context, orchestrator, raw string, document func(User) ([]byte, error)) (Approval, error) {
	token, keys, err := p.verifySignature(ctx, raw, p.cfg.Exchange.Audience, "JWT", "at+jwt", "application/at+jwt")
	if err != nil {
		return Approval{}, err
	}
	var c exchangeClaims
	if err := token.Claims(&c); err != nil {
		return Approval{}, refuse("token_invalid", err)
	}
	if err := p.checkExchange(token, c, orchestrator); err != nil {
		return Approval{}, err
	}
	id, err := p.identify(token, c.claims, raw, keys.used)
	if err != nil {
		return Approval{}, err
	}
	doc, err := document(id.user)
	if err != nil {
		return Approval{}, fmt.Errorf("consent: grant document: %w", err)
	}
	e := evidence.Evidence{SubjectToken: raw, Audience: p.cfg.Exchange.Audience, JWKS: &evidence.JWKS{Keys: []json.RawMessage{keys.used}}}
	file, err := evidence.Encode(e, chain.TokenExchange, doc, p.cfg.Now())
	if err != nil {
		return Approval{}, fmt.Errorf("consent: %w", err)
	}
	a := id.approval(chain.TokenExchange, doc, file)
	a.Once = &Once{Hash: sha256.Sum256([]byte(token.Issuer + "\x00" + c.JTI)), Expires: token.Expiry.Add(p.cfg.Skew)}
	return a, nil
}

// checkExchange holds a token to this appliance, this orchestrator and the present.
func (p *Provider) checkExchange(token *oidc.IDToken, c exchangeClaims, orchestrator string) error {
	now, x := p.cfg.Now(), p.cfg.Exchange
	client := x.Clients[orchestrator]
	switch {
	case len(token.Audience) != 1 || token.Audience[0] != x.Audience:
		return refuse("token_audience", errors.New("aud is not this appliance's exchange alone"))
	case c.Nonce != nil || c.AtHash != nil:
		return refuse("token_is_login", errors.New("the token is an ID token: a login is no consent"))
	case c.JTI == "" || len(c.JTI) > maxJTI:
		return refuse("token_invalid", fmt.Errorf("jti is not 1 to %d bytes", maxJTI))
	case token.IssuedAt.After(now.Add(p.cfg.Skew)) || token.IssuedAt.Before(now.Add(-x.MaxAge-p.cfg.Skew)):
		return refuse("token_too_old", fmt.Errorf("iat is not within %v", x.MaxAge))
	case c.AZP != "" && c.ClientID != "" && c.AZP != c.ClientID:
		return refuse("token_invalid", errors.New("azp and client_id differ"))
	case client != "" && c.AZP != client && c.ClientID != client:
		return refuse("token_client", errors.New("the token was issued to another client than this orchestrator's"))
	}
	return nil
}
