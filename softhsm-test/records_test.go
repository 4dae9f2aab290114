package softhsmtest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
)

// records is the example service as a process of its own.
type records struct {
	c   *cast
	url string
	id  string
}

var recordsAt = regexp.MustCompile(`records at (https://\S+)`)

// openRecords runs examples/records with the cast's service identity.
func openRecords(c *cast, root string, args ...string) *records {
	t := c.t
	t.Helper()
	dir := t.TempDir()
	var certs []byte
	for _, der := range c.service.cert.Certificate {
		certs = append(certs, pemOf("CERTIFICATE", der)...)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.service.cert.PrivateKey)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "records.pem"), certs, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "records.key"), []byte(pemOf("PRIVATE KEY", key)), 0o600))
	// #nosec G204 -- our own program; not CommandContext: the cleanup ends it as Ctrl-C does
	cmd := exec.Command(program("records"), append([]string{ //nolint:noctx // see above
		"-appliance", c.url, "-roots", root, "-cert", filepath.Join(dir, "records.pem"), "-key", filepath.Join(dir, "records.key"), "-listen", "127.0.0.1:0",
	}, args...)...)
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Logf("records: %v\n%s", err, out.String())
		}
	})
	r := &records{c: c, id: c.service.cert.Leaf.URIs[0].String()}
	within(t, 20*time.Second, "the records service", func() error {
		m := recordsAt.FindStringSubmatch(out.String())
		if m == nil {
			return errors.New("it does not serve yet: " + out.String())
		}
		r.url = m[1]
		return nil
	})
	return r
}

// as is a connection with an agent's certificate, or none.
func (r *records) as(cert *tls.Certificate) *http.Client {
	conf := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true} //nolint:gosec // the agent's view of the service is not what is tested
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	transport := &http.Transport{TLSClientConfig: conf}
	r.c.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: time.Minute}
}

func (r *records) ask(c *http.Client, path, token string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(r.c.t.Context(), http.MethodGet, r.url+path, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return c.Do(req)
}

// answers says what is wrong with an answer: its status, or a refusal's reasons.
func (r *records) answers(c *http.Client, path, token string, status int, want ...string) error {
	resp, err := r.ask(c, path, token)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		return fmt.Errorf("%s: %s %s %w", path, resp.Status, body, err)
	}
	if status == http.StatusOK {
		for _, w := range want {
			if !strings.Contains(string(body), w) {
				return fmt.Errorf("%s: %s does not hold %s", path, body, w)
			}
		}
		return nil
	}
	var out v1.DecisionContext
	if err := json.Unmarshal(body, &out); err != nil || strings.Join(out.Reasons, " ") != strings.Join(want, " ") {
		return fmt.Errorf("%s: %s, want %v", path, body, want)
	}
	return nil
}

// TestRecordsService holds the example against a real appliance: what it allows, what it refuses and why, and that it
// learns of every end by itself.
func TestRecordsService(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	_, second := c.task(c.orchestrator)
	r := openRecords(c, filepath.Join(dir, "pki", "root.pem"), "-decisions", "-max-staleness", "20s")
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	b, err := spawn(t.Context(), c.orchestrator, second)
	must(t, err)
	as := r.as(a.cert)
	// Refused until the feed was read once.
	within(t, 20*time.Second, "the first answer", func() error { return r.answers(as, "/patients", "", 200, "p-001") })
	t.Run("identity", func(t *testing.T) {
		must(t, r.answers(as, "/whoami", "", 200, task.TaskID, a.issued.SPIFFEID, patients, "acts_for"))
		must(t, r.answers(as, "/trials", "", 200, "week 12"))
		must(t, r.answers(as, "/billing", "", 403, "scope_not_covered"))
		must(t, r.answers(as, "/patients?"+url.Values{"physician": {"another"}, "issuer": {"https://idp.example"}}.Encode(), "", 403, "principal_mismatch"))
		must(t, r.answers(r.as(nil), "/patients", "", 401, "client_certificate_required"))
		must(t, r.answers(r.as(c.orchestrator.cert), "/whoami", "", 403, "extension_missing", "format_failed", "format_failed", "format_failed", "format_failed", "format_failed"))
	})
	t.Run("token", func(t *testing.T) { recordsTakesTokens(t, c, r, a, b) })
	t.Run("revoked", func(t *testing.T) { recordsLearns(t, c, r, a, b, task) })
	// Tokens in the log are no riddle to the auditor.
	tar, err := os.Create(filepath.Join(t.TempDir(), "bundle.tar"))
	must(t, err)
	must(t, errors.Join(c.auditor.Export(t.Context(), tar), tar.Close()))
	succeed(t, program("signet-verify"), "bundle", tar.Name())
	d.stop()
	within(t, 40*time.Second, "refusal without the appliance", func() error { return r.answers(r.as(b.cert), "/whoami", "", 503, "revocations_stale") })
}

