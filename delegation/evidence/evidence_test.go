package evidence_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/evidence"
)

var now = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func document(t testing.TB, subject string) []byte {
	t.Helper()
	scope, err := chain.ParseScope([]string{"database:read:patients"})
	must(t, err)
	doc, err := chain.GrantDocument{
		GrantID: "01912d68-783e-7a03-8467-5661c1243ad4", Random: [32]byte{1}, Origin: "hospital.example/log", Issuer: "https://idp.example",
		ClientID: "signet-consent", Subject: subject, TaskID: "01912d68-783e-7a03-8467-5661c1243ad6", Task: "read the cohort", Scope: scope,
		MaxDepth: 2, NotAfter: now.Add(time.Hour), AgentTypes: []string{"research"},
		Orchestrator: "spiffe://hospital.example/orchestrator/lab", OrchestratorKey: [32]byte{2},
	}.Canonical()
	must(t, err)
	return doc
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

// sign makes a compact JWS with any header that go-jose can be made to write.
func sign(t testing.TB, alg jose.SignatureAlgorithm, key any, header map[jose.HeaderKey]any, payload []byte) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, &jose.SignerOptions{ExtraHeaders: header})
	must(t, err)
	jws, err := signer.Sign(payload)
	must(t, err)
	out, err := jws.CompactSerialize()
	must(t, err)
	return out
}

type claims = map[string]any

// provider signs tokens.
type provider struct {
	key *ecdsa.PrivateKey
	jwk jose.JSONWebKey
}

func newProvider(t testing.TB) provider {
	key := p256(t)
	return provider{key, jose.JSONWebKey{Key: &key.PublicKey, KeyID: "k", Algorithm: "ES256", Use: "sig"}}
}

func (p provider) jwks(t testing.TB) *evidence.JWKS {
	t.Helper()
	raw, err := json.Marshal(p.jwk)
	must(t, err)
	return &evidence.JWKS{Keys: []json.RawMessage{raw}}
}

func (p provider) token(t testing.TB, c claims) string {
	t.Helper()
	raw, err := json.Marshal(c)
	must(t, err)
	return sign(t, jose.ES256, p.key, map[jose.HeaderKey]any{"kid": "k"}, raw)
}

func idClaims(doc []byte) claims {
	sum := sha256.Sum256(doc)
	return claims{"iss": "https://idp.example", "sub": "physician-7f3a", "aud": "signet-consent", "nonce": b64(sum[:]), "iat": now.Unix(), "exp": now.Unix() + 60}
}

func TestOIDCNonce(t *testing.T) {
	doc := document(t, "physician-7f3a")
	for name, c := range map[string]struct {
		change func(p *provider, c claims)
		want   string
	}{
		"good":           {func(*provider, claims) {}, ""},
		"audience list":  {func(_ *provider, c claims) { c["aud"] = []string{"signet-consent"} }, ""},
		"other user":     {func(_ *provider, c claims) { c["sub"] = "clerk" }, "user"},
		"other issuer":   {func(_ *provider, c claims) { c["iss"] = "https://other.example" }, "user"},
		"other audience": {func(_ *provider, c claims) { c["aud"] = "console" }, "aud"},
		"other nonce":    {func(_ *provider, c claims) { c["nonce"] = "x" }, "nonce"},
		"other key":      {func(p *provider, _ claims) { p.jwk.Key = &p256(t).PublicKey }, "does not verify"},
		"other kid":      {func(p *provider, _ claims) { p.jwk.KeyID = "x" }, "another's"},
		"other alg":      {func(p *provider, _ claims) { p.jwk.Algorithm = "RS256" }, "another's"},
		"for encryption": {func(p *provider, _ claims) { p.jwk.Use = "enc" }, "another's"},
		"private key":    {func(p *provider, _ claims) { p.jwk.Key = p.key }, "not a public key"},
		"symmetric key":  {func(p *provider, _ claims) { p.jwk.Key = []byte("secret") }, "not a public key"},
	} {
		t.Run(name, func(t *testing.T) {
			p, claims := newProvider(t), idClaims(doc)
			c.change(&p, claims)
			_, err := evidence.Encode(evidence.Evidence{IDToken: p.token(t, claims), JWKS: p.jwks(t)}, chain.OIDCNonce, doc, now)
			wants(t, err, c.want)
		})
	}
}

