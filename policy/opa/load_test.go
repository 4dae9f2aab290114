package opa

import (
	"errors"
	"strings"
	"testing"

	"github.com/signet-pki/signet/policy"
)

// OPA's store panics at this number. The check of the data refuses it before; whatever is like it and not known must not end
// the process.
func TestAPanicOfOPAIsARefusal(t *testing.T) {
	archive, err := pack(map[string][]byte{".manifest": []byte("{}"), "data.json": []byte(`{"n":[1e-300000000]}`), "a.rego": []byte("package a\n")})
	if err != nil {
		t.Fatal(err)
	}
	_, err = load(t.Context(), archive, Key{})
	var refused *policy.BundleError
	if !errors.As(err, &refused) || refused.Code != policy.BundleCompile || len(refused.Detail) > maxDetail+100 {
		t.Errorf("%v", err)
	}
	if err != nil && !strings.Contains(err.Error(), "OPA failed on it") {
		t.Errorf("refused before OPA read it: %v", err)
	}
}
