package opa

import (
	"bytes"
	"context"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
)

//go:embed scenario
var scenarioFiles embed.FS

// Scenario is the policy of AuthZEN's certification scenario, for the conformance profile alone. It is no Engine: an Engine
// is asked with what the appliance knows, a Scenario with what a caller says.
type Scenario struct{ query rego.PreparedEvalQuery }

// scenarioTimeout bounds one answer. The policy is ours, and nobody waits for its places.
const scenarioTimeout = time.Second

// NewScenario compiles and tests the scenario's policy as New does a bundle.
func NewScenario(ctx context.Context) (*Scenario, error) {
	guard()
	sub, err := fs.Sub(scenarioFiles, "scenario")
	if err != nil {
		return nil, fmt.Errorf("opa: scenario: %w", err)
	}
	files, err := collect(sub, false)
	if err != nil {
		return nil, err
	}
	archive, err := pack(files)
	if err != nil {
		return nil, err
	}
	l, err := load(ctx, archive, Key{})
	if err != nil {
		return nil, err
	}
	q, err := l.prepare(ctx, "scenario")
	return &Scenario{q}, err
}

// Permits answers a request, which is a JSON object. What goes wrong is no permission.
func (s *Scenario) Permits(ctx context.Context, request []byte) bool {
	ctx, cancel := context.WithTimeout(ctx, scenarioTimeout)
	defer cancel()
	v, err := ast.ValueFromReader(bytes.NewReader(request))
	if err != nil {
		return false
	}
	rs, err := s.query.Eval(ctx, rego.EvalParsedInput(v))
	if err != nil || ctx.Err() != nil || len(rs) != 1 {
		return false
	}
	allow, ok := rs[0].Bindings["allow"].(*ast.Term)
	return ok && allow.Equal(ast.BooleanTerm(true))
}
