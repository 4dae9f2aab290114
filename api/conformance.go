package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	v1 "github.com/signet-pki/signet/api/v1"
)

// Permits answers a request of AuthZEN's certification scenario, which is a JSON object.
type Permits func(ctx context.Context, request []byte) bool

// ConformanceConfig is what a Conformance needs. All is required.
type ConformanceConfig struct {
	// URL is how clients reach it: https, without a trailing slash.
	URL     string
	Permits Permits
	Now     func() time.Time
	Logger  *slog.Logger
}

// Conformance is a policy decision point about subjects that callers make up, for AuthZEN's certification scenario. It
// speaks AuthZEN as a Server does, through the same code, and shares nothing else with one: it has no domain, no log and no
// callers, so that nothing here decides about an agent or leaves an entry. It belongs on a port of its own, in development.
type Conformance struct{ server *Server }

// NewConformance checks the configuration and makes a Conformance. Nothing runs yet.
func NewConformance(cfg ConformanceConfig) (*Conformance, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || cfg.Permits == nil || cfg.Now == nil || cfg.Logger == nil {
		return nil, errors.New("api: conformance: an https URL, the scenario, clock and logger are required")
	}
	s, err := newServer(Config{PublicURL: cfg.URL, Now: cfg.Now, Logger: cfg.Logger}, scenarioTable())
	if err != nil {
		return nil, err
	}
	s.scenario = cfg.Permits
	return &Conformance{s}, nil
}

// Run serves ln until ctx ends, as Server.Run does.
func (p *Conformance) Run(ctx context.Context, ln net.Listener, cfg *tls.Config) error {
	return p.server.Run(ctx, ln, cfg)
}

// scenarioTable has no row in common with table.
func scenarioTable() []route {
	authzen := func(r *route) { r.access = true }
	return []route{
		take("evaluateScenario", "/access/v1/evaluation", anyone, http.StatusOK, "The scenario's access evaluation", (*Server).evaluateScenario).with(authzen),
		take("evaluateScenarioAll", "/access/v1/evaluations", anyone, http.StatusOK, "The scenario's access evaluations", (*Server).evaluateScenarioAll).
			with(authzen).with(func(r *route) { r.maxBody = maxEvaluationsBody }),
		metadataRoute("readScenarioConfiguration", wellKnown),
	}
}

// conformanceReason stands in every answer of the profile, so that none passes for a decision about an agent.
const conformanceReason = "conformance_profile"

func (s *Server) evaluateScenario(c *call, q *v1.EvaluationRequest) (v1.EvaluationResponse, error) {
	if err := complete(q); err != nil {
		return v1.EvaluationResponse{}, err
	}
	raw, err := json.Marshal(q)
	if err != nil {
		return v1.EvaluationResponse{}, fmt.Errorf("api: conformance: %w", err)
	}
	return v1.EvaluationResponse{Decision: s.scenario(c.ctx, raw), Context: v1.DecisionContext{Reasons: []string{conformanceReason}}}, nil
}

func (s *Server) evaluateScenarioAll(c *call, q *evaluationsBody) (v1.EvaluationsResponse, error) {
	return s.boxcar(c, q, func(q *v1.EvaluationRequest) (v1.EvaluationResponse, error) { return s.evaluateScenario(c, q) })
}
