package chain

import (
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
)

// rekeyVectors are links of re-keys by the fixed key, good and bad.
func rekeyVectors(t *testing.T) []jwsVector {
	key, payload := fixedKey(), rekeyPayload(t)
	spki := hex.EncodeToString(must[[]byte](t)(marshalKey(key.Public())))
	const header = `{"alg":"EdDSA","typ":"agent-rekey+jwt"}`
	good := resign(key, header, payload)
	made := []jwsVector{{"valid", spki, good, true}}
	bad := func(name, jws string) { made = append(made, jwsVector{Name: name, Key: spki, JWS: jws}) }
	for name, h := range map[string]string{
		"typ of a delegation": `{"alg":"EdDSA","typ":"agent-delegation+jwt"}`, "alg none": `{"alg":"none","typ":"agent-rekey+jwt"}`,
		"kid": `{"alg":"EdDSA","typ":"agent-rekey+jwt","kid":"1"}`, "typ twice": `{"alg":"EdDSA","typ":"agent-rekey+jwt","typ":"agent-rekey+jwt"}`,
	} {
		bad("header "+name, resign(key, h, payload))
	}
	own := encodeBase64(sliceOf(must[[32]byte](t)(Thumbprint(key.Public()))))
	next := encodeBase64(sliceOf(sha256.Sum256([]byte("new"))))
	agent := fixedDelegation(t).Hops[1].ID
	for name, c := range map[string][2]string{
		"unknown": {"{", `{"sub":"x",`}, "twice": {"{", `{"task_id":"` + testTask + `",`}, "missing": {`"task_id":"` + testTask + `",`, ""},
		"null": {`"` + testTask + `"`, "null"}, "no task": {testTask, "1"}, "cnf with more": {`"cnf":{`, `"cnf":{"x":"y",`},
		"another old key": {own, encodeBase64(make([]byte, 31)) + "BA"}, "the same key": {next, own}, "no new key": {next, encodeBase64(make([]byte, 32))},
		"an orchestrator": {agent, fixedDelegation(t).Hops[0].ID}, "exp before iat": {`"exp":`, `"exp":1,"x":`}, "aud empty": {testOrigin, ""},
		"padded": {next, next + "="}, "trailing": {"{", "{}{"},
	} {
		changed := strings.Replace(payload, c[0], c[1], 1)
		if changed == payload {
			t.Fatalf("claims %s changes nothing", name)
		}
		bad("claims "+name, resign(key, header, changed))
	}
	parts := strings.Split(good, ".")
	bad("another signature", parts[0]+"."+parts[1]+"."+encodeBase64(make([]byte, 64)))
	bad("too large", parts[0]+"."+strings.Repeat("A", MaxRekeyBytes)+"."+parts[2])
	sortVectors(made)
	return made
}

func TestRekeyVectors(t *testing.T) {
	made := rekeyVectors(t)
	sameVectors(t, "rekey-jws.json", made)
	for _, v := range made {
		key := must[crypto.PublicKey](t)(ParseKey(must[[]byte](t)(hex.DecodeString(v.Key))))
		if _, err := VerifyRekey(v.JWS, key); (err == nil) != v.Valid || err != nil && !errors.Is(err, ErrRekey) {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}

// enrolVector is a delegation to whoever brings the token: valid if it was signed for this one.
type enrolVector struct {
	jwsVector
	Token string `json:"token"`
}

func enrolVectors(t *testing.T) []enrolVector {
	key := fixedKey()
	spki := hex.EncodeToString(must[[]byte](t)(marshalKey(key.Public())))
	raw := sha256.Sum256([]byte("a token for test vectors only"))
	token := encodeBase64(raw[:])
	sum := sha256.Sum256([]byte(token))
	sign := func(enrol *[32]byte) string {
		c := fixedClaims(t)
		if enrol != nil {
			c.KeyHash, c.EnrolHash = [32]byte{}, enrol
		}
		return must[string](t)(SignDelegation(key, c))
	}
	good := sign(&sum)
	ofBytes := sha256.Sum256(raw[:])
	return []enrolVector{
		{jwsVector{"valid", spki, good, true}, token},
		{jwsVector{"another token", spki, good, false}, encodeBase64(sum[:])},
		{jwsVector{"hash of the token's bytes", spki, sign(&ofBytes), false}, token},
		{jwsVector{"the token itself", spki, sign(&raw), false}, token},
		{jwsVector{"for a key", spki, sign(nil), false}, token},
	}
}

func TestEnrolmentVectors(t *testing.T) {
	made := enrolVectors(t)
	sameVectors(t, "enrolment.json", made)
	for _, v := range made {
		c, err := VerifyDelegation(v.JWS, fixedKey().Public())
		if err != nil {
			t.Fatalf("%s: %v", v.Name, err)
		}
		if valid := c.EnrolHash != nil && *c.EnrolHash == sha256.Sum256([]byte(v.Token)); valid != v.Valid {
			t.Errorf("%s: %v", v.Name, valid)
		}
	}
}
