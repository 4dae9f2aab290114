package opa_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/signet-pki/signet/internal/testrig/policyschema"
	"github.com/signet-pki/signet/policy"
)

// The schema says what an input is: all of it, nothing else, and per point what goes with it.
func TestSchemaOfInputs(t *testing.T) {
	schema, err := policyschema.Load()
	if err != nil {
		t.Fatal(err)
	}
	for name, in := range map[string]policy.Input{"access": access(), "spawn": spawn(), "token": token()} {
		good, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Check(good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, c := range [][2]string{
			{`"agent":{`, `"agent":{"address":"192.0.2.1",`},
			{`"point":"`, `"source_address":"192.0.2.1","point":"`},
			{`"point":"`, `"point":"x`},
			{`"roles":["physician"`, `"roles":["physician",1`},
			{`"depth":1`, `"depth":"1"`},
			{`,"depth":1`, ``},
			{`,"revocation":{`, `,"revocations":{`},
			{`"time":"2030-`, `"time":"30-`},
		} {
			bad := strings.Replace(string(good), c[0], c[1], 1)
			if bad == string(good) {
				t.Fatalf("%s: %s is not in %s", name, c[0], good)
			}
			if err := schema.Check([]byte(bad)); err == nil {
				t.Errorf("%s: accepted %s", name, bad)
			}
		}
		for _, other := range []policy.Point{policy.PointAccess, policy.PointSpawn, policy.PointToken} {
			mixed := bytes.Replace(good, []byte(`"point":"`+string(in.Point)), []byte(`"point":"`+string(other)), 1)
			if err := schema.Check(mixed); (err == nil) != (other == in.Point) {
				t.Errorf("%s as %s: %v", name, other, err)
			}
		}
	}
}
