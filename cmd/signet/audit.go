package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
)

type auditCommands struct {
	Entry   entryCommand   `cmd:"" help:"Show one entry, with its payload."`
	Find    findCommand    `cmd:"" help:"List entries: those of one term, or all."`
	Receipt receiptCommand `cmd:"" help:"Write the proof that an entry is in the log, for signet-verify receipt: of one, or of all about something."`
	Proof   proofCommand   `cmd:"" help:"Write an entry's C2SP tlog-proof, for any transparency client."`
	Export  exportCommand  `cmd:"" help:"Write the evidence bundle, a tar archive, for signet-verify bundle."`
	Prune   pruneCommand   `cmd:"" help:"Archive the oldest entries and prune them from the log. Without --yes it tells which."`
	Erase   eraseCommand   `cmd:"" help:"Destroy the payloads about a user, or of listed entries, for good. Without --yes it tells how many."`
}

type eraseCommand struct {
	Issuer  string   `name:"issuer" placeholder:"URL" and:"user" help:"The user's identity provider."`
	Subject string   `name:"subject" placeholder:"SUB" and:"user" xor:"what" help:"The user's subject there."`
	Entries []uint64 `name:"entries" placeholder:"INDEX,…" xor:"what" help:"Or these entries, ascending, at most 512."`
	Reason  string   `name:"reason" required:"" help:"Recorded for good: name nobody."`
	Yes     bool     `name:"yes" help:"Do it."`
}

func (q eraseCommand) Run(ctx context.Context, s *session) error {
	req := v1.ErasureRequest{Entries: q.Entries, Reason: q.Reason, DryRun: !q.Yes}
	if q.Subject != "" {
		req.User = &v1.User{Issuer: q.Issuer, Subject: q.Subject}
	}
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := c.Erase(ctx, req)
	if err != nil {
		return err
	}
	name := "erased"
	if !q.Yes {
		name = "would erase"
	}
	rows := []row{{name, strconv.FormatUint(out.Entries, 10) + " entries"}}
	for _, r := range out.Redactions {
		rows = append(rows, receiptRow(&r))
	}
	return s.print(out, rows...)
}

type pruneCommand struct {
	Before time.Time `name:"before" required:"" placeholder:"TIME" help:"Entries from before that time (RFC 3339), in whole bundles of 256."`
	Reason string    `name:"reason" required:"" help:"Recorded for good: name nobody."`
	Yes    bool      `name:"yes" help:"Do it."`
}

func (q pruneCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := c.Prune(ctx, v1.PruneRequest{Before: q.Before, Reason: q.Reason, DryRun: !q.Yes})
	if err != nil {
		return err
	}
	name := "pruned"
	if !q.Yes {
		name = "would prune"
	}
	return s.print(out, row{name, fmt.Sprintf("entries %d to %d", out.From, out.To-1)}, row{"archive", out.Archive}, row{"SHA-256", out.SHA256},
		receiptRow(out.AuditReceipt))
}

type entryCommand struct {
	Index uint64 `arg:"" help:"The entry's index."`
}

func (q entryCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	e, err := c.Entry(ctx, q.Index)
	if err != nil {
		return err
	}
	return s.print(e, row{"index", strconv.FormatUint(e.Index, 10)}, row{"entry", string(e.Entry)}, row{"payload", string(e.Payload)})
}

type findCommand struct {
	Agent        string `name:"agent" placeholder:"UUID" xor:"term" help:"Entries that name this agent."`
	Task         string `name:"task" placeholder:"UUID" xor:"term" help:"This task."`
	Grant        string `name:"grant" placeholder:"UUID" xor:"term" help:"This grant."`
	User         string `name:"user" placeholder:"PSEUDONYM" xor:"term" help:"This user, as entries name them."`
	Orchestrator string `name:"orchestrator" placeholder:"NAME" xor:"term" help:"This orchestrator."`
	Serial       string `name:"serial" placeholder:"HEX" xor:"term" help:"This certificate."`
	Decision     string `name:"decision" placeholder:"UUID" xor:"term" help:"This decision."`
	Limit        int    `name:"limit" help:"At most so many, 1 to 1000; 100 by default."`
	Cursor       string `name:"cursor" help:"Only what comes after that page."`
}

