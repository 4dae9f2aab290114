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
	testTimeout  = 5 * time.Second // of one: a bundle is tested at each start too, and must not fail because the machine is busy
	maxErrors    = 10
	maxDetail    = 500 // bytes of why a test did not pass: a function's error may hold all that it was given
)

// ErrTests is wrapped when a bundle has no tests of its own, or when one of them does not pass.
var ErrTests = errors.New("the bundle's own tests do not pass")

// loaded is a bundle after compilation.
type loaded struct {
	store    storage.Store
	compiler *ast.Compiler
	revision string
	all      map[string]*ast.Module // tests too
	tests    []policy.TestResult
}

// load parses, compiles and tests a bundle; with a signer it has OPA's reader verify the signature again.
func load(ctx context.Context, archive []byte, signer Key) (*loaded, error) {
	return refusing(func() (*loaded, error) { return loadBundle(ctx, archive, signer) })
}

// refusing turns a panic of OPA, which reads here what others wrote, into a refusal: a bundle that is pulled again and again
// would end the process each time. The stack is not told, since it may quote the bundle.
func refusing(do func() (*loaded, error)) (l *loaded, err error) {
	defer func() {
		if v := recover(); v != nil {
			l, err = nil, policy.RefuseBundle(policy.BundleCompile, "compile bundle: OPA failed on it: %s", cut(fmt.Sprint(v), maxDetail))
		}
	}()
	return do()
}

func loadBundle(ctx context.Context, archive []byte, signer Key) (*loaded, error) {
	r := bundle.NewCustomReader(bundle.NewTarballLoaderWithBaseURL(bytes.NewReader(archive), "")).
		WithCapabilities(capabilities()).
		WithRegoVersion(ast.RegoV1).
		WithLazyLoadingMode(false).
		WithSizeLimitBytes(maxFile)
	if signer.ID == "" {
		r = r.WithSkipBundleVerification(true)
	} else {
		r = r.WithBundleVerificationConfig(signer.config())
	}
	b, err := r.Read()
	if err != nil {
		return nil, uncompiled("parse bundle", err)
	}
	l := &loaded{
		store: inmem.NewFromObjectWithOpts(b.Data, inmem.OptReturnASTValuesOnRead(true), inmem.OptRoundTripOnWrite(false)),
		all:   map[string]*ast.Module{}, revision: b.Manifest.Revision,
	}
	for _, m := range b.Modules {
		l.all[m.Path] = m.Parsed
	}
	if err := l.compile(ctx); err != nil {
		return nil, err
	}
	return l, l.test(ctx)
}

func uncompiled(what string, err error) error {
	return &policy.BundleError{Code: policy.BundleCompile, Detail: what + ": " + err.Error(), Err: err}
}

// manifest is what is looked at of .manifest before OPA reads it.
type manifest struct {
	Revision     string          `json:"revision"`
	RegoVersion  *int            `json:"rego_version"`
	FileVersions map[string]int  `json:"file_rego_versions"`
	Wasm         json.RawMessage `json:"wasm"`
}

// checkManifest refuses a manifest that would have OPA read older Rego, or that brings compiled code.
func checkManifest(text []byte) (m manifest, err error) {
	if text == nil {
		return m, nil
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return m, policy.RefuseBundle(policy.BundleManifest, ".manifest: %v", err)
	}
	if m.RegoVersion != nil && *m.RegoVersion != 1 || len(m.FileVersions) > 0 {
		return m, policy.RefuseBundle(policy.BundleManifest, ".manifest: only Rego v1 is accepted")
	}
	if len(m.Wasm) > 0 {
		return m, policy.RefuseBundle(policy.BundleManifest, ".manifest: compiled modules are not accepted")
	}
	return m, nil
}

func newCompiler() *ast.Compiler {
	return ast.NewCompiler().
		WithCapabilities(capabilities()).
		WithDefaultRegoVersion(ast.RegoV1).
		WithStrict(true).
		WithEnablePrintStatements(false).
		SetErrorLimit(maxErrors).
		WithStageAfterID(ast.StageCheckRecursion, ast.CompilerStageDefinition{Name: "CheckGrowth", MetricName: "check_growth", Stage: checkGrowth}).
		WithStageAfterID(ast.StageBuildRequiredCapabilities, ast.CompilerStageDefinition{Name: "MeasureValues", MetricName: "measure_values", Stage: measureValues})
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
		return uncompiled("compile bundle", l.compiler.Errors)
	}
	return nil
}

