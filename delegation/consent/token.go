package consent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

// Bounds of an ID token's content.
const (
	maxToken   = 64 << 10
	maxSubject = 255 // OIDC Core §2
	maxEntries = 256
	maxEntry   = 256
)

// allowedAlgs are the signatures that Signet accepts: never none, never a MAC (RFC 8725 §3.1, §3.2).
func allowedAlgs() []string {
	return []string{oidc.RS256, oidc.ES256, oidc.PS256, oidc.EdDSA}
}

// identity is a verified ID token.
type identity struct {
	user          User
	roles, groups []string
	acr           string
	amr           []string
	authTime      time.Time // zero: not told
	issued        time.Time // of the token, at the latest when it came: a provider's clock may be ahead, and what it ended since must count
	raw           string
	key           json.RawMessage // the JWK that verified it, as served
}

// claims are those that go-oidc does not check.
type claims struct {
	AZP      string   `json:"azp"`
	ACR      string   `json:"acr"`
	AMR      []string `json:"amr"`
	AuthTime *int64   `json:"auth_time"`
}

// verify checks an ID token after OIDC Core §3.1.3.7 and RFC 8725. A refusal has a code of its own for each cause that a
// caller can tell apart.
func (p *Provider) verify(ctx context.Context, raw string, a attempt) (*identity, error) {
	token, keys, err := p.verifySignature(ctx, raw, p.cfg.ClientID, "JWT")
	if err != nil {
		return nil, err
	}
	var c claims
	if err := token.Claims(&c); err != nil {
		return nil, refuse("token_invalid", err)
	}
	if err := p.checkClaims(token, c, a, p.cfg.Now()); err != nil {
		return nil, err
	}
	return p.identify(token, c, raw, keys.used)
}

// verifySignature checks signature, iss, aud, exp and typ of a token of the provider.
func (p *Provider) verifySignature(ctx context.Context, raw, audience string, types ...string) (*oidc.IDToken, *keySet, error) {
	m, err := p.metadata(ctx)
	if err != nil {
		return nil, nil, err
	}
	if len(raw) > maxToken {
		return nil, nil, refuse("token_invalid", errors.New("token too large"))
	}
	if err := checkType(raw, m.algs, types...); err != nil {
		return nil, nil, refuse("token_invalid", err)
	}
	keys := &keySet{provider: p, url: m.jwksURL, algs: m.algs}
	now := p.cfg.Now()
	token, err := oidc.NewVerifier(p.cfg.Issuer, keys, &oidc.Config{
		ClientID: audience, SupportedSigningAlgs: m.algs,
		Now: func() time.Time { return now.Add(-p.cfg.Skew) },
	}).Verify(ctx, raw)
	if keys.unavailable != nil { // go-oidc does not wrap what a key set says
		return nil, nil, keys.unavailable
	}
	if err != nil {
		return nil, nil, refuse("token_invalid", err)
	}
	return token, keys, nil
}

// checkType refuses a JWT of another kind that the same key may have signed (RFC 8725 §3.11).
func checkType(raw string, algs []string, types ...string) error {
	accepted := make([]jose.SignatureAlgorithm, len(algs))
	for i, a := range algs {
		accepted[i] = jose.SignatureAlgorithm(a)
	}
	jws, err := jose.ParseSignedCompact(raw, accepted)
	if err != nil {
		return err
	}
	typ, ok := jws.Signatures[0].Header.ExtraHeaders[jose.HeaderType]
	if !ok {
		return nil
	}
	s, _ := typ.(string) // another type is none of them
	if !slices.ContainsFunc(types, func(t string) bool { return strings.EqualFold(s, t) }) {
		return fmt.Errorf("typ %.40v is not %v", typ, types)
	}
	return nil
}

