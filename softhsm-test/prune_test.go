package softhsmtest

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/internal/appliance"
)

// officer is a person who may prune.
func (c *cast) officer() *person {
	c.t.Helper()
	return c.named("officer", func(name, csr string) (v1.Certificate, error) {
		return c.operator.RegisterOperator(c.t.Context(), v1.OperatorRegistration{Name: name, Role: "security_officer", CSR: csr})
	})
}

// fillTo has decisions recorded until the log has that many entries, and the last is sealed.
func (c *cast) fillTo(size uint64, id string, chain []string) {
	c.t.Helper()
	q := evaluation(id, chain)
	for have := c.size(); have < size; {
		all := v1.EvaluationsRequest{Subject: &q.Subject, Action: &q.Action, Context: &q.Context}
		for range min(size-have, v1.MaxEvaluations) {
			all.Evaluations = append(all.Evaluations, v1.Evaluation{Resource: &q.Resource})
		}
		out, err := c.service.EvaluateAll(c.t.Context(), all)
		must(c.t, err)
		have = *out.Evaluations[len(out.Evaluations)-1].Context.AuditID + 1
	}
	_, err := c.auditor.Receipt(c.t.Context(), size-1, true)
	must(c.t, err)
}

// ask gives the status and the code of a GET by the auditor.
func (c *cast) ask(path string) (int, string, []byte) {
	c.t.Helper()
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots, Certificates: []tls.Certificate{*c.auditor.cert}, MinVersion: tls.VersionTLS13}}
	defer tr.CloseIdleConnections()
	q, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, c.url+path, nil)
	must(c.t, err)
	answer, err := (&http.Client{Transport: tr, Timeout: 20 * time.Second}).Do(q)
	must(c.t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	must(c.t, err)
	var p struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal(body, &p) // tiles are not JSON
	return answer.StatusCode, p.Code, body
}

// wantGone waits until the log begins at minimum, and checks what is served of it.
func (c *cast) wantGone(minimum uint64) v1.Retention {
	c.t.Helper()
	var out v1.Retention
	within(c.t, 30*time.Second, "the entries are pruned", func() (err error) {
		out, err = c.auditor.Retention(c.t.Context())
		if err == nil && out.MinimumIndex != minimum {
			err = fmt.Errorf("minimum index %d", out.MinimumIndex)
		}
		return err
	})
	for path, want := range map[string]int{
		"/v1/audit/entries/300": 410, "/v1/audit/entries/300/receipt": 410, "/tile/entries/001": 410, "/v1/audit/entries/100": 200, "/tile/entries/000": 200,
		"/tile/0/001": 200, "/tile/1/000.p/2": 200, "/v1/audit/entries/300/proof": 200, fmt.Sprintf("/v1/audit/entries/%d", minimum): 200,
	} {
		if status, code, _ := c.ask(path); status != want || status == 410 && code != "entry_pruned" {
			c.t.Errorf("%s: %d %s", path, status, code)
		}
	}
	if out.PruneEntry == nil {
		c.t.Fatal("no prune entry")
	}
	return out
}

// verified runs signet-verify over a bundle, and gives its report.
func verified(t testing.TB, args ...string) (r struct {
	Valid        bool   `json:"valid"`
	Integrity    string `json:"integrity"`
	Completeness string `json:"completeness"`
	Anchors      string `json:"anchors"`
	Checks       []struct {
		Name, Status, Detail string
	} `json:"checks"`
},
) {
	t.Helper()
	out, _ := command(t, "", nil, program("signet-verify"), append([]string{"bundle", "--json"}, args...)...)
	must(t, json.NewDecoder(strings.NewReader(out)).Decode(&r))
	if !r.Valid {
		t.Errorf("%v: %+v", args, r)
	}
	return r
}

// archived is a line of a file of entries in an archive.
func archived(t testing.TB, path string, index uint64) []byte {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	for in := tar.NewReader(f); ; {
		h, err := in.Next()
		must(t, err)
		if h.Name == fmt.Sprintf("entries/%d.jsonl", index/256) {
			b, err := io.ReadAll(in)
			must(t, err)
			return bytes.Split(b, []byte("\n"))[index%256]
		}
	}
}

// wantProven leads an entry of the archive, by the proof that the log still gives, to a checkpoint.
func (c *cast) wantProven(path string, index uint64) {
	c.t.Helper()
	_, _, raw := c.ask(fmt.Sprintf("/v1/audit/entries/%d/proof", index))
	p, err := merkle.ParseProof(raw)
	must(c.t, err)
	body, _, _ := strings.Cut(string(p.Checkpoint), "\n\n")
	head, err := checkpoint.ParseBody([]byte(body + "\n"))
	must(c.t, err)
	must(c.t, merkle.VerifyInclusion(p.Path, index, head.Size, record.LeafHash(archived(c.t, path, index)), head.Root))
}

// wantArchived compares an archive with what the prune and its entry say of it.
func (c *cast) wantArchived(path string, p v1.Prune) {
	c.t.Helper()
	b, err := os.ReadFile(path)
	must(c.t, err)
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != p.SHA256 {
		c.t.Errorf("the archive is not the one of %+v", p)
	}
	e, err := c.auditor.Entry(c.t.Context(), p.AuditReceipt.Index)
	must(c.t, err)
	env, err := record.Check(e.Entry)
	must(c.t, err)
	body, err := record.PruneOf(env, e.Index)
	must(c.t, err)
	if body.SHA256 != p.SHA256 || body.Archive != p.Archive || body.To != p.To || body.Reason != "older than we keep" || !strings.HasPrefix(env.Operator, "officer") {
		c.t.Errorf("%s", e.Entry)
	}
	if r := verified(c.t, "--range", fmt.Sprintf("%d:%d", p.From, p.To), path); r.Integrity != "pass" {
		c.t.Errorf("%+v", r)
	}
}

