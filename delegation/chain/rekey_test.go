package chain

import (
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func fixedRekey(tb testing.TB) Rekey {
	return Rekey{
		Agent: fixedDelegation(tb).Hops[1].ID, Audience: testOrigin, TaskID: testTask, IssuedAt: testNow, Expiry: testNow.Add(time.Minute),
		NewKey: sha256.Sum256([]byte("new")),
	}
}

func TestSignAndVerifyRekey(t *testing.T) {
	for _, key := range []crypto.Signer{newKey(t, elliptic.P256()), newKey(t, elliptic.P384()), fixedKey()} {
		want := fixedRekey(t)
		compact := must[string](t)(SignRekey(key, want))
		want.OldKey = must[[32]byte](t)(Thumbprint(key.Public()))
		got, err := VerifyRekey(compact, key.Public())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%T: %v\n%+v\n%+v", key, err, got, want)
		}
		if _, err := VerifyRekey(compact, newKey(t, elliptic.P256()).Public()); !errors.Is(err, ErrRekey) {
			t.Errorf("%T: another key: %v", key, err)
		}
		if _, err := VerifyDelegation(compact, key.Public()); !errors.Is(err, ErrDelegation) {
			t.Errorf("%T: a re-key passes for a delegation: %v", key, err)
		}
	}
}

func TestSignRekeyRefuses(t *testing.T) {
	key := fixedKey()
	own := must[[32]byte](t)(Thumbprint(key.Public()))
	for name, change := range map[string]func(r *Rekey){
		"an orchestrator": func(r *Rekey) { r.Agent = fixedDelegation(t).Hops[0].ID },
		"no ID":           func(r *Rekey) { r.Agent = "agent" },
		"aud empty":       func(r *Rekey) { r.Audience = "" },
		"task":            func(r *Rekey) { r.TaskID = "1" },
		"no new key":      func(r *Rekey) { r.NewKey = [32]byte{} },
		"the same key":    func(r *Rekey) { r.NewKey = own },
		"exp = iat":       func(r *Rekey) { r.Expiry = r.IssuedAt },
		"fraction":        func(r *Rekey) { r.Expiry = r.Expiry.Add(time.Millisecond) },
	} {
		r := fixedRekey(t)
		change(&r)
		if compact, err := SignRekey(key, r); !errors.Is(err, ErrRekey) {
			t.Errorf("%s: %s %v", name, compact, err)
		}
	}
	if _, err := SignRekey(liar{newKey(t, elliptic.P256())}, fixedRekey(t)); !errors.Is(err, ErrRekey) {
		t.Errorf("a wrong signature: %v", err)
	}
}

// rekeyPayload is the payload of a good link of the fixed key.
func rekeyPayload(tb testing.TB) string {
	compact := must[string](tb)(SignRekey(fixedKey(), fixedRekey(tb)))
	return string(must[[]byte](tb)(decodeBase64(strings.Split(compact, ".")[1])))
}

