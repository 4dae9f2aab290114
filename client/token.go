package client

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// TokenConfig lets callers present an access token. It counts for the certificate that it is bound to, and no other: who holds
// a stolen token without that certificate's key has nothing.
type TokenConfig struct {
	Issuer   string // origin of the appliance's log, as Client.Origin gives it
	Audience string // SPIFFE ID of this service
}

func (c *TokenConfig) check(trustDomain string) error {
	id, err := chain.ParseID(c.Audience)
	if err != nil || id.Kind() != chain.Service || id.TrustDomain() != trustDomain {
		return errors.New("client: verifier: Tokens: Audience: the SPIFFE ID of this service is required")
	}
	if c.Issuer == "" {
		return errors.New("client: verifier: Tokens: Issuer: the origin of the appliance's log is required")
	}
	return nil
}

// keyring is the keys that sign access tokens, with the tokens whose signatures they verified.
type keyring struct {
	keys map[string]statementKey
	seen *cache[[32]byte, *chain.AccessToken]
}

type statementKey struct {
	public   crypto.PublicKey
	from, to time.Time
}

// maxSeen bounds the tokens remembered, at some 4 KiB each.
const maxSeen = 4096

// newKeyring takes the keys whose certificate a root vouches for as this trust domain's. Each is named by its thumbprint:
// what else a key set says of a key is not looked at.
func newKeyring(certs []*x509.Certificate, trustDomain string, roots []*x509.Certificate) (*keyring, error) {
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	k := &keyring{keys: map[string]statementKey{}, seen: newCache[[32]byte, *chain.AccessToken](maxSeen)}
	for _, c := range certs {
		if c.Subject.CommonName != trustDomain {
			return nil, errors.New("client: keys: a certificate is of another trust domain")
		}
		public, err := chain.JWTKey(c, pool, c.NotBefore)
		if err != nil {
			return nil, fmt.Errorf("client: keys: %w", err)
		}
		kid, err := chain.KeyID(public)
		if err != nil {
			return nil, fmt.Errorf("client: keys: %w", err)
		}
		k.keys[kid] = statementKey{public: public, from: c.NotBefore, to: c.NotAfter}
	}
	return k, nil
}

// at gives the keys that are valid at a time.
func (k *keyring) at(now time.Time) func(kid string) (crypto.PublicKey, bool) {
	return func(kid string) (crypto.PublicKey, bool) {
		key, ok := k.keys[kid]
		return key.public, ok && !now.Before(key.from) && !now.After(key.to)
	}
}

// parse verifies a token's signature once. The token's own life is shorter than its key's.
func (k *keyring) parse(compact string, now time.Time) (*chain.AccessToken, error) {
	id := sha256.Sum256([]byte(compact))
	if t, ok := k.seen.get(id); ok {
		return t, nil
	}
	t, err := chain.ParseAccessToken(compact, k.at(now))
	if err == nil {
		k.seen.put(id, t)
	}
	return t, err
}

// bearer reads a token from the Authorization header (RFC 6750 §2.1). Another scheme is not for us.
func bearer(values []string) (token string, presented bool, err error) {
	for _, v := range values {
		scheme, rest, _ := strings.Cut(v, " ")
		if !strings.EqualFold(scheme, "Bearer") {
			continue
		}
		if presented || rest == "" {
			return "", false, unauthenticated(chain.CodeTokenMalformed)
		}
		token, presented = rest, true
	}
	return token, presented, nil
}

func (v *Verifier) verifyToken(compact string, certs []*x509.Certificate, d Demand) (Principal, error) {
	keys := v.keys.Load()
	if keys == nil {
		return Principal{}, &Refusal{Status: http.StatusServiceUnavailable, Reasons: []string{"token_keys_missing"}}
	}
	in := v.input(d)
	in.Chain, in.Origin = certs, v.cfg.Tokens.Issuer
	t, err := keys.parse(compact, in.Now)
	if err != nil {
		return Principal{}, tokenRefusal(err)
	}
	audience, err := chain.ParseID(v.cfg.Tokens.Audience)
	if err != nil {
		return Principal{}, tokenRefusal(err)
	}
	r, err := chain.VerifyAccessToken(t, audience, in)
	switch {
	case err != nil:
		return Principal{}, tokenRefusal(err)
	case !r.Valid:
		return Principal{}, failedChecks(r)
	}
	n := len(t.Actors) - 1
	return Principal{
		User: t.User, Agent: t.Actors[n], Orchestrator: t.Actors[0], Parents: t.Actors[1:n],
		TaskID: chain.FormatUUID(t.TaskID), GrantID: chain.FormatUUID(t.GrantID), Scope: t.Scope, NotAfter: t.Expiry,
	}, nil
}

func tokenRefusal(err error) *Refusal {
	if e, ok := errors.AsType[*chain.TokenError](err); ok {
		return unauthenticated(e.Code)
	}
	return unauthenticated(chain.CodeTokenMalformed)
}
