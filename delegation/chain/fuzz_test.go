package chain

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

func FuzzParse(f *testing.F) {
	var seeds []struct{ DER string }
	vectors(f, "extension.json", &seeds)
	for _, s := range seeds {
		f.Add(must[[]byte](f)(hex.DecodeString(s.DER)))
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		d, err := Parse(der)
		if err != nil {
			return
		}
		if again, err := d.Marshal(); err != nil || !bytes.Equal(again, der) {
			t.Errorf("%x became %x: %v", der, again, err)
		}
	})
}

func FuzzParseScope(f *testing.F) {
	f.Add("database:read:* fhir:read:x")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseScopeString(text)
		if err != nil {
			return
		}
		if s.String() != text || !s.Subset(s) {
			t.Errorf("%q became %q", text, s)
		}
		if again, err := ParseScope(s.Strings()); err != nil || !slices.Equal(again, s) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add("spiffe://hospital.example/agent/research/" + agentUUID(1))
	f.Add("spiffe://hospital.example/service/records")
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseID(text)
		if err != nil {
			return
		}
		again, err := NamedID(id.TrustDomain(), id.Kind(), id.Name())
		if id.Kind() == Agent {
			again, err = AgentID(id.TrustDomain(), id.AgentType(), id.AgentID())
		}
		if err != nil || again != id || id.String() != text {
			t.Errorf("%q became %q: %v", text, again, err)
		}
	})
}

func FuzzVerifyDelegation(f *testing.F) {
	key := fixedKey()
	good := must[string](f)(SignDelegation(key, fixedClaims(f)))
	f.Add(good, "")
	parts := strings.Split(good, ".")
	payload := must[[]byte](f)(decodeBase64(parts[1]))
	f.Add("", string(payload))
	// The second argument is signed, so that the claims' parser is reached too.
	f.Fuzz(func(t *testing.T, compact, payload string) {
		if payload != "" {
			compact = resign(key, `{"alg":"EdDSA","typ":"agent-delegation+jwt"}`, payload)
		}
		c, err := VerifyDelegation(compact, key.Public())
		if err == nil && c.validate() != nil {
			t.Errorf("accepted what it would not sign: %+v", c)
		}
	})
}

func FuzzParseCSR(f *testing.F) {
	der := newCSR(f, newKey(f, elliptic.P256()))
	f.Add(der)
	f.Add([]byte(pemOf("CERTIFICATE REQUEST", der)))
	f.Fuzz(func(t *testing.T, data []byte) {
		csr, err := ParseCSR(data)
		if err != nil {
			return
		}
		if key, err := ParseKey(csr.SPKI); err != nil || !key.(interface{ Equal(crypto.PublicKey) bool }).Equal(csr.Public) { //nolint:errcheck // every public key has Equal
			t.Errorf("%v", err)
		}
	})
}

func FuzzParseGrantDocument(f *testing.F) {
	f.Add(must[[]byte](f)(fixedGrant(f).Canonical()))
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := ParseGrantDocument(data)
		if err != nil {
			return
		}
		if again, err := g.Canonical(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("%s became %s: %v", data, again, err)
		}
	})
}

// FuzzSAN: names that x509 would not parse so are read from the same bytes.
func FuzzSAN(f *testing.F) {
	w := newWorld(f, 2, elliptic.P256())
	f.Add(sequence(uri(w.last().ID)))
	f.Add(sequence(uri(w.last().ID), uri(w.last().ID)))
	f.Add(sequence(uri(w.last().ID), []byte{0xa0, 2, 5, 0}))
	f.Fuzz(func(t *testing.T, san []byte) {
		leaf := &x509.Certificate{Extensions: []pkix.Extension{{Id: []int{2, 5, 29, 17}, Value: san}}}
		id, failure := leafID(leaf)
		if failure == nil && (id.Kind() != Agent || !bytes.Equal(sequence(uri(id.String())), san)) && !bytes.Contains(san, []byte(id.String())) {
			t.Errorf("%x became %s", san, id)
		}
		if failure == nil && id.Kind() == Agent && len(san) > len(id.String())+6 {
			t.Errorf("%x has more than the name of %s", san, id)
		}
	})
}

func FuzzParsePEM(f *testing.F) {
	w := newWorld(f, 2, elliptic.P256())
	f.Add([]byte(pemOf("CERTIFICATE", w.leaf().Raw) + pemOf("CERTIFICATE", w.ca.Raw)))
	trust := &Trust{TrustDomain: testDomain, Roots: []*x509.Certificate{w.root}}
	f.Fuzz(func(_ *testing.T, data []byte) {
		if certs, err := ParsePEM(data, 0); err == nil {
			Verify(Input{Chain: certs, Trust: trust, Now: testNow})
		}
	})
}
