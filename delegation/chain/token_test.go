package chain

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// tokenWorld is a world with a token of its last agent.
type tokenWorld struct {
	*world
	leaf *x509.Certificate
	t    AccessToken
}

func newTokenWorld(tb testing.TB) *tokenWorld {
	w := newWorld(tb, 4, elliptic.P256())
	leaf := w.leaf()
	out := &tokenWorld{world: w, leaf: leaf, t: AccessToken{
		Issuer: testOrigin, Audience: must[ID](tb)(NamedID(testDomain, Service, "records")), JTI: agentUUID(9), IssuedAt: testNow, Expiry: testNow.Add(time.Minute),
		User: User{Issuer: testIssuer, Subject: "physician-x"}, Scope: mustScope(tb, "database:read:patients"), TaskID: w.d.TaskID, GrantID: w.d.Grant.GrantID,
		Serial: Serial(leaf), CertificateHash: sha256.Sum256(leaf.Raw),
	}}
	for _, h := range w.d.Hops {
		out.t.Actors = append(out.t.Actors, must[ID](tb)(ParseID(h.ID)))
	}
	return out
}

func (w *tokenWorld) kid() string { return must[string](w.tb)(KeyID(w.key.Public())) }

func (w *tokenWorld) keys(kid string) (crypto.PublicKey, bool) { return w.key.Public(), kid == w.kid() }

func (w *tokenWorld) compact(claims []byte, header map[jose.HeaderKey]any) string {
	signer := must[jose.Signer](w.tb)(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: w.key}, &jose.SignerOptions{ExtraHeaders: header}))
	jws := must[*jose.JSONWebSignature](w.tb)(signer.Sign(claims))
	return must[string](w.tb)(jws.CompactSerialize())
}

func (w *tokenWorld) header() map[jose.HeaderKey]any {
	return map[jose.HeaderKey]any{"typ": AccessTokenType, "kid": w.kid()}
}

func (w *tokenWorld) input() Input {
	return Input{
		Chain: []*x509.Certificate{w.leaf}, Now: testNow, Origin: testOrigin, RequiredScope: mustScope(w.tb, "database:read:patients"),
		Revocation: feed{at: testNow}, MaxStaleness: time.Minute, Require: []CheckName{CheckRevocation, CheckFreshness},
	}
}

func TestAccessTokenRoundTrip(t *testing.T) {
	w := newTokenWorld(t)
	claims := must[[]byte](t)(w.t.Claims())
	got := must[*AccessToken](t)(ParseAccessToken(w.compact(claims, w.header()), w.keys))
	if !reflect.DeepEqual(*got, w.t) {
		t.Errorf("%+v", got)
	}
	// As the standards name them: the user is the subject, the current actor the outermost.
	var c struct {
		Sub string `json:"sub"`
		Act struct {
			Sub string `json:"sub"`
			Act struct {
				Act struct {
					Act *struct {
						Sub string `json:"sub"`
						Act any    `json:"act"`
					} `json:"act"`
				} `json:"act"`
			} `json:"act"`
		} `json:"act"`
		SubID    map[string]string `json:"sub_id"`
		ClientID string            `json:"client_id"`
		Cnf      map[string]string `json:"cnf"`
	}
	if err := json.Unmarshal(claims, &c); err != nil {
		t.Fatal(err)
	}
	if c.Act.Sub != w.last().ID || c.ClientID != w.last().ID || c.Act.Act.Act.Act.Sub != w.d.Hops[0].ID || c.Act.Act.Act.Act.Act != nil {
		t.Errorf("%s", claims)
	}
	if c.SubID["format"] != "iss_sub" || c.SubID["sub"] != "physician-x" || strings.Contains(c.Sub, "physician") || c.Sub == "" {
		t.Errorf("%s", claims)
	}
	sum := sha256.Sum256(w.leaf.Raw)
	if c.Cnf["x5t#S256"] != base64.RawURLEncoding.EncodeToString(sum[:]) {
		t.Errorf("%s", claims)
	}
	if r, err := VerifyAccessToken(got, w.t.Audience, w.input()); err != nil || !r.Valid || r.Agent.String() != w.last().ID {
		t.Errorf("%+v %v", r, err)
	}
}

