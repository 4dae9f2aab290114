package custody_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/internal/testrig/custodian"
)

const (
	keyA = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAgWd0g1SCFuotxA3hTkIFCZCclHFYHeHpZlRzULcXFK"
	keyB = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
)

var recipient = "age1" + strings.Repeat("q", 58)

func members() []custody.Custodian {
	return []custody.Custodian{{Name: "alice", Key: keyA + " alice@example", Recipient: recipient}, {Name: "bob", Key: keyB}}
}

func TestSet(t *testing.T) {
	s, err := custody.NewSet(2, members())
	if err != nil {
		t.Fatal(err)
	}
	text, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	want := `{"threshold":2,"custodians":[{"name":"alice","key":"` + keyA + `","recipient":"` + recipient + `"},{"name":"bob","key":"` + keyB + `"}]}`
	if string(text) != want {
		t.Fatalf("got  %s\nwant %s", text, want)
	}
	again, err := custody.ParseSet(text)
	if err != nil || again.Digest() != s.Digest() || again.Threshold() != 2 || len(again.Custodians()) != 2 {
		t.Fatal(again, err)
	}
	for _, bad := range []string{
		"", "{}", "null", want + "\n", " " + want, strings.Replace(want, `"threshold":2`, `"threshold":1`, 1), strings.Replace(want, keyA, keyA+" x", 1),
		strings.Replace(want, `"name":"bob"`, `"name":"bob","name":"bob"`, 1), strings.Replace(want, `"threshold"`, `"Threshold"`, 1),
		strings.Replace(want, `{"threshold"`, `{"x":1,"threshold"`, 1), strings.Repeat(" ", 40<<10),
	} {
		if _, err := custody.ParseSet([]byte(bad)); !errors.Is(err, custody.ErrInvalid) {
			t.Errorf("%.80s: %v", bad, err)
		}
	}
}

func TestSetRefuses(t *testing.T) {
	change := func(f func(c *custody.Custodian)) []custody.Custodian {
		m := members()
		f(&m[1])
		return m
	}
	var many []custody.Custodian
	for i := range 17 {
		many = append(many, custody.Custodian{Name: fmt.Sprint(i), Key: keyA})
	}
	key := func(k string) []custody.Custodian { return change(func(c *custody.Custodian) { c.Key = k }) }
	for name, c := range map[string]struct {
		threshold int
		members   []custody.Custodian
		says      string
	}{
		"one is enough":       {1, members(), "threshold 1"},
		"none is enough":      {0, members(), "threshold 0"},
		"more than there are": {3, members(), "threshold 3 of 2"},
		"too many":            {2, many, "17 custodians"},
		"a name twice":        {2, change(func(c *custody.Custodian) { c.Name = "alice" }), "name is taken"},
		"a key twice":         {2, key(keyA + " bob"), "key is that of alice"},
		"no name":             {2, change(func(c *custody.Custodian) { c.Name = "" }), "name"},
		"a bad name":          {2, change(func(c *custody.Custodian) { c.Name = "Bob\n" }), "name"},
		"no recipient":        {2, change(func(c *custody.Custodian) { c.Recipient = "ssh-ed25519 AAAA" }), "recipient"},
		"no key":              {2, key(""), "not a type and a key"},
		"two lines":           {2, key(keyB + "\n" + keyB), "not one line"},
		"options":             {2, key("no-touch-required " + keyB), "not base64"},
		"another type":        {2, key(strings.Replace(keyB, "ssh-ed25519", "ssh-rsa", 1)), "of type ssh-ed25519"},
		"no base64":           {2, key("ssh-ed25519 !"), "not base64"},
		"cut":                 {2, key(keyB[:60]), "short"},
		"1024 bits":           {2, key(public(t, "rsa", "-b", "1024")), "RSA of 1024 bits"},
		"2048 bits":           {2, key(public(t, "rsa", "-b", "2048")), "RSA of 2048 bits"},
		"another encoding":    {2, key(padded(t)), "one encoding"},
		"a certificate":       {2, key(certificate(t)), "not taken"},
	} {
		if _, err := custody.NewSet(c.threshold, c.members); !errors.Is(err, custody.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, wanted %q", name, err, c.says)
		}
	}
}