func wants(t testing.TB, err error, part string) {
	t.Helper()
	switch {
	case part == "" && err != nil:
		t.Errorf("refused: %v", err)
	case part != "" && (err == nil || !strings.Contains(err.Error(), part)):
		t.Errorf("want a refusal with %q, got %v", part, err)
	}
}

func TestTokenExchange(t *testing.T) {
	doc := document(t, "physician-7f3a")
	for name, c := range map[string]struct {
		change func(c claims, e *evidence.Evidence)
		want   string
	}{
		"good":             {func(claims, *evidence.Evidence) {}, ""},
		"two audiences":    {func(c claims, _ *evidence.Evidence) { c["aud"] = []string{"exchange", "x"} }, "aud"},
		"other audience":   {func(c claims, _ *evidence.Evidence) { c["aud"] = "console" }, "aud"},
		"consent's client": {func(c claims, e *evidence.Evidence) { c["aud"], e.Audience = "signet-consent", "signet-consent" }, "client of consent"},
		"other user":       {func(c claims, _ *evidence.Evidence) { c["sub"] = "clerk" }, "user"},
		"expired":          {func(c claims, _ *evidence.Evidence) { c["exp"] = now.Unix() - 301 }, "not valid"},
		"of the future":    {func(c claims, _ *evidence.Evidence) { c["iat"] = now.Unix() + 301 }, "not valid"},
		"no expiry":        {func(c claims, _ *evidence.Evidence) { delete(c, "exp") }, "missing"},
		"no issue time":    {func(c claims, _ *evidence.Evidence) { delete(c, "iat") }, "missing"},
		"absurd expiry":    {func(c claims, _ *evidence.Evidence) { c["exp"] = 1e300 }, "not valid"},
	} {
		t.Run(name, func(t *testing.T) {
			p, claims := newProvider(t), idClaims(doc)
			claims["aud"] = "exchange"
			e := evidence.Evidence{Audience: "exchange", JWKS: p.jwks(t)}
			c.change(claims, &e)
			e.SubjectToken = p.token(t, claims)
			_, err := evidence.Encode(e, chain.TokenExchange, doc, now)
			wants(t, err, c.want)
		})
	}
}

// pki is a CA of users and one user's certificate.
type pki struct {
	ca, leaf *x509.Certificate
	caKey    *ecdsa.PrivateKey
	key      crypto.Signer
}

func newPKI(t testing.TB, key crypto.Signer, change func(ca, leaf *x509.Certificate)) pki {
	t.Helper()
	p := pki{caKey: p256(t), key: key}
	u, err := url.Parse("urn:user:physician-7f3a")
	must(t, err)
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Users"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "physician-7f3a", SerialNumber: "7f3a"}, URIs: []*url.URL{u},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(ca, leaf)
	}
	p.ca = issue(t, ca, ca, &p.caKey.PublicKey, p.caKey)
	p.leaf = issue(t, leaf, p.ca, key.Public(), p.caKey)
	return p
}

