package appliance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

// Policy says whose policy bundles may become active, and where they come from.
type Policy struct {
	// Keys are those that a bundle may be signed with (opa sign). Without any, the shipped policy decides for good. A key that
	// signed the active bundle stays until a bundle of another key is active: it is verified again at each start.
	Keys []PolicyKey `yaml:"keys"`
	// Pull fetches bundles from an OPA bundle server; people approve them all the same.
	Pull *PolicyPull `yaml:"pull,omitempty"`
}

// PolicyKey is a public key of those who write policy. It is not one of the appliance's.
type PolicyKey struct {
	// ID is the key id in the signature: [A-Za-z0-9._-]{1,64}.
	ID string `yaml:"id"`
	// File holds the key, PEM: P-256 (ES256), Ed25519 (EdDSA) or RSA of at least 2048 bits (RS256).
	File string `yaml:"file"`
}

// PolicyPull is a bundle server.
type PolicyPull struct {
	// URL of the bundle, https.
	URL string `yaml:"url"`
	// CAFile holds PEM certificates to trust for it, instead of the system's.
	CAFile string `yaml:"ca_file"`
	// TokenFile holds a bearer token: a file, or "credential:NAME".
	TokenFile string `yaml:"token_file"`
	// Interval is the time between two questions (default 1m, 10s to 24h).
	Interval time.Duration `yaml:"interval"`
}

// maxPolicyKeys bounds the pinned keys.
const maxPolicyKeys = 16

func (p *Policy) defaults() {
	if p.Pull != nil {
		orElse(&p.Pull.Interval, time.Minute)
	}
}

func (p *Policy) check(out *problems) {
	out.unless(len(p.Keys) <= maxPolicyKeys, "policy.keys", "at most 16")
	for i, k := range p.Keys {
		out.unless(k.ID != "" && k.File != "", fmt.Sprintf("policy.keys[%d]", i), "id and file are required")
	}
	if p.Pull == nil {
		return
	}
	u, err := url.Parse(p.Pull.URL)
	out.unless(err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && u.Fragment == "", "policy.pull.url", "an https URL without user and fragment")
	out.unless(p.Pull.Interval >= 10*time.Second && p.Pull.Interval <= 24*time.Hour, "policy.pull.interval", "10s to 24h")
	out.unless(len(p.Keys) > 0, "policy.pull", "nothing can become active without policy.keys")
}

// policyKeys reads the pinned keys. None of them is one that the appliance has: whoever holds the appliance must not be able to
// write its policy, and no signature of its own may pass for a policy's.
func (c *Config) policyKeys(t trust) (*opa.Keys, error) {
	own, err := c.ownKeys(t)
	if err != nil {
		return nil, err
	}
	var keys []opa.Key
	for i, k := range c.Policy.Keys {
		field := fmt.Sprintf("policy.keys[%d]", i)
		text, err := os.ReadFile(c.path(k.File))
		if err != nil {
			return nil, fmt.Errorf("configuration: %s: %w", field, err)
		}
		key, err := opa.ParseKey(k.ID, text)
		if err != nil {
			return nil, fmt.Errorf("configuration: %s: %w", field, err)
		}
		if slices.ContainsFunc(own, func(spki []byte) bool { return bytes.Equal(spki, key.SPKI) }) {
			return nil, fmt.Errorf("configuration: %s: this is a key of the appliance itself", field)
		}
		keys = append(keys, key)
	}
	return opa.NewKeys(keys...)
}

// ownKeys are the SPKIs of all that the ceremony made.
func (c *Config) ownKeys(t trust) ([][]byte, error) {
	out := [][]byte{t.root.RawSubjectPublicKeyInfo, t.jwt.RawSubjectPublicKeyInfo}
	for _, cert := range slices.Concat(t.agents, t.services) {
		out = append(out, cert.RawSubjectPublicKeyInfo)
	}
	for _, name := range []string{"audit.pem", "ak-cert.pem"} {
		certs, err := readCertificates(filepath.Join(c.pkiDir(), name))
		if err != nil {
			return nil, fmt.Errorf("pki: %w", err)
		}
		out = append(out, certs[0].RawSubjectPublicKeyInfo)
	}
	return out, nil
}

// policies is the engine as the domain changes it.
type policies struct {
	active  opa.Active
	keys    *opa.Keys
	shipped func() (*opa.Engine, error)
}

var _ delegation.Bundles = (*policies)(nil)

func newPolicies(keys *opa.Keys) *policies {
	return &policies{keys: keys, shipped: sync.OnceValues(func() (*opa.Engine, error) {
		return opa.New(context.Background(), opa.Options{Timeout: policyTimeout})
	})}
}

// Open reads a signed bundle.
func (p *policies) Open(ctx context.Context, archive []byte) (delegation.PolicyBundle, error) {
	if p.keys.Len() == 0 {
		return nil, policy.RefuseBundle(policy.BundlesNotConfigured, "no key for policy bundles is configured (policy.keys)")
	}
	files, err := opa.OpenArchive(archive)
	if err != nil {
		return nil, err
	}
	return opa.New(ctx, opa.Options{Bundle: files, Keys: p.keys, Timeout: policyTimeout})
}

// Default gives the shipped bundle, compiled once.
func (p *policies) Default(context.Context) (delegation.PolicyBundle, error) { return p.shipped() }

// Use makes one of both decide.
func (p *policies) Use(b delegation.PolicyBundle) {
	e, _ := b.(*opa.Engine) // nil denies
	p.active.Use(e)
}

// checkPolicy is the probe: what decides is what the log says is active.
func (a *Appliance) checkPolicy(ctx context.Context) error {
	if a.domain == nil {
		return errors.New("not loaded yet")
	}
	return a.domain.KeepPolicy(ctx)
}
