package policy_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/policy"
)

func access() policy.Input {
	return policy.Input{
		Point:    policy.PointAccess,
		Time:     time.Date(2030, 1, 2, 3, 4, 5, 678_900_000, time.FixedZone("x", 3600)),
		Agent:    policy.Agent{ID: "a", Scope: []string{"database:read:patients"}, Depth: 1},
		Hops:     []policy.Hop{{ID: "spiffe://t/orchestrator/o"}},
		User:     policy.User{Issuer: "https://idp", Subject: "s", Roles: []string{"analyst"}},
		Resource: &policy.Resource{Type: "database", ID: "patients"},
		Action:   &policy.Action{Name: "read"},
	}
}

func TestZeroDecisionDenies(t *testing.T) {
	if (policy.Decision{}).Allow {
		t.Fatal("the zero decision allows")
	}
}

func TestDocumentForm(t *testing.T) {
	b, err := json.Marshal(access())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"time":"2030-01-02T02:04:05.678Z"`, `"groups":[]`, `"required_scope":[]`, `"scope":[]`, `"amr":[]`,
		`"resource":{"type":"database","id":"patients"`, `"action":{"name":"read"}`,
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("document lacks %s: %s", want, b)
		}
	}
	for _, not := range []string{"null", `"request"`, "not_after", "address"} {
		if strings.Contains(string(b), not) {
			t.Errorf("document holds %s: %s", not, b)
		}
	}
	in, err := policy.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(in, access().Normal()) {
		t.Errorf("parsed %+v", in)
	}
}

func TestNormalLeavesItsArgument(t *testing.T) {
	in := access()
	_ = in.Normal()
	if in.Hops[0].Scope != nil || in.Resource.RequiredScope != nil {
		t.Fatal("Normal changed what the caller holds")
	}
}

func TestCheckRefuses(t *testing.T) {
	long := strings.Repeat("x", policy.MaxString+1)
	for name, change := range map[string]func(*policy.Input){
		"no point":      func(in *policy.Input) { in.Point = "" },
		"unknown point": func(in *policy.Input) { in.Point = "renew" },
		"no time":       func(in *policy.Input) { in.Time = time.Time{} },
		"no resource":   func(in *policy.Input) { in.Resource = nil },
		"no action":     func(in *policy.Input) { in.Action = nil },
		"request too":   func(in *policy.Input) { in.Request = &policy.Request{} },
		"spawn access":  func(in *policy.Input) { in.Point = policy.PointSpawn },
		"token access":  func(in *policy.Input) { in.Point = policy.PointToken },
		"token action": func(in *policy.Input) {
			in.Point, in.Request = policy.PointToken, &policy.Request{}
		},
		"many hops":       func(in *policy.Input) { in.Hops = make([]policy.Hop, policy.MaxHops+1) },
		"many groups":     func(in *policy.Input) { in.User.Groups = make([]string, policy.MaxList+1) },
		"long role":       func(in *policy.Input) { in.User.Roles = []string{long} },
		"long subject":    func(in *policy.Input) { in.User.Subject = long },
		"long hop":        func(in *policy.Input) { in.Hops[0].ID = long },
		"invalid utf-8":   func(in *policy.Input) { in.Task.Purpose = "\xff" },
		"invalid scope":   func(in *policy.Input) { in.Hops[0].Scope = []string{"\xff"} },
		"invalid action":  func(in *policy.Input) { in.Action.Name = long },
		"invalid require": func(in *policy.Input) { in.Resource.RequiredScope = []string{long} },
	} {
		in := access()
		change(&in)
		if err := in.Check(); !errors.Is(err, policy.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := access().Check(); err != nil {
		t.Errorf("a good document: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	good, err := json.Marshal(access())
	if err != nil {
		t.Fatal(err)
	}
	for name, doc := range map[string]string{
		"empty":          "",
		"unknown field":  strings.Replace(string(good), `"point"`, `"source_address":"10.0.0.1","point"`, 1),
		"trailing":       string(good) + "{}",
		"large":          string(good) + strings.Repeat(" ", policy.MaxDocument),
		"nothing inside": "{}",
	} {
		if _, err := policy.Parse([]byte(doc)); !errors.Is(err, policy.ErrInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever parses has one form: writing and reading it again changes nothing.
func FuzzParse(f *testing.F) {
	seed, err := json.Marshal(access())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"point":"spawn","time":"2030-01-01T00:00:00Z","request":{"scope":null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		in, err := policy.Parse(data)
		if err != nil {
			return
		}
		first, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		again, err := policy.Parse(first)
		if err != nil {
			t.Fatalf("%v: %s", err, first)
		}
		second, err := json.Marshal(again)
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("%v: %s became %s", err, first, second)
		}
	})
}
