package web_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/web"
)

type request struct {
	GrantID, Orchestrator, Task string
	Scope, AgentTypes           []string
	NotAfter                    time.Time
	MaxDepth                    int
}

type view struct {
	Request             request
	User                struct{ Issuer, Subject string }
	CSRF, Code, Message string
	Approved            bool
	Left                time.Duration
	Providers           []struct{ Name, Issuer string }
	KeyOptions, Path    string
	Account             account
}

type account struct {
	Grants []struct {
		Request        request
		Status, TaskID string
	}
	Keys    []struct{ ID string }
	Options string
}

func sample() view {
	v := view{CSRF: "token", Left: 90*time.Minute + time.Second, Code: "other_user", Message: "No.", Request: request{
		GrantID: "018f", Orchestrator: "spiffe://hospital/orchestrator/lab", Task: `<script>alert("x")</script>`,
		Scope: []string{"database:read:patients", `"onload=x`}, AgentTypes: []string{"research", "summary"},
		NotAfter: time.Date(2030, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 7200)), MaxDepth: 2,
	}}
	v.User.Issuer, v.User.Subject = "https://idp", "physician-7f3a"
	return v
}

func render(t *testing.T, page string, v any) string {
	t.Helper()
	c, err := web.NewConsent()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := c.Render(&out, page, v); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestReviewShowsAndEscapes(t *testing.T) {
	got := render(t, "review", sample())
	for _, want := range []string{
		"physician-7f3a", "https://idp", "spiffe://hospital/orchestrator/lab", "&lt;script&gt;", "database:read:patients",
		"research, summary", "2 January 2030, 01:04:05 UTC", "2 levels deep at most", "read patients (database)", "that is 1 hour and 30 minutes from now", `name="csrf" value="token"`,
		`value="approve"`, `value="refuse"`, `action="/consent/018f"`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("review lacks %q", want)
		}
	}
	for _, not := range []string{"<script", "ZgotmplZ", `src="`, `"onload`} {
		if strings.Contains(got, not) {
			t.Errorf("review holds %q", not)
		}
	}
}

func TestDoneAndError(t *testing.T) {
	v := sample()
	if got := render(t, "done", v); !strings.Contains(got, "<h1>Refused") || strings.Contains(got, "token") {
		t.Errorf("refused: %s", got)
	}
	v.Approved = true
	if got := render(t, "done", &v); !strings.Contains(got, "<h1>Approved") {
		t.Errorf("approved: %s", got)
	}
	if got := render(t, "error", v); !strings.Contains(got, "<code>other_user</code>") || !strings.Contains(got, "No.") {
		t.Errorf("error: %s", got)
	}
}

// The policy names the hash of exactly what stands between the style tags.
func TestStyleSource(t *testing.T) {
	c, err := web.NewConsent()
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range []string{"account", "choose", "review", "done", "error"} {
		m := regexp.MustCompile(`(?s)<style>(.*)</style>`).FindStringSubmatch(render(t, page, sample()))
		if m == nil {
			t.Fatalf("%s has no style", page)
		}
		sum := sha256.Sum256([]byte(m[1]))
		if want := "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"; c.StyleSource() != want {
			t.Errorf("%s: %s, want %s", page, c.StyleSource(), want)
		}
	}
}

func TestRenderFails(t *testing.T) {
	c, err := web.NewConsent()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := c.Render(&out, "other", sample()); !errors.Is(err, web.ErrPage) {
		t.Errorf("unknown page: %v", err)
	}
	if err := c.Render(&out, "review", struct{ CSRF string }{}); err == nil {
		t.Error("data without the fields was rendered")
	}
}

func TestWords(t *testing.T) {
	for _, c := range []struct {
		scope []string
		left  time.Duration
		want  []string
	}{
		{[]string{"database:read:*"}, 0, []string{"read everything (database)"}},
		{[]string{"fhir:read:Observation:*"}, 25 * time.Hour, []string{"read everything in Observation (fhir)", "1 day and 1 hour"}},
		{[]string{"files:write:a:b"}, 48 * time.Hour, []string{"write a b (files)", "2 days"}},
		{[]string{"one:two"}, time.Hour, []string{"<code><bdi>one:two", "that is 1 hour from"}},
		{[]string{"x:y:z"}, 61 * time.Second, []string{"that is 1 minute from"}},
		{[]string{"x:y:z"}, time.Second, []string{"less than a minute"}},
	} {
		v := sample()
		v.Request.Scope, v.Left = c.scope, c.left
		got := render(t, "review", v)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%v %v: lacks %q", c.scope, c.left, want)
			}
		}
		if c.left == 0 && strings.Contains(got, "from now") {
			t.Error("a deadline that passed is said to come")
		}
	}
}