func recordsTakesTokens(t *testing.T, c *cast, r *records, a, b *agent) {
	agentA := c.person(a.cert)
	out, err := agentA.AccessToken(t.Context(), v1.TokenRequest{Audience: r.id, Scope: []string{patients}, TTL: 60})
	must(t, err)
	if out.TokenType != "Bearer" || out.Scope != patients || out.ExpiresIn > 60 || out.AuditReceipt == nil {
		t.Errorf("%+v", out)
	}
	as := r.as(a.cert)
	must(t, r.answers(as, "/whoami", out.AccessToken, 200, a.issued.SPIFFEID, patients))
	must(t, r.answers(as, "/trials", out.AccessToken, 403, "scope_not_covered")) // the agent may, its token may not
	must(t, r.answers(r.as(b.cert), "/whoami", out.AccessToken, 401, "token_certificate_mismatch"))
	must(t, r.answers(r.as(nil), "/whoami", out.AccessToken, 401, "token_certificate_missing"))
	cut := out.AccessToken[:strings.LastIndexByte(out.AccessToken, '.')+1] + strings.Repeat("A", 86)
	must(t, r.answers(as, "/whoami", cut, 401, "token_signature"))
	other := c.named("billing", func(name, csr string) (v1.Certificate, error) {
		return c.operator.RegisterService(t.Context(), v1.ServiceRegistration{Name: name, CSR: csr})
	})
	out, err = agentA.AccessToken(t.Context(), v1.TokenRequest{Audience: other.cert.Leaf.URIs[0].String(), Scope: []string{patients}})
	must(t, err)
	must(t, r.answers(as, "/whoami", out.AccessToken, 401, "token_audience"))
	_, err = agentA.AccessToken(t.Context(), v1.TokenRequest{Audience: r.id, Scope: []string{"database:read:billing"}})
	must(t, refusedWith(err, "scope_exceeds_parent"))
	// Both tokens are in the log.
	tokens := 0
	for _, e := range c.entries(0) {
		if e.Type == record.TypeToken {
			tokens++
		}
	}
	if tokens != 2 {
		t.Errorf("%d tokens in the log", tokens)
	}
}

// recordsLearns revokes a task while one of its agents watches.
func recordsLearns(t *testing.T, c *cast, r *records, a, b *agent, task v1.Task) {
	out, err := c.person(a.cert).AccessToken(t.Context(), v1.TokenRequest{Audience: r.id, Scope: []string{patients}})
	must(t, err)
	as := r.as(a.cert)
	stream, err := r.ask(as, "/patients/watch", "")
	must(t, err)
	defer stream.Body.Close()
	if stream.StatusCode != http.StatusOK {
		t.Fatal(stream.Status)
	}
	_, err = c.operator.Revoke(t.Context(), v1.RevocationRequest{Kind: "task", ID: task.TaskID})
	must(t, err)
	if _, err := io.Copy(io.Discard, stream.Body); err != nil {
		t.Logf("the stream was cut off: %v", err) // or ended by the handler: both are ends
	}
	must(t, r.answers(as, "/patients", "", 403, "task_revoked"))
	must(t, r.answers(as, "/whoami", out.AccessToken, 403, "task_revoked"))
	must(t, r.answers(r.as(b.cert), "/patients", "", 200, "p-001"))
}
