package client

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// VerifierConfig says what a service trusts, and what it demands of every caller.
type VerifierConfig struct {
	TrustDomain   string
	Roots         []*x509.Certificate // got on a way that is trusted
	Intermediates []*x509.Certificate // issuing CAs known in advance; Run keeps them up to date
	Revocations   chain.Revocations   // required: what is revoked, and how fresh that is
	MaxStaleness  time.Duration       // required: with older revocations nobody is let through
	Skew          time.Duration       // forgives a NotBefore and revocations from the future, never a deadline; 0 means 30 s
	User          *chain.User         // if set, the only user whose agents are let through
	Orchestrator  string              // SPIFFE ID; if set, the only orchestrator whose agents are let through
	Require       []chain.CheckName   // further checks that must be evaluated: "principal" makes every Demand name whom it expects
	Tokens        *TokenConfig        // nil: access tokens are not looked at
	Now           func() time.Time    // nil: the wall clock
}

// Verifier verifies callers without asking the appliance: the whole table of checks, on the caller's own certificate chain.
// What a certificate says by itself is examined once and remembered, in bounded memory; path, time, principal, scope,
// revocation and freshness are asked at every call. It never fails open: stale revocations refuse everybody. It does not
// ask policy, which the appliance alone does (RequireDecision), and does not see the delegators' signatures (an auditor
// does). A Verifier is safe for concurrent use.
type Verifier struct {
	cfg   VerifierConfig
	trust atomic.Pointer[chain.Trust]
	known *cache[[32]byte, acquaintance]
	keys  atomic.Pointer[keyring] // of access tokens; nil until they were fetched
}

// acquaintance is a certificate that was let through before.
type acquaintance struct {
	known     *chain.Known
	principal Principal
}

// maxKnown bounds the certificates remembered, at some 4 KiB each.
const maxKnown = 8192

// Demand is what one request needs. The zero Demand lets nobody through.
type Demand struct {
	Scope        chain.Scope // every token must be covered
	AnyScope     bool        // needs none: whoever has a valid identity may
	User         *chain.User // whom the agent must act for
	Orchestrator string      // who must have spawned it; SPIFFE ID
}

// Credentials are what a caller presents. Certificates are those whose key the caller proved: the connection's. Who takes
// them from elsewhere, such as a proxy's header, answers for that: nothing here does.
type Credentials struct {
	Certificates  []*x509.Certificate // leaf first
	Authorization []string            // values of the Authorization header
}

// NewVerifier checks a configuration.
func NewVerifier(c VerifierConfig) (*Verifier, error) {
	if c.Revocations == nil || c.MaxStaleness <= 0 {
		return nil, errors.New("client: verifier: Revocations and a positive MaxStaleness are required")
	}
	for _, name := range c.Require {
		switch name {
		case chain.CheckConfirmation, chain.CheckLogged:
			return nil, fmt.Errorf("client: verifier: Require: %s needs evidence that a caller does not present", name)
		default:
		}
		if _, err := chain.ParseCheckName(string(name)); err != nil {
			return nil, fmt.Errorf("client: verifier: Require: %w", err)
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Skew == 0 {
		c.Skew = 30 * time.Second
	}
	c.Require = append(slices.Clone(c.Require), chain.CheckRevocation, chain.CheckFreshness)
	v := &Verifier{cfg: c, known: newCache[[32]byte, acquaintance](maxKnown)}
	if c.Tokens != nil {
		if err := c.Tokens.check(c.TrustDomain); err != nil {
			return nil, err
		}
	}
	return v, v.trustIn(c.Intermediates)
}

func (v *Verifier) trustIn(intermediates []*x509.Certificate) error {
	t, err := chain.NewTrust(v.cfg.TrustDomain, v.cfg.Roots, intermediates)
	if err != nil {
		return fmt.Errorf("client: verifier: %w", err)
	}
	v.trust.Store(t)
	return nil
}

// How often Run fetches, and how soon again after a failure.
const (
	refreshEvery = time.Hour
	refreshAgain = 10 * time.Second
)

// Run refreshes until ctx ends. A failure is tried again; what was known before stays.
func (v *Verifier) Run(ctx context.Context, c *Client) error {
	for {
		wait := refreshEvery
		if err := v.Refresh(ctx, c); err != nil {
			wait = refreshAgain
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// Refresh fetches the issuing CAs and, where access tokens are taken, the keys that sign them. Both count only as far as
// the Roots vouch for them. Without the CAs verification is slower and no less strict.
func (v *Verifier) Refresh(ctx context.Context, c *Client) error {
	cas, err := c.IssuingCAs(ctx)
	if err != nil {
		return err
	}
	if err := v.trustIn(cas); err != nil {
		return err
	}
	if v.cfg.Tokens == nil {
		return nil
	}
	certs, err := c.StatementKeys(ctx)
	if err != nil {
		return err
	}
	keys, err := newKeyring(certs, v.cfg.TrustDomain, v.cfg.Roots)
	if err != nil {
		return err
	}
	v.keys.Store(keys)
	return nil
}

// Verify says who calls, or refuses with a *Refusal. A caller that presents an access token, where these are taken, is
// judged by it alone: its certificate does not stand in for a token that is refused.
func (v *Verifier) Verify(c Credentials, d Demand) (Principal, error) {
	if len(d.Scope) == 0 && !d.AnyScope {
		return Principal{}, refusal500("no_demand")
	}
	if v.cfg.Tokens != nil {
		token, presented, err := bearer(c.Authorization)
		if err != nil {
			return Principal{}, err
		}
		if presented {
			return v.verifyToken(token, c.Certificates, d)
		}
	}
	if len(c.Certificates) == 0 || c.Certificates[0] == nil {
		return Principal{}, unauthenticated(reasonNoCertificate)
	}
	return v.verifyChain(c.Certificates, d)
}

func (v *Verifier) verifyChain(certs []*x509.Certificate, d Demand) (Principal, error) {
	key := sha256.Sum256(certs[0].Raw)
	before, ok := v.known.get(key)
	in := v.input(d)
	in.Chain, in.Trust, in.Known = certs, v.trust.Load(), before.known
	r := chain.Verify(in)
	switch {
	case !r.Valid || r.Delegation == nil:
		return Principal{}, failedChecks(r)
	case ok:
		return before.principal, nil
	}
	// Only what is valid is remembered: a stranger cannot fill the memory.
	met := acquaintance{known: chain.Examine(certs[0]), principal: principalOf(r.Agent, r.Delegation)}
	v.known.put(key, met)
	return met.principal, nil
}

// input is what every verification asks. The configuration and the request may both name whom they expect: then both must hold.
func (v *Verifier) input(d Demand) chain.Input {
	in := chain.Input{
		Now: v.cfg.Now(), Skew: v.cfg.Skew, RequiredScope: d.Scope, Revocation: v.cfg.Revocations, MaxStaleness: v.cfg.MaxStaleness,
		ExpectUser: v.cfg.User, ExpectOrchestrator: v.cfg.Orchestrator, Require: v.cfg.Require,
	}
	if d.User != nil {
		in.ExpectUser = both(v.cfg.User, d.User)
	}
	if d.Orchestrator != "" {
		in.ExpectOrchestrator = d.Orchestrator
		if v.cfg.Orchestrator != "" && v.cfg.Orchestrator != d.Orchestrator {
			in.ExpectOrchestrator = nobody
		}
	}
	return in
}

// nobody equals no SPIFFE ID and no issuer.
const nobody = "\x00"

func both(a, b *chain.User) *chain.User {
	if a == nil || *a == *b {
		return b
	}
	return &chain.User{Issuer: nobody, Subject: nobody}
}