func (q findCommand) query() url.Values {
	v := url.Values{}
	for _, p := range []struct{ name, value string }{
		{"agent", q.Agent},
		{"task", q.Task},
		{"grant", q.Grant},
		{"user", q.User},
		{"orchestrator", q.Orchestrator},
		{"serial", q.Serial},
		{"decision", q.Decision},
		{"cursor", q.Cursor},
	} {
		if p.value != "" {
			v.Set(p.name, p.value)
		}
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

func (q findCommand) Run(ctx context.Context, s *session) error {
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	page, err := c.Entries(ctx, q.query())
	if err != nil {
		return err
	}
	rows := make([]row, 0, len(page.Entries)+1)
	for _, e := range page.Entries {
		rows = append(rows, row{strconv.FormatUint(e.Index, 10), summary(e)})
	}
	return s.print(page, append(rows, row{"next cursor", page.NextCursor})...)
}

// summary is one line about an entry.
func summary(e v1.Entry) string {
	var env struct{ Time, Type, Task, Agent, Orchestrator, Service string }
	if err := json.Unmarshal(e.Envelope, &env); err != nil {
		return "unreadable: " + err.Error()
	}
	words := []string{env.Time, env.Type}
	for _, w := range []struct{ name, value string }{
		{"agent", env.Agent},
		{"task", env.Task},
		{"orchestrator", env.Orchestrator},
		{"service", env.Service},
	} {
		if w.value != "" {
			words = append(words, w.name+" "+w.value)
		}
	}
	return strings.Join(words, "  ")
}

type exportCommand struct {
	Out     string `name:"out" required:"" placeholder:"FILE" help:"Write it there."`
	Task    string `name:"task" placeholder:"UUID" xor:"of" help:"Only what belongs to this task; all entries come along without what stands beside them."`
	Agent   string `name:"agent" placeholder:"UUID" xor:"of" help:"To this agent, and those below it."`
	Issuer  string `name:"issuer" placeholder:"URL" and:"user" help:"To a user: their identity provider."`
	Subject string `name:"subject" placeholder:"SUB" and:"user" xor:"of" help:"And their subject there."`
	User    string `name:"user" placeholder:"PSEUDONYM" xor:"of" help:"Or the user, as entries name them."`
}

func (q exportCommand) Run(ctx context.Context, s *session) error {
	of := v1.ExportRequest{Task: q.Task, Agent: q.Agent, Pseudonym: q.User}
	if q.Subject != "" {
		of.User = &v1.User{Issuer: q.Issuer, Subject: q.Subject}
	}
	return s.save(q.Out, func(c *client.Client, w io.Writer) error {
		if of == (v1.ExportRequest{}) {
			return c.Export(ctx, w)
		}
		return c.ExportSelection(ctx, of, w)
	})
}

// save writes what the appliance gives to a new file, which exists in whole or not at all.
func (s *session) save(path string, get func(*client.Client, io.Writer) error) error {
	if err := absent("--out", path); err != nil {
		return err
	}
	c, _, err := s.connectIdentified()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := writeNew(path, 0o600, func(w io.Writer) error { return get(c, w) }); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return s.print(struct {
		File string `json:"file"`
	}{path}, row{"written", path})
}

type statusCommand struct{}

func (statusCommand) Run(ctx context.Context, s *session) error {
	c, err := s.connect()
	if err != nil {
		return err
	}
	defer c.Close()
	out, err := c.Ready(ctx)
	if err != nil {
		return err
	}
	if out.Status == "" {
		return errors.New("the answer has no status")
	}
	rows := []row{{"status", out.Status}}
	for _, cond := range out.Conditions {
		rows = append(rows, row{cond.Name, conditionText(cond)})
	}
	if err := s.print(out, rows...); err != nil {
		return err
	}
	if out.Status != "ready" {
		return errRefused
	}
	return nil
}

func conditionText(c v1.Condition) string {
	text := "ok"
	if !c.OK {
		text = c.Severity
	}
	if c.Reason != "" {
		text += ": " + c.Reason
	}
	return text
}

type versionCommand struct{}

func (versionCommand) Run(s *session) error {
	return s.print(struct {
		Version string `json:"version"`
	}{version}, row{"signet", version})
}
