package event_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/event"
)

const (
	origin = "hospital.example/log"
	domain = "hospital.example"
	agent  = "01890a5d-ac96-774b-bcce-b302099a8057"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign makes the compact JWS that the appliance would, with changes to the header.
func sign(t testing.TB, key *ecdsa.PrivateKey, claims any, change ...func(*jose.SignerOptions)) string {
	t.Helper()
	return signAs(t, jose.SigningKey{Algorithm: jose.ES256, Key: key}, key.Public(), claims, change...)
}

func signAs(t testing.TB, key jose.SigningKey, public crypto.PublicKey, claims any, change ...func(*jose.SignerOptions)) string {
	t.Helper()
	kid, err := chain.KeyID(public)
	if err != nil {
		t.Fatal(err)
	}
	options := new(jose.SignerOptions).WithType(event.Type).WithHeader("kid", kid)
	for _, f := range change {
		f(options)
	}
	signer, err := jose.NewSigner(key, options)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func events() []event.Event {
	return []event.Event{
		{Epoch: 1, Seq: 1, Kind: chain.RevCertificate, ID: "1a2b", Time: at, Expires: at.Add(time.Hour)},
		{Epoch: 1, Seq: 2, Kind: chain.RevAgent, ID: agent, Time: at, Expires: at.Add(time.Hour)},
		{Epoch: 1, Seq: 3, Kind: chain.RevSubtree, ID: agent, Time: at, Expires: at.Add(time.Hour)},
		{Epoch: 1, Seq: 4, Kind: chain.RevTask, ID: agent, Time: at, Expires: at.Add(time.Hour)},
		{Epoch: 2, Seq: 5, Kind: chain.RevGrant, ID: agent, Time: at, Expires: at.Add(time.Hour)},
		{Epoch: 2, Seq: 6, Kind: chain.RevUser, ID: chain.UserID("https://idp.example", "p-1"), Time: at},
		{Epoch: 2, Seq: 7, Kind: chain.RevOrchestrator, ID: "lab", Time: at},
		{Epoch: 2, Seq: 7, Time: at},
		{Epoch: 2, Seq: 0, Time: at},
	}
}

func TestEventsComeBackAsTheyWere(t *testing.T) {
	key := newKey(t)
	for _, want := range events() {
		got, err := event.Parse(sign(t, key, want.Claims(origin, domain)), key.Public(), origin, domain)
		if err != nil || got != want {
			t.Errorf("%+v comes back as %+v, %v", want, got, err)
		}
	}
}

// What a receiver of CAEP looks at.
func TestClaimsAreThoseOfCAEP(t *testing.T) {
	for i, want := range []string{
		`{"iss":"hospital.example/log","aud":"spiffe://hospital.example","iat":1772366400,"jti":"1.1","sub_id":{"format":"opaque","id":"1a2b"},"events":{"https://schemas.openid.net/secevent/caep/event-type/credential-change":{"event_timestamp":1772366400,"credential_type":"x509","change_type":"revoke","x509_serial":"1a2b"}},"signet":{"epoch":1,"seq":1,"kind":"certificate","id":"1a2b","expires":1772370000}}`,
		5: `{"iss":"hospital.example/log","aud":"spiffe://hospital.example","iat":1772366400,"jti":"2.6","sub_id":{"format":"iss_sub","iss":"https://idp.example","sub":"p-1"},"events":{"https://schemas.openid.net/secevent/caep/event-type/session-revoked":{"event_timestamp":1772366400}},"signet":{"epoch":2,"seq":6,"kind":"user","iss":"https://idp.example","sub":"p-1"}}`,
		7: `{"iss":"hospital.example/log","aud":"spiffe://hospital.example","iat":1772366400,"jti":"2.7.heartbeat.1772366400","events":{"https://github.com/signet-pki/signet/event-type/heartbeat":{"event_timestamp":1772366400}},"signet":{"epoch":2,"seq":7,"kind":"heartbeat"}}`,
	} {
		if want == "" {
			continue
		}
		got, err := json.Marshal(events()[i].Claims(origin, domain))
		if err != nil || string(got) != want {
			t.Errorf("event %d:\n got %s\nwant %s (%v)", i, got, want, err)
		}
	}
}

// altered is the claims of a good event with one member changed.
func altered(t *testing.T, change func(map[string]any)) map[string]any {
	t.Helper()
	raw, err := json.Marshal(events()[0].Claims(origin, domain))
	if err != nil {
		t.Fatal(err)
	}
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		t.Fatal(err)
	}
	change(out)
	return out
}

func inside(m map[string]any, path ...string) map[string]any {
	for _, name := range path {
		m, _ = m[name].(map[string]any)
	}
	return m
}

// dated writes another time in all places, and numbered another place in the feed.
func dated(seconds int64) func(map[string]any) {
	return func(m map[string]any) {
		m["iat"] = seconds
		inside(m, "events", event.CredentialChange)["event_timestamp"] = seconds
	}
}

func numbered(epoch, seq uint64) func(map[string]any) {
	return func(m map[string]any) {
		inside(m, "signet")["epoch"], inside(m, "signet")["seq"] = epoch, seq
		m["jti"] = event.Position(epoch, seq)
	}
}

// ofNothing takes what it is about from all places.
func ofNothing(m map[string]any) {
	delete(inside(m, "signet"), "id")
	delete(inside(m, "sub_id"), "id")
	delete(inside(m, "events", event.CredentialChange), "x509_serial")
}

// ofUser makes it an event about a user of whom the given members are told, and told alike in both places.
func ofUser(m, user map[string]any) {
	m["sub_id"] = map[string]any{"format": "iss_sub"}
	m["signet"] = map[string]any{"epoch": 1, "seq": 1, "kind": "user"}
	for _, name := range []string{"sub_id", "signet"} {
		maps.Copy(inside(m, name), user)
	}
	m["events"] = map[string]any{event.SessionRevoked: map[string]any{"event_timestamp": at.Unix()}}
}

func TestClaimsThatDoNotFitAreRefused(t *testing.T) {
	key := newKey(t)
	for name, change := range map[string]func(map[string]any){
		"iss":            func(m map[string]any) { m["iss"] = "other.example/log" },
		"aud":            func(m map[string]any) { m["aud"] = "spiffe://other.example" },
		"two audiences":  func(m map[string]any) { m["aud"] = []string{"spiffe://hospital.example", "spiffe://other.example"} },
		"no aud":         func(m map[string]any) { delete(m, "aud") },
		"no iat":         func(m map[string]any) { delete(m, "iat") },
		"no time":        dated(0),
		"before 1970":    dated(-1),
		"jti":            func(m map[string]any) { m["jti"] = "1.2" },
		"seq":            func(m map[string]any) { inside(m, "signet")["seq"] = 2 },
		"epoch":          func(m map[string]any) { inside(m, "signet")["epoch"] = 2 },
		"no epoch":       func(m map[string]any) { inside(m, "signet")["epoch"], m["jti"] = 0, "0.1" },
		"no number":      func(m map[string]any) { inside(m, "signet")["seq"], m["jti"] = 0, "1.0" },
		"64-bit epoch":   numbered(1<<63, 1),
		"64-bit number":  numbered(1, 1<<63),
		"kind":           func(m map[string]any) { inside(m, "signet")["kind"] = "agent" },
		"unknown kind":   func(m map[string]any) { inside(m, "signet")["kind"] = "planet" },
		"other id":       func(m map[string]any) { inside(m, "signet")["id"] = "ff" },
		"no id":          func(m map[string]any) { inside(m, "signet")["id"] = "" },
		"about nothing":  ofNothing,
		"no user":        func(m map[string]any) { ofUser(m, map[string]any{}) },
		"no issuer":      func(m map[string]any) { ofUser(m, map[string]any{"sub": "p-1"}) },
		"issuer alone":   func(m map[string]any) { ofUser(m, map[string]any{"iss": "https://idp.example"}) },
		"other subject":  func(m map[string]any) { inside(m, "sub_id")["id"] = "ff" },
		"subject format": func(m map[string]any) { inside(m, "sub_id")["format"] = "email" },
		"no subject":     func(m map[string]any) { delete(m, "sub_id") },
		"no events":      func(m map[string]any) { delete(m, "events") },
		"two events":     func(m map[string]any) { inside(m, "events")["https://other.example/"] = map[string]any{} },
		"other event":    func(m map[string]any) { m["events"] = map[string]any{event.SessionRevoked: map[string]any{}} },
		"other serial":   func(m map[string]any) { inside(m, "events", event.CredentialChange)["x509_serial"] = "ff" },
		"other time":     func(m map[string]any) { inside(m, "events", event.CredentialChange)["event_timestamp"] = at.Unix() + 1 },
		"other change":   func(m map[string]any) { inside(m, "events", event.CredentialChange)["change_type"] = "create" },
		"no signet":      func(m map[string]any) { delete(m, "signet") },
		"a user besides": func(m map[string]any) { inside(m, "signet")["iss"] = "https://idp.example" },
	} {
		if e, err := event.Parse(sign(t, key, altered(t, change)), key.Public(), origin, domain); !errors.Is(err, event.ErrEvent) || e != (event.Event{}) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	for name, change := range map[string]func(map[string]any){
		"unchanged": func(map[string]any) {},
		"a user":    func(m map[string]any) { ofUser(m, map[string]any{"iss": "https://idp.example", "sub": "p-1"}) },
	} {
		if _, err := event.Parse(sign(t, key, altered(t, change)), key.Public(), origin, domain); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A kind from a later version is named to whoever looks why the feed stands still.
func TestUnknownKindIsNamed(t *testing.T) {
	key := newKey(t)
	token := sign(t, key, altered(t, func(m map[string]any) { inside(m, "signet")["kind"] = "planet" }))
	if _, err := event.Parse(token, key.Public(), origin, domain); err == nil || !strings.Contains(err.Error(), `"planet" is no kind`) {
		t.Error(err)
	}
}

// A token of the greatest length is read, and one that is longer by a byte of payload is not, though it is signed.
func TestLengthOfTokens(t *testing.T) {
	key := newKey(t)
	padded := func(n int) string {
		return sign(t, key, altered(t, func(m map[string]any) { m["more"] = strings.Repeat("x", n) }))
	}
	n := (event.MaxBytes - len(padded(0))) / 4 * 3
	for len(padded(n)) <= event.MaxBytes {
		n++
	}
	for token, fits := range map[string]bool{padded(n - 1): true, padded(n): false} {
		if _, err := event.Parse(token, key.Public(), origin, domain); (err == nil) != fits || err != nil && !errors.Is(err, event.ErrEvent) {
			t.Errorf("%d bytes: %v", len(token), err)
		}
	}
}

func TestTokensThatAreNotTheAppliancesAreRefused(t *testing.T) {
	key, other := newKey(t), newKey(t)
	claims := events()[3].Claims(origin, domain)
	good := sign(t, key, claims)
	kid, err := chain.KeyID(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(good, ".")
	header := func(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }
	for name, token := range map[string]string{
		"empty":            "",
		"another key":      sign(t, other, claims),
		"another key, kid": sign(t, other, claims, func(o *jose.SignerOptions) { o.WithHeader("kid", kid) }),
		"no kid":           sign(t, key, claims, func(o *jose.SignerOptions) { delete(o.ExtraHeaders, "kid") }),
		"another kid":      sign(t, key, claims, func(o *jose.SignerOptions) { o.WithHeader("kid", "x") }),
		"another typ":      sign(t, key, claims, func(o *jose.SignerOptions) { o.WithType("at+jwt") }),
		"no typ":           sign(t, key, claims, func(o *jose.SignerOptions) { delete(o.ExtraHeaders, jose.HeaderType) }),
		"another header":   sign(t, key, claims, func(o *jose.SignerOptions) { o.WithHeader("jku", "https://evil.example") }),
		"embedded key":     sign(t, key, claims, func(o *jose.SignerOptions) { o.EmbedJWK = true; delete(o.ExtraHeaders, "kid") }),
		"a key besides":    sign(t, key, claims, func(o *jose.SignerOptions) { o.EmbedJWK = true }),
		"nonce":            sign(t, key, claims, func(o *jose.SignerOptions) { o.WithHeader("nonce", "n") }),
		"alg none":         header(`{"alg":"none","typ":"secevent+jwt","kid":"`+kid+`"}`) + "." + parts[1] + ".",
		"alg none, signed": header(`{"alg":"none","typ":"secevent+jwt","kid":"`+kid+`"}`) + "." + parts[1] + "." + parts[2],
		"alg HS256":        header(`{"alg":"HS256","typ":"secevent+jwt","kid":"`+kid+`"}`) + "." + parts[1] + "." + parts[2],
		"forged payload":   parts[0] + "." + header(`{}`) + "." + parts[2],
		"no signature":     parts[0] + "." + parts[1] + ".",
		"torn":             good[:len(good)-5],
		"too long":         good + strings.Repeat("A", event.MaxBytes),
	} {
		if e, err := event.Parse(token, key.Public(), origin, domain); !errors.Is(err, event.ErrEvent) || e != (event.Event{}) {
			t.Errorf("%s: %+v, %v", name, e, err)
		}
	}
	if _, err := event.Parse(good, crypto.PublicKey(nil), origin, domain); err == nil {
		t.Error("verified without a key")
	}
}

// Keys that agents may have are none of the feed's, which has one algorithm.
func TestOtherAlgorithmsAreRefused(t *testing.T) {
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for alg, key := range map[jose.SignatureAlgorithm]crypto.Signer{jose.EdDSA: edwards, jose.ES384: p384} {
		token := signAs(t, jose.SigningKey{Algorithm: alg, Key: key}, key.Public(), events()[3].Claims(origin, domain))
		if e, err := event.Parse(token, key.Public(), origin, domain); !errors.Is(err, event.ErrEvent) || e != (event.Event{}) {
			t.Errorf("%s: %+v, %v", alg, e, err)
		}
	}
}

func TestPositions(t *testing.T) {
	for text, want := range map[string][2]uint64{
		"": {}, "1.0": {1, 0}, "1.18": {1, 18}, "3.9223372036854775807": {3, 1<<63 - 1}, "9223372036854775807.1": {1<<63 - 1, 1},
	} {
		if epoch, seq, err := event.ParsePosition(text); err != nil || epoch != want[0] || seq != want[1] {
			t.Errorf("%q: %d %d %v", text, epoch, seq, err)
		}
	}
	for _, text := range []string{"1", ".", "1.", ".1", "01.1", "1.01", "1.-1", "+1.1", "1.1.1", "1. 1", "1.9223372036854775808", "9223372036854775808.1", "-1.1", "a.b"} {
		if _, _, err := event.ParsePosition(text); !errors.Is(err, event.ErrEvent) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzParse: nothing that the appliance did not sign is an event.
func FuzzParse(f *testing.F) {
	key := newKey(f)
	for _, e := range events() {
		f.Add(sign(f, newKey(f), e.Claims(origin, domain)))
	}
	f.Fuzz(func(t *testing.T, token string) {
		if e, err := event.Parse(token, key.Public(), origin, domain); err == nil || e != (event.Event{}) {
			t.Errorf("%+v, %v", e, err)
		}
	})
}
