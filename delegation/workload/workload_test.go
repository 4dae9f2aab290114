package workload_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/delegation/workload"
)

const (
	issuerURL = "https://kubernetes.default.svc.cluster.local"
	audience  = "https://signet.example:8443"
	subject   = "system:serviceaccount:research:lab"
)

// now is the moment of these tests: no clock is read.
var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// cluster signs tokens as an API server does.
type cluster struct {
	t    testing.TB
	keys map[string]crypto.Signer // by kid
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{t: t, keys: map[string]crypto.Signer{}}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	c.add("rsa", rsaKey, err)
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	c.add("p256", p256, err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	c.add("p384", p384, err)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	c.add("ed", ed, err)
	return c
}

func (c *cluster) add(kid string, key crypto.Signer, err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
	c.keys[kid] = key
}

func (c *cluster) jwks(kids ...string) []byte {
	c.t.Helper()
	var set jose.JSONWebKeySet
	for _, kid := range kids {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: c.keys[kid].Public(), KeyID: kid, Use: "sig"})
	}
	b, err := json.Marshal(set)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *cluster) config() workload.Config {
	return workload.Config{
		Name: "cluster-a", URL: issuerURL, Audience: audience, Keys: c.jwks("rsa", "p256", "p384", "ed"), MaxLife: time.Hour, Skew: 30 * time.Second,
	}
}

func (c *cluster) issuer() *workload.Issuer {
	c.t.Helper()
	i, err := workload.NewIssuer(c.config())
	if err != nil {
		c.t.Fatal(err)
	}
	return i
}

// podClaims are those of a projected token.
func podClaims() map[string]any {
	return map[string]any{
		"iss": issuerURL, "sub": subject, "aud": []string{audience}, "jti": "6bcd1a3a-9a4a-4b9c-a0b1-1d6f0f9c7a55",
		"iat": now.Add(-time.Minute).Unix(), "nbf": now.Add(-time.Minute).Unix(), "exp": now.Add(9 * time.Minute).Unix(),
		"kubernetes.io": map[string]any{
			"namespace": "research", "serviceaccount": map[string]any{"name": "lab", "uid": "a"},
			"pod": map[string]any{"name": "lab-7d9f", "uid": "5b0c1d52-5a64-4f9e-9d53-0f2b6b4d3c11"}, "node": map[string]any{"name": "n1", "uid": "n"},
		},
	}
}

func with(change func(map[string]any)) map[string]any {
	c := maps.Clone(podClaims())
	change(c)
	return c
}

func (c *cluster) sign(alg jose.SignatureAlgorithm, kid string, claims any) string {
	c.t.Helper()
	b, err := json.Marshal(claims)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.signRaw(alg, kid, b, nil)
}

func (c *cluster) signRaw(alg jose.SignatureAlgorithm, kid string, payload []byte, headers map[jose.HeaderKey]any) string {
	c.t.Helper()
	key := jose.JSONWebKey{Key: c.keys[kid], KeyID: kid}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, &jose.SignerOptions{ExtraHeaders: headers})
	if err != nil {
		c.t.Fatal(err)
	}
	jws, err := s.Sign(payload)
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := jws.CompactSerialize()
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

func code(t *testing.T, err error) string {
	t.Helper()
	var e *workload.Error
	if !errors.As(err, &e) {
		t.Fatalf("not a refusal: %v", err)
	}
	return e.Code
}

func TestProjectedTokens(t *testing.T) {
	c := newCluster(t)
	i := c.issuer()
	seen := map[[32]byte]bool{}
	for alg, kid := range map[jose.SignatureAlgorithm]string{jose.RS256: "rsa", jose.PS256: "rsa", jose.ES256: "p256", jose.ES384: "p384", jose.EdDSA: "ed"} {
		got, err := i.Verify(c.sign(alg, kid, podClaims()), now)
		if err != nil {
			t.Errorf("%s: %v", alg, err)
			continue
		}
		if got.Subject != subject || got.Pod != "5b0c1d52-5a64-4f9e-9d53-0f2b6b4d3c11" || got.Node != "n1" || !got.Expires.Equal(now.Add(9*time.Minute)) {
			t.Errorf("%s: %+v", alg, got)
		}
		seen[got.Hash] = true
	}
	if len(seen) != 5 {
		t.Errorf("%d hashes of 5 tokens", len(seen))
	}
}

// What is not Kubernetes' needs no pod, and has none even if it says so.
func TestOtherIssuersTokens(t *testing.T) {
	c := newCluster(t)
	got, err := c.issuer().Verify(c.sign(jose.ES256, "p256", with(func(m map[string]any) { m["sub"], m["aud"] = "ci/runner-7", audience })), now)
	if err != nil || got.Subject != "ci/runner-7" || got.Pod != "" {
		t.Errorf("%+v, %v", got, err)
	}
}

