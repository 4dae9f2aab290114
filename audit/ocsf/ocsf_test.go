package ocsf_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/signet-pki/signet/audit/ocsf"
	"github.com/signet-pki/signet/audit/record"
)

const (
	origin = "signet.test/log"
	page   = "../../docs/formats/ocsf.md"
	schema = "../../docs/formats/ocsf.schema.json"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 120_000_000, time.UTC)

// types are the constants of type Type in package record, read from its source: a new one is in it without anybody's help.
func types(t testing.TB) []record.Type {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../record/record.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []record.Type
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); !ok || id.Name != "Type" {
			return true
		}
		for _, v := range spec.Values {
			if lit, ok := v.(*ast.BasicLit); ok {
				word, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, record.Type(word))
			}
		}
		return true
	})
	if len(out) < 20 {
		t.Fatalf("found only %d types", len(out))
	}
	return out
}

func envelope(t testing.TB, env record.Envelope, body any) []byte {
	t.Helper()
	env.Time = at
	if body != nil {
		var err error
		if env.Body, err = record.EncodeBody(body); err != nil {
			t.Fatal(err)
		}
	}
	e, err := record.New(env, nil, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	return e.Envelope
}

// event projects, and checks what holds for each event.
func event(t testing.TB, index uint64, env []byte) map[string]any {
	t.Helper()
	e, err := ocsf.Project(origin, index, env)
	if err != nil {
		t.Fatal(err)
	}
	sound(t, e, env)
	var out map[string]any
	if err := json.Unmarshal(e.JSON, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// sound fails unless the event is a line of ASCII that says where the entry stands and holds it whole.
func sound(t testing.TB, e ocsf.Event, env []byte) {
	t.Helper()
	for _, c := range e.JSON {
		if c < 0x20 || c > 0x7e {
			t.Fatalf("byte %#x in the event", c)
		}
	}
	var v struct {
		RawData  string `json:"raw_data"`
		Metadata struct {
			Sequence uint64 `json:"sequence"`
		} `json:"metadata"`
		Unmapped struct {
			Origin   string `json:"origin"`
			Index    uint64 `json:"index"`
			LeafHash string `json:"leaf_hash"`
		} `json:"unmapped"`
	}
	if err := json.Unmarshal(e.JSON, &v); err != nil {
		t.Fatal(err)
	}
	if v.RawData != string(env) {
		t.Errorf("raw_data is not the envelope:\n%s\n%s", v.RawData, env)
	}
	leaf := sha256.Sum256(append([]byte{0}, v.RawData...)) // RFC 6962 §2.1
	if v.Unmapped.LeafHash != hex.EncodeToString(leaf[:]) || e.LeafHash != leaf {
		t.Errorf("leaf hash %s, want %x", v.Unmapped.LeafHash, leaf)
	}
	if v.Unmapped.Origin != origin || v.Unmapped.Index != e.Index || v.Metadata.Sequence != e.Index {
		t.Errorf("stands at %+v", v)
	}
}

func compiled(t testing.TB) *jsonschema.Schema {
	t.Helper()
	s, err := jsonschema.NewCompiler().Compile(schema)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func valid(t testing.TB, s *jsonschema.Schema, doc []byte) {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(v); err != nil {
		t.Errorf("%s\n%v", doc, err)
	}
}

// Every type of entry has a row, whatever it holds, and its event is as the schema has it.
func TestEveryTypeIsProjected(t *testing.T) {
	s := compiled(t)
	for _, kind := range types(t) {
		full := record.Envelope{
			Type: kind, Code: "some_code", Task: "t1", Grant: "g1", Agent: "a1", Parent: "p1", Orchestrator: "lab", Service: "records",
			Operator: "alice", User: "ab12", Policy: "cd34",
		}
		for _, env := range [][]byte{
			envelope(t, record.Envelope{Type: kind}, nil),
			envelope(t, full, map[string]any{"serial": "01", "spiffe_id": "spiffe://x/y", "event": "e", "operation": "agent.spawn", "action": "read"}),
			envelope(t, full, map[string]any{"serial": 1, "allow": "yes", "reasons": "none", "kind": []int{1}, "detail": map[string]string{"a": "b"}}),
		} {
			e, err := ocsf.Project(origin, 7, env)
			if err != nil {
				t.Errorf("%s: %v", kind, err)
				continue
			}
			sound(t, e, env)
			if kind == record.TypeDecision || kind == record.TypeRevoke {
				continue // without a resource or a subject they are not what the domain writes
			}
			valid(t, s, e.JSON)
		}
	}
}

// What the bodies of the domain are turned into.
func TestProjection(t *testing.T) {
	s := compiled(t)
	for name, c := range map[string]struct {
		env  record.Envelope
		body any
		want string // "activity status severity operation caller actor"
	}{
		"allowed": {
			record.Envelope{Type: record.TypeDecision, Service: "records", Agent: "a1", Orchestrator: "lab", User: "ab12"},
			record.DecisionBody{Allow: true, ResourceType: "database", ResourceID: "patients", Action: "read"},
			"2 1 1 access.evaluation service/records ab12",
		},
		"denied": {
			record.Envelope{Type: record.TypeDecision, Agent: "a1", Orchestrator: "lab", User: "ab12"},
			record.DecisionBody{Reasons: []string{"scope"}, ResourceType: "database", ResourceID: "patients", Action: "read"},
			"2 2 2 access.evaluation agent/a1 ab12",
		},
		"spawned": {
			record.Envelope{Type: record.TypeIssue, Agent: "a1", Orchestrator: "lab", User: "ab12"},
			record.IssueBody{Kind: "agent", Serial: "01", SPIFFEID: "spiffe://x/agent/y/a1"},
			"1 1 1 issue orchestrator/lab ab12",
		},
		"spawned by an agent": {
			record.Envelope{Type: record.TypeIssue, Agent: "a2", Parent: "a1", Orchestrator: "lab", User: "ab12"},
			record.IssueBody{Kind: "agent", Serial: "01"},
			"1 1 1 issue agent/a1 ab12",
		},
		"re-keyed": {
			record.Envelope{Type: record.TypeIssue, Agent: "a2", Parent: "a1", Orchestrator: "lab", User: "ab12"},
			record.IssueBody{Kind: "agent", Serial: "01", Rekey: &record.RekeyBody{}},
			"1 1 1 issue agent/a2 ab12",
		},
		"a token's audience is not who asked": {
			record.Envelope{Type: record.TypeToken, Agent: "a1", Service: "records", User: "ab12"},
			record.TokenBody{JTI: "j", Serial: "01"},
			"1 1 1 token agent/a1 ab12",
		},
		"refused spawn": {
			record.Envelope{Type: record.TypeDeny, Code: "scope_exceeded", Agent: "a2", Orchestrator: "lab"},
			record.DenyBody{Operation: "agent.spawn", Code: "scope_exceeded"},
			"99 2 2 agent.spawn orchestrator/lab orchestrator/lab",
		},
		"refused re-key": {
			record.Envelope{Type: record.TypeDeny, Agent: "a2", Orchestrator: "lab", User: "ab12"},
			record.DenyBody{Operation: "agent.rekey", Code: "x"},
			"99 2 2 agent.rekey agent/a2 ab12",
		},
		"nobody": {
			record.Envelope{Type: record.TypeMalformed, Code: "no_identity"},
			record.MalformedBody{Operation: "spawnAgent", Count: 1},
			"99 2 2 spawnAgent unknown unknown",
		},
		"a user is revoked by an operator": {
			record.Envelope{Type: record.TypeRevoke, Operator: "alice", User: "ab12"},
			record.RevokeBody{Kind: "user", ID: "ab12", Seq: 1},
			"4 1 2 revoke operator/alice operator/alice",
		},
		"completed": {
			record.Envelope{Type: record.TypeTask, Task: "t1", Orchestrator: "lab"},
			record.TaskBody{TaskID: "t1", Status: "completed"},
			"3 1 1 task orchestrator/lab orchestrator/lab",
		},
		"sealed": {record.Envelope{Type: record.TypeSeal}, record.SealBody{Number: 1}, "1 1 1 seal appliance appliance"},
		"reset":  {record.Envelope{Type: record.TypeDevice}, record.DeviceBody{Event: record.EventTPMReset}, "99 0 4 device.tpm_reset appliance appliance"},
	} {
		t.Run(name, func(t *testing.T) {
			env := envelope(t, c.env, c.body)
			e, err := ocsf.Project(origin, 7, env)
			if err != nil {
				t.Fatal(err)
			}
			valid(t, s, e.JSON)
			v := event(t, 7, env)
			got := fmt.Sprint(v["activity_id"], v["status_id"], " ", v["severity_id"])
			got = strings.Join([]string{got, in(v, "api", "operation"), in(v, "src_endpoint", "uid"), in(v, "actor", "user", "uid")}, " ")
			if got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if activity, ok := v["activity_id"].(float64); !ok || v["type_uid"] != 600300+activity {
				t.Error(v["type_uid"])
			}
		})
	}
}

func in(v map[string]any, path ...string) string {
	for _, p := range path[:len(path)-1] {
		v, _ = v[p].(map[string]any)
	}
	text, _ := v[path[len(path)-1]].(string)
	return text
}

// The schema bites: each of these is one thing that a consumer would refuse.
func TestSchemaRefuses(t *testing.T) {
	s := compiled(t)
	e, err := ocsf.Project(origin, 7, envelope(t, record.Envelope{Type: record.TypeSeal}, record.SealBody{Number: 1}))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{`"activity_id":1,`, ``},
		{`"class_uid":6003`, `"class_uid":6002`},
		{`"severity_id":1`, `"severity_id":"1"`},
		{`"src_endpoint":{"uid":"appliance"},`, ``},
		{`"actor":{`, `"actors":{`},
		{`"version":"1.9.0"`, `"version":"9"`},
		{`"operation":"seal"`, `"operation":""`},
	} {
		changed := strings.Replace(string(e.JSON), c[0], c[1], 1)
		if changed == string(e.JSON) {
			t.Fatalf("no %s in %s", c[0], e.JSON)
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(changed))
		if err != nil {
			t.Fatal(err)
		}
		if s.Validate(v) == nil {
			t.Errorf("accepted with %s", c[1])
		}
	}
}

// The page shows an event; it is what comes out.
func TestVectorOfThePage(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	env := []byte(`{"v":1,"type":"deny","time":"2026-03-01T12:00:00.120Z","code":"scope_exceeded","task":"t1","orchestrator":"lab","body":{"operation":"agent.spawn","code":"scope_exceeded","detail":"größer"}}`)
	e, err := ocsf.Project(origin, 7, env)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, append(env, '\n')) || !bytes.Contains(text, append(e.JSON, '\n')) {
		t.Errorf("the page does not have this vector:\n%s\n%s", env, e.JSON)
	}
}

// What is copied out of an envelope is cut; the envelope never is.
func TestLargestEvent(t *testing.T) {
	s := compiled(t)
	for name, fill := range map[string]string{"DEL": "\x7f", "two bytes": "é", "quotes": `\"`, "escapes": `\u0001`} {
		field := strings.Repeat(fill, 4000/len(fill))
		text := `{"v":1,"type":"deny","time":"2026-03-01T12:00:00.120Z"`
		for _, k := range []string{"code", "task", "grant", "agent", "parent", "orchestrator", "service", "operator", "user", "policy"} {
			text += `,"` + k + `":"` + field + `"`
		}
		text += `,"body":{"operation":"` + field + `","action":"` + field + `","reasons":["` + field + `"],"detail":"`
		text += strings.Repeat(fill, (record.MaxEnvelope-len(text)-3)/len(fill)) + `"}}`
		e, err := ocsf.Project(origin, 1<<53, []byte(text))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		sound(t, e, []byte(text))
		valid(t, s, e.JSON)
		if len(e.JSON) > ocsf.MaxSize {
			t.Errorf("%s: %d bytes", name, len(e.JSON))
		}
	}
}

func TestMalformedIsRefused(t *testing.T) {
	for _, env := range []string{"", "{}", `{"v":1,"type":"party","time":"2026-03-01T12:00:00.120Z"}`, `{"v":1,"v":1}`} {
		if e, err := ocsf.Project(origin, 7, []byte(env)); err == nil || e.JSON != nil {
			t.Errorf("%q: %+v, %v", env, e, err)
		}
	}
}

// Whatever an envelope holds, its event is one line of ASCII from which it can be read back.
func FuzzProject(f *testing.F) {
	f.Add([]byte(`{"v":1,"type":"deny","time":"2026-03-01T12:00:00.120Z","body":{"operation":"a\u0000\u2028","reasons":["é","𝄞"]}}`))
	f.Add([]byte(`{"v":1,"type":"decision","time":"2026-03-01T12:00:00.120Z","user":"` + "\xf0\x9d\x84\x9e\x7f" + `","body":{"allow":true,"reasons":3}}`))
	f.Fuzz(func(t *testing.T, env []byte) {
		e, err := ocsf.Project(origin, 7, env)
		if err != nil {
			return
		}
		sound(t, e, env)
	})
}
