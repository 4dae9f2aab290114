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
	return consent.NewProvider(consent.Config{
		Name: idp.Name, Issuer: idp.Issuer, ClientID: idp.ClientID, ClientSecretFile: secret,
		RedirectURL: c.PublicURL + "/v1/grants/callback/" + idp.Name, RolesClaim: idp.RolesClaim,
		HTTPClient: client, Now: now, Rand: rand.Reader,
	})
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
	return consent.NewHandler(idps, pending{domain}, pages, log)
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
		return consent.Request{}, notPending(err)
	}
	return consent.Request{
		GrantID: g.ID, Orchestrator: g.Orchestrator.String(), Task: g.Purpose, Scope: g.Scope.Strings(),
		AgentTypes: g.AgentTypes, NotAfter: g.NotAfter, MaxDepth: g.MaxDepth,
	}, nil
}

// Document gives the canonical grant for a user.
func (p pending) Document(_ context.Context, grantID string, u consent.User) ([]byte, error) {
	return p.domain.GrantDocument(grantID, u.Issuer, u.Subject)
}

// Approve activates the grant.
func (p pending) Approve(ctx context.Context, grantID string, a consent.Approval) error {
	return notPending(p.domain.Approve(ctx, grantID, delegation.Approval{
		Type: a.Type,
		User: delegation.User{
			Issuer: a.User.Issuer, Subject: a.User.Subject, Roles: a.Roles, Groups: a.Groups,
			ACR: a.ACR, AMR: a.AMR, AuthTime: a.AuthTime,
		},
		Document: a.Document, Evidence: a.Evidence,
	}))
}

// Refuse forgets the grant.
func (p pending) Refuse(ctx context.Context, grantID string, _ consent.User) error {
	return notPending(p.domain.Decline(ctx, grantID))
}

// notPending translates the domain's refusals into the one that the flow knows.
func notPending(err error) error {
	var e *delegation.Error
	if errors.As(err, &e) && (e.Kind == delegation.NotFound || e.Code == "grant_not_pending") {
		return fmt.Errorf("%w: %s", consent.ErrNotPending, e.Code)
	}
	return err
}
