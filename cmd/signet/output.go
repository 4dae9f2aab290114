package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

// row is a line of an answer for people. A row without a value is not shown.
type row struct{ name, value string }

// print shows an answer: wire as JSON, or its rows.
func (s *session) print(wire any, rows ...row) error {
	if s.JSON {
		return s.printJSON(wire)
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		if r.value == "" {
			continue
		}
		// A failed write is reported by Flush.
		_, _ = fmt.Fprintf(w, "%s\t%s\n", r.name, printable(r.value))
	}
	return w.Flush()
}

func (s *session) printJSON(wire any) error {
	text, err := json.MarshalIndent(wire, "", "  ")
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	_, err = fmt.Fprintf(s.out, "%s\n", text)
	return err
}

// printable keeps what others wrote from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

// fail tells why a command ended, and gives the exit code.
func (s *session) fail(err error) int {
	var p *client.Problem
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errRefused):
		return exitRefused
	case errors.As(err, &p):
		s.tell(p)
		return exitRefused
	}
	s.say("signet: %v", err)
	return exitUnusable
}

// say writes a line about the run itself, not its result.
func (s *session) say(format string, args ...any) {
	_, _ = fmt.Fprintf(s.err, format+"\n", args...) // nobody is left to be told that this failed
}

// tell shows a refusal with all that the appliance said about it.
func (s *session) tell(p *client.Problem) {
	if s.JSON {
		if text, err := json.MarshalIndent(p.Problem, "", "  "); err == nil {
			s.say("%s", text)
			return
		}
	}
	s.say("signet: refused: %s", printable(p.Error()))
	for _, r := range checkRows(p.Checks) {
		s.say("  %s: %s", r.name, printable(r.value))
	}
	if p.AuditID != nil {
		s.say("  recorded as entry %d", *p.AuditID)
	}
}

// checkRows shows what failed or was missed, and nothing of what passed or nobody needed.
func checkRows(checks map[string]v1.Check) []row {
	var rows []row
	for _, name := range slices.Sorted(maps.Keys(checks)) {
		if c := checks[name]; c.Status != "pass" && (c.Required || c.Status != "not_evaluated") {
			rows = append(rows, row{name, checkText(c)})
		}
	}
	return rows
}

func checkText(c v1.Check) string {
	text := c.Status
	if c.Code != "" {
		text += " " + c.Code
	}
	if c.Detail != "" {
		text += ": " + c.Detail
	}
	if c.Required && c.Status != "pass" {
		text += " (required)"
	}
	return text
}

// receiptRow names the entry about what was done; there is none on a retry.
func receiptRow(r *v1.AuditReceipt) row {
	if r == nil {
		return row{}
	}
	return entryRow(r.Index, r.Sealed)
}

// entryRow tells of the seal where it was waited for.
func entryRow(index uint64, sealed *bool) row {
	text := strconv.FormatUint(index, 10)
	switch {
	case sealed == nil:
	case *sealed:
		text += ", sealed"
	default:
		text += ", durable and not sealed yet"
	}
	return row{"audit entry", text}
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

func scopeText(scope []string) string { return strings.Join(scope, " ") }
