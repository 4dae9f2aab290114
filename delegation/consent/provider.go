package consent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

const (
	metadataLife = time.Hour       // after that, discovery is asked again
	retryAfter   = 2 * time.Second // between attempts at a provider that does not answer
)

// Provider is the OpenID provider as a relying party sees it. Discovery happens at first use and is kept for an hour;
// while the provider is down each use fails with ErrProviderUnavailable and a later one tries again.
type Provider struct {
	cfg    Config
	secret string
	client *http.Client

	mu      sync.Mutex // held during discovery: one attempt at a time
	meta    *metadata
	fetched time.Time
	failed  time.Time
	failure error

	keysMu sync.Mutex // of the keys kept for events
	keys   []json.RawMessage
	keysAt time.Time
}

// metadata is what discovery tells, after checks.
type metadata struct {
	oauth     oauth2.Config
	jwksURL   string
	algs      []string
	sendsIss  bool // RFC 9207 §3
	authorize string
}

// NewProvider checks the configuration and reads the client secret. It does not ask the provider anything.
func NewProvider(cfg Config) (*Provider, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	secret, err := cfg.secret()
	if err != nil {
		return nil, err
	}
	return &Provider{cfg: cfg, secret: secret, client: bounded(cfg.HTTPClient)}, nil
}

// Available asks the provider's discovery document anew, at most every two seconds, and returns nil or an error that
// wraps ErrProviderUnavailable.
func (p *Provider) Available(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.meta != nil && p.cfg.Now().Sub(p.fetched) < retryAfter {
		return nil
	}
	_, err := p.refresh(ctx)
	return err
}

// metadata returns what discovery told, asking if needed.
func (p *Provider) metadata(ctx context.Context) (*metadata, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.meta != nil && p.cfg.Now().Sub(p.fetched) < metadataLife {
		return p.meta, nil
	}
	return p.refresh(ctx)
}

// refresh runs discovery. The caller holds mu.
func (p *Provider) refresh(ctx context.Context) (*metadata, error) {
	now := p.cfg.Now()
	if since := now.Sub(p.failed); p.failure != nil && since >= 0 && since < retryAfter {
		return nil, p.failure
	}
	meta, err := p.discover(ctx)
	if err != nil {
		if ctx.Err() == nil { // a caller that left says nothing about the provider
			p.failed, p.failure = p.cfg.Now(), err
		}
		return nil, err
	}
	p.meta, p.fetched, p.failure = meta, now, nil
	return meta, nil
}

func (p *Provider) discover(ctx context.Context) (*metadata, error) {
	found, err := oidc.NewProvider(oidc.ClientContext(ctx, p.client), p.cfg.Issuer)
	if err != nil { // go-oidc quotes the whole answer
		return nil, fmt.Errorf("consent: discovery: %w: %s", ErrProviderUnavailable, clip(err))
	}
	var doc struct {
		Authorize string   `json:"authorization_endpoint"`
		Token     string   `json:"token_endpoint"`
		JWKS      string   `json:"jwks_uri"`
		Algs      []string `json:"id_token_signing_alg_values_supported"`
		Auth      []string `json:"token_endpoint_auth_methods_supported"`
		SendsIss  bool     `json:"authorization_response_iss_parameter_supported"`
	}
	if err := found.Claims(&doc); err != nil {
		return nil, fmt.Errorf("consent: discovery: %w: %w", ErrProviderUnavailable, err)
	}
	err = errors.Join(checkEndpoint("authorization_endpoint", doc.Authorize),
		checkURL("token_endpoint", doc.Token), checkURL("jwks_uri", doc.JWKS))
	algs := slices.DeleteFunc(doc.Algs, func(a string) bool { return !slices.Contains(allowedAlgs(), a) })
	if len(algs) == 0 {
		err = errors.Join(err, errors.New("id_token_signing_alg_values_supported has no accepted algorithm"))
	}
	if err != nil {
		return nil, fmt.Errorf("consent: discovery: %w: %w", ErrProviderUnavailable, err)
	}
	return &metadata{
		oauth: oauth2.Config{
			ClientID: p.cfg.ClientID, ClientSecret: p.secret, RedirectURL: p.cfg.RedirectURL,
			Scopes:   append([]string{oidc.ScopeOpenID}, p.cfg.Scopes...),
			Endpoint: oauth2.Endpoint{AuthURL: doc.Authorize, TokenURL: doc.Token, AuthStyle: p.authStyle(doc.Auth)},
		},
		jwksURL: doc.JWKS, algs: algs, sendsIss: doc.SendsIss, authorize: origin(doc.Authorize),
	}, nil
}

// clip bounds what another's error message puts into ours.
func clip(err error) string {
	const most = 200
	return fmt.Sprintf("%.*s", most, err.Error())
}

// checkEndpoint is checkURL, but an authorization endpoint may have a query (RFC 6749 §3.1).
func checkEndpoint(field, s string) error {
	for i := range len(s) {
		if s[i] == '?' {
			s = s[:i]
			break
		}
	}
	return checkURL(field, s)
}

// authStyle never lets the oauth2 package try: a code can be sent only once. client_secret_basic is the default of OIDC
// Discovery §3.
func (p *Provider) authStyle(methods []string) oauth2.AuthStyle {
	if p.secret == "" || len(methods) > 0 && !slices.Contains(methods, "client_secret_basic") {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

// attempt is one authorization code flow: what was sent, to check what comes back.
type attempt struct {
	state, verifier, nonce string
	started                time.Time
	fresh                  bool // a new authentication was demanded
}

// authorizeURL is where the user is sent.
func (m *metadata) authorizeURL(a attempt) string {
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(a.verifier), oidc.Nonce(a.nonce)}
	if a.fresh {
		options = append(options, oauth2.SetAuthURLParam("prompt", "login"), oauth2.SetAuthURLParam("max_age", "0"))
	}
	return m.oauth.AuthCodeURL(a.state, options...)
}

// exchange redeems the code and verifies the ID token that comes for it.
func (p *Provider) exchange(ctx context.Context, m *metadata, code string, a attempt) (*identity, error) {
	token, err := m.oauth.Exchange(oidc.ClientContext(ctx, p.client), code, oauth2.VerifierOption(a.verifier))
	var answered *oauth2.RetrieveError
	switch {
	case errors.As(err, &answered) && answered.Response != nil && answered.Response.StatusCode < http.StatusInternalServerError:
		return nil, refuse("code_refused", fmt.Errorf("token endpoint: status %d, error %q", answered.Response.StatusCode, answered.ErrorCode))
	case err != nil:
		return nil, fmt.Errorf("consent: redeem code: %w: %w", ErrProviderUnavailable, withoutBody(err))
	}
	raw, ok := token.Extra("id_token").(string)
	if !ok || raw == "" {
		return nil, refuse("token_missing", errors.New("no id_token in the answer"))
	}
	return p.verify(ctx, raw, a)
}

// withoutBody keeps the token endpoint's body out of logs: it may hold tokens.
func withoutBody(err error) error {
	var answered *oauth2.RetrieveError
	if errors.As(err, &answered) && answered.Response != nil {
		return fmt.Errorf("status %d", answered.Response.StatusCode)
	}
	return err
}