func public(t *testing.T, kind string, options ...string) string {
	t.Helper()
	return custodian.New(t, "x", kind, options...).Key
}

func TestZeroSetAgreesToNothing(t *testing.T) {
	var s custody.Set
	if _, err := s.Marshal(); err == nil {
		t.Error("the zero set is written")
	}
	if names, err := s.Approved(text(t, act(s)), nil); !errors.Is(err, custody.ErrTooFew) || names != nil {
		t.Error(names, err)
	}
}

func act(s custody.Set) custody.Act {
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return custody.Act{
		Kind: custody.Init, ID: "00112233445566778899aabbccddeeff", Origin: "hospital.example/signet-1", Custodians: s.ID(),
		Created: at, NotAfter: at.Add(24 * time.Hour), Detail: json.RawMessage(`{"plan":"0123","list":[1,{"a":"<&>"}],"none":{}}`),
	}
}

func text(t testing.TB, a custody.Act) []byte {
	t.Helper()
	if a.Custodians == "" {
		a.Custodians = strings.Repeat("0", 64)
	}
	b, err := a.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAct(t *testing.T) {
	a := act(custody.Set{})
	a.Custodians = strings.Repeat("0", 64)
	b := text(t, a)
	want := `{
  "format": "signet/act@v1",
  "kind": "init",
  "id": "00112233445566778899aabbccddeeff",
  "origin": "hospital.example/signet-1",
  "custodians": "` + a.Custodians + `",
  "created": "2026-03-01T12:00:00Z",
  "not_after": "2026-03-02T12:00:00Z",
  "detail": {
    "plan": "0123",
    "list": [
      1,
      {
        "a": "<&>"
      }
    ],
    "none": {}
  }
}
`
	if string(b) != want {
		t.Fatalf("got %s", b)
	}
	again, err := custody.ParseAct(b)
	if err != nil || again.Created != a.Created || again.NotAfter != a.NotAfter || again.ID != a.ID || again.Kind != a.Kind || again.Origin != a.Origin {
		t.Fatal(again, err)
	}
	for _, change := range [][2]string{
		{"act@v1", "act@v2"},
		{`"init"`, `"unit"`},
		{"00112233", "0011223G"},
		{"ee", "EE"},
		{`"id": `, `"ID": `},
		{`  "kind"`, `   "kind"`},
		{"}\n", "}"},
		{"<", `\u003c`},
		{"12:00:00Z", "12:00:00.000Z"},
		{"03-02T12:00:00Z", "03-01T12:00:00Z"},
		{"2026-03-02", "2026-09-02"},
		{`"none": {}`, `"plan": "x"`},
		{`"none"`, `"None"`},
		{"  \"format\": \"signet/act@v1\",\n", ""},
		{`"created"`, `"extra": 1, "created"`},
		{"/signet-1", "/signet 1"},
		{"0123", strings.Repeat("0", 17<<10)},
	} {
		bad := strings.Replace(want, change[0], change[1], 1)
		if change[0] == "<" {
			// Another spelling of the same detail is another act, not a wrong one.
			if _, err := custody.ParseAct([]byte(bad)); err != nil {
				t.Error(err)
			}
			continue
		}
		if _, err := custody.ParseAct([]byte(bad)); !errors.Is(err, custody.ErrInvalid) {
			t.Errorf("%s → %.40s: %v", change[0], change[1], err)
		}
	}
}

func TestActCheck(t *testing.T) {
	a := act(custody.Set{})
	ok := func(at time.Time) error { return a.Check(custody.Init, a.Origin, at, time.Minute) }
	for _, at := range []time.Time{a.Created.Add(-time.Minute), a.Created, a.NotAfter} {
		if err := ok(at); err != nil {
			t.Error(at, err)
		}
	}
	for _, at := range []time.Time{a.Created.Add(-61 * time.Second), a.NotAfter.Add(time.Second)} {
		if err := ok(at); !errors.Is(err, custody.ErrExpired) {
			t.Error(at, err)
		}
	}
	if a.Check(custody.Restore, a.Origin, a.Created, 0) == nil || a.Check(custody.Init, "other", a.Created, 0) == nil {
		t.Error("another kind or log is taken")
	}
}

func TestSuccessors(t *testing.T) {
	s, err := custody.NewSet(2, members())
	if err != nil {
		t.Fatal(err)
	}
	set, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	change := func(kind custody.Kind, detail string) (custody.Set, error) {
		a := act(s)
		a.Kind, a.Detail = kind, json.RawMessage(detail)
		again, err := custody.ParseAct(text(t, a))
		if err != nil {
			t.Fatal(err)
		}
		return again.Successors()
	}
	if next, err := change(custody.ChangeCustodians, `{"custodians":`+string(set)+`}`); err != nil || next.ID() != s.ID() {
		t.Error(next, err)
	}
	for kind, detail := range map[custody.Kind]string{custody.Init: `{"custodians":` + string(set) + `}`, custody.ChangeCustodians: `{"custodians":{"threshold":1,"custodians":[]}}`} {
		if next, err := change(kind, detail); !errors.Is(err, custody.ErrInvalid) || next.Threshold() != 0 {
			t.Errorf("%s %s: %v, %v", kind, detail, next, err)
		}
	}
	if _, err := change(custody.ChangeCustodians, `{}`); !errors.Is(err, custody.ErrInvalid) {
		t.Error(err)
	}
}

func TestApproved(t *testing.T) {
	s, people := custodian.Three(t)
	b := text(t, act(s))
	other := act(s)
	other.ID = "ffffffffffffffffffffffffffffffff"
	asked := act(s)
	asked.Custodians = strings.Repeat("0", 64)
	alice, bob, carol := people[0].Sign(t, b), people[1].Sign(t, b), people[2].Sign(t, b)
	stranger := custodian.New(t, "mallory", "ed25519")
	for name, c := range map[string]struct {
		act        []byte
		signatures [][]byte
		names      []string
		err        error
	}{
		"two":                 {b, [][]byte{bob, alice}, []string{"alice", "bob"}, nil},
		"all":                 {b, [][]byte{bob, alice, carol}, []string{"alice", "bob", "carol"}, nil},
		"nobody":              {b, nil, nil, custody.ErrTooFew},
		"one":                 {b, [][]byte{carol}, []string{"carol"}, custody.ErrTooFew},
		"one twice":           {b, [][]byte{carol, carol}, []string{"carol"}, custody.ErrTooFew},
		"one in two ways":     {b, [][]byte{carol, people[2].SignAs(t, custody.Namespace, b, "-Ohashalg=sha256")}, []string{"carol"}, custody.ErrTooFew},
		"a stranger":          {b, [][]byte{alice, stranger.Sign(t, b)}, nil, custody.ErrSignature},
		"a stranger with two": {b, [][]byte{alice, bob, stranger.Sign(t, b)}, nil, custody.ErrSignature},
		"another act":         {b, [][]byte{alice, people[1].Sign(t, text(t, other))}, nil, custody.ErrSignature},
		"another namespace":   {b, [][]byte{alice, people[1].SignAs(t, "file", b)}, nil, custody.ErrSignature},
		"other custodians":    {text(t, asked), [][]byte{alice, bob}, nil, custody.ErrOtherSet},
		"no act":              {[]byte("{}"), [][]byte{alice, bob}, nil, custody.ErrInvalid},
		"too many":            {b, slices.Repeat([][]byte{alice}, 17), nil, custody.ErrSignature},
	} {
		if names, err := s.Approved(c.act, c.signatures); !errors.Is(err, c.err) || c.err == nil && err != nil || !slices.Equal(names, c.names) {
			t.Errorf("%s: %v, %v", name, names, err)
		}
	}
}
