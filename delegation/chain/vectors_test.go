package chain

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "write the test vectors afresh")

const vectorsDir = "../../docs/formats/testdata/delegation"

// vectors reads a file of test vectors into v; with -update it writes what v holds first.
func vectors(tb testing.TB, name string, v any) {
	tb.Helper()
	path := filepath.Join(vectorsDir, name)
	if *update {
		if err := os.WriteFile(path, encodeVectors(tb, v), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	data := must[[]byte](tb)(os.ReadFile(path))
	if err := json.Unmarshal(data, v); err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
}

// sameVectors compares vectors that come out the same each time with the file.
func sameVectors(tb testing.TB, name string, want any) {
	tb.Helper()
	path := filepath.Join(vectorsDir, name)
	data := encodeVectors(tb, want)
	if *update {
		if err := os.WriteFile(path, data, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	if !bytes.Equal(data, must[[]byte](tb)(os.ReadFile(path))) {
		tb.Errorf("%s is not what the code makes; -update writes it afresh", name)
	}
}

func encodeVectors(tb testing.TB, v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}
