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
}

func sample() view {
	v := view{CSRF: "token", Code: "other_user", Message: "No.", Request: request{
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
		"research, summary", "2 January 2030, 01:04:05 UTC", "at most 2", `name="csrf" value="token"`,
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
	for _, page := range []string{"review", "done", "error"} {
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
