package record_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 120_000_000, time.UTC)

func TestNewAndCheck(t *testing.T) {
	salt := [32]byte{1, 2, 3}
	env := record.Envelope{Type: record.TypeGrant, Time: at.Add(345 * time.Microsecond), Grant: "g", User: "ab", Body: json.RawMessage(`{"grant_id":"g"}`)}
	e, err := record.New(env, map[string]string{"subject": "x"}, salt)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"v":1,"type":"grant","time":"2026-03-01T12:00:00.120Z","grant":"g","user":"ab","payload_hash":"` +
		record.PayloadHash(salt[:], e.Payload) + `","body":{"grant_id":"g"}}`
	if string(e.Envelope) != want {
		t.Errorf("envelope\n%s, want\n%s", e.Envelope, want)
	}
	parsed, err := e.Check()
	if err != nil || !parsed.Time.Equal(at) || parsed.Grant != "g" {
		t.Errorf("%+v, %v", parsed, err)
	}
	// RFC 6962 leaf hash of the empty string, from RFC 6962 §2.1's definition: SHA-256(0x00).
	if h := record.LeafHash(nil); h != [32]byte{
		0x6e, 0x34, 0x0b, 0x9c, 0xff, 0xb3, 0x7a, 0x98, 0x9c, 0xa5, 0x44, 0xe6, 0xbb, 0x78, 0x0a, 0x2c,
		0x78, 0x90, 0x1d, 0x3f, 0xb3, 0x37, 0x38, 0x76, 0x85, 0x11, 0xa3, 0x06, 0x17, 0xaf, 0xa0, 0x1d,
	} {
		t.Errorf("leaf hash %x", h)
	}
	body, err := record.DecodeBody[record.GrantBody](parsed)
	if err != nil || body.GrantID != "g" {
		t.Errorf("body: %+v, %v", body, err)
	}
	if _, err := record.DecodeBody[record.RevokeBody](parsed); !errors.Is(err, record.ErrMalformed) {
		t.Errorf("body of another type: %v", err)
	}
}

