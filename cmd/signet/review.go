package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
)

// maxInput bounds a file with a policy input: the appliance takes no more.
const maxInput = 1 << 18

type explainCommand struct {
	Decision string `name:"decision" placeholder:"UUID" xor:"about" help:"The recorded decision."`
	Entry    string `name:"entry" placeholder:"INDEX" xor:"about" help:"An entry at which policy was asked."`
	Input    string `name:"input" placeholder:"FILE" xor:"about" help:"A file with an input document."`
	Bundle   string `name:"bundle" placeholder:"DIGEST" help:"Evaluate with this bundle; recorded: with the one that answered then. The active one by default."`
}

// Help shows examples.
func (explainCommand) Help() string {
	return `Each line is a rule that was tried or held, or an expression that failed, with its place in the bundle. No values of the input
are shown: they are about a user. Who asks is recorded.

Examples:
  signet policy explain --decision 01912d68-783e-7a03-8467-5661c1243ad4
  signet policy explain --entry 1042 --bundle recorded
  signet policy explain --input what-if.json --json`
}

func (q explainCommand) request() (v1.ExplainRequest, error) {
	req := v1.ExplainRequest{DecisionID: q.Decision, Bundle: q.Bundle}
	switch {
	case q.Entry != "":
		n, err := strconv.ParseUint(q.Entry, 10, 63)
		if err != nil {
			return req, errors.New("--entry: the index of an entry")
		}
		req.Index = &n
	case q.Input != "":
		raw, err := readFile(q.Input, maxInput)
		if err != nil {
			return req, fmt.Errorf("--input: %w", err)
		}
		if !json.Valid(raw) {
			return req, fmt.Errorf("--input: %s: not JSON", q.Input)
		}
		req.Input = raw
	case q.Decision == "":
		return req, errors.New("one of --decision, --entry and --input is required")
	}
	return req, nil
}

func (q explainCommand) Run(ctx context.Context, s *session) error {
	req, err := q.request()
	if err != nil {
		return err
	}
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	x, err := c.ExplainPolicy(ctx, req)
	if err != nil {
		return err
	}
	if err := s.print(x, explainRows(x)...); err != nil {
		return err
	}
	if !x.Allow {
		return errRefused
	}
	return nil
}

func explainRows(x v1.Explanation) []row {
	rows := []row{
		{"answer", answerText(v1.PolicyAnswer{Allow: x.Allow, Reasons: x.Reasons})},
		{"obligations", objectsText(x.Obligations)},
		{"advice", objectsText(x.Advice)},
		{"bundle", strings.TrimSpace(x.Bundle.Digest + " " + x.Bundle.Revision)},
	}
	if r := x.Recorded; r != nil {
		rows = append(rows, row{"recorded", fmt.Sprintf("%s at %s, entry %d, bundle %s", answerText(r.Answer), timeText(r.Time), r.Index, r.Digest)})
	}
	rows = append(rows, row{"audit entry", strconv.FormatUint(x.AuditID, 10)})
	for _, t := range x.Steps {
		text := t.Text
		if text == "" {
			text = t.Rule
		}
		rows = append(rows, row{t.File + ":" + strconv.Itoa(t.Line), strings.Repeat("  ", min(t.Depth, 32)) + t.Outcome + "  " + text})
	}
	if x.Truncated {
		rows = append(rows, row{"…", "there was more"})
	}
	return rows
}

func objectsText(list []json.RawMessage) string {
	out := make([]string, len(list))
	for i, o := range list {
		out[i] = string(o)
	}
	return strings.Join(out, " ")
}

func answerText(a v1.PolicyAnswer) string {
	if a.Allow && a.ObligationsHash != "" {
		return "allow with obligations " + a.ObligationsHash[:min(8, len(a.ObligationsHash))]
	}
	if a.Allow {
		return "allow"
	}
	return "deny " + strings.Join(a.Reasons, " ")
}

type replayCommand struct {
	Bundle string    `arg:"" help:"The bundle's name; active for the active one."`
	Digest string    `name:"digest" placeholder:"HEX" help:"And its digest; the candidate's by default."`
	From   uint64    `name:"from" placeholder:"INDEX" help:"From this entry on."`
	To     uint64    `name:"to" placeholder:"INDEX" help:"Up to, and without, this entry."`
	Since  time.Time `name:"since" placeholder:"TIME" help:"From then on, RFC 3339."`
	Until  time.Time `name:"until" placeholder:"TIME" help:"Up to then."`
}

// Help shows examples.
func (replayCommand) Help() string {
	return `Every recorded question is put to the bundle again, by the appliance, and each answer that changes is shown: what would happen if the
bundle were active. With --json each change is a line, and the last line has the totals. Who asks is recorded.

Examples:
  signet policy replay hospital                              the candidate of that name, over the whole log
  signet policy replay hospital --since 2030-01-01T00:00:00Z
  signet policy replay active                                does the log replay as it was recorded?`
}

func (q replayCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	req := v1.ReplayRequest{Digest: q.Digest, From: q.From, To: q.To, Since: q.Since, Until: q.Until}
	var all v1.ReplayTotals
	for {
		part, err := c.ReplayPolicy(ctx, q.Bundle, req, s.change)
		if err != nil {
			return err
		}
		all = add(all, part)
		if part.Next == nil {
			break
		}
		// The bundle of the first part is that of the whole.
		req.From, req.Digest = *part.Next, part.Bundle.Digest
	}
	if err := s.totals(all); err != nil {
		return err
	}
	if all.Changed > 0 {
		return errRefused
	}
	return nil
}

// change prints one line.
func (s *session) change(c v1.ReplayChange) error {
	if s.JSON {
		return json.NewEncoder(s.out).Encode(v1.ReplayLine{Change: &c})
	}
	what := c.Point
	if c.DecisionID != "" {
		what = "decision " + c.DecisionID
	}
	_, err := fmt.Fprintf(s.out, "%d  %s  %s  %s -> %s\n", c.Index, timeText(c.Time), printable(what), printable(answerText(c.Before)), printable(answerText(c.After)))
	return err
}

func (s *session) totals(t v1.ReplayTotals) error {
	if s.JSON {
		return json.NewEncoder(s.out).Encode(v1.ReplayLine{Totals: &t})
	}
	number := func(n uint64) string { return strconv.FormatUint(n, 10) }
	k := t.Skipped
	return s.print(nil, row{"bundle", strings.TrimSpace(t.Bundle.Digest + " " + t.Bundle.Revision)}, row{"replayed", number(t.Replayed)},
		row{"changed", number(t.Changed)},
		row{"skipped", fmt.Sprintf("%d not asked, %d erased, %d overruled, %d busy, %d pruned, %d unreadable", k.NotAsked, k.Erased, k.Overruled, k.Busy, k.Pruned, k.Unreadable)},
		row{"audit entry", number(t.AuditID)})
}

// add sums up two parts of a replay.
func add(a, b v1.ReplayTotals) v1.ReplayTotals {
	b.Replayed, b.Changed = a.Replayed+b.Replayed, a.Changed+b.Changed
	b.Skipped.NotAsked += a.Skipped.NotAsked
	b.Skipped.Erased += a.Skipped.Erased
	b.Skipped.Overruled += a.Skipped.Overruled
	b.Skipped.Busy += a.Skipped.Busy
	b.Skipped.Pruned += a.Skipped.Pruned
	b.Skipped.Unreadable += a.Skipped.Unreadable
	return b
}
