package opa

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"github.com/signet-pki/signet/policy"
)

// What OPA is given is what the log records: the direct conversion equals the parsed JSON form.
func TestValueIsTheDocument(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 6_789_000, time.FixedZone("x", -7200))
	full := policy.Input{
		Point: policy.PointSpawn, Time: at,
		Agent:      policy.Agent{ID: "i", Type: "t", SPIFFEID: "s", Scope: []string{"a", "b"}, NotAfter: at, Depth: 2},
		Hops:       []policy.Hop{{ID: "h", Scope: []string{"a"}, NotAfter: at, MaxDepth: 300, Confirmed: true}, {}},
		User:       policy.User{Issuer: "i", Subject: "s<&>", Roles: []string{"r"}, Groups: []string{"g"}, ACR: "c", AMR: []string{"m"}, AuthTime: at},
		Consent:    policy.Consent{Type: "jws"},
		Task:       policy.Task{ID: "t", GrantID: "g", Purpose: "p\u2028", Scope: []string{"a"}, NotAfter: at},
		Revocation: policy.Revocation{AsOf: at, Epoch: 2, Seq: 1 << 40, Changed: at},
		Request:    &policy.Request{Scope: []string{"a"}, TTLSeconds: 1 << 40, MaxDepth: -1},
	}
	for name, in := range map[string]policy.Input{
		"zero": {}, "full": full,
		"access": {Resource: &policy.Resource{Type: "t", ID: "i", RequiredScope: []string{"x"}}, Action: &policy.Action{Name: "n"}},
	} {
		b, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		var doc any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&doc); err != nil {
			t.Fatal(err)
		}
		want, err := ast.InterfaceToValue(doc)
		if err != nil {
			t.Fatal(err)
		}
		if got := toValue(in); got.Compare(want) != 0 {
			t.Errorf("%s:\n got %v\nwant %v", name, got, want)
		}
	}
}