func TestAccessTokenForms(t *testing.T) {
	w := newTokenWorld(t)
	claims := string(must[[]byte](t)(w.t.Claims()))
	good := w.compact([]byte(claims), w.header())
	with := func(change func(h map[jose.HeaderKey]any)) string {
		h := w.header()
		change(h)
		return w.compact([]byte(claims), h)
	}
	alter := func(old, replacement string) string {
		if !strings.Contains(claims, old) {
			t.Fatalf("no %s in %s", old, claims)
		}
		return w.compact([]byte(strings.Replace(claims, old, replacement, 1)), w.header())
	}
	parts := strings.Split(good, ".")
	raw := func(header string) string {
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + parts[1] + "." + parts[2]
	}
	spki := must[[]byte](t)(x509.MarshalPKIXPublicKey(w.key.Public()))
	hmac := must[jose.Signer](t)(jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: spki}, &jose.SignerOptions{ExtraHeaders: w.header()}))
	for name, c := range map[string]struct{ token, code string }{
		"empty":               {"", CodeTokenMalformed},
		"alg none":            {raw(`{"alg":"none","typ":"at+jwt","kid":"` + w.kid() + `"}`), CodeTokenMalformed},
		"alg none, unsigned":  {strings.Join([]string{strings.Split(raw(`{"alg":"none","typ":"at+jwt","kid":"`+w.kid()+`"}`), ".")[0], parts[1], ""}, "."), CodeTokenMalformed},
		"HS256 under the key": {must[string](t)(must[*jose.JSONWebSignature](t)(hmac.Sign([]byte(claims))).CompactSerialize()), CodeTokenMalformed},
		"ES384 said":          {raw(`{"alg":"ES384","typ":"at+jwt","kid":"` + w.kid() + `"}`), CodeTokenMalformed},
		"an event":            {with(func(h map[jose.HeaderKey]any) { h["typ"] = "secevent+jwt" }), CodeTokenType},
		"a delegation":        {with(func(h map[jose.HeaderKey]any) { h["typ"] = DelegationType }), CodeTokenType},
		"JWT":                 {with(func(h map[jose.HeaderKey]any) { h["typ"] = "JWT" }), CodeTokenType},
		"other spelling":      {with(func(h map[jose.HeaderKey]any) { h["typ"] = "AT+JWT" }), CodeTokenType},
		"no typ":              {with(func(h map[jose.HeaderKey]any) { delete(h, "typ") }), CodeTokenMalformed},
		"no kid":              {with(func(h map[jose.HeaderKey]any) { delete(h, "kid") }), CodeTokenMalformed},
		"unknown kid":         {with(func(h map[jose.HeaderKey]any) { h["kid"] = "../../etc/passwd" }), CodeTokenKey},
		"another's kid":       {with(func(h map[jose.HeaderKey]any) { h["kid"] = must[string](t)(KeyID(w.rootKey.Public())) }), CodeTokenKey},
		"own key in header":   {with(func(h map[jose.HeaderKey]any) { h["jku"] = "https://evil.example" }), CodeTokenMalformed},
		"crit":                {with(func(h map[jose.HeaderKey]any) { h["crit"] = []string{"b64"} }), CodeTokenMalformed},
		"kid twice":           {raw(`{"alg":"ES256","typ":"at+jwt","kid":"a","kid":"` + w.kid() + `"}`), CodeTokenMalformed},
		"signature cut":       {good[:len(good)-1], CodeTokenMalformed},
		"signature changed":   {parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])), CodeTokenSignature},
		"payload changed":     {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(claims, "patients", "trials", 1))) + "." + parts[2], CodeTokenSignature},
		"padding":             {parts[0] + "." + parts[1] + "==." + parts[2], CodeTokenMalformed},
		"four parts":          {good + ".", CodeTokenMalformed},
		"oversized":           {good + strings.Repeat("A", MaxAccessTokenBytes), CodeTokenMalformed},
		"unknown claim":       {alter(`{"iss"`, `{"nbf":1,"iss"`), CodeTokenMalformed},
		"claim twice":         {alter(`{"iss"`, `{"iss":"x","iss"`), CodeTokenMalformed},
		"several audiences":   {alter(`"aud":"spiffe://hospital.example/service/records"`, `"aud":["spiffe://hospital.example/service/records"]`), CodeTokenMalformed},
		"agent as audience":   {alter(`"aud":"spiffe://hospital.example/service/records"`, `"aud":"`+w.last().ID+`"`), CodeTokenMalformed},
		"foreign actor":       {alter(`spiffe://hospital.example/orchestrator`, `spiffe://other.example/orchestrator`), CodeTokenMalformed},
		"an actor less":       {alter(`"client_id":"`+w.last().ID, `"client_id":"`+w.d.Hops[1].ID), CodeTokenMalformed},
		"another sub":         {alter(`"sub":"`, `"sub":"x`), CodeTokenMalformed},
		"email as sub_id":     {alter(`"iss_sub"`, `"email"`), CodeTokenMalformed},
		"longer life":         {alter(`"exp":`, `"exp":9`), CodeTokenMalformed},
		"scope":               {alter(`"scope":"database:read:patients"`, `"scope":"*"`), CodeTokenMalformed},
		"thumbprint only":     {alter(`"x5t#S256"`, `"jkt"`), CodeTokenMalformed},
		"serial in capitals":  {alter(`"serial":"abcdef"`, `"serial":"ABCDEF"`), CodeTokenMalformed},
	} {
		got, err := ParseAccessToken(c.token, w.keys)
		if e, ok := errors.AsType[*TokenError](err); !ok || e.Code != c.code || got != nil {
			t.Errorf("%s: %v, want %s", name, err, c.code)
		}
	}
	deep := `{"sub":"` + w.last().ID + `"}`
	for range MaxHops {
		deep = `{"sub":"` + w.last().ID + `","act":` + deep + `}`
	}
	var parsed map[string]json.RawMessage
	if err := json.Unmarshal([]byte(claims), &parsed); err != nil {
		t.Fatal(err)
	}
	parsed["act"] = json.RawMessage(deep)
	if _, err := ParseAccessToken(w.compact(must[[]byte](t)(json.Marshal(parsed)), w.header()), w.keys); err == nil {
		t.Error("a chain of actors without end")
	}
}

