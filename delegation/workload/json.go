package workload

import (
	"bytes"
	stdjson "encoding/json"
	"errors"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4/json"
)

// maxDepth bounds the nesting of a header, of claims and of a JWK set.
const maxDepth = 16

var errDuplicate = errors.New("a member is there twice")

// unmarshal decodes one JSON value. The package go-jose/json compares names exactly, where encoding/json folds their case;
// duplicates are looked for first, at every depth, also in members that nobody reads: two readers of one token must not differ.
func unmarshal(data []byte, into any) error {
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	dec := stdjson.NewDecoder(bytes.NewReader(data))
	if err := walk(dec, maxDepth); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the value")
	}
	return json.Unmarshal(data, into)
}

// walk reads one value.
func walk(dec *stdjson.Decoder, depth int) error {
	token, err := dec.Token()
	if err != nil {
		return err
	}
	open, ok := token.(stdjson.Delim)
	if !ok {
		return nil
	}
	if depth == 0 {
		return errors.New("nested too deeply")
	}
	seen := map[string]bool{}
	for dec.More() {
		if open == '{' {
			name, err := dec.Token()
			if err != nil {
				return err
			}
			text, _ := name.(string) // names are strings, or Token has failed
			if seen[text] {
				return errDuplicate
			}
			seen[text] = true
		}
		if err := walk(dec, depth-1); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

func decode(payload []byte, into *claims) error {
	switch err := unmarshal(payload, into); {
	case errors.Is(err, errDuplicate):
		return refuse(CodeDuplicate, "a claim is there twice")
	case err != nil:
		return refuse(CodeMalformed, "the claims are not the JSON expected")
	}
	return nil
}

// decodeHeader refuses what could bring in a key or a meaning of the sender's choice (RFC 7515 §4.1.2 to §4.1.6, §4.1.11),
// and JWTs of other kinds (RFC 8725 §3.11).
func decodeHeader(data []byte, into *header) error {
	members := map[string]stdjson.RawMessage{}
	switch err := unmarshal(data, &members); {
	case errors.Is(err, errDuplicate):
		return refuse(CodeDuplicate, "a header member is there twice")
	case err != nil || json.Unmarshal(data, into) != nil:
		return refuse(CodeMalformed, "the header is not the JSON expected")
	}
	for _, name := range []string{"jku", "jwk", "x5u", "x5c", "crit", "b64", "zip"} {
		if _, ok := members[name]; ok {
			return refuse(CodeHeader, "%s is not taken in a header", name)
		}
	}
	if into.Type != "" && !strings.EqualFold(into.Type, "JWT") {
		return refuse(CodeType, "its typ is not JWT")
	}
	return nil
}
