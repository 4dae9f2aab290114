// Package workload verifies the JWT by which a platform vouches for a workload: the projected service-account token of a
// Kubernetes pod, or another issuer's token.
//
// The issuer's keys are configured. Nothing is ever fetched, least of all from where a token says: a header that carries a
// key, or says where one is, is refused. It does not decide which workload may be what, and keeps no state: that a token
// was used before is the caller's to know. It is pure, and all of it is safe for concurrent use.
package workload

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Bounds of an issuer's configuration.
const (
	MaxKeysFile = 256 << 10 // bytes
	MaxKeys     = 32
	maxName     = 64
	maxURL      = 512
	maxLife     = 24 * time.Hour
	maxSkew     = 5 * time.Minute
)

// Config says whose tokens count, and for how long.
type Config struct {
	Name       string   // by which registrations name it: two clusters may have one URL
	URL        string   // the claim iss, exactly
	Audience   string   // the claim aud, exactly and alone
	Keys       []byte   // a JWK set (RFC 7517 §5), or PEM public keys
	Algorithms []string // of RS256, PS256, ES256, ES384, EdDSA; empty allows each that fits a key
	MaxLife    time.Duration
	Skew       time.Duration
}

// Issuer is a checked Config.
type Issuer struct {
	config Config
	keys   map[string]key // by kid
}

// NewIssuer checks a configuration and reads its keys. Every problem is in the error, each behind the field's name.
func NewIssuer(c Config) (*Issuer, error) {
	var errs []error
	unless := func(ok bool, field, text string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s: %s", field, text))
		}
	}
	unless(printable(c.Name, maxName), "name", "1 to 64 printable characters without spaces")
	unless(printable(c.URL, maxURL), "issuer", "1 to 512 printable characters without spaces")
	unless(printable(c.Audience, maxURL), "audience", "1 to 512 printable characters without spaces")
	unless(c.MaxLife >= time.Minute && c.MaxLife <= maxLife, "max_token_life", "1m to 24h")
	unless(c.Skew >= 0 && c.Skew <= maxSkew, "skew", "0s to 5m")
	for _, a := range c.Algorithms {
		unless(slices.Contains(algorithms(), jose.SignatureAlgorithm(a)), "algorithms", "each of RS256, PS256, ES256, ES384, EdDSA")
	}
	keys, err := parseKeys(c.Keys, c.Algorithms)
	if err != nil {
		errs = append(errs, fmt.Errorf("keys: %w", err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return &Issuer{config: c, keys: keys}, nil
}

// Name is the configuration's name.
func (i *Issuer) Name() string { return i.config.Name }

// URL is the claim iss that it demands.
func (i *Issuer) URL() string { return i.config.URL }

// algorithms are all that a token may be signed with (RFC 8725 §3.1): no symmetric one, so that no public key passes for
// a secret, and not "none".
func algorithms() []jose.SignatureAlgorithm {
	return []jose.SignatureAlgorithm{jose.RS256, jose.PS256, jose.ES256, jose.ES384, jose.EdDSA}
}

// printable says whether s has 1 to limit printable ASCII characters and no space.
func printable(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
