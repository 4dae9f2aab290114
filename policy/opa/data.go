package opa

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/signet-pki/signet/policy"
)

// Bounds of a bundle's data documents. In memory a value takes some hundred bytes, so their number is what counts.
const (
	maxData      = 8 << 20 // bytes of all of them
	maxDataDepth = 32
	maxValues    = 250_000 // of all of them, keys not counted
)

// checkData walks the JSON of a bundle before anything else reads it: OPA hashes data by its meaning and takes YAML for
// JSON, so what two readers could read differently (duplicate keys, invalid UTF-8, numbers beyond a float) is refused.
func checkData(files map[string][]byte) error {
	total := 0
	w := walker{values: maxValues}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		base := path.Base(name)
		if base != "data.json" && base != ".manifest" && base != signatures {
			continue
		}
		if total += len(files[name]); total > maxData {
			return policy.RefuseBundle(policy.BundleData, "more than %d bytes of data", maxData)
		}
		if err := w.document(files[name]); err != nil {
			return policy.RefuseBundle(policy.BundleData, "%.100q: %v", name, err)
		}
	}
	return nil
}

// walker counts the values that are left.
type walker struct {
	in     *json.Decoder
	values int
}

func (w *walker) document(text []byte) error {
	if !utf8.Valid(text) {
		return errors.New("not UTF-8")
	}
	w.in = json.NewDecoder(bytes.NewReader(text))
	w.in.UseNumber()
	if err := w.value(0); err != nil {
		return err
	}
	if _, err := w.in.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the document")
	}
	return nil
}

func (w *walker) value(depth int) error {
	if depth > maxDataDepth {
		return errors.New("nested deeper than " + strconv.Itoa(maxDataDepth))
	}
	if w.values--; w.values < 0 {
		return errors.New("more than " + strconv.Itoa(maxValues) + " values")
	}
	t, err := w.in.Token()
	if err != nil {
		return err
	}
	switch t := t.(type) {
	case json.Number:
		if _, err := t.Float64(); err != nil || len(t) > 64 || !modest(string(t)) {
			return errors.New("a number that no float can hold")
		}
	case json.Delim:
		if err := w.members(t, depth); err != nil {
			return err
		}
		_, err = w.in.Token() // the end of it
	}
	return err
}

func (w *walker) members(open json.Delim, depth int) error {
	seen := map[string]bool{}
	for w.in.More() {
		if open == '{' {
			t, err := w.in.Token()
			if err != nil {
				return err
			}
			key, ok := t.(string)
			if !ok || seen[key] {
				return errors.New("a key is there twice")
			}
			seen[key] = true
		}
		if err := w.value(depth + 1); err != nil {
			return err
		}
	}
	return nil
}
