package chain

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const reader = "../../docs/formats/testdata/read_vectors.py"

// read runs the reader in Python over a directory of vectors.
func read(t *testing.T, dir string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "python3", reader, dir).CombinedOutput()
	if len(out) == 0 {
		t.Fatalf("python3: %v (apt-get install python3)", err)
	}
	return string(out), err
}

// A second implementation, in another language and without a line of this one, reads the vectors as they are meant.
func TestAnotherLanguageReadsTheVectors(t *testing.T) {
	if out, err := read(t, vectorsDir); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// It can disagree: each file is changed in one place, so that it says the contrary of what is true.
func TestAnotherLanguageDisagrees(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(vectorsDir)); err != nil {
		t.Fatal(err)
	}
	changes := map[string][2]string{
		"scope.json":          {`"covers": true`, `"covers": false`},
		"spiffe-id.json":      {`"valid": true`, `"valid": false`},
		"extension.json":      {CodeScope, CodeText},
		"grant.json":          {`"sha256": "`, `"sha256": "0`},
		"delegation-jws.json": {`"valid": true`, `"valid": false`},
		"rekey-jws.json":      {`"valid": true`, `"valid": false`},
		"enrolment.json":      {`"valid": true`, `"valid": false`},
		"verify.json":         {"fail:" + CodeScopeNotCovered, "pass"},
	}
	for file, change := range changes {
		data := must[[]byte](t)(os.ReadFile(filepath.Join(dir, file)))
		changed := bytes.Replace(data, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(changed, data) {
			t.Fatalf("%s: nothing to change", file)
		}
		if err := os.WriteFile(filepath.Join(dir, file), changed, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := read(t, dir)
	if err == nil || !strings.Contains(out, ", 8 disagreements") {
		t.Errorf("%v\n%s", err, out)
	}
	for file := range changes {
		if !strings.Contains("\n"+out, "\n"+file+": ") {
			t.Errorf("%s: no disagreement in\n%s", file, out)
		}
	}
}
