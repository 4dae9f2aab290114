package delegation

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/policy"
)

const (
	// loadWithin bounds the loading of a stored bundle, its tests included.
	loadWithin = time.Minute
	// loadAgain is how long a bundle that could not be loaded is left alone.
	loadAgain = 10 * time.Second
	// partsAtOnce is how many parts of an archive ride in one transaction: it holds a few MB.
	partsAtOnce = 4
)

// policyTurn lets one bundle be compiled or activated at a time, and knows which one decides.
type policyTurn struct {
	turn  chan struct{}
	using string    // digest of what decides, "" for none; who holds the turn changes it
	retry time.Time // when loading is tried again
	fault atomic.Pointer[error]
}

func newPolicyTurn() *policyTurn {
	p := &policyTurn{turn: make(chan struct{}, 1)}
	_ = p.settle(errors.New("not loaded yet"))
	return p
}

func (p *policyTurn) take(ctx context.Context) (done func(), err error) {
	select {
	case p.turn <- struct{}{}:
		return func() { <-p.turn }, nil
	case <-ctx.Done():
		return nil, &Error{Kind: Unavailable, Code: "timeout", Detail: "another bundle is being compiled", Err: ctx.Err()}
	}
}

func (p *policyTurn) settle(err error) error {
	p.fault.Store(&err)
	return err
}

// noBundles stands for an engine whose bundle never changes.
type noBundles struct{}

func (noBundles) Open(context.Context, []byte) (PolicyBundle, error) {
	return nil, policy.RefuseBundle(policy.BundlesNotConfigured, "no key for policy bundles is configured (policy.keys)")
}
func (b noBundles) Default(ctx context.Context) (PolicyBundle, error) { return b.Open(ctx, nil) }
func (noBundles) Use(PolicyBundle)                                    {}

func (c Config) bundles() Bundles {
	if c.Bundles == nil {
		return noBundles{}
	}
	return c.Bundles
}

// KeepPolicy makes the bundle decide that the log says is active, and tells why that is not so. It is called at start,
// before anything is served, and again and again: where an activation's outcome was unknown, the state tells it. A bundle
// that cannot be loaded is never replaced by another: everything is denied until it can, or until a newer one is approved.
func (s *Service) KeepPolicy(ctx context.Context) error {
	if s.cfg.Bundles == nil {
		return nil
	}
	select {
	case s.policy.turn <- struct{}{}:
		defer func() { <-s.policy.turn }()
	default: // a bundle is being compiled: what decides has not changed
		return *s.policy.fault.Load()
	}
	return s.policy.settle(s.keepPolicy(ctx))
}

func (s *Service) keepPolicy(ctx context.Context) error {
	want, _, err := s.active()
	if err != nil {
		return fmt.Errorf("read which bundle is active: %w", err)
	}
	if s.policy.using != "" && s.policy.using == want.Digest {
		return nil
	}
	if want.Digest == "" {
		return s.useDefault(ctx)
	}
	if s.cfg.Now().Before(s.policy.retry) {
		return *s.policy.fault.Load()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loadWithin)
	defer cancel()
	if err = s.useStored(ctx, want); err != nil {
		s.policy.retry = s.cfg.Now().Add(loadAgain)
	}
	return err
}

// useStored loads what was activated: by its digest, and checked as when it was uploaded.
func (s *Service) useStored(ctx context.Context, want activeState) error {
	s.use(nil)
	b, err := s.openStored(ctx, want.Digest)
	if err != nil {
		return fmt.Errorf("the active bundle %s, revision %d, was not loaded: %w", want.Digest, want.Revision, err)
	}
	s.use(b)
	return nil
}

func (s *Service) use(b PolicyBundle) {
	s.cfg.bundles().Use(b)
	s.policy.using = ""
	if b != nil {
		s.policy.using = b.Bundle().Digest
	}
}

// useDefault makes the shipped bundle decide. It may be another than yesterday's, after an upgrade: then the log is told
// before it decides anything.
func (s *Service) useDefault(ctx context.Context) error {
	engine, err := s.cfg.Bundles.Default(ctx)
	if err != nil {
		return fmt.Errorf("the default bundle: %w", err)
	}
	b := engine.Bundle()
	if s.policy.using == b.Digest {
		return nil
	}
	if err := s.keepArchive(ctx, b); err != nil {
		return err
	}
	_, known, err := s.cfg.Log.Get(keyPolicyWas + b.Digest)
	if err != nil {
		return fmt.Errorf("read known bundles: %w", err)
	}
	if !known {
		_, err := s.append(ctx, draft{
			env:       record.Envelope{Type: record.TypePolicy, Policy: b.Digest},
			body:      record.PolicyBody{Name: defaultBundle, Digest: b.Digest, Revision: b.Revision},
			mutations: []record.Mutation{KnownPolicy(b.Digest), must(record.Absent, keyPolicyActive, errActivated())},
		})
		if err != nil {
			return fmt.Errorf("record the default bundle: %w", err)
		}
	}
	s.use(engine)
	return nil
}

// KnownPolicy is the state that a bundle has been active; a ceremony writes it for the default bundle, with leaf 0.
func KnownPolicy(digest string) record.Mutation {
	return record.Mutation{Key: keyPolicyWas + digest, Value: []byte("{}")}
}