func issue(t testing.TB, template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

func (p pki) header() map[jose.HeaderKey]any {
	return map[jose.HeaderKey]any{"typ": evidence.SignatureType, "x5c": []string{base64.StdEncoding.EncodeToString(p.leaf.Raw)}}
}

func (p pki) evidence(t testing.TB, alg jose.SignatureAlgorithm, doc []byte) evidence.Evidence {
	t.Helper()
	return evidence.Evidence{
		JWS: sign(t, alg, p.key, p.header(), doc), Root: base64.StdEncoding.EncodeToString(p.ca.Raw), SubjectFrom: evidence.FromCommonName,
	}
}

func TestJWS(t *testing.T) {
	doc := document(t, "physician-7f3a")
	for name, c := range map[string]struct {
		pki    func(ca, leaf *x509.Certificate)
		change func(p pki, e *evidence.Evidence)
		want   string
	}{
		"good":        {nil, nil, ""},
		"by serial":   {nil, func(_ pki, e *evidence.Evidence) { e.SubjectFrom = evidence.FromSerialNumber }, "another user's"},
		"by URI":      {nil, func(_ pki, e *evidence.Evidence) { e.SubjectFrom = evidence.FromURI }, "another user's"},
		"by no field": {nil, func(_ pki, e *evidence.Evidence) { e.SubjectFrom = "email" }, "no field"},
		"two names": {func(_, l *x509.Certificate) {
			l.Subject.ExtraNames = []pkix.AttributeTypeAndValue{{Type: []int{2, 5, 4, 3}, Value: "a"}, {Type: []int{2, 5, 4, 3}, Value: "physician-7f3a"}}
		}, nil, "2 fields"},
		"expired":      {func(_, l *x509.Certificate) { l.NotAfter = now.Add(-time.Second) }, nil, "no path"},
		"not yet":      {func(_, l *x509.Certificate) { l.NotBefore = now.Add(time.Second) }, nil, "no path"},
		"expired CA":   {func(ca, _ *x509.Certificate) { ca.NotAfter = now.Add(-time.Second) }, nil, "no path"},
		"for servers":  {func(_, l *x509.Certificate) { l.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, nil, "not for client"},
		"for anything": {func(_, l *x509.Certificate) { l.ExtKeyUsage = nil }, nil, "not for client"},
		"not to sign":  {func(_, l *x509.Certificate) { l.KeyUsage = x509.KeyUsageKeyAgreement }, nil, "not for signatures"},
		"a CA":         {func(_, l *x509.Certificate) { l.IsCA, l.BasicConstraintsValid = true, true }, nil, "a CA's"},
		"another CA": {nil, func(_ pki, e *evidence.Evidence) {
			e.Root = base64.StdEncoding.EncodeToString(newPKI(t, p256(t), nil).ca.Raw)
		}, "no path"},
		"other document": {nil, func(p pki, e *evidence.Evidence) {
			e.JWS = sign(t, jose.ES256, p.key, p.header(), document(t, "clerk"))
		}, "another document"},
		"no document": {nil, func(p pki, e *evidence.Evidence) { e.JWS = sign(t, jose.ES256, p.key, p.header(), []byte("{}")) }, "grant"},
		"other typ": {nil, func(p pki, e *evidence.Evidence) {
			h := p.header()
			h["typ"] = chain.DelegationType
			e.JWS = sign(t, jose.ES256, p.key, h, doc)
		}, "typ"},
		"header more": {nil, func(p pki, e *evidence.Evidence) {
			h := p.header()
			h["kid"] = "x"
			e.JWS = sign(t, jose.ES256, p.key, h, doc)
		}, "header"},
		"other key": {nil, func(p pki, e *evidence.Evidence) { e.JWS = sign(t, jose.ES256, p256(t), p.header(), doc) }, "does not verify"},
		"alg none": {nil, func(_ pki, e *evidence.Evidence) {
			parts := strings.Split(e.JWS, ".")
			raw, err := base64.RawURLEncoding.DecodeString(parts[0])
			must(t, err)
			e.JWS = b64([]byte(strings.Replace(string(raw), "ES256", "none", 1))) + "." + parts[1] + "."
		}, "algorithm"},
		"HS256 with the certificate": {nil, func(p pki, e *evidence.Evidence) {
			e.JWS = sign(t, jose.HS256, p.leaf.RawSubjectPublicKeyInfo, p.header(), doc)
		}, "algorithm"},
		"no certificates": {nil, func(p pki, e *evidence.Evidence) {
			e.JWS = sign(t, jose.ES256, p.key, map[jose.HeaderKey]any{"typ": evidence.SignatureType, "x5c": []string{}}, doc)
		}, "x5c"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPKI(t, p256(t), c.pki)
			e := p.evidence(t, jose.ES256, doc)
			if c.change != nil {
				c.change(p, &e)
			}
			_, err := evidence.Encode(e, chain.JWS, doc, now)
			wants(t, err, c.want)
		})
	}
}

func TestJWSAlgorithms(t *testing.T) {
	doc := document(t, "physician-7f3a")
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	must(t, err)
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	rsa1024, err := rsa.GenerateKey(rand.Reader, 1024) //nolint:gosec // weak on purpose
	must(t, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	for name, c := range map[string]struct {
		key  crypto.Signer
		alg  jose.SignatureAlgorithm
		want string
	}{
		"ES384": {p384, jose.ES384, ""}, "RS256": {rsa2048, jose.RS256, ""}, "PS256": {rsa2048, jose.PS256, ""}, "EdDSA": {ed, jose.EdDSA, ""},
		"ES512": {p521, jose.ES512, "neither"}, "RS512": {rsa2048, jose.RS512, "algorithm"}, "weak RSA": {rsa1024, jose.RS256, "neither"},
	} {
		_, err := evidence.Encode(newPKI(t, c.key, nil).evidence(t, c.alg, doc), chain.JWS, doc, now)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// authenticator is a user's.
func asserted(t testing.TB, doc []byte, change func(client claims, auth []byte, a *evidence.Assertion)) *evidence.Assertion {
	t.Helper()
	key := p256(t)
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	must(t, err)
	sum, rp := sha256.Sum256(doc), sha256.Sum256([]byte("signet.example"))
	client := claims{"type": "webauthn.get", "challenge": b64(sum[:]), "origin": "https://signet.example:8443", "crossOrigin": false}
	auth := append(rp[:], 0x05, 0, 0, 0, 1)
	a := &evidence.Assertion{RPID: "signet.example", Origin: "https://signet.example:8443", CredentialID: b64([]byte("id")), PublicKey: b64(spki)}
	change(client, auth, a)
	raw, err := json.Marshal(client)
	must(t, err)
	hash := sha256.Sum256(raw)
	signed := sha256.Sum256(append(append([]byte{}, auth...), hash[:]...))
	sig, err := key.Sign(rand.Reader, signed[:], crypto.SHA256)
	must(t, err)
	a.ClientData, a.AuthenticatorData = b64(raw), b64(auth)
	if a.Signature == "" {
		a.Signature = b64(sig)
	}
	return a
}

func TestWebAuthn(t *testing.T) {
	doc := document(t, "physician-7f3a")
	for name, c := range map[string]struct {
		change func(client claims, auth []byte, a *evidence.Assertion)
		want   string
	}{
		"good":          {func(claims, []byte, *evidence.Assertion) {}, ""},
		"registration":  {func(c claims, _ []byte, _ *evidence.Assertion) { c["type"] = "webauthn.create" }, "ceremony"},
		"other grant":   {func(c claims, _ []byte, _ *evidence.Assertion) { c["challenge"] = "x" }, "challenge"},
		"other origin":  {func(c claims, _ []byte, _ *evidence.Assertion) { c["origin"] = "https://evil.example" }, "origin"},
		"in a frame":    {func(c claims, _ []byte, _ *evidence.Assertion) { c["crossOrigin"] = true }, "origin"},
		"foreign party": {func(_ claims, _ []byte, a *evidence.Assertion) { a.RPID = "example" + ".org" }, "not the origin's"},
		"plain http": {func(c claims, _ []byte, a *evidence.Assertion) {
			a.Origin = "http://signet.example"
			c["origin"] = a.Origin
		}, "not the origin's"},
		"other party":       {func(_ claims, auth []byte, _ *evidence.Assertion) { auth[0] ^= 1 }, "relying party"},
		"user not verified": {func(_ claims, auth []byte, _ *evidence.Assertion) { auth[32] = 0x01 }, "did not verify"},
		"user not present":  {func(_ claims, auth []byte, _ *evidence.Assertion) { auth[32] = 0x04 }, "did not verify"},
		"other key": {func(_ claims, _ []byte, a *evidence.Assertion) {
			spki, err := x509.MarshalPKIXPublicKey(&p256(t).PublicKey)
			must(t, err)
			a.PublicKey = b64(spki)
		}, "does not verify"},
		"no signature": {func(_ claims, _ []byte, a *evidence.Assertion) { a.Signature = b64([]byte("x")) }, "does not verify"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := evidence.Encode(evidence.Evidence{WebAuthn: asserted(t, doc, c.change)}, chain.WebAuthn, doc, now)
			wants(t, err, c.want)
		})
	}
}

func TestParseIsStrict(t *testing.T) {
	doc := document(t, "physician-7f3a")
	p := newProvider(t)
	good, err := evidence.Encode(evidence.Evidence{IDToken: p.token(t, idClaims(doc)), JWKS: p.jwks(t)}, chain.OIDCNonce, doc, now)
	must(t, err)
	for name, change := range map[string]func(s string) string{
		"member of another type": func(s string) string { return strings.Replace(s, `{"v":1`, `{"v":1,"jws":"x"`, 1) },
		"member missing":         func(s string) string { return strings.Replace(s, `"id_token"`, `"subject_token"`, 1) },
		"unknown member":         func(s string) string { return strings.Replace(s, `{"v":1`, `{"v":1,"x":1`, 1) },
		"duplicate member":       func(s string) string { return strings.Replace(s, `{"v":1`, `{"v":1,"v":1`, 1) },
		"duplicate within":       func(s string) string { return strings.Replace(s, `"kid":"k"`, `"kid":"k","kid":"k"`, 1) },
		"version":                func(s string) string { return strings.Replace(s, `{"v":1`, `{"v":2`, 1) },
		"unknown type":           func(s string) string { return strings.Replace(s, `oidc_nonce`, `password`, 1) },
		"other type":             func(s string) string { return strings.Replace(s, `oidc_nonce`, `token_exchange`, 1) },
		"something behind":       func(s string) string { return s + `{}` },
		"not canonical":          func(s string) string { return strings.Replace(s, `"grant":"`, `"grant":"IA`, 1) },
		"too large":              func(s string) string { return s + strings.Repeat(" ", evidence.MaxBytes) },
		"nothing":                func(string) string { return "" },
	} {
		changed := change(string(good))
		if changed == string(good) {
			t.Fatalf("%s changes nothing", name)
		}
		if _, err := evidence.Parse([]byte(changed)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzParse: what is read is verified without a panic, and never verifies for the zero time by accident of input.
func FuzzParse(f *testing.F) {
	doc := document(f, "physician-7f3a")
	p := newProvider(f)
	for kind, e := range map[chain.ConsentType]evidence.Evidence{
		chain.OIDCNonce: {IDToken: p.token(f, idClaims(doc)), JWKS: p.jwks(f)},
		chain.JWS:       newPKI(f, p256(f), nil).evidence(f, jose.ES256, doc),
		chain.WebAuthn:  {WebAuthn: asserted(f, doc, func(claims, []byte, *evidence.Assertion) {})},
	} {
		seed, err := evidence.Encode(e, kind, doc, now)
		must(f, err)
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		parsed, err := evidence.Parse(data)
		if err != nil {
			return
		}
		if parsed.Type == chain.ConsentUnknown || len(parsed.Document) == 0 {
			t.Fatal("accepted without a type or a grant")
		}
		if parsed.Type == chain.JWS && parsed.Verify(time.Time{}) == nil {
			t.Fatal("a certificate is valid at no time")
		}
		_ = parsed.Verify(now) // either answer will do: it must not panic
	})
}

// FuzzSignature: a compact JWS that is accepted carries a canonical grant.
func FuzzSignature(f *testing.F) {
	doc := document(f, "physician-7f3a")
	f.Add(newPKI(f, p256(f), nil).evidence(f, jose.ES256, doc).JWS)
	f.Add("e30.e30.e30")
	f.Fuzz(func(t *testing.T, compact string) {
		s, err := evidence.ParseSignature(compact)
		if err != nil {
			return
		}
		if _, err := chain.ParseGrantDocument(s.Document); err != nil {
			t.Fatal(err)
		}
	})
}
