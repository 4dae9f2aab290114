package bundle_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
)

// second gives what our verifier judged to the second one as well, docs/formats/verify.py, which shares no code with ours. It collects
// bundles, since Python starts slowly, and judges them all at the end of the test.
type second struct {
	t     *testing.T
	cases []secondCase
}

type secondCase struct {
	name, path string
	valid      bool       // what our verifier said
	want       []expected // what both must name
	alone      bool       // ours alone finds what is wrong: it is among what verify.py leaves to it
}

func newSecond(t *testing.T) *second {
	t.Helper()
	for _, tool := range []string{"python3", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: apt-get install python3 openssl", tool)
		}
	}
	return &second{t: t}
}

// add takes a bundle and what our verifier says of it. Of the findings in want it keeps those of checks that both have.
func (s *second) add(name, path string, r bundle.Report, want ...expected) {
	c := secondCase{name: name, path: path, valid: r.Valid}
	for _, w := range want {
		if shared(w) {
			c.want = append(c.want, w)
		}
	}
	c.alone = !r.Valid && !slices.ContainsFunc(c.want, func(w expected) bool { return w.status == "" || w.status == bundle.Fail })
	s.cases = append(s.cases, c)
}

// shared says whether verify.py has this part of a check.
func shared(w expected) bool {
	switch w.name {
	case bundle.CheckTile:
		return strings.HasPrefix(w.file, "log/tile/0/0") && w.index >= 0
	case bundle.CheckCertificate:
		return w.index >= 0 || w.file == "certs/root.pem" || w.file == "certs/audit.pem"
	case bundle.CheckAK:
		return w.file != "certs/ak-cert.pem"
	case bundle.CheckPrune:
		return w.status == bundle.Unproven
	case bundle.CheckLayout, bundle.CheckManifest, bundle.CheckRange, bundle.CheckCheckpoint, bundle.CheckEntry, bundle.CheckCeremony, bundle.CheckPayload,
		bundle.CheckTime, bundle.CheckSeal, bundle.CheckSealChain, bundle.CheckSealRoot, bundle.CheckSealEntry, bundle.CheckQuote, bundle.CheckCounter,
		bundle.CheckBoot:
		return true
	default:
		return false
	}
}

// agree runs the second verifier. What ours takes for valid it takes for valid too, and it names what both must name.
func (s *second) agree() {
	s.t.Helper()
	args := []string{filepath.Join("..", "..", "docs", "formats", "verify.py")}
	status := 0
	for _, c := range s.cases {
		args = append(args, c.path)
	}
	cmd := exec.CommandContext(s.t.Context(), "python3", args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		status = exit.ExitCode()
	} else {
		must(s.t, err)
	}
	reports := strings.SplitAfter(string(out), "\n")
	worst := 0
	for _, c := range s.cases {
		end := slices.IndexFunc(reports, func(line string) bool { return strings.Contains(line, " "+c.path+": ") })
		if end < 0 {
			s.t.Fatalf("%s: no verdict in\n%s", c.name, out)
		}
		verdict, _, _ := strings.Cut(reports[end], " ")
		s.compare(c, verdict, reports[:end])
		reports = reports[end+1:]
		worst = max(worst, slices.Index([]string{"valid", "invalid", "unreadable"}, verdict))
	}
	if status != worst {
		s.t.Errorf("verify.py: exit status %d, the worst verdict is %d", status, worst)
	}
}

func (s *second) compare(c secondCase, verdict string, findings []string) {
	s.t.Helper()
	if c.valid && verdict != "valid" || !c.valid && !c.alone && verdict == "valid" {
		s.t.Errorf("%s: verify.py says %s, ours says valid: %v\n%s", c.name, verdict, c.valid, strings.Join(findings, ""))
	}
	for _, w := range c.want {
		if !slices.ContainsFunc(findings, func(line string) bool { return strings.HasPrefix(line, w.line()) }) {
			s.t.Errorf("%s: verify.py does not say %q but\n%s", c.name, w.line(), strings.Join(findings, ""))
		}
	}
}

// line is how a line of verify.py begins.
func (w expected) line() string {
	index, word := "-", ""
	if w.index >= 0 {
		index = fmtUint(uint64(w.index))
	}
	if w.status == bundle.Unproven {
		word = "unproven "
	}
	return fmt.Sprintf("%s%s %s %s: ", word, w.name, index, w.file)
}

func TestSecondVerifier(t *testing.T) {
	s := newSecond(t)
	w, _ := goodWorld(t, newSoftTPM(t))
	m := written(t, w)
	s.add("a new bundle", m.onDisk(t), verify(t, m, bundle.Options{}), expected{bundle.CheckBoot, 5, "seals/5.txt", bundle.Unproven})
	dir := onDisk(t, w, w.options())
	archive := filepath.Join(t.TempDir(), "bundle.tar")
	must(t, os.WriteFile(archive, tarOf(t, w, w.options()), 0o600))
	for _, path := range []string{filepath.Join(vectors, "bundle.tar"), dir, archive} {
		s.cases = append(s.cases, secondCase{name: path, path: path, valid: true})
	}
	s.agree()
}

// TestSecondVerifierReads: what is no bundle has exit status 2, beside those that are.
func TestSecondVerifierReads(t *testing.T) {
	s := newSecond(t)
	empty := t.TempDir()
	for _, path := range []string{empty, filepath.Join(empty, "nothing"), filepath.Join(vectors, "root.pem"), "/dev/null"} {
		s.cases = append(s.cases, secondCase{name: path, path: path})
	}
	s.agree()
	script, err := os.ReadFile(filepath.Join("..", "..", "docs", "formats", "verify.py"))
	must(t, err)
	if lines := strings.Count(string(script), "\n"); lines >= 300 {
		t.Errorf("verify.py has %d lines: an auditor should read it in an hour", lines)
	}
}
