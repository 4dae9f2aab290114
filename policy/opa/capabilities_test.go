package opa

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// The functions that a policy may use are published, so that OPA's command can check a bundle as the appliance will.
func TestCapabilitiesGolden(t *testing.T) {
	const path = "../../docs/formats/policy-capabilities.json"
	b, err := json.MarshalIndent(capabilities(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *update {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b, want) {
		t.Errorf("%s is not what a policy may use; run with -update", path)
	}
}