func TestAccessTokenIsJudged(t *testing.T) {
	other := newTokenWorld(t)
	for name, c := range map[string]struct {
		change func(w *tokenWorld, in *Input)
		code   string // of a TokenError
		check  CheckName
		failed string // of the check
	}{
		"issuer":          {func(_ *tokenWorld, in *Input) { in.Origin = testOrigin + "/2" }, CodeTokenIssuer, "", ""},
		"no issuer":       {func(w *tokenWorld, in *Input) { in.Origin, w.t.Issuer = "", "" }, CodeTokenIssuer, "", ""},
		"at its expiry":   {func(w *tokenWorld, in *Input) { in.Now = w.t.Expiry }, CodeTokenExpired, "", ""},
		"skew":            {func(w *tokenWorld, in *Input) { in.Now, in.Skew = w.t.Expiry, time.Minute }, CodeTokenExpired, "", ""},
		"no clock":        {func(_ *tokenWorld, in *Input) { in.Now = time.Time{} }, CodeTokenExpired, "", ""},
		"before its time": {func(_ *tokenWorld, in *Input) { in.Now = testNow.Add(-time.Second) }, CodeTokenFuture, "", ""},
		"no certificate":  {func(_ *tokenWorld, in *Input) { in.Chain = nil }, CodeTokenUnbound, "", ""},
		"another's":       {func(_ *tokenWorld, in *Input) { in.Chain[0] = other.leaf }, CodeTokenBinding, "", ""},
		"its issuer's":    {func(w *tokenWorld, in *Input) { in.Chain = []*x509.Certificate{w.ca, w.leaf} }, CodeTokenBinding, "", ""},
		"scope":           {func(_ *tokenWorld, in *Input) { in.RequiredScope = mustScope(t, "fhir:read:Observation:1") }, "", CheckScope, CodeScopeNotCovered},
		"user":            {func(_ *tokenWorld, in *Input) { in.ExpectUser = &User{Issuer: testIssuer, Subject: "y"} }, "", CheckPrincipal, CodePrincipal},
		"orchestrator":    {func(w *tokenWorld, in *Input) { in.ExpectOrchestrator = w.last().ID }, "", CheckPrincipal, CodeOrchestratorMismatch},
		"user revoked":    {revokes(RevUser, UserID(testIssuer, "physician-x")), "", CheckRevocation, CodeUserRevoked},
		"grant revoked":   {revokes(RevGrant, testGrant), "", CheckRevocation, CodeGrantRevoked},
		"task revoked":    {revokes(RevTask, testTask), "", CheckRevocation, CodeTaskRevoked},
		"orch. revoked":   {revokes(RevOrchestrator, "langgraph"), "", CheckRevocation, CodeOrchestratorRevoked},
		"parent revoked":  {revokes(RevAgent, agentUUID(1)), "", CheckRevocation, CodeParentRevoked},
		"subtree revoked": {revokes(RevSubtree, agentUUID(2)), "", CheckRevocation, CodeSubtreeRevoked},
		"agent revoked":   {revokes(RevAgent, agentUUID(3)), "", CheckRevocation, CodeAgentRevoked},
		"serial revoked":  {revokes(RevCertificate, "abcdef"), "", CheckRevocation, CodeCertificateRevoked},
		"no feed":         {func(_ *tokenWorld, in *Input) { in.Revocation = nil }, "", CheckRevocation, CodeNoRevocations},
		"stale":           {func(_ *tokenWorld, in *Input) { in.Revocation = feed{at: testNow.Add(-time.Hour)} }, "", CheckFreshness, CodeRevocationsStale},
	} {
		w := newTokenWorld(t)
		in := w.input()
		c.change(w, &in)
		r, err := VerifyAccessToken(&w.t, w.t.Audience, in)
		if c.code != "" {
			if e, ok := errors.AsType[*TokenError](err); !ok || e.Code != c.code || r.Valid {
				t.Errorf("%s: %+v %v", name, r, err)
			}
			continue
		}
		if got := r.Check(c.check); err != nil || r.Valid || got.Code != c.failed {
			t.Errorf("%s: %+v %v", name, r, err)
		}
	}
	w := newTokenWorld(t)
	for _, audience := range []ID{{}, must[ID](t)(NamedID(testDomain, Service, "billing"))} {
		_, err := VerifyAccessToken(&w.t, audience, w.input())
		if e, ok := errors.AsType[*TokenError](err); !ok || e.Code != CodeTokenAudience {
			t.Errorf("audience %v: %v", audience, err)
		}
	}
}

