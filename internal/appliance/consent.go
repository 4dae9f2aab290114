package appliance

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/signet-pki/signet/api"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/consent"
	"github.com/signet-pki/signet/web"
)

// providers are the identity providers as the configuration names them.
type providers []*consent.Provider

// newProviders connects to none of them: that happens at first use.
func (c *Config) newProviders(now func() time.Time) (providers, error) {
	var out providers
	for i, idp := range c.IdentityProviders {
		p, err := c.newProvider(idp, now)
		if err != nil {
			return nil, fmt.Errorf("identity_providers[%d]: %w", i, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func (c *Config) newProvider(idp IdentityProvider, now func() time.Time) (*consent.Provider, error) {
	client, err := c.providerClient(idp.CAFile)
	if err != nil {
		return nil, err
	}
	secret := idp.ClientSecretFile
	if secret != "" {
		secret = c.path(secret)
	}
	certificates, err := c.userCertificates(idp.UserCertificates)
	if err != nil {
		return nil, err
	}
	return consent.NewProvider(consent.Config{
		Certificates: certificates, Exchange: exchange(idp.TokenExchange), Events: events(idp.Events),
		Name: idp.Name, Issuer: idp.Issuer, ClientID: idp.ClientID, ClientSecretFile: secret,
		RedirectURL: c.PublicURL + "/v1/grants/callback/" + idp.Name, RolesClaim: idp.RolesClaim,
		HTTPClient: client, Now: now, Rand: rand.Reader,
	})
}

func (c *Config) userCertificates(u *UserCertificates) (*consent.UserCertificates, error) {
	if u == nil {
		return nil, nil //nolint:nilnil // not configured, and nothing is wrong
	}
	roots, err := readCertificates(c.path(u.CAFile))
	if err != nil {
		return nil, fmt.Errorf("user_certificates: %w", err)
	}
	return &consent.UserCertificates{Roots: roots, SubjectFrom: u.Subject}, nil
}

func exchange(x *TokenExchange) *consent.TokenExchange {
	if x == nil {
		return nil
	}
	return &consent.TokenExchange{Audience: x.Audience, MaxAge: x.MaxAge, Clients: x.Clients}
}

func events(e *IdentityEvents) *consent.Events {
	if e == nil {
		return nil
	}
	return &consent.Events{Audience: e.Audience, CredentialChange: e.CredentialChange}
}

// available says nothing is wrong if one of them answers: users of that one can consent.
func (p providers) available(ctx context.Context) error {
	var errs []error
	for _, one := range p {
		err := one.Available(ctx)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// clients gives the appliance's client_id at each issuer.
func (c *Config) clients() map[string]string {
	out := make(map[string]string, len(c.IdentityProviders))
	for _, idp := range c.IdentityProviders {
		out[idp.Issuer] = idp.ClientID
	}
	return out
}

// consentHandler serves the consent pages and the identity provider's callback.
func consentHandler(idps providers, domain *delegation.Service, log *slog.Logger) (http.Handler, error) {
	pages, err := web.NewConsent()
	if err != nil {
		return nil, err
	}
	return consent.NewHandler(idps, consent.Users{Pending: pending{domain}, Grants: given{domain}, Credentials: credentials{domain}}, pages, log)
}

// providerClient trusts the configured certificates beside the system's.
func (c *Config) providerClient(caFile string) (*http.Client, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if caFile != "" {
		b, err := os.ReadFile(c.path(caFile))
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		if !pool.AppendCertsFromPEM(b) {
			return nil, errors.New("ca_file: no certificate in it")
		}
	}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		MaxConnsPerHost:     8,
		TLSHandshakeTimeout: 5 * time.Second,
		IdleConnTimeout:     30 * time.Second,
		ForceAttemptHTTP2:   true,
	}}, nil
}

// pending is the domain's grants as the consent flow wants them.
type pending struct{ domain *delegation.Service }

var _ consent.Pending = pending{}

// Describe gives what the page shows.
func (p pending) Describe(_ context.Context, grantID string) (consent.Request, error) {
	g, err := p.domain.PendingGrant(grantID)
	if err != nil {
		return consent.Request{}, shown(err)
	}
	return request(g), nil
}

func request(g delegation.Grant) consent.Request {
	return consent.Request{
		GrantID: g.ID, Orchestrator: g.Orchestrator.String(), Task: g.Purpose, Scope: g.Scope.Strings(),
		AgentTypes: g.AgentTypes, NotAfter: g.NotAfter, MaxDepth: g.MaxDepth,
	}
}

// Document gives the canonical grant for a user.
func (p pending) Document(_ context.Context, grantID string, u consent.User) ([]byte, error) {
	doc, err := p.domain.GrantDocument(grantID, u.Issuer, u.Subject)
	return doc, shown(err)
}

// Approve activates the grant.
func (p pending) Approve(ctx context.Context, grantID string, a consent.Approval) error {
	return shown(p.domain.Approve(ctx, grantID, approval(a)))
}

func approval(a consent.Approval) delegation.Approval {
	out := delegation.Approval{
		Type: a.Type,
		User: delegation.User{
			Issuer: a.User.Issuer, Subject: a.User.Subject, Roles: a.Roles, Groups: a.Groups,
			ACR: a.ACR, AMR: a.AMR, AuthTime: a.AuthTime,
		},
		Document: a.Document, Evidence: a.Evidence, Credential: a.Credential, SignedIn: a.SignedIn,
	}
	if a.Once != nil {
		out.Once = &delegation.Once{Hash: a.Once.Hash, Expires: a.Once.Expires}
	}
	return out
}

var _ delegation.Proofs = providers{}

// Signed verifies a user's signature under a grant.
func (p providers) Signed(jws string) (delegation.Approval, error) {
	a, err := consent.Signed(p, jws)
	return approval(a), refusal(err, "jws")
}

// Exchanged verifies a user's token that an orchestrator presents.
func (p providers) Exchanged(ctx context.Context, orchestrator string, x delegation.TokenExchange, document func(issuer, subject string) ([]byte, error)) (delegation.Approval, error) {
	a, err := consent.Exchange(ctx, p, orchestrator, x.SubjectTokenType, x.SubjectToken, func(u consent.User) ([]byte, error) {
		return document(u.Issuer, u.Subject)
	})
	return approval(a), refusal(err, "subject_token")
}

// Event verifies what an identity provider says of a user.
func (p providers) Event(ctx context.Context, set string) (delegation.IdentityEvent, error) {
	e, err := consent.ReadEvent(ctx, p, set)
	return delegation.IdentityEvent{User: chainUser(e.User), Type: e.Type, Counts: e.Counts, ID: e.ID, Expires: e.Expires}, refusal(err, "")
}

// refusal translates what is wrong with a proof into the domain's words; the causes stay here.
func refusal(err error, field string) error {
	var known *delegation.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	if errors.Is(err, consent.ErrProviderUnavailable) {
		return &delegation.Error{Kind: delegation.Unavailable, Code: "idp_unavailable", Detail: "the identity provider does not answer", Err: err}
	}
	if code, ok := consent.Refusal(err); ok {
		return &delegation.Error{Kind: delegation.Forbidden, Code: code, Field: field, Detail: "what was presented is not accepted", Err: err}
	}
	return &delegation.Error{Kind: delegation.Internal, Code: "internal", Err: err}
}

// Refuse forgets the grant.
func (p pending) Refuse(ctx context.Context, grantID string, u consent.User) error {
	return shown(p.domain.Decline(ctx, chainUser(u), grantID))
}

// shown translates the domain's refusals for the pages: with the status that the API gives them, but for a grant that
// waits for nobody, which the pages have a word for. A fault of the appliance shows nothing.
func shown(err error) error {
	var e *delegation.Error
	switch {
	case !errors.As(err, &e) || e.Kind == delegation.Internal:
		return err
	case e.Kind == delegation.NotFound || e.Code == "grant_not_pending":
		return fmt.Errorf("%w: %s", consent.ErrNotPending, e.Code)
	}
	return consent.Refuse(e.Code, api.StatusOf(e), err)
}
