package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"text/tabwriter"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/delegation/chain"
)

// report prints the verdict on a receipt or a bundle.
func (t terminal) report(r bundle.Report, asJSON bool) error {
	if asJSON {
		return t.json(r, r.Valid)
	}
	w := &bytes.Buffer{}
	tell(w, r)
	return t.flush(w, r.Valid)
}

// succession prints the verdict on two bundles, and what they tell together.
func (t terminal) succession(s bundle.Succession, asJSON bool) error {
	if asJSON {
		return t.json(s, s.Valid)
	}
	w := &bytes.Buffer{}
	fmt.Fprintf(w, "both:\t%s\n", verdict(s.Valid))
	if c := s.Citation; c == nil {
		fmt.Fprintf(w, "story:\tthe second bundle says of no log that it succeeds it\n")
	} else {
		fmt.Fprintf(w, "story:\t%s was restored from a backup of the first %d entries of %s\n", s.Successor.Origin, c.Size, c.Origin)
		fmt.Fprintf(w, "lost:\t%d entries behind these, %d of them revocations, are in the former bundle and not in what was restored\n", s.Lost, s.LostRevocations)
	}
	fmt.Fprintf(w, "\nformer log\n")
	tell(w, s.Former)
	fmt.Fprintf(w, "\nits successor\n")
	tell(w, s.Successor)
	return t.flush(w, s.Valid)
}

func tell(w *bytes.Buffer, r bundle.Report) {
	fmt.Fprintf(w, "verdict:\t%s\n", verdict(r.Valid))
	fmt.Fprintf(w, "integrity:\t%s\n", r.Integrity)
	fmt.Fprintf(w, "completeness:\t%s\n", r.Completeness)
	fmt.Fprintf(w, "anchors:\t%s\n", r.Anchors)
	fmt.Fprintf(w, "log:\t%s\n", r.Origin)
	fmt.Fprintf(w, "checked:\t%d entries of %d, %d seals\n", r.Entries, r.Size, r.Seals)
	if s := r.Selection; s != nil {
		fmt.Fprintf(w, "selection:\t%s\n", s)
		if s.User != nil {
			fmt.Fprintf(w, "user:\t%s at %s, as the consents here show\n", s.User.Subject, s.User.Issuer)
		}
	}
	if r.Erased > 0 {
		fmt.Fprintf(w, "erased:\t%d payloads, as redact entries say\n", r.Erased)
	}
	if r.Hops != nil {
		fmt.Fprintf(w, "hops:\t%d confirmed by their delegator, %d vouched for by the CA\n", r.Hops.Confirmed, r.Hops.Vouched)
	}
	fmt.Fprintf(w, "witnesses:\t%s\n", r.Witnesses)
	fmt.Fprintln(w)
	for _, c := range r.Checks {
		fmt.Fprintf(w, "%s\t%s\t%s\n", c.Name, c.Status, place(c))
	}
	if r.Omitted > 0 {
		fmt.Fprintf(w, "…\t\t%d further findings\n", r.Omitted)
	}
	if r.Tells != nil {
		claims(w, "it proves", r.Tells.Proven)
		claims(w, "it does not prove", r.Tells.NotProven)
	}
}

func claims(w *bytes.Buffer, title string, list []bundle.Claim) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s:\n", title)
	for _, c := range list {
		fmt.Fprintf(w, "%s\t%s\n", c.Name, c.Text)
	}
}

func place(c bundle.Check) string {
	out := c.File
	if c.Index != nil {
		out = "#" + strconv.FormatUint(*c.Index, 10) + " " + out
	}
	if c.Detail != "" && out != "" {
		out += ": "
	}
	return out + c.Detail
}

func verdict(valid bool) string {
	if valid {
		return "valid"
	}
	return "INVALID"
}

// certReport is the JSON form of the verdict on a certificate.
type certReport struct {
	Valid  bool        `json:"valid"`
	Agent  string      `json:"agent,omitempty"`
	Checks []certCheck `json:"checks"`
}

type certCheck struct {
	Name     chain.CheckName `json:"name"`
	Status   chain.Status    `json:"status"`
	Required bool            `json:"required"`
	Code     string          `json:"code,omitempty"`
	Detail   string          `json:"detail,omitempty"`
}

// certificate prints the verdict on a certificate.
func (t terminal) certificate(r chain.Report, asJSON bool) error {
	out := certReport{Valid: r.Valid, Agent: r.Agent.String()}
	for _, c := range r.Checks {
		out.Checks = append(out.Checks, certCheck{Name: c.Name, Status: c.Status, Required: c.Required, Code: c.Code, Detail: c.Detail})
	}
	if asJSON {
		return t.json(out, r.Valid)
	}
	w := &bytes.Buffer{}
	fmt.Fprintf(w, "verdict:\t%s\n", verdict(r.Valid))
	fmt.Fprintf(w, "agent:\t%s\n", out.Agent)
	if d := r.Delegation; d != nil {
		fmt.Fprintf(w, "acting for:\t%s at %s\n", d.Grant.Subject, d.Grant.Issuer)
		fmt.Fprintf(w, "task:\t%s\n", chain.FormatUUID(d.TaskID))
		for i, h := range d.Hops {
			fmt.Fprintf(w, "hop %d:\t%s  %v\n", i, h.ID, h.Scope.Strings())
		}
	}
	fmt.Fprintln(w)
	for _, c := range out.Checks {
		need := ""
		if c.Required {
			need = "required"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", c.Name, c.Status, need, join(c.Code, c.Detail))
	}
	return t.flush(w, r.Valid)
}

func join(code, detail string) string {
	if code != "" && detail != "" {
		return code + ": " + detail
	}
	return code + detail
}

func (t terminal) json(v any, valid bool) error {
	encoder := json.NewEncoder(t.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return done(valid)
}

// flush aligns the columns of text.
func (t terminal) flush(text *bytes.Buffer, valid bool) error {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	if _, err := text.WriteTo(w); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return done(valid)
}

func done(valid bool) error {
	if !valid {
		return errInvalid
	}
	return nil
}
