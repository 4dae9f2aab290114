package event

import (
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/chain"
)

// Parse verifies a token under the JWT key and reads it. The header has alg ES256, the typ and the key's kid, and nothing
// else; issuer and audience are compared exactly; id, type and subject of the event say the same as its signet member.
func Parse(compact string, key crypto.PublicKey, origin, trustDomain string) (Event, error) {
	e, err := parse(compact, key, origin, trustDomain)
	if err != nil {
		return Event{}, fmt.Errorf("%w: %w", ErrEvent, err)
	}
	return e, nil
}

func parse(compact string, key crypto.PublicKey, origin, trustDomain string) (Event, error) {
	if len(compact) > MaxBytes {
		return Event{}, fmt.Errorf("%d bytes; at most %d are allowed", len(compact), MaxBytes)
	}
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return Event{}, err
	}
	if err := checkHeader(jws, key); err != nil {
		return Event{}, err
	}
	payload, err := jws.Verify(key)
	if err != nil {
		return Event{}, err
	}
	return read(payload, origin, trustDomain)
}

// read takes claims whose signature was verified.
func read(payload []byte, origin, trustDomain string) (Event, error) {
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return Event{}, err
	}
	if c.Issuer != origin {
		return Event{}, fmt.Errorf("iss is %.80q", c.Issuer)
	}
	if c.Audience != Audience(trustDomain) {
		return Event{}, fmt.Errorf("aud is %.80q", c.Audience)
	}
	return c.event(origin, trustDomain)
}

func checkHeader(jws *jose.JSONWebSignature, key crypto.PublicKey) error {
	kid, err := chain.KeyID(key)
	if err != nil {
		return err
	}
	h := jws.Signatures[0].Protected
	if h.KeyID != kid {
		return fmt.Errorf("kid is %.80q", h.KeyID)
	}
	if h.ExtraHeaders[jose.HeaderType] != Type || len(h.ExtraHeaders) != 1 || h.JSONWebKey != nil || h.Nonce != "" {
		return fmt.Errorf("the header is not alg, typ %q and kid alone", Type)
	}
	return nil
}

// event reads the signet member, and holds everything else against it: what is written there in two forms must be one.
func (c claims) event(origin, trustDomain string) (Event, error) {
	e := Event{Epoch: c.Signet.Epoch, Seq: c.Signet.Seq, ID: c.Signet.ID, Time: time.Unix(c.IssuedAt, 0).UTC()}
	if c.Signet.Expires != 0 {
		e.Expires = time.Unix(c.Signet.Expires, 0).UTC()
	}
	// Its reader comes back with its place, which has to be one.
	if e.Epoch == 0 || e.Epoch > math.MaxInt64 || e.Seq > math.MaxInt64 || c.IssuedAt <= 0 {
		return e, fmt.Errorf("epoch %d, seq %d, iat %d", e.Epoch, e.Seq, c.IssuedAt)
	}
	if c.Signet.Kind != kindHeartbeat {
		kind, err := chain.ParseRevKind(c.Signet.Kind)
		if err != nil {
			return e, err
		}
		e.Kind = kind
		if kind == chain.RevUser && c.Signet.Issuer != "" && c.Signet.Subject != "" {
			e.ID = chain.UserID(c.Signet.Issuer, c.Signet.Subject)
		}
		if e.ID == "" || e.Seq == 0 {
			return e, fmt.Errorf("%s %d names nothing", kind, e.Seq)
		}
	}
	want := e.claims(origin, trustDomain)
	if c.JTI != want.JTI || c.Signet != want.Signet {
		return e, fmt.Errorf("jti %.80q and the signet member do not fit", c.JTI)
	}
	if (c.Subject == nil) != (want.Subject == nil) || c.Subject != nil && *c.Subject != *want.Subject {
		return e, errors.New("sub_id does not fit the signet member")
	}
	if len(c.Events) != 1 {
		return e, fmt.Errorf("%d events", len(c.Events))
	}
	for kind, d := range want.Events {
		if c.Events[kind] != d {
			return e, errors.New("the event does not fit the signet member")
		}
	}
	return e, nil
}

// ParsePosition reads what Position wrote; the empty text is the beginning.
func ParsePosition(text string) (epoch, seq uint64, err error) {
	if text == "" {
		return 0, 0, nil
	}
	before, after, ok := strings.Cut(text, ".")
	if !ok {
		return 0, 0, fmt.Errorf("%w: position %.40q", ErrEvent, text)
	}
	if epoch, err = strconv.ParseUint(before, 10, 63); err != nil {
		return 0, 0, fmt.Errorf("%w: position: %w", ErrEvent, err)
	}
	if seq, err = strconv.ParseUint(after, 10, 63); err != nil {
		return 0, 0, fmt.Errorf("%w: position: %w", ErrEvent, err)
	}
	if Position(epoch, seq) != text {
		return 0, 0, fmt.Errorf("%w: position %.40q", ErrEvent, text)
	}
	return epoch, seq, nil
}
