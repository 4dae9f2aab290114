package softhsmtest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/internal/devkit/idp"
)

// selected is what signet-verify says of a bundle about one user, task or agent.
type selected struct {
	Valid        bool   `json:"valid"`
	Completeness string `json:"completeness"`
	Size         uint64 `json:"size"`
	Erased       uint64 `json:"erased"`
	Selection    struct {
		ID      string   `json:"id"`
		Entries uint64   `json:"entries"`
		Scanned uint64   `json:"scanned"`
		Whole   bool     `json:"whole"`
		User    *v1.User `json:"user"`
	} `json:"selection"`
}

// TestSelections has two users at work, and gives an auditor what belongs to one of them: all of it, and nothing of the other.
func TestSelections(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	privacy := c.named("privacy", func(name, csr string) (v1.Certificate, error) {
		return c.operator.RegisterOperator(t.Context(), v1.OperatorRegistration{Name: name, Role: "privacy_officer", CSR: csr})
	})
	grant, task := c.task(c.orchestrator)
	_, others := c.taskOf(c.orchestrator, "clerk")
	a := c.mixed(task, others)
	who, other := idp.Users()[0].Subject, idp.Users()[1].Subject
	user := v1.User{Issuer: issuerOf(t, c, who), Subject: who}
	whole, err := os.ReadFile(exported(t, c))
	must(t, err)
	if !has(whole, who) || !has(whole, other) {
		t.Fatal("the bundle of all does not name both")
	}

	byUser := c.selection(v1.ExportRequest{User: &user}, other, "--issuer", user.Issuer, "--subject", who)
	if u := byUser.Selection.User; u == nil || *u != user || byUser.Selection.Entries < 5 {
		t.Errorf("%+v", byUser)
	}
	byTask := c.selection(v1.ExportRequest{Task: task.TaskID}, other, "--task", task.TaskID)
	byAgent := c.selection(v1.ExportRequest{Agent: a.id}, other, "--agent", a.id)
	if n := byAgent.Selection.Entries; n < 2 || n >= byTask.Selection.Entries {
		t.Errorf("%d entries of the agent, %d of its task", n, byTask.Selection.Entries)
	}

	// What was erased of it is explained. Nobody's consent is left to name the user: the auditor knows the pseudonym.
	_, err = c.operator.Revoke(t.Context(), v1.RevocationRequest{Kind: "grant", ID: grant.GrantID})
	must(t, err)
	done, err := privacy.Erase(t.Context(), v1.ErasureRequest{User: &user, Reason: "asked for by the user"})
	must(t, err)
	_, err = c.auditor.Receipt(t.Context(), done.Redactions[0].Index, true)
	must(t, err)
	pseudonym := byUser.Selection.ID
	gone := c.selection(v1.ExportRequest{Pseudonym: pseudonym}, who, "--user", pseudonym)
	if gone.Erased < 3 || gone.Selection.User != nil || gone.Selection.Entries <= byUser.Selection.Entries {
		t.Errorf("%+v", gone)
	}
	d.stop()
}

// mixed lets an agent of each task be spawned and ask, in turns, and waits until all of it is sealed.
func (c *cast) mixed(task, others v1.Task) *agent {
	c.t.Helper()
	a, err := spawn(c.t.Context(), c.orchestrator, task)
	must(c.t, err)
	b, err := spawn(c.t.Context(), c.orchestrator, others)
	must(c.t, err)
	for range 3 {
		for _, asks := range []*agent{a, b} {
			answer, err := decide(c.t.Context(), c.service, asks)
			must(c.t, err)
			_, err = c.auditor.Receipt(c.t.Context(), *answer.Context.AuditID, true)
			must(c.t, err)
		}
	}
	return a
}

// selection exports, looks for the name that must not be in it, and verifies.
func (c *cast) selection(q v1.ExportRequest, absent string, flags ...string) (r selected) {
	c.t.Helper()
	path := filepath.Join(c.t.TempDir(), "bundle.tar")
	f, err := os.Create(path)
	must(c.t, err)
	must(c.t, errors.Join(c.auditor.ExportSelection(c.t.Context(), q, f), f.Close()))
	archive, err := os.ReadFile(path)
	must(c.t, err)
	read := 0
	for in := tar.NewReader(bytes.NewReader(archive)); ; read++ {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(c.t, err)
		data, err := io.ReadAll(in)
		must(c.t, err)
		if has(bytes.ReplaceAll(data, []byte("\n"), nil), absent) { // PEM has lines
			c.t.Errorf("%s names %s", h.Name, absent)
		}
	}
	out, code := command(c.t, "", nil, program("signet-verify"), append(append([]string{"bundle", "--json", "--require-complete"}, flags...), path)...)
	must(c.t, json.NewDecoder(strings.NewReader(out)).Decode(&r))
	if code != 0 || !r.Valid || r.Completeness != "complete" || !r.Selection.Whole || r.Selection.Scanned != r.Size || read < 10 {
		c.t.Errorf("%v: %s", flags, out)
	}
	return r
}
