// Package event is the form in which revocations reach relying services: Security Event Tokens (RFC 8417) about one
// revocation each, and heartbeats that say how far the feed goes.
//
// [Event.Claims] makes the claims that the appliance signs; [Parse] verifies a compact JWS and reads it strictly. The
// package signs nothing, takes no clock and keeps no state: whether an event is new or fresh is its reader's question. Its
// functions are safe for concurrent use.
package event

import (
	"errors"
	"strconv"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// Type is the typ of a token's header (RFC 8417 §2.3).
const Type = "secevent+jwt"

// MaxBytes bounds a token.
const MaxBytes = 8 << 10

// The types of events: CAEP 1.0 §3.1 and §3.3, and our own.
const (
	SessionRevoked   = "https://schemas.openid.net/secevent/caep/event-type/session-revoked"
	CredentialChange = "https://schemas.openid.net/secevent/caep/event-type/credential-change" //nolint:gosec // G101: a name, no credential
	Heartbeat        = "https://github.com/signet-pki/signet/event-type/heartbeat"
)

// ErrEvent is wrapped by every refusal of a token.
var ErrEvent = errors.New("not an event of this feed")

// Event is one revocation, or a heartbeat: then Kind is chain.RevUnknown, and Seq that of the newest revocation at Time.
type Event struct {
	Epoch, Seq uint64
	Kind       chain.RevKind
	ID         string // as chain.Revocations wants it
	Time       time.Time
	Expires    time.Time // nothing valid can name the thing any more; zero: the revocation stays
}

// Audience is the aud of a trust domain's feed.
func Audience(trustDomain string) string { return "spiffe://" + trustDomain }

// claims is a token's payload.
type claims struct {
	Issuer   string            `json:"iss"`
	Audience string            `json:"aud"`
	IssuedAt int64             `json:"iat"`
	JTI      string            `json:"jti"`
	Subject  *subject          `json:"sub_id,omitempty"`
	Events   map[string]detail `json:"events"`
	Signet   member            `json:"signet"`
}

// subject is a subject identifier (RFC 9493): iss_sub for a user, opaque for everything else.
type subject struct {
	Format  string `json:"format"`
	Issuer  string `json:"iss,omitempty"`
	Subject string `json:"sub,omitempty"`
	ID      string `json:"id,omitempty"`
}

// detail is what the event's type wants.
type detail struct {
	Timestamp      int64  `json:"event_timestamp"`
	CredentialType string `json:"credential_type,omitempty"`
	ChangeType     string `json:"change_type,omitempty"`
	Serial         string `json:"x509_serial,omitempty"`
}

// member is what followers go by.
type member struct {
	Epoch   uint64 `json:"epoch"`
	Seq     uint64 `json:"seq"`
	Kind    string `json:"kind"` // of revocation, or heartbeat
	ID      string `json:"id,omitempty"`
	Issuer  string `json:"iss,omitempty"`
	Subject string `json:"sub,omitempty"`
	Expires int64  `json:"expires,omitempty"`
}

const kindHeartbeat = "heartbeat"

// Claims is what the appliance signs.
func (e Event) Claims(origin, trustDomain string) any { return e.claims(origin, trustDomain) }

func (e Event) claims(origin, trustDomain string) claims {
	at := e.Time.Unix()
	c := claims{
		Issuer: origin, Audience: Audience(trustDomain), IssuedAt: at, JTI: Position(e.Epoch, e.Seq),
		Signet: member{Epoch: e.Epoch, Seq: e.Seq, Kind: e.Kind.String(), ID: e.ID},
	}
	if !e.Expires.IsZero() {
		c.Signet.Expires = e.Expires.Unix()
	}
	d := detail{Timestamp: at}
	kind := SessionRevoked
	switch e.Kind {
	case chain.RevUnknown:
		// A heartbeat is about no one; its jti is its own, since the newest event has the number.
		c.JTI += ".heartbeat." + strconv.FormatInt(at, 10)
		c.Signet.Kind, kind = kindHeartbeat, Heartbeat
	case chain.RevUser:
		c.Signet.Issuer, c.Signet.Subject = chain.SplitUserID(e.ID)
		c.Signet.ID = ""
		c.Subject = &subject{Format: "iss_sub", Issuer: c.Signet.Issuer, Subject: c.Signet.Subject}
	case chain.RevCertificate:
		d.CredentialType, d.ChangeType, d.Serial = "x509", "revoke", e.ID
		kind = CredentialChange
		fallthrough
	case chain.RevAgent, chain.RevSubtree, chain.RevTask, chain.RevGrant, chain.RevOrchestrator:
		c.Subject = &subject{Format: "opaque", ID: e.ID}
	}
	c.Events = map[string]detail{kind: d}
	return c
}

// Position is an event's place in the feed, as cursors and ids have it: <epoch>.<seq>.
func Position(epoch, seq uint64) string {
	return strconv.FormatUint(epoch, 10) + "." + strconv.FormatUint(seq, 10)
}
