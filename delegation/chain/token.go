package chain

import (
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// AccessTokenType is the typ of an access token (RFC 9068 §2.1); nothing else that the same key signs can pass for one.
const AccessTokenType = "at+jwt"

// Bounds of access tokens.
const (
	MaxAccessTokenBytes = 32 << 10
	MaxAccessTokenLife  = 5 * time.Minute
)

// TokenError is why an access token is none.
type TokenError struct {
	Code   string
	Detail string
}

func (e *TokenError) Error() string { return e.Code + ": " + e.Detail }

func badToken(code, format string, args ...any) *TokenError {
	return &TokenError{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// AccessToken is what an access token says (docs/formats/access-token.md): which user's agent may do what at one service, with
// everything by which a part of its delegation can be revoked.
type AccessToken struct {
	Issuer          string // origin of the log
	Audience        ID     // the service
	JTI             string // UUIDv7
	IssuedAt        time.Time
	Expiry          time.Time
	User            User
	Actors          []ID // orchestrator first, the agent last
	Scope           Scope
	TaskID          [16]byte
	GrantID         [16]byte
	Serial          string   // of the agent's certificate, as Serial gives it
	CertificateHash [32]byte // SHA-256 of its DER (RFC 8705 §3.1)
}

// Agent is who holds the token.
func (t *AccessToken) Agent() ID { return t.Actors[len(t.Actors)-1] }

// Opaque is the sub of a user: one word, unique among all issuers, and no name under which anybody has rights (docs/decisions/0013).
func (u User) Opaque() string {
	sum := sha256.Sum256([]byte(UserID(u.Issuer, u.Subject)))
	return encodeBase64(sum[:])
}

type tokenHeader struct {
	Algorithm string `json:"alg"`
	Type      string `json:"typ"`
	KeyID     string `json:"kid"`
}

type tokenClaims struct {
	Issuer    string          `json:"iss"`
	Subject   string          `json:"sub"`
	Audience  string          `json:"aud"`
	ClientID  string          `json:"client_id"`
	JTI       string          `json:"jti"`
	IssuedAt  int64           `json:"iat"`
	Expiry    int64           `json:"exp"`
	Scope     string          `json:"scope"`
	SubjectID json.RawMessage `json:"sub_id"`
	Confirm   json.RawMessage `json:"cnf"`
	Actor     json.RawMessage `json:"act"`
	Signet    json.RawMessage `json:"signet"`
}

type tokenSubject struct {
	Format  string `json:"format"`
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
}

type tokenConfirm struct {
	Certificate string `json:"x5t#S256"`
}

type tokenActor struct {
	Subject string          `json:"sub"`
	Actor   json.RawMessage `json:"act,omitempty"`
}

type tokenSignet struct {
	TaskID  string `json:"task_id"`
	GrantID string `json:"grant_id"`
	Serial  string `json:"serial"`
}

// Claims gives the JSON to be signed.
func (t *AccessToken) Claims() ([]byte, error) {
	if err := t.validate(); err != nil {
		return nil, badToken(CodeTokenMalformed, "%v", err)
	}
	c := tokenClaims{
		Issuer: t.Issuer, Subject: t.User.Opaque(), Audience: t.Audience.String(), ClientID: t.Agent().String(), JTI: t.JTI,
		IssuedAt: t.IssuedAt.Unix(), Expiry: t.Expiry.Unix(), Scope: t.Scope.String(),
	}
	var err error
	put := func(into *json.RawMessage, v any) {
		if err == nil {
			*into, err = json.Marshal(v)
		}
	}
	put(&c.SubjectID, tokenSubject{Format: "iss_sub", Issuer: t.User.Issuer, Subject: t.User.Subject})
	put(&c.Confirm, tokenConfirm{Certificate: encodeBase64(t.CertificateHash[:])})
	put(&c.Signet, tokenSignet{TaskID: FormatUUID(t.TaskID), GrantID: FormatUUID(t.GrantID), Serial: t.Serial})
	for _, id := range t.Actors {
		put(&c.Actor, tokenActor{Subject: id.String(), Actor: c.Actor})
	}
	if err != nil {
		return nil, badToken(CodeTokenMalformed, "%v", err)
	}
	return json.Marshal(c)
}

// ParseAccessToken verifies the signature of a compact JWS under the key that its kid names among those trusted, and reads the
// claims. A header with anything but alg, typ and kid, another algorithm than ES256, another typ, unknown or duplicate
// claims and non-canonical base64url are refused. Issuer, audience, time and binding are VerifyAccessToken's. An error is a
// *TokenError.
func ParseAccessToken(compact string, key func(kid string) (crypto.PublicKey, bool)) (*AccessToken, error) {
	if len(compact) > MaxAccessTokenBytes {
		return nil, badToken(CodeTokenMalformed, "%d bytes; at most %d are allowed", len(compact), MaxAccessTokenBytes)
	}
	h, err := readTokenHeader(compact)
	if err != nil {
		return nil, err
	}
	public, ok := key(h.KeyID)
	if !ok {
		return nil, badToken(CodeTokenKey, "kid names no key of the issuer")
	}
	jws, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.ES256})
	if err != nil {
		return nil, badToken(CodeTokenMalformed, "%v", err)
	}
	payload, err := jws.Verify(public)
	if err != nil {
		return nil, badToken(CodeTokenSignature, "the signature does not verify")
	}
	t, err := decodeToken(payload)
	if err != nil {
		return nil, badToken(CodeTokenMalformed, "%v", err)
	}
	return t, nil
}

// readTokenHeader checks what go-jose is laxer about.
func readTokenHeader(compact string) (h tokenHeader, err error) {
	parts := strings.SplitN(compact, ".", 4)
	if len(parts) != 3 {
		return h, badToken(CodeTokenMalformed, "not three parts")
	}
	var header []byte
	for i, part := range parts {
		decoded, err := decodeBase64(part)
		if err != nil {
			return h, badToken(CodeTokenMalformed, "part %d: %v", i+1, err)
		}
		if i == 0 {
			header = decoded
		}
	}
	if err := decodeObject(header, &h, []string{"alg", "typ", "kid"}, nil); err != nil {
		return h, badToken(CodeTokenMalformed, "header: %v", err)
	}
	if h.Type != AccessTokenType {
		return h, badToken(CodeTokenType, "typ is not %s", AccessTokenType)
	}
	if h.Algorithm != string(jose.ES256) {
		return h, badToken(CodeTokenMalformed, "alg is not ES256")
	}
	return h, nil
}

// ParseAccessTokenClaims reads claims whose signature somebody else answers for, as strictly as ParseAccessToken.
func ParseAccessTokenClaims(payload []byte) (*AccessToken, error) {
	if len(payload) > MaxAccessTokenBytes {
		return nil, badToken(CodeTokenMalformed, "%d bytes; at most %d are allowed", len(payload), MaxAccessTokenBytes)
	}
	t, err := decodeToken(payload)
	if err != nil {
		return nil, badToken(CodeTokenMalformed, "%v", err)
	}
	return t, nil
}

func decodeToken(payload []byte) (*AccessToken, error) {
	var c tokenClaims
	required := []string{"iss", "sub", "aud", "client_id", "jti", "iat", "exp", "scope", "sub_id", "cnf", "act", "signet"}
	if err := decodeObject(payload, &c, required, nil); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	t := &AccessToken{Issuer: c.Issuer, JTI: c.JTI, IssuedAt: time.Unix(c.IssuedAt, 0).UTC(), Expiry: time.Unix(c.Expiry, 0).UTC()}
	var err error
	if t.Audience, err = ParseID(c.Audience); err != nil {
		return nil, fmt.Errorf("aud: %w", err)
	}
	if t.Scope, err = ParseScopeString(c.Scope); err != nil {
		return nil, fmt.Errorf("scope: %w", err)
	}
	if err := t.decodeParts(&c); err != nil {
		return nil, err
	}
	if err := t.validate(); err != nil {
		return nil, err
	}
	if c.Subject != t.User.Opaque() || c.ClientID != t.Agent().String() {
		return nil, fmt.Errorf("sub or client_id contradicts sub_id or act")
	}
	return t, nil
}

func (t *AccessToken) decodeParts(c *tokenClaims) error {
	var subject tokenSubject
	if err := decodeObject(c.SubjectID, &subject, []string{"format", "iss", "sub"}, nil); err != nil || subject.Format != "iss_sub" {
		return fmt.Errorf("sub_id is not of the format iss_sub (RFC 9493)")
	}
	t.User = User{Issuer: subject.Issuer, Subject: subject.Subject}
	var confirm tokenConfirm
	if err := decodeObject(c.Confirm, &confirm, []string{"x5t#S256"}, nil); err != nil {
		return fmt.Errorf("cnf: %w", err)
	}
	var signet tokenSignet
	if err := decodeObject(c.Signet, &signet, []string{"task_id", "grant_id", "serial"}, nil); err != nil {
		return fmt.Errorf("signet: %w", err)
	}
	t.Serial = signet.Serial
	var err error
	if t.CertificateHash, err = decodeHash(confirm.Certificate); err != nil {
		return fmt.Errorf("cnf: %w", err)
	}
	if t.TaskID, err = ParseUUID(signet.TaskID); err != nil {
		return fmt.Errorf("task_id: %w", err)
	}
	if t.GrantID, err = ParseUUID(signet.GrantID); err != nil {
		return fmt.Errorf("grant_id: %w", err)
	}
	return t.decodeActors(c.Actor)
}

// decodeActors reads from the outside, the current actor, inwards (RFC 8693 §4.1).
func (t *AccessToken) decodeActors(next json.RawMessage) error {
	for next != nil {
		if len(t.Actors) == MaxHops {
			return fmt.Errorf("act: more than %d actors", MaxHops)
		}
		var a tokenActor
		if err := decodeObject(next, &a, []string{"sub"}, []string{"act"}); err != nil {
			return fmt.Errorf("act: %w", err)
		}
		id, err := ParseID(a.Subject)
		if err != nil {
			return fmt.Errorf("act: %w", err)
		}
		t.Actors, next = append(t.Actors, id), a.Actor
	}
	slices.Reverse(t.Actors)
	return nil
}

// validate holds for what is signed and for what is accepted.
func (t *AccessToken) validate() error {
	if len(t.Actors) < MinHops || len(t.Actors) > MaxHops {
		return fmt.Errorf("%d actors; %d to %d are allowed", len(t.Actors), MinHops, MaxHops)
	}
	for i, id := range t.Actors {
		want := Agent
		if i == 0 {
			want = Orchestrator
		}
		if id.Kind() != want || id.TrustDomain() != t.Audience.TrustDomain() || slices.Contains(t.Actors[:i], id) {
			return fmt.Errorf("act: actor %d is no %s of the trust domain, or there twice", i, want)
		}
	}
	serial, err := hex.DecodeString(t.Serial)
	switch {
	case t.Audience.Kind() != Service:
		return fmt.Errorf("aud is no service")
	case !printable(t.Issuer, maxOriginBytes):
		return fmt.Errorf("iss is not 1 to %d printable ASCII characters", maxOriginBytes)
	case err != nil || len(serial) == 0 || len(serial) > 20 || serial[0] == 0 || t.Serial != strings.ToLower(t.Serial):
		return fmt.Errorf("serial is not that of a certificate")
	case t.CertificateHash == [32]byte{} || t.TaskID == [16]byte{} || t.GrantID == [16]byte{}:
		return fmt.Errorf("cnf, task_id or grant_id is all zero")
	case !t.Expiry.After(t.IssuedAt) || t.Expiry.Sub(t.IssuedAt) > MaxAccessTokenLife:
		return fmt.Errorf("exp is not within %s after iat", MaxAccessTokenLife)
	}
	if _, err := ParseUUID(t.JTI); err != nil {
		return fmt.Errorf("jti: %w", err)
	}
	if err := checkText("sub_id.iss", t.User.Issuer, MaxIssuerBytes); err != nil {
		return err
	}
	if err := checkText("sub_id.sub", t.User.Subject, MaxSubjectBytes); err != nil {
		return err
	}
	return t.Scope.check()
}

// VerifyAccessToken judges a token that ParseAccessToken accepted, for the holder of in.Chain[0], at a service: in.Origin and
// audience are what the service expects. An error is a *TokenError; without one the report has the checks "principal", "scope",
// "revocation" and "freshness", as Verify makes them for a certificate.
func VerifyAccessToken(t *AccessToken, audience ID, in Input) (Report, error) {
	if err := t.check(audience, &in); err != nil {
		return Report{}, err
	}
	d := &Delegation{
		TaskID: t.TaskID, Grant: Grant{Issuer: t.User.Issuer, Subject: t.User.Subject, GrantID: t.GrantID},
		Hops: make([]Hop, len(t.Actors)),
	}
	for i, id := range t.Actors {
		d.Hops[i].ID = id.String()
	}
	d.Hops[len(d.Hops)-1].Scope = t.Scope
	e := &evaluation{in: &in, now: in.Now, skew: clampSkew(in.Skew), id: t.Agent(), ids: t.Actors, d: d, held: t}
	r := Report{Checks: []Check{e.principal(), e.scope(), e.revocation(), e.freshness()}, Agent: t.Agent()}
	for i := range r.Checks {
		r.Checks[i].Required = slices.Contains(in.Require, r.Checks[i].Name)
	}
	r.Valid = len(r.Failed()) == 0
	return r, nil
}

func (t *AccessToken) check(audience ID, in *Input) error {
	switch now, skew := in.Now, clampSkew(in.Skew); {
	case t.Issuer != in.Origin || in.Origin == "":
		return badToken(CodeTokenIssuer, "the token is of another issuer")
	case t.Audience != audience || audience == ID{}:
		return badToken(CodeTokenAudience, "the token is for another service")
	case now.IsZero() || !now.Before(t.Expiry):
		return badToken(CodeTokenExpired, "valid until %s", t.Expiry.Format(time.RFC3339))
	case now.Add(skew).Before(t.IssuedAt):
		return badToken(CodeTokenFuture, "issued at %s", t.IssuedAt.Format(time.RFC3339))
	case len(in.Chain) == 0 || in.Chain[0] == nil:
		return badToken(CodeTokenUnbound, "the token is bound to a certificate, and none was presented")
	case sha256.Sum256(in.Chain[0].Raw) != t.CertificateHash:
		return badToken(CodeTokenBinding, "the token is bound to another certificate than the one presented")
	}
	return nil
}
