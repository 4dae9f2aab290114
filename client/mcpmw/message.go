package mcpmw

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"
)

// message is one JSON-RPC message, as far as it matters here.
type message struct {
	id   json.RawMessage // of a request; nil of a notification or a response
	call bool            // of a tool
	tool string          // its name
}

// input is what a body holds: one message, or a batch, which MCP's revision 2025-03-26 alone has.
type input struct {
	messages []message
	batch    bool
}

var errMessage = errors.New("mcpmw: not a message")

func parse(body []byte) (input, error) {
	if !utf8.Valid(body) || !json.Valid(body) {
		return input{}, errMessage
	}
	batch := bytes.TrimLeft(body, " \t\r\n")[0] == '['
	raw := []json.RawMessage{body}
	if batch {
		var err error
		if raw, err = elements(body); err != nil {
			return input{}, err
		}
	}
	in := input{batch: batch}
	for _, r := range raw {
		m, err := parseMessage(r)
		if err != nil {
			return input{}, err
		}
		in.messages = append(in.messages, m)
	}
	return in, nil
}

// elements are the messages of a batch.
func elements(body []byte) ([]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if _, err := dec.Token(); err != nil {
		return nil, errMessage
	}
	var out []json.RawMessage
	for dec.More() {
		var one json.RawMessage
		if err := dec.Decode(&one); err != nil || len(out) == maxBatch {
			return nil, errMessage
		}
		out = append(out, one)
	}
	if len(out) == 0 {
		return nil, errMessage
	}
	return out, nil
}

// parseMessage reads what a server will read. A tool call that nobody waits for is none: there would be nobody to refuse.
func parseMessage(raw json.RawMessage) (message, error) {
	of, err := members(raw, "jsonrpc", "id", "method", "params", "result", "error")
	if err != nil {
		return message{}, err
	}
	method, isRequest := of["method"]
	if !isRequest {
		return message{}, nil // the client's response to the server
	}
	var m message
	var name string
	if err := text(method, &name); err != nil {
		return message{}, err
	}
	if id, ok := of["id"]; ok {
		if id[0] != '"' && id[0] != '-' && (id[0] < '0' || id[0] > '9') {
			return message{}, errMessage
		}
		m.id = id
	}
	if name != "tools/call" {
		return m, nil
	}
	params, err := members(of["params"], "name")
	if err != nil || m.id == nil {
		return message{}, errMessage
	}
	m.call = true
	return m, text(params["name"], &m.tool)
}

func text(raw json.RawMessage, into *string) error {
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, into) != nil {
		return errMessage
	}
	return nil
}

// members reads an object in which no name stands twice and none is spelled almost as one that matters. Readers differ in
// which of two they take, and whether they fold case.
func members(raw json.RawMessage, known ...string) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, errMessage
	}
	out := make(map[string]json.RawMessage)
	for dec.More() {
		key, err := dec.Token()
		name, ok := key.(string)
		if err != nil || !ok {
			return nil, errMessage
		}
		like := func(k string) bool { return strings.EqualFold(k, name) }
		if _, twice := out[name]; twice || len(out) == maxMembers || slices.ContainsFunc(known, like) && !slices.Contains(known, name) {
			return nil, errMessage
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, errMessage
		}
		out[name] = value
	}
	return out, nil
}
