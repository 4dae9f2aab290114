package mcpmw

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// A body is looked at as far as it can be a message: what it would take to hold all of it is many times its size.
func TestParseKeepsNothingOfWhatItRefuses(t *testing.T) {
	var many strings.Builder
	for i := range 100_000 {
		many.WriteString(`"` + strconv.Itoa(i) + `":0,`)
	}
	for name, body := range map[string]string{
		"batch":      `[` + strings.Repeat("{},", 100_000) + `{}]`,
		"members":    `{` + many.String() + `"id":1}`,
		"parameters": `{"id":1,"method":"tools/call","params":{` + many.String() + `"name":"search"}}`,
	} {
		raw := []byte(body)
		if n := testing.AllocsPerRun(1, func() {
			if _, err := parse(raw); err == nil {
				t.Errorf("%s: taken", name)
			}
		}); n > 10_000 {
			t.Errorf("%s: %.0f allocations", name, n)
		}
	}
}

// FuzzParse holds what is read against encoding/json, which folds case and takes the last of two: whatever it takes for a
// tool call is one here, with the same name, or is refused. The body stays as it was.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search"}}`, `[{"method":"tools/list","id":"a"}]`, `{"Method":"tools/call"}`,
		`{"method":"tools/call","method":"x","id":1,"params":{"name":"a","Name":"b"}}`, `{"result":{}}`, `[[]]`, `null`, `{"id":1,"method":"tools\/call","params":{}}`,
	} {
		f.Add([]byte(s))
	}
	type peer struct {
		Method string `json:"method"`
		Params struct {
			Name string `json:"name"`
		} `json:"params"`
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := slices.Clone(body)
		in, err := parse(body)
		if !slices.Equal(before, body) {
			t.Fatalf("%q became %q", before, body)
		}
		if err != nil {
			return
		}
		read := make([]json.RawMessage, 0, 1)
		if !in.batch {
			read = append(read, slices.Clone(body))
		} else if err := json.Unmarshal(body, &read); err != nil {
			t.Fatal(err)
		}
		if len(in.messages) != len(read) || len(read) > maxBatch {
			t.Fatalf("%q: %d messages", body, len(in.messages))
		}
		for i, m := range in.messages {
			var p peer
			if err := json.Unmarshal(read[i], &p); err != nil {
				continue // params of another method's form
			}
			if m.call != (p.Method == "tools/call") || m.call && (m.tool != p.Params.Name || m.id == nil) {
				t.Fatalf("%q: read as %+v, by another as %+v", body, m, p)
			}
		}
	})
}
