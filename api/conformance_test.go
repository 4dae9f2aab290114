package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/policy/opa"
)

// scenarioCase is one of AuthZEN's certification scenario, as testdata/authzen/scenario.json has it with its source.
type scenarioCase struct {
	ID          string          `json:"id"` // section of the scenario
	Endpoint    string          `json:"endpoint"`
	Request     json.RawMessage `json:"request"`
	Body        *string         `json:"body"`         // sent instead of a request
	ContentType string          `json:"content_type"` // instead of JSON's
	Status      int             `json:"status"`
	Decision    *bool           `json:"decision"`
	Decisions   []*bool         `json:"decisions"`
}

func scenarioCases(t *testing.T) []scenarioCase {
	t.Helper()
	raw, err := os.ReadFile("testdata/authzen/scenario.json")
	must(t, err)
	var doc struct {
		Cases []scenarioCase `json:"cases"`
	}
	must(t, json.Unmarshal(raw, &doc))
	if len(doc.Cases) != 35 {
		t.Fatalf("%d cases", len(doc.Cases))
	}
	return doc.Cases
}

// profile is a conformance profile on a real port, with the world whose client asks it.
func profile(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, people: map[role]*person{}}
	policy, err := opa.NewScenario(t.Context())
	must(t, err)
	ln := newListener(t)
	w.base = "https://" + ln.Addr().String()
	p, err := NewConformance(ConformanceConfig{URL: w.base, Permits: policy.Permits, Now: time.Now, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	w.server, w.schema = p.server, &contract{shapes: newShapes(t)}
	cert, roots := listenerCertificate(t)
	w.roots = roots
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx, ln, &tls.Config{Certificates: []tls.Certificate{cert}}) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	w.people[anyone] = w.person(nil, nil)
	return w
}

// The official scenario passes in the profile: levels Basic, Batch and Discovery.
func TestCertificationScenario(t *testing.T) {
	w := profile(t)
	for _, tc := range scenarioCases(t) {
		t.Run(tc.ID, func(t *testing.T) {
			w.t = t
			w.certify(tc)
		})
	}
	w.t = t
	w.discovery()
}

func (w *world) certify(tc scenarioCase) {
	t := w.t
	t.Helper()
	body, header := string(tc.Request), []string{"X-Request-ID", "cert/" + tc.ID}
	if tc.Body != nil {
		body = *tc.Body
	}
	if tc.ContentType != "" {
		header = append(header, "Content-Type", tc.ContentType)
	}
	if tc.Status == http.StatusOK {
		if err := w.schema.shapes.fits(t, tc.Endpoint+"_request", tc.Request); err != nil {
			t.Errorf("the request has not its shape: %v", err)
		}
	}
	var first string
	for range 3 { // §2-6: the same each time
		a := w.do(anyone, "POST", "/access/v1/"+tc.Endpoint, body, header...)
		if a.status != tc.Status || a.header.Get("Content-Type") != mediaJSON || a.header.Get("X-Request-ID") != header[1] {
			t.Fatalf("%d %s\n%s", a.status, a.header, a.body)
		}
		if first == "" {
			first = string(a.body)
		}
		if string(a.body) != first {
			t.Errorf("then %s, now %s", first, a.body)
		}
		w.judge(tc, a)
	}
	if a := w.do(anyone, "POST", "/access/v1/"+tc.Endpoint, body, header[2:]...); a.status != tc.Status {
		t.Errorf("without an identifier of the request: %d", a.status)
	}
}

func (w *world) judge(tc scenarioCase, a answer) {
	t := w.t
	t.Helper()
	if tc.Decision != nil {
		if got := decodeAs[v1.EvaluationsResponse](w, a, 200); got.Decision == nil || *got.Decision != *tc.Decision || got.Evaluations != nil {
			t.Errorf("want %v: %s", *tc.Decision, a.body)
		}
	}
	if tc.Decisions == nil {
		return
	}
	got := decodeAs[v1.EvaluationsResponse](w, a, 200)
	if len(got.Evaluations) != len(tc.Decisions) || got.Decision != nil {
		t.Fatalf("%d answers to %d evaluations", len(got.Evaluations), len(tc.Decisions))
	}
	for i, want := range tc.Decisions {
		if want != nil && got.Evaluations[i].Decision != *want {
			t.Errorf("%d: want %v: %s", i, *want, a.body)
		}
	}
}

// discovery is §6-5: what the metadata must say, and that it is about this base URL.
func (w *world) discovery() {
	w.t.Helper()
	got := decodeAs[v1.AccessConfiguration](w, w.do(anyone, "GET", wellKnown, nil), 200)
	want := v1.AccessConfiguration{PolicyDecisionPoint: w.base, AccessEvaluationEndpoint: w.base + accessPath, AccessEvaluationsEndpoint: w.base + accessPath + "s"}
	if got != want {
		w.t.Errorf("%+v", got)
	}
}

// The profile has a caller's subjects and nothing else of the appliance: no domain to decide or record with, no endpoint but
// its three; and the appliance has none of the profile's.
func TestTheProfileIsApart(t *testing.T) {
	w := profile(t)
	if w.server.cfg.Domain != nil || w.server.cfg.Log != nil {
		t.Error("the profile has a domain or a log")
	}
	mine := map[string]bool{}
	for i := range w.server.routes {
		mine[w.server.routes[i].id] = true
	}
	if len(mine) != 3 {
		t.Errorf("endpoints %v", mine)
	}
	for _, r := range table() {
		if mine[r.id] {
			t.Errorf("%s is an endpoint of both", r.id)
		}
		if shared := r.method == http.MethodPost && strings.HasPrefix(r.path, "/access/") || r.path == wellKnown; shared {
			continue
		}
		path := strings.NewReplacer("{", "", "}", "").Replace(r.path)
		if a := w.do(anyone, r.method, path, nil); a.status != 404 && a.status != 405 {
			t.Errorf("%s %s: %d", r.method, path, a.status)
		}
	}
	a := w.do(anyone, "POST", accessPath, string(scenarioCases(t)[0].Request))
	d := decodeAs[v1.EvaluationResponse](w, a, 200)
	if !d.Decision || d.Context.DecisionID != "" || d.Context.AuditID != nil || d.Context.Checks != nil || d.Context.Reasons[0] != conformanceReason {
		t.Errorf("it could pass for a decision: %s", a.body)
	}
}

// The same requests at the appliance itself: all well-formed, none permitted.
func TestTheScenarioGetsNothingFromTheAppliance(t *testing.T) {
	w := newWorld(t)
	for _, tc := range scenarioCases(t) {
		if tc.Status != http.StatusOK {
			continue
		}
		for _, r := range []role{service, agent} {
			a := w.do(r, "POST", "/access/v1/"+tc.Endpoint, string(tc.Request))
			if a.status != 200 || strings.Contains(string(a.body), `"decision":true`) {
				t.Errorf("%s by %s: %d %s", tc.ID, r, a.status, a.body)
			}
		}
	}
}

func TestConformanceConfig(t *testing.T) {
	permits := func(context.Context, []byte) bool { return true }
	log := slog.New(slog.DiscardHandler)
	for name, c := range map[string]ConformanceConfig{
		"nothing": {}, "no TLS": {URL: "http://127.0.0.1", Permits: permits, Now: time.Now, Logger: log},
		"no scenario": {URL: "https://127.0.0.1", Now: time.Now, Logger: log},
	} {
		if _, err := NewConformance(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
