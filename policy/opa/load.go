package opa

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/bundle"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/storage"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/tester"

	"github.com/signet-pki/signet/policy"
)

const (
	testSuffix   = "_test.rego"
	testsTimeout = 30 * time.Second
	maxErrors    = 10
)

// ErrTests is wrapped when a bundle has no tests of its own, or when one of them does not pass.
var ErrTests = errors.New("the bundle's own tests do not pass")

// loaded is a bundle after compilation.
type loaded struct {
	store    storage.Store
	compiler *ast.Compiler
	revision string
	all      map[string]*ast.Module // tests too
}

// load parses, compiles and tests a bundle.
func load(ctx context.Context, files map[string][]byte, archive []byte) (*loaded, error) {
	if err := checkManifest(files[".manifest"]); err != nil {
		return nil, err
	}
	b, err := bundle.NewCustomReader(bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(archive), "")).
		WithCapabilities(capabilities()).
		WithRegoVersion(ast.RegoV1).
		WithSkipBundleVerification(true).
		WithLazyLoadingMode(false).
		WithSizeLimitBytes(maxFile).
		Read()
	if err != nil {
		return nil, fmt.Errorf("opa: parse bundle: %w", err)
	}
	l := &loaded{
		store: inmem.NewFromObjectWithOpts(b.Data, inmem.OptReturnASTValuesOnRead(true), inmem.OptRoundTripOnWrite(false)),
		all:   map[string]*ast.Module{}, revision: b.Manifest.Revision,
	}
	for _, m := range b.Modules {
		l.all[m.Path] = m.Parsed
	}
	if err := checkGrowth(l.all); err != nil {
		return nil, err
	}
	if err := l.compile(ctx); err != nil {
		return nil, err
	}
	return l, l.test(ctx)
}

// checkManifest refuses a manifest that would have OPA read older Rego, or that brings compiled code.
func checkManifest(manifest []byte) error {
	if manifest == nil {
		return nil
	}
	var m struct {
		RegoVersion  *int            `json:"rego_version"`
		FileVersions map[string]int  `json:"file_rego_versions"`
		Wasm         json.RawMessage `json:"wasm"`
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		return fmt.Errorf("opa: parse .manifest: %w", err)
	}
	if m.RegoVersion != nil && *m.RegoVersion != 1 || len(m.FileVersions) > 0 {
		return errors.New("opa: .manifest: only Rego v1 is accepted")
	}
	if len(m.Wasm) > 0 {
		return errors.New("opa: .manifest: compiled modules are not accepted")
	}
	return nil
}

func newCompiler() *ast.Compiler {
	return ast.NewCompiler().
		WithCapabilities(capabilities()).
		WithDefaultRegoVersion(ast.RegoV1).
		WithStrict(true).
		WithEnablePrintStatements(false).
		SetErrorLimit(maxErrors)
}

// compile compiles what decides: the tests stay out of it.
func (l *loaded) compile(ctx context.Context) error {
	modules := maps.Clone(l.all)
	maps.DeleteFunc(modules, func(path string, _ *ast.Module) bool { return strings.HasSuffix(path, testSuffix) })
	txn, err := l.store.NewTransaction(ctx)
	if err != nil {
		return fmt.Errorf("opa: compile bundle: %w", err)
	}
	defer l.store.Abort(ctx, txn)
	l.compiler = newCompiler().WithPathConflictsCheck(storage.NonEmpty(ctx, l.store, txn))
	l.compiler.Compile(modules)
	if l.compiler.Failed() {
		return fmt.Errorf("opa: compile bundle: %w", l.compiler.Errors)
	}
	return nil
}

// test runs the bundle's own tests. A bundle without any is refused: nothing would say what its author meant.
func (l *loaded) test(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, testsTimeout)
	defer cancel()
	results, err := tester.NewRunner().
		SetCompiler(newCompiler()).SetStore(l.store).SetModules(l.all).
		SetDefaultRegoVersion(ast.RegoV1).RaiseBuiltinErrors(true).CapturePrintOutput(false).
		SetTimeout(time.Second).
		RunTests(ctx, nil)
	if err != nil {
		return fmt.Errorf("opa: prepare tests: %w", err)
	}
	passed, failed := 0, []string{}
	for r := range results { // drained to the end: the runner's goroutines wait for their reader
		if r.Pass() {
			passed++
			continue
		}
		failed = append(failed, r.Package+"."+r.Name)
	}
	slices.Sort(failed)
	if len(failed) > maxErrors {
		failed = failed[:maxErrors]
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("opa: run tests: %w: %w", ErrTests, ctx.Err())
	case len(failed) > 0:
		return fmt.Errorf("opa: run tests: %w: %s", ErrTests, strings.Join(failed, ", "))
	case passed == 0:
		return fmt.Errorf("opa: run tests: %w: there are none", ErrTests)
	}
	return nil
}

// prepare makes the query of one point. Where the bundle has no such package the query is never defined, and denies.
func (l *loaded) prepare(ctx context.Context, point policy.Point) (rego.PreparedEvalQuery, error) {
	pkg := "data.signet." + string(point)
	query := "allow = " + pkg + ".allow"
	if l.has(pkg + ".deny_reasons") {
		query += "; reasons = " + pkg + ".deny_reasons"
	}
	for _, rule := range []string{"obligations", "advice"} {
		// In an array, since a rule without a value, as one of a condition that does not hold, is none and no failure.
		if point == policy.PointAccess && l.has(pkg+"."+rule) {
			query += "; " + rule + " = [x | x = " + pkg + "." + rule + "]"
		}
	}
	q, err := rego.New(
		rego.Query(query), rego.Compiler(l.compiler), rego.Store(l.store), rego.Capabilities(capabilities()),
		rego.Strict(true), rego.StrictBuiltinErrors(true), rego.SetRegoVersion(ast.RegoV1),
		rego.GenerateJSON(keepTerm),
	).PrepareForEval(ctx)
	if err != nil {
		return rego.PreparedEvalQuery{}, fmt.Errorf("opa: prepare %s: %w", point, err)
	}
	return q, nil
}

// has says whether the bundle has the rule.
func (l *loaded) has(rule string) bool { return len(l.compiler.GetRules(ast.MustParseRef(rule))) > 0 }

// keepTerm leaves results as they are: converting them to Go values would cost more than looking at two of them.
func keepTerm(t *ast.Term, _ *rego.EvalContext) (any, error) { return t, nil }
