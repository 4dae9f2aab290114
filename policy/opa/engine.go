// Package opa is the policy engine: Open Policy Agent, embedded, behind package policy's types.
//
// A bundle is compiled strictly as Rego v1, with an allow-list of functions that depend on their arguments alone, and
// becomes active only when its own tests pass. It is asked through data.signet.spawn, data.signet.token and data.signet.access: `allow`
// must be true, and `deny_reasons`, where the bundle has it, a set without members. Everything else denies, each failure
// with a reason of its own. data.signet.access may have `obligations` and `advice`: lists of JSON objects, which go with the
// answer. The package opens no network connection and reads no clock except to stop an evaluation.
//
// An Engine never changes and is safe for concurrent use; a new bundle is a new Engine.
package opa

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"runtime"
	"slices"
	"time"

	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"github.com/signet-pki/signet/policy"
)

const defaultTimeout = 50 * time.Millisecond

// Options says what to load and how long it may take. The zero value is the default bundle with the defaults.
type Options struct {
	Bundle      fs.FS         // nil: Default(); a directory: os.DirFS; an archive: OpenArchive
	Keys        *Keys         // nil: the bundle is unsigned; else it must be signed by one of them
	Timeout     time.Duration // of one decision, the wait for a place included; 0: 50 ms
	Concurrency int           // evaluations at a time; 0: two for each processor
}

// Engine answers from one bundle.
type Engine struct {
	spawn, token, access rego.PreparedEvalQuery
	timeout              time.Duration
	slots                chan struct{}
	archive              []byte
	digest               string
	revision             string
	signer               Key
	tests                []policy.TestResult
}

// New reads, verifies, compiles and tests a bundle. ctx bounds that work and is not kept. What is wrong with the bundle
// is a *policy.BundleError.
func New(ctx context.Context, o Options) (*Engine, error) {
	guard()
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	files, err := collect(o.Bundle, o.Keys != nil)
	if err != nil {
		return nil, err
	}
	signer, err := check(files, o.Keys)
	if err != nil {
		return nil, err
	}
	archive, err := pack(files)
	if err != nil {
		return nil, err
	}
	l, err := load(ctx, archive, signer)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(archive)
	e := &Engine{
		timeout: o.Timeout, slots: make(chan struct{}, o.Concurrency),
		archive: archive, digest: hex.EncodeToString(sum[:]), revision: l.revision, signer: signer, tests: l.tests,
	}
	if e.spawn, err = l.prepare(ctx, policy.PointSpawn); err != nil {
		return nil, err
	}
	if e.token, err = l.prepare(ctx, policy.PointToken); err != nil {
		return nil, err
	}
	if e.access, err = l.prepare(ctx, policy.PointAccess); err != nil {
		return nil, err
	}
	return e, nil
}

// check looks at the files before anything is compiled: nothing unsigned gets as far as the compiler.
func check(files map[string][]byte, keys *Keys) (signer Key, err error) {
	if err := checkData(files); err != nil {
		return Key{}, err
	}
	if keys != nil {
		if signer, err = keys.verify(files); err != nil {
			return Key{}, err
		}
	}
	m, err := checkManifest(files[".manifest"])
	if err != nil {
		return Key{}, err
	}
	if keys != nil {
		_, err = policy.ParseRevision(m.Revision)
	}
	return signer, err
}

func (o Options) complete() (Options, error) {
	var err error
	if o.Bundle == nil {
		o.Bundle, err = Default()
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Concurrency == 0 {
		o.Concurrency = 2 * runtime.GOMAXPROCS(0)
	}
	if o.Timeout < 0 || o.Concurrency < 0 {
		return o, errors.New("opa: timeout and concurrency must be positive")
	}
	return o, err
}

// Digest is the lower-case hex SHA-256 of Archive.
func (e *Engine) Digest() string { return e.digest }

// Bundle describes the bundle. Its tests have all passed.
func (e *Engine) Bundle() policy.Bundle {
	b := policy.Bundle{Digest: e.digest, Revision: e.revision, KeyID: e.signer.ID, Archive: e.Archive(), Tests: slices.Clone(e.tests)}
	if b.KeyID != "" {
		b.KeyHash = e.signer.Hash()
	}
	return b
}

// Revision is the bundle's name for itself (.manifest, revision), a number if the bundle is signed; else it may be empty.
func (e *Engine) Revision() string { return e.revision }

// Archive gives the active bundle as a .tar.gz that is the same for the same files wherever it is made.
func (e *Engine) Archive() []byte { return slices.Clone(e.archive) }

// Apart gives the same engine with one place of its own to evaluate: what is evaluated there keeps no decision waiting.
func (e *Engine) Apart() *Engine {
	apart := *e
	apart.slots = make(chan struct{}, 1)
	return &apart
}

// Decide answers within the timeout, or denies. It never fails: what goes wrong is a denial with its own reason.
func (e *Engine) Decide(ctx context.Context, in policy.Input) policy.Decision {
	return e.decide(ctx, in)
}

func (e *Engine) decide(ctx context.Context, in policy.Input, more ...rego.EvalOption) policy.Decision {
	if err := in.Check(); err != nil {
		return e.deny(err, policy.ReasonInput)
	}
	w := startWatch(e.timeout)
	defer w.stop()
	stop := context.AfterFunc(ctx, w.Cancel)
	defer stop()

	select {
	case e.slots <- struct{}{}: // before anything else: who comes late to a free place was not kept waiting
	default:
		select {
		case e.slots <- struct{}{}:
		case <-w.expired:
			return e.deny(errors.New("no place became free in time"), policy.ReasonBusy)
		case <-ctx.Done():
			return e.deny(ctx.Err(), policy.ReasonTimeout)
		}
	}
	defer func() { <-e.slots }()
	return e.evaluate(ctx, in, w, more)
}

func (e *Engine) evaluate(ctx context.Context, in policy.Input, w *watch, more []rego.EvalOption) policy.Decision {
	query := e.access
	switch in.Point {
	case policy.PointSpawn:
		query = e.spawn
	case policy.PointToken:
		query = e.token
	case policy.PointAccess:
	}
	rs, err := query.Eval(ctx, append(more,
		rego.EvalParsedInput(toValue(in)),
		rego.EvalTime(in.Time), // the only time a policy can learn
		rego.EvalExternalCancel(w))...)
	switch {
	case w.deep.Load():
		return e.deny(errDeep, policy.ReasonError)
	case topdown.IsCancel(err), err != nil && w.Cancelled():
		return e.deny(err, policy.ReasonTimeout)
	case err != nil:
		return e.deny(err, policy.ReasonError)
	case len(rs) == 0:
		return e.deny(nil, policy.ReasonUndefined)
	case len(rs) > 1:
		return e.deny(errors.New("more than one answer"), policy.ReasonError)
	}
	return e.judge(rs[0].Bindings)
}

func (e *Engine) deny(fault error, reasons ...string) policy.Decision {
	return policy.Decision{Reasons: reasons, Digest: e.digest, Revision: e.revision, Fault: fault}
}
