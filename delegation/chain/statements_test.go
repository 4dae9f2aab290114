package chain

import (
	"crypto/elliptic"
	"encoding/binary"
	"reflect"
	"slices"
	"testing"
)

// What Statements remember never changes an answer, not even when they were filled by other chains.
func TestStatements(t *testing.T) {
	shared := new(Statements)
	for _, c := range slices.Concat(pathCauses(), hopCauses(), confirmationCauses(), stateCauses()) {
		in := c.input(t)
		want := Verify(in)
		in.Statements = shared
		for _, name := range []string{"first", "again"} {
			if got := Verify(in); !reflect.DeepEqual(got, want) {
				t.Errorf("%s, %s: %+v, want %+v", c.label(), name, got, want)
			}
		}
	}
	if len(shared.claims.m) == 0 || len(shared.grants.m) == 0 {
		t.Error("nothing is remembered")
	}
}

// A statement is remembered under the key that it verified with, and counts under no other.
func TestStatementsOfAnotherKey(t *testing.T) {
	w := newWorld(t, 3, elliptic.P256())
	in := w.input()
	in.Statements = new(Statements)
	if r := Verify(in); !r.Valid {
		t.Fatalf("%+v", r.Failed())
	}
	w.hopKeys[1] = newKey(t, elliptic.P256())
	w.d.Hops[1].SPKIHash = must[[32]byte](t)(KeyHash(w.hopKeys[1].Public()))
	other := w.input()
	other.Statements = in.Statements
	if r := Verify(other); r.Confirmed[2].Status != Fail {
		t.Errorf("%+v", r.Confirmed)
	}
	other.Keys[1] = nil
	if r := Verify(other); r.Confirmed[2].Status != NotEvaluated {
		t.Errorf("without the key: %+v", r.Confirmed)
	}
}

func TestStatementsAreBounded(t *testing.T) {
	s := new(Statements)
	for i := range uint64(maxClaims + 10) {
		var at signedBy
		binary.BigEndian.PutUint64(at.key[:], i)
		s.keepDelegation(at, Claims{})
	}
	if len(s.claims.m) != maxClaims {
		t.Errorf("%d kept", len(s.claims.m))
	}
}