// storedState says how an archive is kept. Whole is set last.
type storedState struct {
	Parts int  `json:"parts"`
	Whole bool `json:"whole"`
}

func partKey(digest string, n int) string { return keyPolicyPart + digest + "/" + strconv.Itoa(n) }

// keepArchive stores an archive under its digest. That is state without an entry, as it is of no effect by itself; an
// entry that names the digest is written after it. What is read back is compared with the digest.
func (s *Service) keepArchive(ctx context.Context, b policy.Bundle) error {
	key, archive := keyPolicyStored+b.Digest, b.Archive
	st, ok, err := load[storedState](s.cfg.Log, key)
	if err != nil {
		return err
	}
	if ok && st.Whole {
		// A crash while it was removed may have left some of it.
		if old, err := s.PolicyArchive(b.Digest); err == nil && old != nil {
			return nil
		}
	}
	var parts []record.Mutation
	for n := 0; len(archive) > 0; n++ {
		size := min(len(archive), record.MaxValue)
		parts = append(parts, record.Mutation{Key: partKey(b.Digest, n), Value: archive[:size]})
		archive = archive[size:]
	}
	mark := func(whole bool) error {
		value, err := encode(storedState{Parts: len(parts), Whole: whole})
		if err != nil {
			return err
		}
		return s.cfg.Log.Put(ctx, []record.Mutation{{Key: key, Value: value}})
	}
	if err := mark(false); err != nil {
		return unstored(err)
	}
	for rest := parts; len(rest) > 0; {
		n := min(len(rest), partsAtOnce)
		if err := s.cfg.Log.Put(ctx, rest[:n]); err != nil {
			return unstored(err)
		}
		rest = rest[n:]
	}
	if err := mark(true); err != nil {
		return unstored(err)
	}
	return nil
}

func unstored(err error) error {
	return &Error{Kind: Unavailable, Code: "audit_unavailable", Detail: "the bundle was not stored, so nothing was done", Err: err}
}

// PolicyArchive gives the archive of a bundle that is or was active, or is a candidate; nil where there is none.
func (s *Service) PolicyArchive(digest string) ([]byte, error) {
	st, ok, err := load[storedState](s.cfg.Log, keyPolicyStored+digest)
	if err != nil || !ok {
		return nil, err
	}
	var archive bytes.Buffer
	for n := range st.Parts {
		part, ok, err := s.cfg.Log.Get(partKey(digest, n))
		if err != nil || !ok {
			return nil, err
		}
		archive.Write(part)
	}
	if sum := sha256.Sum256(archive.Bytes()); hexOf(sum) != digest {
		return nil, fmt.Errorf("delegation: the stored bundle %s is damaged", digest)
	}
	return archive.Bytes(), nil
}

// openStored verifies, compiles and tests a stored bundle again.
func (s *Service) openStored(ctx context.Context, digest string) (PolicyBundle, error) {
	archive, err := s.PolicyArchive(digest)
	if err != nil {
		return nil, internal("read bundle", err)
	}
	if archive == nil {
		return nil, internal("read bundle", errors.New("its archive is not in the store"))
	}
	b, err := s.cfg.bundles().Open(ctx, archive)
	if err != nil {
		return nil, err
	}
	if b.Bundle().Digest != digest {
		return nil, internal("read bundle", errors.New("its archive is not canonical"))
	}
	return b, nil
}

// sweepArchives removes archives that are neither candidates nor were ever active: those of replaced candidates, and what
// a crash left half stored.
func (s *Service) sweepArchives(ctx context.Context) error {
	needed := map[string]bool{}
	if err := s.candidates(ctx, func(c candidateState) { needed[c.Digest] = true }); err != nil {
		return err
	}
	var stored []string
	err := s.cfg.Log.Scan(ctx, keyPolicyStored, "", maxStored, func(key string, _ []byte) error {
		stored = append(stored, key[len(keyPolicyStored):])
		return nil
	})
	for _, digest := range stored {
		_, was, wrong := s.cfg.Log.Get(keyPolicyWas + digest)
		if wrong == nil && !was && !needed[digest] {
			wrong = s.dropArchive(ctx, digest)
		}
		err = errors.Join(err, wrong)
	}
	return err
}

// maxStored bounds one sweep; bundles that were active are among what it looks at.
const maxStored = 100_000

func (s *Service) dropArchive(ctx context.Context, digest string) error {
	st, ok, err := load[storedState](s.cfg.Log, keyPolicyStored+digest)
	if err != nil || !ok {
		return err
	}
	var gone []record.Mutation
	for n := range st.Parts {
		gone = append(gone, record.Mutation{Key: partKey(digest, n), Delete: true})
	}
	for ; len(gone) >= record.MaxMutations; gone = gone[record.MaxMutations/2:] {
		if err := s.cfg.Log.Put(ctx, gone[:record.MaxMutations/2]); err != nil {
			return err
		}
	}
	return s.cfg.Log.Put(ctx, append(gone, record.Mutation{Key: keyPolicyStored + digest, Delete: true}))
}
