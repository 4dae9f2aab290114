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

// newProvider is the identity provider as the configuration names it. It connects on first use.
func (c *Config) newProvider(now func() time.Time) (*consent.Provider, error) {
	client, err := c.providerClient()
	if err != nil {
		return nil, err
	}
	secret := c.OIDC.ClientSecretFile
	if secret != "" {
		secret = c.path(secret)
	}
	return consent.NewProvider(consent.Config{
		Issuer: c.OIDC.Issuer, ClientID: c.OIDC.ClientID, ClientSecretFile: secret,
		RedirectURL: c.PublicURL + "/v1/grants/callback", RolesClaim: c.OIDC.RolesClaim,
		HTTPClient: client, Now: now, Rand: rand.Reader,
	})
}

// consentHandler serves the consent pages and the identity provider's callback.
func consentHandler(provider *consent.Provider, domain *delegation.Service, log *slog.Logger) (http.Handler, error) {
	pages, err := web.NewConsent()
	if err != nil {
		return nil, err
	}
	return consent.NewHandler(provider, pending{domain}, pages, log)
}

// providerClient trusts the configured certificates beside the system's.
func (c *Config) providerClient() (*http.Client, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if c.OIDC.CAFile != "" {
		b, err := os.ReadFile(c.path(c.OIDC.CAFile))
		if err != nil {
			return nil, fmt.Errorf("oidc.ca_file: %w", err)
		}
		if !pool.AppendCertsFromPEM(b) {
			return nil, errors.New("oidc.ca_file: no certificate in it")
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
