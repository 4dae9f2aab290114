package consent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/evidence"
)

// Events says which Security Event Tokens (RFC 8417) of a provider count.
type Events struct {
	Audience         string // the appliance's as a receiver of the provider's events
	CredentialChange bool   // a changed credential ends the user's grants too, as a revoked session does
}

// The events that are known (CAEP 1.0 §3.1, §3.3).
const (
	SessionRevoked   = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
	CredentialChange = "https://schemas.openid.net/secevent/caep/event-type/credential-change" // #nosec G101 -- a name
)

const (
	eventType   = "secevent+jwt"
	maxEvent    = 16 << 10
	maxEventAge = time.Hour // what is older was repeated long ago, or is a replay of what is not remembered any more
)

// Event is a verified event about one user of the provider.
type Event struct {
	User    User
	Type    string // SessionRevoked or CredentialChange
	Counts  bool   // false: the configuration lets events of this type pass
	ID      [32]byte
	Expires time.Time // from then on it would be refused for its age
}

// eventClaims is a SET's payload.
type eventClaims struct {
	Issuer   string                     `json:"iss"`
	Audience json.RawMessage            `json:"aud"`
	IssuedAt *float64                   `json:"iat"`
	JTI      string                     `json:"jti"`
	Subject  *eventSubject              `json:"sub_id"`
	Events   map[string]json.RawMessage `json:"events"`
}

// eventSubject is a subject identifier (RFC 9493 §3.2.3).
type eventSubject struct {
	Format  string `json:"format"`
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
}

// ReadEvent verifies a Security Event Token. Refusals have the codes set_invalid, set_key, set_issuer and set_audience.
func ReadEvent(ctx context.Context, providers []*Provider, raw string) (Event, error) {
	if len(raw) > maxEvent {
		return Event{}, refuse("set_invalid", errors.New("too large"))
	}
	jws, err := jose.ParseSignedCompact(raw, evidence.TokenAlgorithms())
	if err != nil {
		return Event{}, refuse("set_invalid", err)
	}
	typ, _ := jws.Signatures[0].Header.ExtraHeaders[jose.HeaderType].(string)
	if !strings.EqualFold(strings.TrimPrefix(strings.ToLower(typ), "application/"), eventType) {
		return Event{}, refuse("set_invalid", fmt.Errorf("typ %.40q is no security event token's", typ))
	}
	var c eventClaims
	if err := json.Unmarshal(jws.UnsafePayloadWithoutVerification(), &c); err != nil {
		return Event{}, refuse("set_invalid", errors.New("its claims are not those of a security event token"))
	}
	for _, p := range providers {
		if p.cfg.Issuer == c.Issuer && p.cfg.Events != nil {
			if err := p.verifyEvent(ctx, jws); err != nil {
				return Event{}, err
			}
			return p.event(c)
		}
	}
	return Event{}, refuse("set_issuer", errors.New("no configured provider of that issuer sends events"))
}

// verifyEvent finds the provider's key. Anybody can make the appliance ask for keys, so they are kept for a while.
func (p *Provider) verifyEvent(ctx context.Context, jws *jose.JSONWebSignature) error {
	meta, err := p.metadata(ctx)
	if err != nil {
		return err
	}
	header := jws.Signatures[0].Header
	if !slices.Contains(meta.algs, header.Algorithm) {
		return refuse("set_key", errors.New("alg is not one of the provider's"))
	}
	served, err := p.keptKeys(ctx, meta.jwksURL, header.KeyID)
	if err != nil {
		return err
	}
	for _, raw := range served {
		var key jose.JSONWebKey
		if json.Unmarshal(raw, &key) != nil || !usable(key, header) {
			continue
		}
		if _, err := jws.Verify(&key); err == nil {
			return nil
		}
	}
	return refuse("set_key", errors.New("no key of the provider verifies the event"))
}