// test runs the bundle's own tests. A bundle without any is refused: nothing would say what its author meant.
func (l *loaded) test(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, testsTimeout)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	results, err := tester.NewRunner().
		SetCompiler(newCompiler()).SetStore(l.store).SetModules(l.all).
		SetDefaultRegoVersion(ast.RegoV1).RaiseBuiltinErrors(true).CapturePrintOutput(false).
		SetTimeout(testTimeout).SetCoverageQueryTracer(&depthTracer{end: end}).
		RunTests(ctx, nil)
	if err != nil {
		return uncompiled("prepare tests", err)
	}
	for r := range results { // drained to the end: the runner's goroutines wait for their reader
		l.tests = append(l.tests, resultOf(r))
	}
	slices.SortFunc(l.tests, func(a, b policy.TestResult) int { return strings.Compare(a.Name, b.Name) })
	return judgeTests(ctx, l.tests)
}

func resultOf(r *tester.Result) policy.TestResult {
	out := policy.TestResult{Name: r.Package + "." + r.Name, Passed: r.Pass()}
	switch {
	case out.Passed:
	case r.Skip:
		out.Detail = "skipped"
	case r.Error != nil:
		out.Detail = r.Error.Error()
	case r.FailedAt != nil && r.FailedAt.Location != nil:
		out.Detail = "failed at " + r.FailedAt.Location.String()
	default:
		out.Detail = "failed"
	}
	out.Detail = cut(out.Detail, maxDetail)
	return out
}

// cut keeps the first n bytes of a text.
func cut(text string, n int) string {
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "…"
}

func judgeTests(ctx context.Context, results []policy.TestResult) error {
	failed := []string{}
	for _, r := range results {
		if !r.Passed && len(failed) < maxErrors {
			failed = append(failed, r.Name)
		}
	}
	switch {
	case errors.Is(context.Cause(ctx), errDeep):
		return untested(results, errDeep.Error(), errDeep)
	case ctx.Err() != nil:
		return untested(results, "they took too long", ctx.Err())
	case len(failed) > 0:
		return untested(results, strings.Join(failed, ", "), nil)
	case len(results) == 0:
		return untested(results, "there are none", nil)
	}
	return nil
}

func untested(results []policy.TestResult, why string, cause error) error {
	return &policy.BundleError{
		Code: policy.BundleTests, Detail: ErrTests.Error() + ": " + why, Tests: results, Err: errors.Join(ErrTests, cause),
	}
}

// prepare makes the query of one point. Where the bundle has no such package the query is never defined, and denies.
func (l *loaded) prepare(ctx context.Context, point policy.Point) (rego.PreparedEvalQuery, error) {
	pkg := "data.signet." + string(point)
	query := "allow = " + pkg + ".allow"
	if l.has(ctx, point, "deny_reasons") {
		query += "; reasons = " + pkg + ".deny_reasons"
	}
	for _, rule := range []string{"obligations", "advice"} {
		// In an array, since a rule without a value, as one of a condition that does not hold, is none and no failure.
		if point == policy.PointAccess && l.has(ctx, point, rule) {
			query += "; " + rule + " = [x | x = " + pkg + "." + rule + "]"
		}
	}
	q, err := rego.New(
		rego.Query(query), rego.Compiler(l.compiler), rego.Store(l.store), rego.Capabilities(capabilities()),
		rego.Strict(true), rego.StrictBuiltinErrors(true), rego.SetRegoVersion(ast.RegoV1),
		rego.GenerateJSON(keepTerm),
	).PrepareForEval(ctx)
	if err != nil {
		return rego.PreparedEvalQuery{}, uncompiled("prepare "+string(point), err)
	}
	return q, nil
}

// has says whether the bundle has the document, by rules or as data: what only data says counts all the same.
func (l *loaded) has(ctx context.Context, point policy.Point, name string) bool {
	if len(l.compiler.GetRules(ast.MustParseRef("data.signet."+string(point)+"."+name))) > 0 {
		return true
	}
	_, err := storage.ReadOne(ctx, l.store, storage.Path{"signet", string(point), name})
	return !storage.IsNotFound(err)
}

// keepTerm leaves results as they are: converting them to Go values would cost more than looking at two of them.
func keepTerm(t *ast.Term, _ *rego.EvalContext) (any, error) { return t, nil }
