package chain

import (
	"crypto/elliptic"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"testing"
	"time"
)

// verifyVector is one run of Verify that another implementation can repeat.
type verifyVector struct {
	Name        string            `json:"name"`
	At          time.Time         `json:"at"`
	Chain       string            `json:"chain"` // PEM, leaf first
	Required    []string          `json:"required_scope,omitempty"`
	User        *User             `json:"expect_user,omitempty"`
	Delegations []string          `json:"delegations,omitempty"`
	Keys        []string          `json:"keys,omitempty"` // SPKI, hex, by hop
	Grant       string            `json:"grant_document,omitempty"`
	Valid       bool              `json:"valid"`
	Checks      map[string]string `json:"checks"` // name: status, with a colon and the code if it failed
}

type verifyVectors struct {
	TrustDomain string         `json:"trust_domain"`
	Roots       string         `json:"roots"` // PEM
	Vectors     []verifyVector `json:"vectors"`
}

func (v *verifyVector) input(t *testing.T, trust *Trust) Input {
	in := Input{Chain: must[[]*x509.Certificate](t)(ParsePEM([]byte(v.Chain), 0)), Trust: trust, Now: v.At, ExpectUser: v.User, Delegations: v.Delegations}
	for _, k := range v.Keys {
		in.Keys = append(in.Keys, must[[]byte](t)(hex.DecodeString(k)))
	}
	if v.Required != nil {
		in.RequiredScope = mustScope(t, v.Required...)
	}
	if v.Grant != "" {
		in.GrantDocument = []byte(v.Grant)
	}
	return in
}

func outcome(r Report) map[string]string {
	out := map[string]string{}
	for _, c := range r.Checks {
		out[string(c.Name)] = c.Status.String()
		if c.Status == Fail {
			out[string(c.Name)] += ":" + c.Code
		}
	}
	return out
}

// makeVerifyVectors is used with -update only: keys and signatures are new each time.
func makeVerifyVectors(t *testing.T) *verifyVectors {
	w := newWorld(t, 3, elliptic.P256())
	file := &verifyVectors{TrustDomain: testDomain, Roots: pemOf("CERTIFICATE", w.root.Raw)}
	good := w.input()
	add := func(name string, change func(v *verifyVector)) {
		v := verifyVector{
			Name: name, At: testNow, Chain: pemOf("CERTIFICATE", good.Chain[0].Raw) + pemOf("CERTIFICATE", w.ca.Raw),
			Required: []string{"database:read:patients"}, User: &User{Issuer: testIssuer, Subject: "physician-x"}, Delegations: good.Delegations, Grant: string(good.GrantDocument),
		}
		for _, k := range good.Keys {
			v.Keys = append(v.Keys, hex.EncodeToString(k))
		}
		change(&v)
		r := Verify(v.input(t, &Trust{TrustDomain: testDomain, Roots: []*x509.Certificate{w.root}}))
		v.Valid, v.Checks = r.Valid, outcome(r)
		file.Vectors = append(file.Vectors, v)
	}
	add("physician, orchestrator, agent, sub-agent", func(*verifyVector) {})
	add("without the delegators' statements", func(v *verifyVector) { v.Delegations, v.Keys, v.Grant = nil, nil, "" })
	add("wrong scope", func(v *verifyVector) { v.Required = []string{"database:write:patients"} })
	add("wrong user", func(v *verifyVector) { v.User.Subject = "physician-y" })
	add("passed deadline", func(v *verifyVector) { v.At = w.last().NotAfter })
	add("before its time", func(v *verifyVector) { v.At = testNow.Add(-time.Minute) })
	add("issuer missing", func(v *verifyVector) { v.Chain = pemOf("CERTIFICATE", good.Chain[0].Raw) })
	w.noExt = true
	bare := w.leaf()
	add("no extension", func(v *verifyVector) {
		v.Chain = pemOf("CERTIFICATE", bare.Raw) + pemOf("CERTIFICATE", w.ca.Raw)
	})
	return file
}

func TestVerifyVectors(t *testing.T) {
	file := &verifyVectors{}
	if *update {
		file = makeVerifyVectors(t)
	}
	vectors(t, "verify.json", file)
	trust := must[*Trust](t)(NewTrust(file.TrustDomain, must[[]*x509.Certificate](t)(ParsePEM([]byte(file.Roots), 0)), nil))
	if len(file.Vectors) < 8 {
		t.Fatalf("%d vectors", len(file.Vectors))
	}
	for _, v := range file.Vectors {
		r := Verify(v.input(t, trust))
		if r.Valid != v.Valid || fmt.Sprint(outcome(r)) != fmt.Sprint(v.Checks) {
			t.Errorf("%s: %v %v, want %v", v.Name, r.Valid, outcome(r), v.Checks)
		}
	}
}