// TestPrune archives and prunes what a whole appliance has recorded: a user's consent, agents and decisions. What is left verifies, so does
// the archive, and together they prove what each of them alone does not.
func TestPrune(t *testing.T) {
	dir, store := made(t), t.TempDir()
	i := runInside(t, dir, func(c *appliance.Config) {
		c.Retention = &appliance.Retention{Archive: store, Keep: time.Hour}
	})
	c := newCast(t, dir, i.url)
	officer := c.officer()
	_, task := c.task(c.orchestrator)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	c.fillTo(300, a.issued.SPIFFEID, a.issued.CertificateChain)
	must(t, c.works(task))
	c.fillTo(700, a.issued.SPIFFEID, a.issued.CertificateChain)
	receipt, err := c.auditor.Receipt(t.Context(), 300, true)
	must(t, err)
	prune := func(age time.Duration, dry bool) (v1.Prune, error) {
		return officer.Prune(t.Context(), v1.PruneRequest{Before: i.now().Add(-age), Reason: "older than we keep", DryRun: dry})
	}
	if err := refusedWith(second(prune(time.Minute, true)), "too_recent"); err != nil {
		t.Error(err)
	}
	if err := refusedWith(second(prune(time.Hour+time.Minute, false)), "nothing_to_prune"); err != nil {
		t.Error(err)
	}
	if err := refusedWith(second(c.operator.Prune(t.Context(), v1.PruneRequest{Before: time.Now(), Reason: "x"})), "role_not_allowed"); err != nil {
		t.Error(err)
	}
	i.skew.Store(int64(90 * time.Minute)) // the grant is over, and remembered for another half hour
	if err := refusedWith(second(prune(time.Hour+time.Minute, false)), "state_in_force"); err != nil {
		t.Error(err)
	}
	i.skew.Store(int64(3 * time.Hour))
	would, err := prune(time.Hour+time.Minute, true)
	must(t, err)
	if would.From != 0 || would.To != 512 || would.Archive != "" || would.AuditReceipt != nil {
		t.Errorf("%+v", would)
	}
	if none, err := c.auditor.Retention(t.Context()); err != nil || none.MinimumIndex != 0 {
		t.Errorf("%+v %v", none, err)
	}
	done, err := prune(time.Hour+time.Minute, false)
	must(t, err)
	kept := c.wantGone(512)
	if done.To != 512 || *kept.PruneEntry != done.AuditReceipt.Index {
		t.Errorf("%+v %+v", done, kept)
	}
	archive := filepath.Join(store, done.Archive)
	c.wantArchived(archive, done)
	c.wantProven(archive, 300)
	c.wantProven(archive, 511)
	if err := refusedWith(second(prune(time.Hour+time.Minute, false)), "nothing_to_prune"); err != nil {
		t.Error(err)
	}

	c.fillTo(c.size()+100, a.issued.SPIFFEID, a.issued.CertificateChain) // decisions about what only the archive has
	bundle := exported(t, c)
	whole := verified(t, bundle)
	said := false
	for _, check := range whole.Checks {
		said = said || check.Name == "prune" && check.Status == "unproven" && strings.Contains(check.Detail, done.SHA256)
	}
	if whole.Completeness != "unproven" || !said {
		t.Errorf("%+v", whole)
	}
	out := succeed(t, "python3", filepath.Join("..", "docs", "formats", "verify.py"), bundle)
	if !strings.Contains(out, "unproven prune 256 entries/1.jsonl: by entry ") {
		t.Errorf("verify.py: %s", out)
	}
	old := filepath.Join(t.TempDir(), "receipt.json")
	must(t, os.WriteFile(old, receipt, 0o600))
	succeed(t, program("signet-verify"), "receipt", old)
	i.stop()
	fsck(t, dir)
}

// TestPruneSurvivesKill kills the appliance when it has said that it prunes: the rest is done at the next start.
func TestPruneSurvivesKill(t *testing.T) {
	dir := made(t)
	store := filepath.Join(dir, "archive")
	must(t, os.Mkdir(store, 0o700))
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	officer := c.officer()
	c.fillTo(600, "spiffe://"+trustDomain+"/agent/research/01912d68-783e-7a03-8467-5661c1243ad4", []string{string(c.rootPEM)})
	var done v1.Prune
	within(t, 10*time.Second, "the entries are a second old", func() (err error) {
		done, err = officer.Prune(t.Context(), v1.PruneRequest{Before: time.Now().Add(-1100 * time.Millisecond), Reason: "older than we keep"})
		if err == nil && done.To != 512 {
			err = errors.New("not all of them")
		}
		return err
	})
	d.kill()
	d = start(t, dir)
	c = c.moved(d.url)
	kept := c.wantGone(512)
	if *kept.PruneEntry != done.AuditReceipt.Index {
		t.Errorf("%+v %+v", kept, done)
	}
	archive := filepath.Join(store, done.Archive)
	c.wantArchived(archive, done)
	c.wantProven(archive, 256)
	if left, err := filepath.Glob(filepath.Join(store, "*")); err != nil || len(left) != 1 {
		t.Errorf("%v %v", left, err)
	}
	_, task := c.task(c.orchestrator)
	must(t, c.works(task))
	verified(t, exported(t, c))
	d.kill()
	d = start(t, dir)
	c = c.moved(d.url)
	c.wantGone(512)
	must(t, c.works(task))
	d.stop()
	fsck(t, dir)
}
