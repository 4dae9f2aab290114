package chain

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// decodeObject decodes one JSON object whose members are exactly the required ones and any of the optional ones, each once,
// none null. encoding/json by itself folds case, takes the last of duplicates and replaces invalid UTF-8.
func decodeObject(data []byte, into any, required, optional []string) error {
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	seen, err := memberNames(data)
	if err != nil {
		return err
	}
	for _, name := range seen {
		if !slices.Contains(required, name) && !slices.Contains(optional, name) {
			return fmt.Errorf("unknown member %.40q", name)
		}
	}
	for _, name := range required {
		if !slices.Contains(seen, name) {
			return fmt.Errorf("no member %q", name)
		}
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("member of the wrong type or form: %w", err)
	}
	return nil
}

func memberNames(data []byte) ([]string, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("not a JSON object")
	}
	var seen []string
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errors.New("not JSON")
		}
		if slices.Contains(seen, name) {
			return nil, fmt.Errorf("duplicate member %.40q", name)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errors.New("not JSON")
		}
		if string(value) == "null" {
			return nil, fmt.Errorf("member %.40q is null", name)
		}
		seen = append(seen, name)
	}
	if _, err := dec.Token(); err != nil {
		return nil, errors.New("not JSON")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the object")
	}
	return seen, nil
}

// decodeBase64 accepts unpadded base64url in its one canonical spelling; the decoder alone would skip line breaks.
func decodeBase64(s string) ([]byte, error) {
	out, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || strings.ContainsAny(s, "\r\n") {
		return nil, errors.New("not unpadded base64url")
	}
	return out, nil
}

func decodeHash(s string) ([32]byte, error) {
	out, err := decodeBase64(s)
	if err != nil {
		return [32]byte{}, err
	}
	if len(out) != 32 {
		return [32]byte{}, fmt.Errorf("%d bytes; 32 expected", len(out))
	}
	return [32]byte(out), nil
}

func encodeBase64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// printable says whether s has 1 to limit printable ASCII characters and no space.
func printable(s string, limit int) bool {
	if s == "" || len(s) > limit {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}
