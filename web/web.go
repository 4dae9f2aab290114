// Package web holds the HTML pages that Signet shows to people, with their templates and style sheet embedded.
//
// Pages have no image, no inline script and no address of another site; the style sheet is inline and named by its hash, so that
// a Content-Security-Policy can forbid everything else. All text is escaped by html/template. The package answers no
// request and sets no header: its callers do. Values are safe for concurrent use.
package web

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"
)

//go:embed templates/*.html templates/style.css templates/webauthn.js
var assets embed.FS

// ErrPage is wrapped when a page does not exist.
var ErrPage = errors.New("no such page")

// Consent renders the pages account, choose, review, done and error of a consent. Data is a struct (or pointer) with the fields Request
// {GrantID, Orchestrator, Task, Scope, AgentTypes, NotAfter, MaxDepth}, User {Issuer, Subject}, KeyOptions, Providers [{Name, Issuer}], Path,
// Account {Grants, Keys, Options}, CSRF, Left (the time
// until NotAfter), Approved, Code and Message.
type Consent struct {
	pages  map[string]*template.Template
	style  string
	script []byte
}

// NewConsent parses the embedded templates.
func NewConsent() (*Consent, error) {
	css, err := assets.ReadFile("templates/style.css")
	if err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	script, err := assets.ReadFile("templates/webauthn.js")
	if err != nil {
		return nil, fmt.Errorf("web: %w", err)
	}
	sum := sha256.Sum256(css)
	c := &Consent{
		pages: map[string]*template.Template{}, script: script,
		style: "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'",
	}
	functions := template.FuncMap{
		"style":   func() template.CSS { return template.CSS(css) }, //nolint:gosec // embedded at build time
		"instant": instant,
		"stamp":   func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"span":    span,
		"plain":   plain,
		"join":    func(l []string) string { return strings.Join(l, ", ") },
	}
	for _, page := range []string{"account", "choose", "review", "done", "error"} {
		t, err := template.New("layout.html").Funcs(functions).Option("missingkey=error").
			ParseFS(assets, "templates/layout.html", "templates/"+page+".html")
		if err != nil {
			return nil, fmt.Errorf("web: parse %s: %w", page, err)
		}
		c.pages[page] = t
	}
	return c, nil
}

// Render writes a whole page. After an error, part of it may have been written.
func (c *Consent) Render(w io.Writer, page string, data any) error {
	t, ok := c.pages[page]
	if !ok {
		return fmt.Errorf("web: %w: %q", ErrPage, page)
	}
	if err := t.Execute(w, data); err != nil {
		return fmt.Errorf("web: %w", err)
	}
	return nil
}

// StyleSource names the inline style sheet as Content-Security-Policy's style-src does.
func (c *Consent) StyleSource() string { return c.style }

// Script is the pages' only script.
func (c *Consent) Script() []byte { return c.script }

// instant writes a time as people read it, in UTC and saying so.
func instant(t time.Time) string { return t.UTC().Format("2 January 2006, 15:04:05 UTC") }

// span says a length of time in words, rounded down; "" for none.
func span(d time.Duration) string {
	count := func(n int, unit string) string {
		if n == 1 {
			return "1 " + unit
		}
		return fmt.Sprintf("%d %ss", n, unit)
	}
	const day = 24 * time.Hour
	hours, minutes := int(d%day/time.Hour), int(d%time.Hour/time.Minute)
	switch {
	case d >= day && hours > 0:
		return count(int(d/day), "day") + " and " + count(hours, "hour")
	case d >= day:
		return count(int(d/day), "day")
	case d >= time.Hour && minutes > 0:
		return count(hours, "hour") + " and " + count(minutes, "minute")
	case d >= time.Hour:
		return count(hours, "hour")
	case d >= time.Minute:
		return count(minutes, "minute")
	case d > 0:
		return "less than a minute"
	}
	return ""
}

// plain reads a scope token as people say it, where it follows the convention type:action:resource. The token itself stands
// beside it, for nothing here is what the user commits to.
func plain(token string) string {
	parts := strings.Split(token, ":")
	if len(parts) < 3 {
		return ""
	}
	what := parts[2:]
	if what[len(what)-1] == "*" {
		what = append([]string{"everything in"}, what[:len(what)-1]...)
		if len(what) == 1 {
			what = []string{"everything"}
		}
	}
	return parts[1] + " " + strings.Join(what, " ") + " (" + parts[0] + ")"
}
