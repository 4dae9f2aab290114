package bundle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

const maxNesting = 16

// strictJSON decodes one JSON object and refuses what two readers could read differently: repeated names at any depth, unknown
// members, members in another case (which encoding/json would take), invalid UTF-8, data after the object.
func strictJSON(data []byte, v any) error {
	if !utf8.Valid(data) {
		return errors.New("not UTF-8")
	}
	if err := checkNames(json.NewDecoder(bytes.NewReader(data))); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return fmt.Errorf("not JSON of this format: %w", err)
	}
	return nil
}

// object is an open object, or an array where names is nil.
type object struct {
	names map[string]bool
	value bool // a name was read, its value is next
}

func checkNames(in *json.Decoder) error {
	if token, err := in.Token(); err != nil || token != json.Delim('{') {
		return errors.New("not a JSON object")
	}
	stack := []*object{{names: map[string]bool{}}}
	for len(stack) > 0 {
		token, err := in.Token()
		if err != nil {
			return errors.New("not JSON")
		}
		top := stack[len(stack)-1]
		if name, ok := token.(string); ok && top.names != nil && !top.value {
			if top.names[name] {
				return fmt.Errorf("member %.40q is repeated", name)
			}
			if len(stack) == 1 && name != strings.ToLower(name) {
				return fmt.Errorf("unknown member %.40q", name)
			}
			top.names[name], top.value = true, true
			continue
		}
		top.value = false
		switch token {
		case json.Delim('{'):
			stack = append(stack, &object{names: map[string]bool{}})
		case json.Delim('['):
			stack = append(stack, &object{})
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
		}
		if len(stack) > maxNesting {
			return fmt.Errorf("nested deeper than %d", maxNesting)
		}
	}
	if _, err := in.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the object")
	}
	return nil
}
