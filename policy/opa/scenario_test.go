package opa_test

import (
	"context"
	"testing"

	"github.com/signet-pki/signet/policy/opa"
)

func TestScenario(t *testing.T) {
	s, err := opa.NewScenario(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good := []byte(`{"subject":{"type":"user","id":"alice"},"action":{"name":"read"},"resource":{"type":"record","id":"record-1"}}`)
	if !s.Permits(t.Context(), good) {
		t.Error("rule 1 does not hold")
	}
	for _, bad := range []string{``, `{}`, `null`, `[]`, `"alice"`, `{"subject":`, `{"subject":"alice","action":"read","resource":"record-1"}`} {
		if s.Permits(t.Context(), []byte(bad)) {
			t.Errorf("%q is permitted", bad)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if s.Permits(ended, good) {
		t.Error("permitted after the request's end")
	}
}
