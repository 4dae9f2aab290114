package record

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// spellings of envelopes: those that the writer makes, and those that only decode may judge.
func spellings() (own, others []string) {
	const head = `{"v":1,"type":"task","time":"2026-03-01T12:00:00.120Z"`
	hash := strings.Repeat("0a", 32)
	own = []string{
		head + `}`,
		head + `,"body":{}}`,
		`{"v":1,"type":"deny","time":"2024-02-29T23:59:59.999Z","code":"c","task":"t","grant":"g","agent":"a","parent":"p","orchestrator":"o",` +
			`"service":"s","operator":"Zoë \u00e9","user":"u","policy":"d","payload_hash":"` + hash + `","body":{"a":1}}`,
		`{"v":1,"type":"deny","time":"2026-03-01T12:00:00.120Z","operator":"Zoë","body":{"a":{"b":[{"a":1},{"a":-0.5e+7}]},"b":"\u00e9\n\\\"","c":[]}}`,
		head + `,"body":{"a":[true,false,null,{"x":[[]]}],"b":"é<&>","a.b-c_d:e/f@g9":"` + strings.Repeat("long ", 40) + `"}}`,
		head + `,"body":{"a":` + strings.Repeat("[", 30) + strings.Repeat("]", 30) + `}}`,
	}
	others = []string{
		` ` + head + `}`, head + `} `, head + `, "body":{}}`, head + `,"body":{"a": 1}}`, head + `,"body":{},"code":"c"}`, head + `,"code":null}`,
		head + `,"body":null}`, head + `,"body":[]}`, head + `,"body":{"a":1,"a":2}}`, head + `,"body":{"A":1}}`, head + `,"body":{"":1}}`,
		head + `,"body":{"a":01}}`, head + `,"body":{"a":1.}}`, head + `,"body":{"a":"` + "\x1f" + `"}}`, head + `,"body":{"a":"` + "\xc0\x80" + `"}}`,
		head + `,"body":{"a":"\u00g0"}}`, head + `,"body":{"a":"\x"}}`, head + `,"body":{"a":tru}}`, head + `,"body":{"a":1,}}`, head + `,"task":"\u0074"}`,
		head + `,"body":{"a":` + strings.Repeat("[", 31) + strings.Repeat("]", 31) + `}}`, head + `,"body":{"a":1}`, head + `,"body":{"a":"\`,
		head + `,"body":{"` + strings.Repeat("k", 129) + `":1}}`, head + `,"body":{` + strings.Repeat("[", 100), `{"v":1`, `{"v":10,` + head[7:] + `}`,
		strings.Replace(head, "03-01", "02-30", 1) + `}`, strings.Replace(head, "12:00:00", "24:00:00", 1) + `}`, head + `}}`, head + `,"extra":"x"}`,
	}
	return own, others
}

func FuzzScan(f *testing.F) {
	own, others := spellings()
	for _, text := range append(own, others...) {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		got, ok := scan(data)
		if !ok || len(data) > MaxEnvelope {
			return // decode judges it
		}
		want, err := decodeParts(data)
		if err != nil {
			t.Fatalf("%q: scan takes it, decode says %v", data, err)
		}
		if got, want := fmt.Sprintf("%q", got), fmt.Sprintf("%q", want); got != want {
			t.Fatalf("%q: %s, decode says %s", data, got, want)
		}
	})
}

// The writer's spelling needs no second reader: otherwise all of this would be for nothing.
func TestScanReadsWhatIsWritten(t *testing.T) {
	own, others := spellings()
	for i, text := range own {
		if _, ok := scan([]byte(text)); ok != (i != 2) { // it has an escape outside of the body
			t.Errorf("%s: %v", text, ok)
		}
	}
	for _, text := range others {
		if p, ok := scan([]byte(text)); ok && p.parse() == nil {
			t.Errorf("%s: taken", text)
		}
	}
}

func TestReadDoesNotAllocate(t *testing.T) {
	line := decisionLine()
	if n := testing.AllocsPerRun(100, func() { _, _ = Read(line) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParseTime(f *testing.F) {
	for _, text := range []string{
		"2026-03-01T12:00:00.120Z", "2024-02-29T23:59:59.999Z", "2023-02-29T00:00:00.000Z", "0000-01-01T00:00:00.000Z", "9999-12-31T23:59:60.000Z",
		"2026-13-01T12:00:00.120Z", "2026-00-01T12:00:00.120Z", "2026-03-00T12:00:00.120Z", "2026-03-01T12:00:00,120Z", "2026-03-01T24:00:00.000Z",
		"2026-03-01t12:00:00.120Z", "2026-03-01T12:60:00.120Z", "2026-03-01T12:00:00.12Z", "+026-03-01T12:00:00.120Z",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, err := time.Parse(TimeLayout, text)
		taken := err == nil && want.Format(TimeLayout) == text
		got, ok := parseTime([]byte(text))
		if ok != taken || ok && got != want {
			t.Errorf("%q: %v %v, time.Parse says %v %v", text, got, ok, want, err)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	line := decisionLine()
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(line); err != nil {
			b.Fatal(err)
		}
	}
}

// decisionLine is about what an appliance writes for an access request.
func decisionLine() []byte {
	hash := strings.Repeat("5a", 32)
	return []byte(`{"v":1,"type":"decision","time":"2026-03-01T12:00:00.120Z","task":"01a21697-1431-7856-9d20-90426762a75c","grant":"01a21697-1431-790a-a7f0-6dd91bf6686d",` +
		`"agent":"01a21697-14cc-78af-b7d6-ef9daf63c46b","orchestrator":"research","service":"records","user":"` + hash + `","policy":"` + hash + `","payload_hash":"` + hash +
		`","body":{"decision_id":"01a21697-2ff9-73ca-bf74-349f3849f331","allow":true,"resource_type":"database","resource_id":"patients","action":"read",` +
		`"required_scope":["database:read:patients"],"tbs_hash":"` + hash + `"}}`)
}
