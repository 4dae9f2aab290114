// Package policyschema holds policy inputs to their documented schema, docs/formats/policy-input.schema.json.
package policyschema

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Schema is the documented one, compiled. It is safe for concurrent use.
type Schema struct{ compiled *jsonschema.Schema }

// Path finds the schema's file from any package's folder.
func Path() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "docs", "formats", "policy-input.schema.json"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("policyschema: no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// Load reads and compiles the schema.
func Load() (*Schema, error) {
	path, err := Path()
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	s, err := c.Compile(path)
	if err != nil {
		return nil, fmt.Errorf("policyschema: %w", err)
	}
	return &Schema{s}, nil
}

// Check says what of a document is not as the schema has it.
func (s *Schema) Check(document []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		return fmt.Errorf("policyschema: %w", err)
	}
	return s.compiled.Validate(v)
}
