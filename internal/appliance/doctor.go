package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode"
)

// ErrUnwell means that a check of the doctor failed; the lines say which.
var ErrUnwell = errors.New("not everything is in order")

// Status is how one check of the doctor ended.
type Status string

// What a check can say. Only Fail makes the appliance unwell.
const (
	Good Status = "ok"
	Note Status = "note" // known, and nothing to do
	Warn Status = "warn" // works, and wants a look
	Fail Status = "fail"
	Skip Status = "skip" // could not be looked at, because of a failure before
)

// Finding is what one check of the doctor says: docs/operations.md lists the ids, which never change their meaning.
type Finding struct {
	ID      string `json:"id"`
	Subject string `json:"subject"`
	Status  Status `json:"status"`
	What    string `json:"what"`
	Why     string `json:"why,omitempty"` // it matters
	Fix     string `json:"fix,omitempty"`
}

// Diagnosis is what the doctor found, in the order of its looking.
type Diagnosis struct {
	OK     bool      `json:"ok"`
	Checks []Finding `json:"checks"`
}

// looking is a group of checks that one look answers.
type looking struct {
	id, subject string // of the finding that it does not end
	look        func(context.Context) []Finding
}

// lookWithin bounds each look, and patience is how much longer the doctor waits for one that should have noticed. Devices have
// deadlines of their own, for each command.
const (
	lookWithin = 2 * time.Minute // some TPMs take most of one to make an endorsement key again
	patience   = 5 * time.Second
)

// Doctor looks at devices and files, changing nothing, and ends even if what it asks does not: each PKCS#11 module runs in a process
// of its own. A PIN is presented once at most. It may run beside the daemon, except that a TPM without a resource manager has one
// user at a time.
func Doctor(ctx context.Context, c Config, log *slog.Logger) Diagnosis {
	keys, trustErr := c.certified()
	d := Diagnosis{OK: true}
	var looks []looking
	for subject, t := range c.serving() {
		if !t.TPM {
			looks = append(looks, looking{idModule, subject, func(ctx context.Context) []Finding { return c.examineToken(ctx, subject, t, keys, log) }})
		}
	}
	for _, l := range append(looks,
		looking{idTPM, c.TPM.Path, func(ctx context.Context) []Finding { return c.examineTPM(ctx, keys, log) }},
		looking{idCertificates, c.pkiDir(), func(context.Context) []Finding { return c.examineCertificates(trustErr) }},
		looking{idDir, c.Dir, func(context.Context) []Finding { return c.examineFiles(time.Now()) }},
		looking{idClockNTP, "kernel", func(context.Context) []Finding { return []Finding{examineNTP()} }},
	) {
		d.Checks = append(d.Checks, l.bounded(ctx)...)
	}
	for _, f := range d.Checks {
		d.OK = d.OK && f.Status != Fail
	}
	return d
}

// bounded gives up on a look that does not end. Its goroutine, inside a system call that nothing interrupts, ends with the program.
func (l looking) bounded(ctx context.Context) []Finding {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	done := make(chan []Finding, 1)
	go func() { done <- l.look(ctx) }()
	late := time.NewTimer(lookWithin + patience)
	defer late.Stop()
	select {
	case f := <-done:
		return f
	case <-late.C:
		return []Finding{bad(l.id, l.subject, fmt.Sprintf("no answer within %v", lookWithin),
			"whatever it asks hangs, and so would the daemon", "see to that device or file system")}
	}
}

func good(id, subject, what string) Finding {
	return Finding{ID: id, Subject: subject, Status: Good, What: what}
}

func bad(id, subject, what, why, fix string) Finding {
	return Finding{ID: id, Subject: subject, Status: Fail, What: what, Why: why, Fix: fix}
}

func warned(id, subject, what, why, fix string) Finding {
	return Finding{ID: id, Subject: subject, Status: Warn, What: what, Why: why, Fix: fix}
}

func skipped(id, subject, because string) Finding {
	return Finding{ID: id, Subject: subject, Status: Skip, What: "not looked at, because of " + because}
}

// inDevelopment is a warning where development is what the configuration is for.
func (c *Config) inDevelopment(f Finding) Finding {
	if c.Development && f.Status == Fail {
		f.Status = Warn
	}
	return f
}

// Err is ErrUnwell if a check failed.
func (d Diagnosis) Err() error {
	if d.OK {
		return nil
	}
	return ErrUnwell
}

// Text writes a line for each check, of what devices and files say no more than can be printed.
func (d Diagnosis) Text(w io.Writer) error {
	for _, f := range d.Checks {
		word := string(f.Status)
		if f.Status == Fail {
			word = "FAIL"
		}
		text := f.Subject + ": " + f.What
		if f.Why != "" {
			text += ". Why: " + f.Why
		}
		if f.Fix != "" {
			text += ". Fix: " + f.Fix
		}
		if _, err := fmt.Fprintf(w, "%-4s  %-16s %s\n", word, f.ID, printable(text)); err != nil {
			return err
		}
	}
	return nil
}

// JSON writes the same as one document.
func (d Diagnosis) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(d)
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.ReplaceAll(s, "\n", "; ")) // errors are joined by line feeds
}