const (
	keysLife  = time.Minute     // a withdrawn key counts no longer than that, for events
	keysPause = 5 * time.Second // between questions for a key that is not there
)

// keptKeys are the provider's keys, asked for anew after keysLife, or after keysPause where none has that name.
func (p *Provider) keptKeys(ctx context.Context, url, kid string) ([]json.RawMessage, error) {
	p.keysMu.Lock()
	defer p.keysMu.Unlock()
	age := p.cfg.Now().Sub(p.keysAt)
	known := slices.ContainsFunc(p.keys, func(raw json.RawMessage) bool {
		var k struct {
			KID string `json:"kid"`
		}
		return json.Unmarshal(raw, &k) == nil && k.KID == kid
	})
	if p.keys != nil && age >= 0 && (age < keysPause || known && age < keysLife) {
		return p.keys, nil
	}
	keys, err := p.fetchKeys(ctx, url)
	if err != nil {
		return nil, err
	}
	p.keys, p.keysAt = keys, p.cfg.Now()
	return keys, nil
}

// event checks what a verified token says.
func (p *Provider) event(c eventClaims) (Event, error) {
	if !sentTo(c.Audience, p.cfg.Events.Audience) {
		return Event{}, refuse("set_audience", errors.New("aud is another receiver"))
	}
	if c.JTI == "" || len(c.JTI) > maxJTI || c.IssuedAt == nil || len(c.Events) != 1 {
		return Event{}, refuse("set_invalid", errors.New("jti, iat and exactly one event are required"))
	}
	issued, now := time.Unix(int64(min(max(*c.IssuedAt, 0), 1<<40)), 0), p.cfg.Now()
	if issued.After(now.Add(p.cfg.Skew)) || issued.Before(now.Add(-maxEventAge)) {
		return Event{}, refuse("set_invalid", fmt.Errorf("iat is not within %v", maxEventAge))
	}
	out := Event{ID: sha256.Sum256([]byte(c.Issuer + "\x00" + c.JTI)), Expires: issued.Add(maxEventAge)}
	for name, raw := range c.Events {
		switch name {
		case SessionRevoked:
			out.Counts = true
		case CredentialChange:
			out.Counts = p.cfg.Events.CredentialChange
		default:
			return Event{}, refuse("set_invalid", fmt.Errorf("event %.80q is not known", name))
		}
		out.Type = name
		subject, err := subjectOf(c.Subject, raw)
		if err != nil {
			return Event{}, refuse("set_invalid", err)
		}
		if subject.Format != "iss_sub" || subject.Issuer != p.cfg.Issuer {
			return Event{}, refuse("set_invalid", errors.New("the subject is not a user of the provider, by iss and sub"))
		}
		if err := p.checkSubject(subject.Subject); err != nil {
			return Event{}, refuse("set_invalid", err)
		}
		out.User = User{Issuer: subject.Issuer, Subject: subject.Subject}
	}
	return out, nil
}

// subjectOf reads the subject where it stands: beside the event, or, in earlier drafts of CAEP, in it.
func subjectOf(beside *eventSubject, event json.RawMessage) (eventSubject, error) {
	var inside struct {
		Subject *eventSubject `json:"subject"`
	}
	if err := json.Unmarshal(event, &inside); err != nil {
		return eventSubject{}, errors.New("the event is no JSON object")
	}
	switch {
	case beside != nil && inside.Subject != nil && *beside != *inside.Subject:
		return eventSubject{}, errors.New("two subjects that differ")
	case beside != nil:
		return *beside, nil
	case inside.Subject != nil:
		return *inside.Subject, nil
	}
	return eventSubject{}, errors.New("no subject")
}

// sentTo reads aud, which is one string or a list of them (RFC 7519 §4.1.3).
func sentTo(raw json.RawMessage, receiver string) bool {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return one == receiver
	}
	var many []string
	return json.Unmarshal(raw, &many) == nil && slices.Contains(many, receiver)
}
