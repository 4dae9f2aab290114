package opa_test

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

// The documented input is one: it parses, has the documented form, and the default bundle allows it.
func TestDocumentedInput(t *testing.T) {
	page, err := os.ReadFile("../../docs/formats/policy-input.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```json\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no example in the document")
	}
	in, err := policy.Parse([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	again, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var documented, written any
	if json.Unmarshal([]byte(example), &documented) != nil || json.Unmarshal(again, &written) != nil || !reflect.DeepEqual(documented, written) {
		t.Errorf("documented\n%s\nwritten\n%s", example, again)
	}
	if d := engine(t, opa.Options{Timeout: 5 * time.Second}).Decide(t.Context(), in); !d.Allow {
		t.Errorf("denied: %v %v", d.Reasons, d.Fault)
	}
}
