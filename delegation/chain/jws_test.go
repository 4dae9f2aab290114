package chain

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

func fixedClaims(tb testing.TB) Claims {
	d := fixedDelegation(tb)
	return Claims{
		Issuer: d.Hops[0].ID, Subject: d.Hops[1].ID, Audience: testOrigin, JTI: agentUUID(1), TaskID: testTask, Scope: d.Hops[1].Scope,
		Expiry: d.Hops[1].NotAfter, IssuedAt: testNow, MaxDepth: 1, ParentHash: sha256.Sum256([]byte("grant")), KeyHash: sha256.Sum256([]byte("jwk")),
	}
}

func fixedKey() ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("an Ed25519 key for test vectors only"))
	return ed25519.NewKeyFromSeed(seed[:])
}

func TestSignAndVerify(t *testing.T) {
	enrolled := fixedClaims(t)
	enrolled.EnrolHash, enrolled.KeyHash = &enrolled.ParentHash, [32]byte{}
	for _, key := range []crypto.Signer{newKey(t, elliptic.P256()), newKey(t, elliptic.P384()), fixedKey()} {
		for _, c := range []Claims{fixedClaims(t), enrolled} {
			compact := must[string](t)(SignDelegation(key, c))
			got, err := VerifyDelegation(compact, key.Public())
			if err != nil || !reflect.DeepEqual(got, c) {
				t.Errorf("%T: %v\n%+v\n%+v", key, err, got, c)
			}
			// An independent reader takes it too.
			parsed, err := jose.ParseSignedCompact(compact, []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.EdDSA})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parsed.Verify(key.Public()); err != nil {
				t.Errorf("%T: %v", key, err)
			}
		}
	}
}

// liar signs something else than it is asked to.
type liar struct{ crypto.Signer }

func (l liar) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return l.Signer.Sign(r, make([]byte, len(digest)), opts)
}

type garbler struct{ crypto.Signer }

func (garbler) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return []byte{0x30, 0}, nil
}

func TestSignRefuses(t *testing.T) {
	p256 := newKey(t, elliptic.P256())
	for name, s := range map[string]crypto.Signer{
		"P-521": newKey(t, elliptic.P521()), "RSA": must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048)),
		"a wrong signature": liar{p256}, "no signature": garbler{p256},
	} {
		if compact, err := SignDelegation(s, fixedClaims(t)); err == nil {
			t.Errorf("%s: %s", name, compact)
		}
	}
	zero := [32]byte{}
	for name, change := range map[string]func(c *Claims){
		"iss a service":    func(c *Claims) { c.Issuer = "spiffe://hospital.example/service/records" },
		"iss no ID":        func(c *Claims) { c.Issuer = "langgraph" },
		"sub no agent":     func(c *Claims) { c.Subject = "spiffe://hospital.example/orchestrator/b" },
		"sub abroad":       func(c *Claims) { c.Subject = strings.Replace(c.Subject, "hospital", "clinic", 1) },
		"sub = iss":        func(c *Claims) { c.Issuer = c.Subject },
		"jti":              func(c *Claims) { c.JTI = agentUUID(2) },
		"aud empty":        func(c *Claims) { c.Audience = "" },
		"aud with a space": func(c *Claims) { c.Audience = "a b" },
		"depth 8":          func(c *Claims) { c.MaxDepth = MaxDepth },
		"depth -1":         func(c *Claims) { c.MaxDepth = -1 },
		"par_hash":         func(c *Claims) { c.ParentHash = zero },
		"no cnf":           func(c *Claims) { c.KeyHash = zero },
		"two cnf":          func(c *Claims) { c.EnrolHash = &c.ParentHash },
		"cnf zero":         func(c *Claims) { c.KeyHash, c.EnrolHash = zero, &zero },
		"task":             func(c *Claims) { c.TaskID = "1" },
		"no scope":         func(c *Claims) { c.Scope = nil },
		"exp = iat":        func(c *Claims) { c.Expiry = c.IssuedAt },
		"fraction":         func(c *Claims) { c.Expiry = c.Expiry.Add(time.Millisecond) },
		"no iat":           func(c *Claims) { c.IssuedAt = time.Time{} },
	} {
		c := fixedClaims(t)
		change(&c)
		if compact, err := SignDelegation(p256, c); !errors.Is(err, ErrDelegation) {
			t.Errorf("%s: %s %v", name, compact, err)
		}
	}
}

type jwsVector struct {
	Name  string `json:"name"`
	Key   string `json:"key"` // SPKI, hex
	JWS   string `json:"jws"`
	Valid bool   `json:"valid"`
}