func revokes(kind RevKind, id string) func(*tokenWorld, *Input) {
	return func(_ *tokenWorld, in *Input) { in.Revocation = revoked(kind, id) }
}

func TestAccessTokenClaimsRefused(t *testing.T) {
	for name, change := range map[string]func(*AccessToken){
		"nobody":      func(a *AccessToken) { a.Actors = nil },
		"no agent":    func(a *AccessToken) { a.Actors = a.Actors[:1] },
		"twice":       func(a *AccessToken) { a.Actors[2] = a.Actors[1] },
		"no user":     func(a *AccessToken) { a.User = User{} },
		"no scope":    func(a *AccessToken) { a.Scope = nil },
		"too long":    func(a *AccessToken) { a.Expiry = a.IssuedAt.Add(MaxAccessTokenLife + time.Second) },
		"no life":     func(a *AccessToken) { a.Expiry = a.IssuedAt },
		"unbound":     func(a *AccessToken) { a.CertificateHash = [32]byte{} },
		"no audience": func(a *AccessToken) { a.Audience = ID{} },
	} {
		w := newTokenWorld(t)
		change(&w.t)
		if _, err := w.t.Claims(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// tokenVector is a token that another implementation can verify.
type tokenVector struct {
	Token       string          `json:"token"`
	Claims      json.RawMessage `json:"claims"`
	Key         string          `json:"key"`         // of the issuer, PEM
	Certificate string          `json:"certificate"` // that it is bound to, PEM
	At          time.Time       `json:"at"`          // when it is valid
	Issuer      string          `json:"issuer"`
	Audience    string          `json:"audience"`
}

func TestAccessTokenVector(t *testing.T) {
	const path = "../../docs/formats/testdata/access-token/token.json"
	if *update {
		w := newTokenWorld(t)
		claims := must[[]byte](t)(w.t.Claims())
		spki := must[[]byte](t)(x509.MarshalPKIXPublicKey(w.key.Public()))
		data := must[[]byte](t)(json.MarshalIndent(tokenVector{
			Token: w.compact(claims, w.header()), Claims: claims, Key: pemOf("PUBLIC KEY", spki), Certificate: pemOf("CERTIFICATE", w.leaf.Raw), At: testNow,
			Issuer: testOrigin, Audience: w.t.Audience.String(),
		}, "", "  "))
		if err := os.WriteFile(path, append(data, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var v tokenVector
	if err := json.Unmarshal(must[[]byte](t)(os.ReadFile(path)), &v); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(v.Key))
	key := must[crypto.PublicKey](t)(ParseKey(block.Bytes))
	kid := must[string](t)(KeyID(key))
	token := must[*AccessToken](t)(ParseAccessToken(v.Token, func(k string) (crypto.PublicKey, bool) { return key, k == kid }))
	var compact bytes.Buffer
	if err := json.Compact(&compact, v.Claims); err != nil {
		t.Fatal(err)
	}
	if again := must[[]byte](t)(token.Claims()); !bytes.Equal(again, compact.Bytes()) {
		t.Errorf("%s", again)
	}
	in := Input{
		Chain: must[[]*x509.Certificate](t)(ParsePEM([]byte(v.Certificate), 1)), Now: v.At, Origin: v.Issuer, RequiredScope: mustScope(t, "database:read:patients"),
		Revocation: feed{at: v.At}, MaxStaleness: time.Minute, Require: []CheckName{CheckRevocation, CheckFreshness},
	}
	if r, err := VerifyAccessToken(token, must[ID](t)(ParseID(v.Audience)), in); err != nil || !r.Valid {
		t.Errorf("%+v %v", r, err)
	}
}

// FuzzAccessToken: whatever is accepted is written back with the same claims.
func FuzzAccessToken(f *testing.F) {
	w := newTokenWorld(f)
	claims := must[[]byte](f)(w.t.Claims())
	f.Add(claims)
	f.Add([]byte(strings.Replace(string(claims), "patients", "trials", 1)))
	f.Fuzz(func(t *testing.T, payload []byte) {
		token, err := decodeToken(payload)
		if err != nil {
			return
		}
		again, err := token.Claims()
		if err != nil {
			t.Fatalf("accepted and not written: %v", err)
		}
		same, err := decodeToken(again)
		if err != nil || !reflect.DeepEqual(same, token) {
			t.Errorf("%+v, again %+v, %v", token, same, err)
		}
	})
}
