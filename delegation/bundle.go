package delegation

import (
	"context"
	"errors"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/policy"
)

const (
	// PulledBundle is the name of the candidate that comes from a bundle server. Nobody uploads one of that name.
	PulledBundle = "pulled"
	// defaultBundle names the bundle that ships with the appliance, in the entry that makes it known.
	defaultBundle = "default"
	// activeBundle is what reviews call the one that decides.
	activeBundle = "active"
	// maxCandidates bounds the bundles that wait for approval.
	maxCandidates = 16
	// approvalLife is how long one person's approval waits for another's.
	approvalLife = 24 * time.Hour
	// approvers is how many people it takes.
	approvers = 2
)

// Bundles is the policy engine's side of bundles. What is wrong with a bundle is a *policy.BundleError.
type Bundles interface {
	// Open verifies the signature, compiles strictly, and runs the bundle's own tests.
	Open(ctx context.Context, archive []byte) (PolicyBundle, error)
	// Default is the bundle that decides while none was activated.
	Default(ctx context.Context) (PolicyBundle, error)
	// Use makes a bundle decide from now on; nil denies everything.
	Use(b PolicyBundle)
}

// PolicyBundle is a bundle that could decide.
type PolicyBundle interface {
	Policy
	Bundle() policy.Bundle
}

// BundleStatus is a bundle as people see it.
type BundleStatus struct {
	Name      string
	Digest    string
	Revision  uint64 // 0: the default bundle
	KeyID     string
	KeyHash   string
	Size      int
	By        string    // who uploaded it; "" where it was pulled
	Since     time.Time // uploaded, or active since
	Active    bool
	Approvals []BundleApproval
	Tests     []policy.TestResult
	Position  Position // zero where nothing was recorded just now
}

// BundleApproval is one person's approval of exactly this digest.
type BundleApproval struct {
	Operator string
	Time     time.Time
	Expires  time.Time // zero for an active bundle
}

// BundleTest is the outcome of a candidate's own tests.
type BundleTest struct {
	Digest string
	Passed bool
	Tests  []policy.TestResult
}

// candidateState is a bundle that waits for approval.
type candidateState struct {
	Name      string          `json:"name"`
	Digest    string          `json:"digest"`
	Revision  uint64          `json:"revision"`
	KeyID     string          `json:"key_id"`
	KeyHash   string          `json:"key_hash"`
	Size      int             `json:"size"`
	By        string          `json:"by,omitempty"`
	At        time.Time       `json:"at"`
	Approvals []approvalState `json:"approvals,omitempty"`
}

// approvalState is one approval, and what must still hold of it when it counts.
type approvalState struct {
	Operator     string    `json:"operator"`
	Registration string    `json:"registration,omitempty"`
	Serial       string    `json:"serial"` // of the certificate that approved
	At           time.Time `json:"at"`
	Base         string    `json:"base"` // digest of what was active then
}

// activeState is the bundle that decides.
type activeState struct {
	candidateState
	Since time.Time `json:"since"`
}

// active reads which bundle was activated last; the zero state stands for the default bundle. raw is its value in the state.
func (s *Service) active() (st activeState, raw []byte, err error) {
	raw, ok, err := s.cfg.Log.Get(keyPolicyActive)
	if err != nil || !ok {
		return st, nil, err
	}
	v, err := read[activeState](keyPolicyActive, raw)
	if err != nil {
		return st, nil, err
	}
	return *v, raw, nil
}

// base is the digest of what a candidate would replace: the default bundle has one, too, and another after an upgrade.
func (s *Service) base(ctx context.Context, active activeState) string {
	if active.Digest != "" {
		return active.Digest
	}
	b, err := s.cfg.bundles().Default(ctx)
	if err != nil {
		return ""
	}
	return b.Bundle().Digest
}

// candidate reads one, with its value in the state.
func (s *Service) candidate(name string) (c candidateState, raw []byte, err error) {
	raw, ok, err := s.cfg.Log.Get(keyCandidate + name)
	if err != nil {
		return c, nil, internal("read candidate", err)
	}
	if !ok {
		return c, nil, refuse(NotFound, policy.BundleUnknown, "name", "there is no candidate of this name")
	}
	v, err := read[candidateState](keyCandidate+name, raw)
	if err != nil {
		return c, nil, internal("read candidate", err)
	}
	return *v, raw, nil
}

// Bundles lists what is active, first, and the candidates by name.
func (s *Service) Bundles(ctx context.Context) ([]BundleStatus, error) {
	active, _, err := s.active()
	if err != nil {
		return nil, internal("read active bundle", err)
	}
	out := []BundleStatus{s.activeStatus(ctx, active)}
	base := s.base(ctx, active)
	err = s.candidates(ctx, func(c candidateState) { out = append(out, s.candidateStatus(c, base)) })
	if err != nil {
		return nil, internal("list candidates", err)
	}
	return out, nil
}