// resign puts a header and a payload together and signs them as they are.
func resign(key crypto.Signer, header, payload string) string {
	input := encodeBase64([]byte(header)) + "." + encodeBase64([]byte(payload))
	_, hash, err := algorithm(key.Public())
	if err != nil {
		return err.Error()
	}
	sig, err := signRaw(key, hash, []byte(input))
	if err != nil {
		return err.Error()
	}
	return input + "." + encodeBase64(sig)
}

func jwsVectors(t *testing.T) []jwsVector {
	key := fixedKey()
	spki := hex.EncodeToString(must[[]byte](t)(marshalKey(key.Public())))
	good := must[string](t)(SignDelegation(key, fixedClaims(t)))
	parts := strings.Split(good, ".")
	header, payload := `{"alg":"EdDSA","typ":"agent-delegation+jwt"}`, string(must[[]byte](t)(base64.RawURLEncoding.DecodeString(parts[1])))
	made := []jwsVector{{"valid", spki, good, true}, {"valid, header in another order", spki, resign(key, `{"typ":"agent-delegation+jwt", "alg":"EdDSA"}`, payload), true}}
	bad := func(name, jws string) { made = append(made, jwsVector{Name: name, Key: spki, JWS: jws}) }
	for name, h := range map[string]string{
		"a typ missing": `{"alg":"EdDSA"}`, "b typ JWT": `{"alg":"EdDSA","typ":"JWT"}`, "c typ twice": `{"alg":"EdDSA","typ":"JWT","typ":"agent-delegation+jwt"}`,
		"d alg none": `{"alg":"none","typ":"agent-delegation+jwt"}`, "e alg ES256": `{"alg":"ES256","typ":"agent-delegation+jwt"}`,
		"f alg HS256": `{"alg":"HS256","typ":"agent-delegation+jwt"}`, "g crit": `{"alg":"EdDSA","typ":"agent-delegation+jwt","crit":["exp"]}`,
		"h jku": `{"alg":"EdDSA","typ":"agent-delegation+jwt","jku":"https://evil.example"}`, "i kid": `{"alg":"EdDSA","typ":"agent-delegation+jwt","kid":"1"}`,
		"j x5u": `{"alg":"EdDSA","typ":"agent-delegation+jwt","x5u":"https://evil.example"}`, "k b64": `{"alg":"EdDSA","typ":"agent-delegation+jwt","b64":false}`,
		"l jwk":  `{"alg":"EdDSA","typ":"agent-delegation+jwt","jwk":{"kty":"OKP","crv":"Ed25519","x":"` + encodeBase64(key.Public().(ed25519.PublicKey)) + `"}}`, //nolint:errcheck // its own key
		"m null": `{"alg":"EdDSA","typ":null}`, "n upper-case": `{"ALG":"EdDSA","typ":"agent-delegation+jwt"}`, "o array": `[]`, "p empty": ``,
	} {
		bad("header "+name, resign(key, h, payload))
	}
	for name, c := range map[string][2]string{
		"a unknown": {`{"iss"`, `{"x":1,"iss"`}, "b twice": {`{"iss"`, `{"iss":"x","iss"`}, "c missing": {`,"del_max_depth":1`, ``},
		"d null": {`"del_max_depth":1`, `"del_max_depth":null`}, "e fraction": {`"del_max_depth":1`, `"del_max_depth":1.5`}, "f upper-case": {`"aud"`, `"AUD"`},
		"g aud array": {`"aud":"` + testOrigin + `"`, `"aud":["` + testOrigin + `"]`}, "h exp text": {`"exp":`, `"exp":"1","x":`}, "i scope comma": {`"scope":"`, `"scope":"a,,b  c`},
		"j cnf empty": {`"cnf":{`, `"cnf":{},"x":{`}, "k cnf both": {`"cnf":{`, `"cnf":{"enrol":"` + encodeBase64(make([]byte, 32)) + `",`}, "l cnf jwk": {`"jkt"`, `"jwk"`},
		"m par_hash short": {`"par_hash":"`, `"par_hash":"AA","y":"`}, "n iat negative": {`"iat":`, `"iat":-`}, "o trailing": {`{"iss"`, `{}{"iss"`},
		"p jti another": {`"jti":"` + agentUUID(1), `"jti":"` + agentUUID(2)}, "q par_hash short only": {`"par_hash":"` + encodeBase64(sliceOf(sha256.Sum256([]byte("grant")))), `"par_hash":"AA`},
	} {
		changed := strings.Replace(payload, c[0], c[1], 1)
		if changed == payload {
			t.Fatalf("claims %s changes nothing", name)
		}
		bad("claims "+name, resign(key, header, changed))
	}
	bad("another signature", parts[0]+"."+parts[1]+"."+encodeBase64(make([]byte, 64)))
	bad("no signature", parts[0]+"."+parts[1]+".")
	bad("two parts", parts[0]+"."+parts[1])
	bad("four parts", good+".")
	bad("padded", parts[0]+"=."+parts[1]+"."+parts[2])
	bad("line break", parts[0]+"\n."+parts[1]+"."+parts[2])
	bad("line break at the end", good+"\n")
	bad("standard alphabet", parts[0]+"."+parts[1]+"."+"+"+parts[2][1:])
	bad("spare bits", good[:len(good)-1]+spare(good[len(good)-1]))
	bad("JSON serialization", `{"payload":"`+parts[1]+`","protected":"`+parts[0]+`","signature":"`+parts[2]+`"}`)
	bad("too large", parts[0]+"."+strings.Repeat("A", MaxDelegationBytes)+"."+parts[2])
	bad("empty", "")
	return made
}

