package softhsmtest

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/client"
)

// TestAuthZEN: decisions in one request, each with an entry of its own; and beside them the conformance profile, which passes
// the official scenario and leaves no entry.
func TestAuthZEN(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir, "--conformance", "127.0.0.1:0")
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	a, err := spawn(t.Context(), c.orchestrator, task)
	must(t, err)
	from := c.size()
	q := evaluation(a.issued.SPIFFEID, a.issued.CertificateChain)
	all := v1.EvaluationsRequest{Subject: &q.Subject, Action: &q.Action, Resource: &q.Resource, Context: &q.Context, Evaluations: make([]v1.Evaluation, 100)}
	all.Evaluations[7].Resource = &v1.Resource{Type: "database", ID: "billing"}
	out, err := c.service.EvaluateAll(t.Context(), all)
	must(t, err)
	seen := map[uint64]bool{}
	for i, e := range out.Evaluations {
		if e.Decision != (i != 7) || e.Context.AuditID == nil || *e.Context.AuditID < from {
			t.Fatalf("%d: %+v", i, e)
		}
		seen[*e.Context.AuditID] = true
	}
	if len(seen) != 100 {
		t.Errorf("%d entries of 100 decisions", len(seen))
	}

	from = c.size()
	c.scenario(profileURL(t, d))
	for _, e := range c.entries(from) {
		if e.Type == record.TypeDecision || e.Type == record.TypeDeny || e.Type == record.TypeMalformed {
			t.Errorf("entry %d came of the profile: %s", e.index, e.raw)
		}
	}
	// Made-up subjects get nothing from the appliance itself, and the profile has nothing of the appliance.
	var p *client.Problem
	if _, err := c.person(nil).Evaluate(t.Context(), v1.EvaluationRequest{Subject: v1.Subject{Type: "user", ID: "alice"}}); !errors.As(err, &p) || p.Status != 401 || p.Code != "client_certificate_required" {
		t.Errorf("without a certificate: %v", err)
	}
	e, err := c.service.Evaluate(t.Context(), v1.EvaluationRequest{
		Subject: v1.Subject{Type: "user", ID: "alice"}, Action: v1.Action{Name: "read"}, Resource: v1.Resource{Type: "record", ID: "record-1"},
	})
	if err != nil || e.Decision {
		t.Errorf("%+v %v", e, err)
	}
}

// profileURL is where the daemon said that the profile is.
func profileURL(t *testing.T, d *daemon) string {
	t.Helper()
	m := regexp.MustCompile(`conformance profile.* url=(https://127\.0\.0\.1:\d+)`).FindStringSubmatch(d.out.String())
	if m == nil {
		t.Fatalf("no address of the profile in\n%s", d.out.String())
	}
	return m[1]
}

// scenario asks what AuthZEN's certification scenario asks. Package api's own tests hold the answers against the shapes.
func (c *cast) scenario(base string) {
	t := c.t
	t.Helper()
	raw, err := os.ReadFile("../api/testdata/authzen/scenario.json")
	must(t, err)
	var doc struct {
		Cases []struct {
			ID, Endpoint string
			Request      json.RawMessage
			Body         *string
			ContentType  string `json:"content_type"`
			Status       int
			Decision     *bool
			Decisions    []*bool
		}
	}
	must(t, json.Unmarshal(raw, &doc))
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.roots, MinVersion: tls.VersionTLS13}}
	defer tr.CloseIdleConnections()
	hc := &http.Client{Transport: tr, Timeout: 20 * time.Second}
	for _, tc := range doc.Cases {
		body, media := string(tc.Request), tc.ContentType
		if tc.Body != nil {
			body = *tc.Body
		}
		if media == "" {
			media = "application/json"
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/access/v1/"+tc.Endpoint, strings.NewReader(body))
		must(t, err)
		req.Header.Set("Content-Type", media)
		resp, err := hc.Do(req)
		must(t, err)
		answer, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		must(t, err)
		var got v1.EvaluationsResponse
		if resp.StatusCode != tc.Status || tc.Status == http.StatusOK && json.Unmarshal(answer, &got) != nil {
			t.Errorf("%s: %d %s", tc.ID, resp.StatusCode, answer)
			continue
		}
		if tc.Decision != nil && (got.Decision == nil || *got.Decision != *tc.Decision) || len(got.Evaluations) != len(tc.Decisions) {
			t.Errorf("%s: %s", tc.ID, answer)
			continue
		}
		for i, want := range tc.Decisions {
			if want != nil && got.Evaluations[i].Decision != *want {
				t.Errorf("%s: %d: %s", tc.ID, i, answer)
			}
		}
	}
}