func (p *Provider) checkClaims(token *oidc.IDToken, c claims, a attempt, now time.Time) error {
	switch {
	case len(token.Audience) != 1 || token.Audience[0] != p.cfg.ClientID:
		return refuse("token_invalid", errors.New("aud is not this client alone"))
	case c.AZP != "" && c.AZP != p.cfg.ClientID:
		return refuse("token_invalid", errors.New("azp is another client"))
	case token.Nonce == "" || !equal(token.Nonce, a.nonce):
		return refuse("nonce_mismatch", errors.New("nonce is not this flow's"))
	case token.IssuedAt.After(now.Add(p.cfg.Skew)) || token.IssuedAt.Before(a.started.Truncate(time.Second).Add(-p.cfg.Skew)):
		return refuse("token_invalid", errors.New("iat is outside this flow"))
	}
	return p.checkAuthTime(c, a, now)
}

// checkAuthTime holds the provider to max_age=0: it must say when the user authenticated, and that must be since the
// user was sent there (OIDC Core §3.1.3.7, 13).
func (p *Provider) checkAuthTime(c claims, a attempt, now time.Time) error {
	if !a.fresh {
		return nil
	}
	if c.AuthTime == nil {
		return refuse("auth_time_missing", errors.New("auth_time is required with max_age"))
	}
	at := time.Unix(*c.AuthTime, 0)
	if at.Before(a.started.Truncate(time.Second).Add(-p.cfg.Skew)) || at.After(now.Add(p.cfg.Skew)) {
		return refuse("auth_time_stale", errors.New("auth_time is outside this flow"))
	}
	return nil
}

func (p *Provider) identify(token *oidc.IDToken, c claims, raw string, key json.RawMessage) (*identity, error) {
	if err := p.checkSubject(token.Subject); err != nil {
		return nil, err
	}
	var all map[string]any
	if err := token.Claims(&all); err != nil {
		return nil, refuse("token_invalid", err)
	}
	roles, err := words(all, p.cfg.RolesClaim)
	if err != nil {
		return nil, refuse("claims_invalid", err)
	}
	groups, err := words(all, p.cfg.GroupsClaim)
	if err != nil {
		return nil, refuse("claims_invalid", err)
	}
	if err := checkWords("amr", append([]string{c.ACR}, c.AMR...)); err != nil {
		return nil, refuse("claims_invalid", err)
	}
	id := &identity{
		user: User{Issuer: token.Issuer, Subject: token.Subject}, roles: roles, groups: groups,
		acr: c.ACR, amr: c.AMR, issued: token.IssuedAt, raw: raw, key: key,
	}
	if now := p.cfg.Now(); id.issued.After(now) {
		id.issued = now
	}
	if c.AuthTime != nil {
		id.authTime = time.Unix(*c.AuthTime, 0).UTC()
	}
	return id, nil
}

// checkSubject keeps names of people out of certificates: a sub is opaque unless the operator says otherwise.
func (p *Provider) checkSubject(sub string) error {
	if sub == "" || len(sub) > maxSubject || strings.ContainsFunc(sub, func(r rune) bool { return r < ' ' || r > '~' }) {
		return refuse("subject_invalid", errors.New("sub is not 1 to 255 printable ASCII characters"))
	}
	if strings.Contains(sub, "@") && !p.cfg.AllowEmailSub {
		return refuse("subject_is_email", errors.New("sub looks like an e-mail address"))
	}
	return nil
}

// words reads a claim that is a string or a list of strings; a claim that is absent is an empty list. The name is tried
// as it stands, then as a path.
func words(all map[string]any, name string) ([]string, error) {
	value, ok := all[name]
	for rest := name; !ok && rest != ""; {
		var head string
		head, rest, _ = strings.Cut(rest, ".")
		value = all[head]
		all, _ = value.(map[string]any) // another type has nothing below it
	}
	list := []string{}
	switch v := value.(type) {
	case nil:
	case string:
		list = append(list, v)
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("claim %s has an element that is no string", name)
			}
			list = append(list, s)
		}
	default:
		return nil, fmt.Errorf("claim %s is no list of strings", name)
	}
	return list, checkWords(name, list)
}

func checkWords(name string, list []string) error {
	if len(list) > maxEntries || slices.ContainsFunc(list, func(s string) bool { return len(s) > maxEntry }) {
		return fmt.Errorf("claim %s is larger than %d strings of %d bytes", name, maxEntries, maxEntry)
	}
	return nil
}