func sliceOf(sum [32]byte) []byte { return sum[:] }

// spare sets unused low bits of the last character of a 64-byte signature.
func spare(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)|1])
}

func TestJWSVectors(t *testing.T) {
	made := jwsVectors(t)
	// The order of maps is not the file's.
	sortVectors(made)
	sameVectors(t, "delegation-jws.json", made)
	for _, v := range made {
		key := must[crypto.PublicKey](t)(ParseKey(must[[]byte](t)(hex.DecodeString(v.Key))))
		if _, err := VerifyDelegation(v.JWS, key); (err == nil) != v.Valid || err != nil && !errors.Is(err, ErrDelegation) {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}

func sortVectors(v []jwsVector) {
	for i := range v {
		for j := i; j > 0 && v[j].Name < v[j-1].Name; j-- {
			v[j], v[j-1] = v[j-1], v[j]
		}
	}
}

func TestVerifyDelegationByKey(t *testing.T) {
	key := newKey(t, elliptic.P256())
	good := must[string](t)(SignDelegation(key, fixedClaims(t)))
	var none *ecdsa.PublicKey
	for name, pub := range map[string]crypto.PublicKey{
		"another": newKey(t, elliptic.P256()).Public(), "P-384": newKey(t, elliptic.P384()).Public(), "Ed25519": fixedKey().Public(),
		"nil": nil, "nil ECDSA": none, "a private key": key, "bytes": []byte("secret"), "short Ed25519": ed25519.PublicKey{1},
	} {
		if _, err := VerifyDelegation(good, pub); !errors.Is(err, ErrDelegation) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestThumbprint(t *testing.T) {
	// RFC 8037 appendix A.3.
	x := must[[]byte](t)(base64.RawURLEncoding.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"))
	if sum := must[[32]byte](t)(Thumbprint(ed25519.PublicKey(x))); encodeBase64(sum[:]) != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
		t.Errorf("%x", sum)
	}
	key := newKey(t, elliptic.P256())
	var xb, yb [32]byte
	raw := must[[]byte](t)(key.PublicKey.Bytes())
	new(big.Int).SetBytes(raw[1:33]).FillBytes(xb[:])
	new(big.Int).SetBytes(raw[33:]).FillBytes(yb[:])
	// RFC 7638 §3: required members, in order, without spaces.
	want := sha256.Sum256([]byte(`{"crv":"P-256","kty":"EC","x":"` + encodeBase64(xb[:]) + `","y":"` + encodeBase64(yb[:]) + `"}`))
	if got := must[[32]byte](t)(Thumbprint(key.Public())); got != want {
		t.Errorf("%x", got)
	}
	if _, err := Thumbprint(newKey(t, elliptic.P224()).Public()); !errors.Is(err, ErrKey) {
		t.Errorf("%v", err)
	}
	if _, err := ParseKey([]byte{0x30, 0}); !errors.Is(err, ErrKey) {
		t.Errorf("%v", err)
	}
}

// crypto/x509 ignores what follows the fields that it knows.
func TestParseKeyIsCanonical(t *testing.T) {
	spki := must[[]byte](t)(marshalKey(newKey(t, elliptic.P256()).Public()))
	root := parseNodes(t, spki)[0]
	root.kids = append(root.kids, &node{tag: 5})
	if _, err := x509.ParsePKIXPublicKey(root.encode()); err != nil {
		t.Fatalf("the case is none: %v", err)
	}
	if _, err := ParseKey(root.encode()); !errors.Is(err, ErrKey) {
		t.Errorf("%v", err)
	}
	if _, err := ParseKey(spki); err != nil {
		t.Error(err)
	}
}