// A key may be given as PEM; its kid is then the one that Kubernetes makes.
func TestKeysAsPEM(t *testing.T) {
	c := newCluster(t)
	spki, err := x509.MarshalPKIXPublicKey(c.keys["rsa"].Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(spki)
	kid := base64.RawURLEncoding.EncodeToString(sum[:])
	c.keys[kid] = c.keys["rsa"]
	config := c.config()
	config.Keys = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	i, err := workload.NewIssuer(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := i.Verify(c.sign(jose.RS256, kid, podClaims()), now); err != nil {
		t.Error(err)
	}
	if _, err := i.Verify(c.sign(jose.RS256, "rsa", podClaims()), now); code(t, err) != workload.CodeKeyUnknown {
		t.Errorf("another kid: %v", err)
	}
}

func TestRefusedClaims(t *testing.T) {
	c := newCluster(t)
	i := c.issuer()
	kube := func(change func(map[string]any)) func(map[string]any) {
		return func(m map[string]any) {
			k := maps.Clone(m["kubernetes.io"].(map[string]any)) //nolint:errcheck,forcetypeassert // podClaims made it
			change(k)
			m["kubernetes.io"] = k
		}
	}
	for name, tc := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"another issuer":        {func(m map[string]any) { m["iss"] = issuerURL + "/" }, workload.CodeIssuer},
		"no issuer":             {func(m map[string]any) { delete(m, "iss") }, workload.CodeIssuer},
		"another audience":      {func(m map[string]any) { m["aud"] = []string{"https://kubernetes.default.svc"} }, workload.CodeAudience},
		"two audiences":         {func(m map[string]any) { m["aud"] = []string{audience, "https://other"} }, workload.CodeAudience},
		"no audience":           {func(m map[string]any) { delete(m, "aud") }, workload.CodeAudience},
		"audience in capitals":  {func(m map[string]any) { m["aud"] = strings.ToUpper(audience) }, workload.CodeAudience},
		"expired":               {func(m map[string]any) { m["exp"] = now.Add(-31 * time.Second).Unix() }, workload.CodeExpired},
		"no expiry":             {func(m map[string]any) { delete(m, "exp") }, workload.CodeMalformed},
		"expiry as text":        {func(m map[string]any) { m["exp"] = "tomorrow" }, workload.CodeMalformed},
		"expiry beyond time":    {func(m map[string]any) { m["exp"] = 1e300 }, workload.CodeMalformed},
		"no time of issue":      {func(m map[string]any) { delete(m, "iat") }, workload.CodeMalformed},
		"issued in the future":  {func(m map[string]any) { m["iat"] = now.Add(31 * time.Second).Unix() }, workload.CodeNotYet},
		"valid in the future":   {func(m map[string]any) { m["nbf"] = now.Add(31 * time.Second).Unix() }, workload.CodeNotYet},
		"life of a day":         {func(m map[string]any) { m["exp"] = now.Add(24 * time.Hour).Unix() }, workload.CodeLife},
		"no subject":            {func(m map[string]any) { delete(m, "sub") }, workload.CodeSubject},
		"subject with a space":  {func(m map[string]any) { m["sub"] = subject + " " }, workload.CodeSubject},
		"no kubernetes claim":   {func(m map[string]any) { delete(m, "kubernetes.io") }, workload.CodeKubernetes},
		"null kubernetes claim": {func(m map[string]any) { m["kubernetes.io"] = nil }, workload.CodeKubernetes},
		"another namespace":     {kube(func(k map[string]any) { k["namespace"] = "other" }), workload.CodeKubernetes},
		"another account":       {kube(func(k map[string]any) { k["serviceaccount"] = map[string]any{"name": "x"} }), workload.CodeKubernetes},
		"no pod":                {kube(func(k map[string]any) { delete(k, "pod") }), workload.CodePod},
		"pod without UID":       {kube(func(k map[string]any) { k["pod"] = map[string]any{"name": "x"} }), workload.CodePod},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := i.Verify(c.sign(jose.RS256, "rsa", with(tc.change)), now); code(t, err) != tc.want {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}

// Clocks may differ by the skew, and by no second more.
func TestSkew(t *testing.T) {
	c := newCluster(t)
	i := c.issuer()
	token := c.sign(jose.ES256, "p256", podClaims())
	for _, at := range []time.Duration{-time.Minute - 30*time.Second, 9*time.Minute + 29*time.Second} {
		if _, err := i.Verify(token, now.Add(at)); err != nil {
			t.Errorf("%v: %v", at, err)
		}
	}
	for at, want := range map[time.Duration]string{-time.Minute - 31*time.Second: workload.CodeNotYet, 9*time.Minute + 30*time.Second: workload.CodeExpired} {
		if _, err := i.Verify(token, now.Add(at)); code(t, err) != want {
			t.Errorf("%v: %v, want %s", at, err, want)
		}
	}
}

func TestRefusedTokens(t *testing.T) {
	c := newCluster(t)
	i := c.issuer()
	payload, err := json.Marshal(podClaims())
	if err != nil {
		t.Fatal(err)
	}
	good := c.sign(jose.RS256, "rsa", podClaims())
	parts := strings.Split(good, ".")
	other := newCluster(t)
	doubled := strings.Replace(string(payload), `{`, `{"sub":"system:serviceaccount:research:other",`, 1)
	nested := strings.Replace(string(payload), `"namespace"`, `"namespace":"x","namespace"`, 1)
	for name, tc := range map[string]struct{ token, want string }{
		"empty":                  {"", workload.CodeMalformed},
		"two parts":              {parts[0] + "." + parts[1], workload.CodeMalformed},
		"five parts":             {good + ".x.y", workload.CodeMalformed},
		"padded base64":          {parts[0] + "=." + parts[1] + "." + parts[2], workload.CodeMalformed},
		"JSON serialization":     {`{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, workload.CodeMalformed},
		"too long":               {good + strings.Repeat("A", workload.MaxToken), workload.CodeTooLong},
		"alg none":               {raw(`{"alg":"none","kid":"rsa"}`, payload) + ".", workload.CodeUnsigned},
		"alg None":               {raw(`{"alg":"nOnE","kid":"rsa"}`, payload) + ".", workload.CodeUnsigned},
		"no alg":                 {raw(`{"kid":"rsa"}`, payload) + "." + parts[2], workload.CodeAlgorithm},
		"HS256 with the RSA key": {hs256(t, c.keys["rsa"].Public(), payload), workload.CodeAlgorithm},
		"RS512":                  {c.signRaw(jose.RS512, "rsa", payload, nil), workload.CodeAlgorithm},
		"no kid":                 {raw(`{"alg":"RS256"}`, payload) + "." + parts[2], workload.CodeKeyUnknown},
		"unknown kid":            {raw(`{"alg":"RS256","kid":"../../etc"}`, payload) + "." + parts[2], workload.CodeKeyUnknown},
		"kid of an EC key":       {raw(`{"alg":"RS256","kid":"p256"}`, payload) + "." + parts[2], workload.CodeKeyAlgorithm},
		"kid of another curve":   {raw(`{"alg":"ES256","kid":"p384"}`, payload) + "." + parts[2], workload.CodeKeyAlgorithm},
		"another cluster's key":  {other.sign(jose.RS256, "rsa", podClaims()), workload.CodeSignature},
		"changed payload":        {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(doubled)) + "." + parts[2], workload.CodeSignature},
		"changed signature":      {good[:len(good)-8] + "AAAAAAAA", workload.CodeSignature},
		"own key in the header":  {c.signRaw(jose.RS256, "rsa", payload, map[jose.HeaderKey]any{"jwk": map[string]any{"kty": "oct"}}), workload.CodeHeader},
		"jku":                    {c.signRaw(jose.RS256, "rsa", payload, map[jose.HeaderKey]any{"jku": "https://evil.example"}), workload.CodeHeader},
		"x5u":                    {c.signRaw(jose.RS256, "rsa", payload, map[jose.HeaderKey]any{"x5u": "https://evil.example"}), workload.CodeHeader},
		"crit":                   {c.signRaw(jose.RS256, "rsa", payload, map[jose.HeaderKey]any{"crit": []string{"exp"}}), workload.CodeHeader},
		"an access token":        {c.signRaw(jose.RS256, "rsa", payload, map[jose.HeaderKey]any{"typ": "at+jwt"}), workload.CodeType},
		"header member twice":    {raw(`{"alg":"RS256","alg":"none","kid":"rsa"}`, payload) + "." + parts[2], workload.CodeDuplicate},
		"claim twice":            {c.signRaw(jose.RS256, "rsa", []byte(doubled), nil), workload.CodeDuplicate},
		"nested claim twice":     {c.signRaw(jose.RS256, "rsa", []byte(nested), nil), workload.CodeDuplicate},
		"claims are a list":      {c.signRaw(jose.RS256, "rsa", []byte(`[]`), nil), workload.CodeMalformed},
		"nested without end":     {c.signRaw(jose.RS256, "rsa", []byte(`{"x":`+strings.Repeat("[", 2000)+strings.Repeat("]", 2000)+`}`), nil), workload.CodeMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := i.Verify(tc.token, now); code(t, err) != tc.want {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
	if _, err := i.Verify(good, now); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

// A claim in other letters is another claim.
func TestClaimNamesAreExact(t *testing.T) {
	c := newCluster(t)
	got, err := c.issuer().Verify(c.sign(jose.RS256, "rsa", with(func(m map[string]any) { m["SUB"] = "system:serviceaccount:research:admin" })), now)
	if err != nil || got.Subject != subject {
		t.Errorf("%+v, %v", got, err)
	}
}

func raw(header string, payload []byte) string {
	return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(payload)
}

// hs256 is the oldest attack on JWTs: the public key, which everybody has, as the secret of an HMAC.
func hs256(t *testing.T, public crypto.PublicKey, payload []byte) string {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	signed := raw(`{"alg":"HS256","kid":"rsa"}`, payload)
	mac := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))
	mac.Write([]byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}