// What New believes of an envelope is what a reader finds in its bytes, however the body came.
func TestNewKnowsWhatItWrote(t *testing.T) {
	for _, body := range []string{
		"", `{}`, `{"a":1}`, ` {"a": 1} `, `{"a":"<b>&"}`, `{"a":"\u003cb\u003e"}`, "{\"a\":\"\u2028\"}", `{"a":{"body":{"a":1}}}`,
	} {
		env := record.Envelope{Type: record.TypeTask, Time: at.Add(time.Microsecond), Task: "<t>", Body: json.RawMessage(body)}
		e, err := record.New(env, "p", [32]byte{1})
		if err != nil {
			t.Errorf("%s: %v", body, err)
			continue
		}
		believed, err := e.Check()
		if err != nil {
			t.Fatal(err)
		}
		read, err := record.Check(e.Envelope)
		if err != nil {
			t.Fatal(err)
		}
		if string(believed.Body) != string(read.Body) || !believed.Time.Equal(read.Time) {
			t.Errorf("%s: believed %+v, read %+v", body, believed, read)
		}
		believed.Body, read.Body = nil, nil
		if !reflect.DeepEqual(believed, read) {
			t.Errorf("%s: believed %+v, read %+v", body, believed, read)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		env     record.Envelope
		payload any
		want    error
	}{
		"no type":        {record.Envelope{Time: at}, nil, record.ErrMalformed},
		"unknown type":   {record.Envelope{Type: "x", Time: at}, nil, record.ErrMalformed},
		"bad UTF-8":      {record.Envelope{Type: record.TypeTask, Time: at, Task: "\xff"}, nil, record.ErrMalformed},
		"body no object": {record.Envelope{Type: record.TypeTask, Time: at, Body: []byte(`[1]`)}, nil, record.ErrMalformed},
		"duplicate key":  {record.Envelope{Type: record.TypeTask, Time: at, Body: []byte(`{"a":1,"a":2}`)}, nil, record.ErrMalformed},
		"big envelope":   {record.Envelope{Type: record.TypeTask, Time: at, Task: strings.Repeat("x", record.MaxEnvelope)}, nil, record.ErrTooLarge},
		"big payload":    {record.Envelope{Type: record.TypeTask, Time: at}, strings.Repeat("x", record.MaxPayload), record.ErrTooLarge},
		"year 10000":     {record.Envelope{Type: record.TypeTask, Time: at.AddDate(9000, 0, 0)}, nil, record.ErrMalformed},
	} {
		if _, err := record.New(tc.env, tc.payload, [32]byte{}); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	const ok = `{"v":1,"type":"task","time":"2026-03-01T12:00:00.120Z"}`
	if _, err := record.Check([]byte(ok)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"", "null", "[]", "{}", ok + " {}", ok[:len(ok)-1],
		strings.Replace(ok, `"v":1`, `"v":2`, 1),
		strings.Replace(ok, `.120Z`, `.12Z`, 1),
		strings.Replace(ok, `.120Z`, `.120+00:00`, 1),
		strings.Replace(ok, `"type"`, `"Type"`, 1),
		strings.Replace(ok, `"type"`, `"\u0074ype"`, 1),
		strings.Replace(ok, `"v":1`, `"v":1,"extra":1`, 1),
		strings.Replace(ok, `"v":1`, `"v":1,"v":1`, 1),
		strings.Replace(ok, `"v":1`, `"v":1,"body":{"a":{"b":1,"b":1}}`, 1),
		strings.Replace(ok, `"v":1`, `"v":1,"body":3`, 1),
		strings.Replace(ok, `"v":1`, `"v":1,"payload_hash":"AA"`, 1),
		strings.Replace(ok, `"v":1`, `"v":1,"task":"`+"\xc0\x80"+`"`, 1),
		strings.Replace(ok, `"v":1`, `"v":1,"body":{"a":`+strings.Repeat("[", 40)+strings.Repeat("]", 40)+`}`, 1),
	} {
		if _, err := record.Check([]byte(bad)); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestEntryCheckRefuses(t *testing.T) {
	whole := func() record.Entry {
		e, err := record.New(record.Envelope{Type: record.TypeTask, Time: at}, "p", [32]byte{1})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for name, change := range map[string]func(*record.Entry){
		"other envelope":   func(e *record.Entry) { e.Envelope = []byte(`{"v":1,"v":1,"type":"task"}`) },
		"altered in place": func(e *record.Entry) { e.Envelope[0] = '[' },
		"other payload":    func(e *record.Entry) { e.Payload = []byte(`"q"`) },
		"other salt":       func(e *record.Entry) { e.Salt = make([]byte, 32) },
		"short salt":       func(e *record.Entry) { e.Salt = e.Salt[:31] },
		"no payload":       func(e *record.Entry) { e.Payload, e.Salt = nil, nil },
		"other time":       func(e *record.Entry) { e.Time = e.Time.Add(time.Second) },
		"empty term":       func(e *record.Entry) { e.Terms = []record.Term{{Kind: "user"}} },
		"empty key":        func(e *record.Entry) { e.Mutations = []record.Mutation{{}} },
		"idle check":       func(e *record.Entry) { e.Mutations = []record.Mutation{{Key: "a", CheckOnly: true}} },
		"delete and set":   func(e *record.Entry) { e.Mutations = []record.Mutation{{Key: "a", Delete: true, Value: []byte("x")}} },
		"unknown op":       func(e *record.Entry) { e.Mutations = []record.Mutation{{Key: "a", Pre: record.Precondition{Op: 9}}} },
		"big value": func(e *record.Entry) {
			e.Mutations = []record.Mutation{{Key: "a", Value: make([]byte, record.MaxValue+1)}}
		},
		"many terms": func(e *record.Entry) { e.Terms = make([]record.Term, record.MaxTerms+1) },
	} {
		e := whole()
		change(&e)
		if _, err := e.Check(); !errors.Is(err, record.ErrMalformed) && !errors.Is(err, record.ErrTooLarge) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := whole().Check(); err != nil {
		t.Error(err)
	}
}

func FuzzCheck(f *testing.F) {
	e, err := record.New(record.Envelope{Type: record.TypeTask, Time: at, Body: []byte(`{"a":[1,{"b":"\"}"}]}`)}, nil, [32]byte{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e.Envelope)
	f.Add([]byte(`{"v":1,"type":"task","time":"2026-03-01T12:00:00.120Z","a":"\\"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		env, err := record.Check(data)
		if err != nil {
			if !errors.Is(err, record.ErrMalformed) && !errors.Is(err, record.ErrTooLarge) {
				t.Fatalf("unexpected kind of error %v", err)
			}
			return
		}
		// What was understood, written again, is understood alike.
		again, err := record.New(env, nil, [32]byte{})
		if err != nil {
			if errors.Is(err, record.ErrTooLarge) {
				return
			}
			t.Fatal(err)
		}
		back, err := record.Check(again.Envelope)
		env.PayloadHash = ""
		if err != nil || back.Type != env.Type || !back.Time.Equal(env.Time) || back.Task != env.Task || !sameJSON(back.Body, env.Body) {
			t.Fatalf("%+v became %+v, %v", env, back, err)
		}
	})
}

func sameJSON(a, b []byte) bool {
	var x, y any
	if len(a) == 0 || len(b) == 0 {
		return len(a) == len(b)
	}
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	p, err1 := json.Marshal(x)
	q, err2 := json.Marshal(y)
	return err1 == nil && err2 == nil && bytes.Equal(p, q)
}

// A key that stands twice is refused wherever it stands, and many different ones are not.
func TestDuplicateAmongManyKeys(t *testing.T) {
	const many = 100
	for again := range many {
		var body strings.Builder
		for i := range many {
			fmt.Fprintf(&body, `"k%d":{"k%d":1},`, i, i)
		}
		text := `{"v":1,"type":"task","time":"2026-03-01T12:00:00.120Z","body":{` + body.String()
		if _, err := record.Check([]byte(text + `"k":1}}`)); err != nil {
			t.Fatal(err)
		}
		if _, err := record.Check(fmt.Appendf(nil, `%s"k%d":1}}`, text, again)); !errors.Is(err, record.ErrMalformed) {
			t.Errorf("k%d twice: %v", again, err)
		}
	}
}