// Bundle shows a candidate, or the active bundle by its name.
func (s *Service) Bundle(ctx context.Context, name string) (BundleStatus, error) {
	active, _, err := s.active()
	if err != nil {
		return BundleStatus{}, internal("read active bundle", err)
	}
	c, _, err := s.candidate(name)
	if err == nil {
		return s.candidateStatus(c, s.base(ctx, active)), nil
	}
	if out := s.activeStatus(ctx, active); AsError(err).Kind == NotFound && out.Name == name {
		return out, nil
	}
	return BundleStatus{}, err
}

func (s *Service) candidates(ctx context.Context, fn func(candidateState)) error {
	return s.cfg.Log.Scan(ctx, keyCandidate, "", maxCandidates+1, func(key string, value []byte) error {
		c, err := read[candidateState](key, value)
		if err == nil {
			fn(*c)
		}
		return err
	})
}

func (c candidateState) status() BundleStatus {
	return BundleStatus{
		Name: c.Name, Digest: c.Digest, Revision: c.Revision, KeyID: c.KeyID, KeyHash: c.KeyHash, Size: c.Size, By: c.By, Since: c.At,
	}
}

func (s *Service) candidateStatus(c candidateState, base string) BundleStatus {
	out := c.status()
	for _, a := range s.live(c, base) {
		out.Approvals = append(out.Approvals, BundleApproval{Operator: a.Operator, Time: a.At, Expires: a.At.Add(approvalLife)})
	}
	return out
}

func (s *Service) activeStatus(ctx context.Context, a activeState) BundleStatus {
	out := a.status()
	out.Active, out.Since = true, a.Since
	if a.Digest == "" {
		out.Name = defaultBundle
		if b, err := s.cfg.bundles().Default(ctx); err == nil {
			out.Digest, out.Size = b.Bundle().Digest, len(b.Bundle().Archive)
		}
	}
	for _, p := range a.Approvals {
		out.Approvals = append(out.Approvals, BundleApproval{Operator: p.Operator, Time: p.At})
	}
	return out
}

// TestBundle compiles and tests a candidate again.
func (s *Service) TestBundle(ctx context.Context, by Caller, name string) (BundleTest, error) {
	out, err := s.testBundle(ctx, by, name)
	if err != nil {
		return BundleTest{}, s.denied(ctx, "policy.test", by, record.Envelope{}, bundleError(err))
	}
	return out, nil
}

func (s *Service) testBundle(ctx context.Context, by Caller, name string) (BundleTest, error) {
	if err := mayChangePolicy(by); err != nil {
		return BundleTest{}, err
	}
	done, err := s.policy.take(ctx)
	if err != nil {
		return BundleTest{}, err
	}
	defer done()
	c, _, err := s.candidate(name)
	if err != nil {
		return BundleTest{}, err
	}
	b, err := s.openStored(ctx, c.Digest)
	var refused *policy.BundleError
	if errors.As(err, &refused) && refused.Code == policy.BundleTests && len(refused.Tests) > 0 {
		return BundleTest{Digest: c.Digest, Tests: refused.Tests}, nil
	}
	if err != nil {
		return BundleTest{}, err
	}
	return BundleTest{Digest: c.Digest, Passed: true, Tests: b.Bundle().Tests}, nil
}

// FindBundle compiles a bundle for a review: the candidate of that name, or without a name the one of that digest, which is or
// was active or is a candidate. With both the candidate must have that digest.
func (s *Service) FindBundle(ctx context.Context, name, digest string) (PolicyBundle, error) {
	if name != "" {
		c, _, err := s.candidate(name)
		switch {
		case err != nil:
			return nil, err
		case digest != "" && digest != c.Digest:
			return nil, refuse(NotFound, policy.BundleOutdated, "digest", "the candidate has another digest")
		}
		digest = c.Digest
	}
	if b, err := s.cfg.bundles().Default(ctx); err == nil && b.Bundle().Digest == digest {
		return b, nil
	}
	_, ok, err := s.cfg.Log.Get(keyPolicyStored + digest)
	switch {
	case err != nil:
		return nil, internal("read bundle", err)
	case !ok:
		return nil, refuse(NotFound, policy.BundleUnknown, "digest", "there is no bundle of this digest")
	}
	done, err := s.policy.take(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	b, err := s.openStored(ctx, digest)
	if err != nil {
		return nil, bundleError(err)
	}
	return b, nil
}

// mayChangePolicy admits those who answer for what is permitted.
func mayChangePolicy(by Caller) error {
	if by.Role != RoleOperator && by.Role != RoleOfficer {
		return refuse(Forbidden, "operator_required", "", "policy is changed by operators and security officers")
	}
	return nil
}

// bundleError makes a refusal of what is wrong with a bundle.
func bundleError(err error) error {
	var b *policy.BundleError
	if !errors.As(err, &b) {
		return err
	}
	kind := Invalid
	switch b.Code {
	case policy.BundleDowngrade, policy.BundlesNotConfigured:
		kind = Conflict
	}
	return &Error{Kind: kind, Code: b.Code, Detail: shortened(b.Detail), Err: err}
}

// maxBundleDetail bounds what a compiler says about a policy.
const maxBundleDetail = 2048

func shortened(text string) string {
	if len(text) <= maxBundleDetail {
		return text
	}
	return text[:maxBundleDetail] + " …"
}