func TestVerifyRekeyIsStrict(t *testing.T) {
	key, good := fixedKey(), rekeyPayload(t)
	const header = `{"alg":"EdDSA","typ":"agent-rekey+jwt"}`
	if _, err := VerifyRekey(resign(key, header, good), key.Public()); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ header, payload string }{
		"another typ":       {`{"alg":"EdDSA","typ":"agent-delegation+jwt"}`, good},
		"a header more":     {`{"alg":"EdDSA","typ":"agent-rekey+jwt","kid":"1"}`, good},
		"alg none":          {`{"alg":"none","typ":"agent-rekey+jwt"}`, good},
		"a claim more":      {header, strings.Replace(good, "{", `{"sub":"x",`, 1)},
		"a claim twice":     {header, strings.Replace(good, "{", `{"task_id":"`+testTask+`",`, 1)},
		"a claim less":      {header, strings.Replace(good, `"task_id":"`+testTask+`",`, "", 1)},
		"cnf with more":     {header, strings.Replace(good, `"cnf":{`, `"cnf":{"x":1,`, 1)},
		"null":              {header, strings.Replace(good, `"`+testTask+`"`, "null", 1)},
		"another old key":   {header, strings.Replace(good, `"old_jkt":"`, `"old_jkt":"AAAA`, 1)},
		"trailing":          {header, good + "{}"},
		"padded thumbprint": {header, strings.Replace(good, `","cnf"`, `=","cnf"`, 1)},
		"large":             {header, strings.Replace(good, testOrigin, strings.Repeat("x", MaxRekeyBytes), 1)},
	} {
		if _, err := VerifyRekey(resign(key, tc.header, tc.payload), key.Public()); !errors.Is(err, ErrRekey) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rekey gives hop i a new key, and returns the link to it.
func (w *world) rekey(i int, change func(*Rekey)) Link {
	old, next := w.hopKeys[i], newKey(w.tb, elliptic.P256())
	r := Rekey{
		Agent: w.d.Hops[i].ID, Audience: testOrigin, TaskID: testTask, IssuedAt: testNow.Add(-time.Minute), Expiry: testNow,
		NewKey: must[[32]byte](w.tb)(Thumbprint(next.Public())),
	}
	change(&r)
	link := Link{JWS: must[string](w.tb)(SignRekey(old, r)), Key: must[[]byte](w.tb)(x509.MarshalPKIXPublicKey(old.Public()))}
	w.hopKeys[i], w.d.Hops[i].SPKIHash = next, must[[32]byte](w.tb)(KeyHash(next.Public()))
	return link
}

func same(*Rekey) {}

// TestRekeyedChains: children made before a re-key keep the old key in their chain, those made after it have the new one,
// and both verify offline.
func TestRekeyedChains(t *testing.T) {
	w := newWorld(t, 3, elliptic.P256())
	if r := Verify(w.input()); !r.Valid || !reflect.DeepEqual(r.Confirmed, []Confirmed{{}, {Status: Pass}, {Status: Pass}}) {
		t.Fatalf("before: %+v", r.Failed())
	}
	links := []Link{w.rekey(1, same), w.rekey(1, same)}
	w.setDelegation(2, w.claims(2)) // the child made now: signed by the newest key
	in := w.input()
	if c := Verify(in).Check(CheckConfirmation); c.Status != Fail || c.Code != CodeConfirmationChildKey {
		t.Errorf("without links: %+v", c)
	}
	in.Links = [][]Link{nil, links}
	if r := Verify(in); !r.Valid {
		t.Errorf("after: %+v", r.Failed())
	}
}

func TestBrokenLinks(t *testing.T) {
	for name, tc := range map[string]struct {
		links func(w *world) [][]Link
		want  string
	}{
		"one is missing":   {func(w *world) [][]Link { w.rekey(1, same); return [][]Link{nil, {w.rekey(1, same)}} }, CodeRekeyBroken},
		"the last missing": {func(w *world) [][]Link { l := w.rekey(1, same); w.rekey(1, same); return [][]Link{nil, {l}} }, CodeRekeyBroken},
		"the wrong order":  {func(w *world) [][]Link { a, b := w.rekey(1, same), w.rekey(1, same); return [][]Link{nil, {b, a}} }, CodeRekeyBroken},
		"another's": {func(w *world) [][]Link {
			w.d.Hops[1].ID, w.d.Hops[2].ID = w.d.Hops[2].ID, w.d.Hops[1].ID
			l := w.rekey(1, same)
			w.d.Hops[1].ID, w.d.Hops[2].ID = w.d.Hops[2].ID, w.d.Hops[1].ID
			return [][]Link{nil, {l}}
		}, CodeRekeyInvalid},
		"another log":  {func(w *world) [][]Link { return [][]Link{nil, {w.rekey(1, func(r *Rekey) { r.Audience = "other" })}} }, CodeRekeyInvalid},
		"another task": {func(w *world) [][]Link { return [][]Link{nil, {w.rekey(1, func(r *Rekey) { r.TaskID = testGrant })}} }, CodeRekeyInvalid},
		"another signature": {func(w *world) [][]Link {
			a, b := w.rekey(1, same), w.rekey(1, same)
			a.JWS = b.JWS
			return [][]Link{nil, {a, b}}
		}, CodeRekeyInvalid},
		"no key":           {func(w *world) [][]Link { l := w.rekey(1, same); l.Key = nil; return [][]Link{nil, {l}} }, CodeRekeyInvalid},
		"too many":         {func(w *world) [][]Link { return [][]Link{nil, make([]Link, MaxRekeys+1)} }, CodeRekeyBroken},
		"of nobody":        {func(w *world) [][]Link { return [][]Link{{{}}} }, CodeConfirmationExtra},
		"of too many hops": {func(w *world) [][]Link { return make([][]Link, 4) }, CodeConfirmationExtra},
		"for another key":  {func(w *world) [][]Link { return [][]Link{nil, {w.rekey(1, func(r *Rekey) { r.NewKey[0] ^= 1 })}} }, CodeRekeyBroken},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3, elliptic.P256())
			links := tc.links(w)
			w.setDelegation(2, w.claims(2))
			in := w.input()
			in.Links = links
			if c := Verify(in).Check(CheckConfirmation); c.Status != Fail || c.Code != tc.want {
				t.Errorf("%+v; want %s", c, tc.want)
			}
		})
	}
}

// TestRekeyedAfterToken: a token names no key, so the first link tells which one redeemed it.
func TestRekeyedAfterToken(t *testing.T) {
	w := newWorld(t, 2, elliptic.P256())
	token := sha256.Sum256([]byte("token"))
	c := w.claims(1)
	c.KeyHash, c.EnrolHash = [32]byte{}, &token
	w.setDelegation(1, c)
	if r := Verify(w.input()); !r.Valid || r.Confirmed[1].Token == nil || *r.Confirmed[1].Token != token {
		t.Fatalf("%+v", r.Failed())
	}
	links := []Link{w.rekey(1, same), w.rekey(1, same)}
	in := w.input()
	in.Links = [][]Link{nil, links}
	if r := Verify(in); !r.Valid {
		t.Errorf("%+v", r.Failed())
	}
	in.Links[1] = links[:1]
	if c := Verify(in).Check(CheckConfirmation); c.Code != CodeRekeyBroken {
		t.Errorf("%+v", c)
	}
}

func FuzzVerifyRekey(f *testing.F) {
	key := fixedKey()
	f.Add(must[string](f)(SignRekey(key, fixedRekey(f))), "")
	f.Add("", rekeyPayload(f))
	// The second argument is signed, so that the claims' parser is reached too.
	f.Fuzz(func(t *testing.T, compact, payload string) {
		if payload != "" {
			compact = resign(key, `{"alg":"EdDSA","typ":"agent-rekey+jwt"}`, payload)
		}
		r, err := VerifyRekey(compact, key.Public())
		if err == nil && r.validate() != nil {
			t.Errorf("accepted what it would not sign: %+v", r)
		}
	})
}
