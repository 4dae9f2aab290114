package delegation

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/policy"
)

// PushBundle takes an operator's bundle as the candidate of that name: verified, compiled, tested and newer than what is
// active. It replaces another candidate of the name, with its approvals; the same once more changes nothing.
func (s *Service) PushBundle(ctx context.Context, by Caller, name string, archive []byte) (BundleStatus, error) {
	out, err := s.pushBundle(ctx, by, name, archive)
	if err != nil {
		return BundleStatus{}, s.denied(ctx, "policy.push", by, record.Envelope{}, bundleError(err))
	}
	return out, nil
}

func (s *Service) pushBundle(ctx context.Context, by Caller, name string, archive []byte) (BundleStatus, error) {
	switch err := mayChangePolicy(by); {
	case err != nil:
		return BundleStatus{}, err
	case !nameForm.MatchString(name):
		return BundleStatus{}, refuse(Invalid, policy.BundleNameBad, "name", "1 to 64 of a-z 0-9 . _ -, beginning and ending with a letter or digit")
	case name == PulledBundle || name == defaultBundle || name == activeBundle:
		return BundleStatus{}, refuse(Conflict, policy.BundleNameReserved, "name", "this name is the appliance's own")
	}
	return s.takeBundle(ctx, by, name, archive)
}

// ReceiveBundle takes what came from the configured bundle server as the candidate PulledBundle. Nobody is asked for it,
// and nobody has approved it.
func (s *Service) ReceiveBundle(ctx context.Context, archive []byte) (BundleStatus, error) {
	out, err := s.takeBundle(ctx, Caller{}, PulledBundle, archive)
	if err != nil {
		return BundleStatus{}, s.denied(ctx, "policy.pull", Caller{}, record.Envelope{}, bundleError(err))
	}
	return out, nil
}

func (s *Service) takeBundle(ctx context.Context, by Caller, name string, archive []byte) (BundleStatus, error) {
	done, err := s.policy.take(ctx)
	if err != nil {
		return BundleStatus{}, err
	}
	defer done()
	engine, err := s.cfg.bundles().Open(ctx, archive)
	if err != nil {
		return BundleStatus{}, err
	}
	b := engine.Bundle()
	active, rawActive, err := s.active()
	if err != nil {
		return BundleStatus{}, internal("read active bundle", err)
	}
	if b.Digest == active.Digest {
		return s.activeStatus(ctx, active), nil
	}
	revision, err := newer(b, active)
	if err != nil {
		return BundleStatus{}, err
	}
	old, raw, err := s.candidate(name)
	switch {
	case err == nil && old.Digest == b.Digest:
		return s.candidateStatus(old, s.base(ctx, active)), nil
	case err == nil:
	case AsError(err).Kind != NotFound:
		return BundleStatus{}, err
	default:
		if err := s.placeForCandidate(ctx); err != nil {
			return BundleStatus{}, err
		}
	}
	c := candidateState{
		Name: name, Digest: b.Digest, Revision: revision, KeyID: b.KeyID, KeyHash: b.KeyHash, Size: len(b.Archive), By: by.ID.Name(), At: s.cfg.Now().UTC(),
	}
	return s.recordCandidate(ctx, by, b, c, raw, rawActive)
}

// newer refuses what is not newer than everything that was ever active. Each activation needed a higher revision than
// the one before it, so the active one has the highest.
func newer(b policy.Bundle, active activeState) (uint64, error) {
	revision, err := policy.ParseRevision(b.Revision)
	if err != nil {
		return 0, err
	}
	if revision <= active.Revision {
		return 0, policy.RefuseBundle(policy.BundleDowngrade, "revision %d is not greater than %d, which is active", revision, active.Revision)
	}
	return revision, nil
}

func (s *Service) placeForCandidate(ctx context.Context) error {
	n := 0
	if err := s.candidates(ctx, func(candidateState) { n++ }); err != nil {
		return internal("list candidates", err)
	}
	if n >= maxCandidates {
		return refuse(Conflict, policy.BundleTooMany, "name", "there are "+strconv.Itoa(maxCandidates)+" candidates: replace one of them")
	}
	return nil
}

// recordCandidate stores the archive, then the entry with the candidate's state.
func (s *Service) recordCandidate(ctx context.Context, by Caller, b policy.Bundle, c candidateState, old, active []byte) (BundleStatus, error) {
	if err := s.keepArchive(ctx, b); err != nil {
		return BundleStatus{}, err
	}
	value, err := encode(c)
	if err != nil {
		return BundleStatus{}, err
	}
	action := "policy.push"
	if by.ID == (chain.ID{}) {
		action = "policy.pull"
	}
	env := record.Envelope{Type: record.TypeAdmin}
	nameCaller(&env, by)
	pos, err := s.append(ctx, draft{
		env:       env,
		body:      record.AdminBody{Action: action, Target: c.Name, Detail: c.detail()},
		mutations: []record.Mutation{swap(keyCandidate+c.Name, old, value), asItWas(keyPolicyActive, active)},
	})
	if err != nil {
		return BundleStatus{}, err
	}
	if err := s.sweepArchives(ctx); err != nil {
		s.cfg.Logger.Warn("archives of replaced policy candidates were not removed", slog.Any("error", err))
	}
	out := c.status()
	out.Tests, out.Position = b.Tests, pos
	return out, nil
}

func (c candidateState) detail() map[string]string {
	return map[string]string{
		"digest": c.Digest, "revision": strconv.FormatUint(c.Revision, 10), "key_id": c.KeyID, "key_hash": c.KeyHash, "size": strconv.Itoa(c.Size),
	}
}

func errActivated() *Error {
	return refuse(Conflict, "policy_changed", "", "another bundle was pushed or activated meanwhile; look again")
}

// swap writes a key that must still be as it was read: absent where old is nil.
func swap(key string, old, value []byte) record.Mutation {
	if old == nil {
		return create(key, value, time.Time{}, errActivated())
	}
	return replace(key, old, value, time.Time{}, errActivated())
}

// asItWas is the check alone.
func asItWas(key string, old []byte) record.Mutation {
	m := swap(key, old, nil)
	m.CheckOnly = true
	return m
}

// ApproveBundle notes that a person approves exactly this digest. The second person's approval makes the bundle decide:
// it is compiled and tested again, the entry is durable first, then the bundle is swapped. If anything fails the last
// good bundle stays.
func (s *Service) ApproveBundle(ctx context.Context, by Caller, name, digest string) (BundleStatus, error) {
	out, err := s.approveBundle(ctx, by, name, digest)
	if err != nil {
		return BundleStatus{}, s.denied(ctx, "policy.approve", by, record.Envelope{}, bundleError(err))
	}
	return out, nil
}

func (s *Service) approveBundle(ctx context.Context, by Caller, name, digest string) (BundleStatus, error) {
	if err := mayChangePolicy(by); err != nil {
		return BundleStatus{}, err
	}
	done, err := s.policy.take(ctx)
	if err != nil {
		return BundleStatus{}, err
	}
	defer done()
	v, err := s.readVote(ctx, by, name, digest)
	if err != nil {
		return BundleStatus{}, err
	}
	if len(v.candidate.Approvals) < approvers {
		return s.recordApproval(ctx, by, v)
	}
	return s.activateBundle(ctx, by, v)
}

// vote is an approval on its way, with the state that it was cast on.
type vote struct {
	candidate candidateState // with the live approvals and this one
	raw       []byte
	active    activeState
	rawActive []byte
	base      string
	standing  []record.Mutation // every approver is who they were, and not revoked
}

func (s *Service) readVote(ctx context.Context, by Caller, name, digest string) (v vote, err error) {
	if v.candidate, v.raw, err = s.candidate(name); err != nil {
		return v, err
	}
	if v.active, v.rawActive, err = s.active(); err != nil {
		return v, internal("read active bundle", err)
	}
	if v.candidate.Digest != digest {
		return v, refuse(Conflict, policy.BundleOutdated, "digest", "the candidate has another digest")
	}
	if v.candidate.Revision <= v.active.Revision {
		return v, refuse(Conflict, policy.BundleDowngrade, "name", "a bundle of this revision, or a later one, was activated")
	}
	v.base = s.base(ctx, v.active)
	live := s.live(v.candidate, v.base)
	for _, a := range live {
		if a.Operator == by.ID.Name() {
			return v, refuse(Conflict, policy.BundleSecondPerson, "", "this person approved it; another must, too")
		}
	}
	v.candidate.Approvals = append(live, approvalState{
		Operator: by.ID.Name(), Registration: by.registration, Serial: chain.Serial(by.Certs[0]), At: s.cfg.Now().UTC(), Base: v.base,
	})
	for _, a := range v.candidate.Approvals {
		m, err := s.approverStands(a)
		if err != nil {
			return v, err
		}
		v.standing = append(v.standing, m...)
	}
	return v, nil
}

// live are the approvals that still count: not older than a day, given while the same bundle was active, by people whose
// certificate is not revoked and whose registration is the same.
func (s *Service) live(c candidateState, base string) []approvalState {
	var out []approvalState
	for _, a := range c.Approvals {
		if a.Base != base || !s.cfg.Now().Before(a.At.Add(approvalLife)) || s.revoked.has(chain.RevCertificate, a.Serial) {
			continue
		}
		if _, err := s.approverStands(a); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func (s *Service) approverStands(a approvalState) ([]record.Mutation, error) {
	id, err := chain.NamedID(s.cfg.Trust.TrustDomain, chain.Operator, a.Operator)
	if err != nil {
		return nil, internal("read approval", err)
	}
	same, err := s.unchanged(id, a.Registration)
	return []record.Mutation{same, must(record.Absent, revKey(chain.RevCertificate, a.Serial),
		refuse(Forbidden, chain.CodeCertificateRevoked, "", "the certificate of an approver is revoked"))}, err
}

func (s *Service) recordApproval(ctx context.Context, by Caller, v vote) (BundleStatus, error) {
	value, err := encode(v.candidate)
	if err != nil {
		return BundleStatus{}, err
	}
	env := record.Envelope{Type: record.TypeAdmin}
	nameCaller(&env, by)
	pos, err := s.append(ctx, draft{
		env:       env,
		body:      record.AdminBody{Action: "policy.approve", Target: v.candidate.Name, Detail: v.candidate.detail()},
		mutations: append(v.standing, swap(keyCandidate+v.candidate.Name, v.raw, value), asItWas(keyPolicyActive, v.rawActive)),
	})
	if err != nil {
		return BundleStatus{}, err
	}
	out := s.candidateStatus(v.candidate, v.base)
	out.Position = pos
	return out, nil
}

// activateBundle is the second approval.
func (s *Service) activateBundle(ctx context.Context, by Caller, v vote) (BundleStatus, error) {
	b, err := s.openStored(ctx, v.candidate.Digest)
	if err != nil {
		return BundleStatus{}, err
	}
	next := activeState{candidateState: v.candidate, Since: s.cfg.Now().UTC()}
	d, err := s.activationDraft(by, v, next)
	if err != nil {
		return BundleStatus{}, err
	}
	// Whether the caller waits makes no difference any more. If the outcome stays unknown, KeepPolicy finds it.
	pos, err := s.appendFirmly(ctx, d)
	if err != nil {
		return BundleStatus{}, err
	}
	s.use(b)
	_ = s.policy.settle(nil) // what the log says is active decides
	s.cfg.Logger.Info("policy bundle activated", slog.String("name", next.Name), slog.String("digest", next.Digest), slog.Uint64("revision", next.Revision))
	out := s.activeStatus(ctx, next)
	out.Tests, out.Position = b.Bundle().Tests, pos
	return out, nil
}

func (s *Service) activationDraft(by Caller, v vote, next activeState) (draft, error) {
	value, err := encode(next)
	if err != nil {
		return draft{}, err
	}
	body := record.PolicyBody{
		Name: next.Name, Digest: next.Digest, Revision: strconv.FormatUint(next.Revision, 10), Previous: v.active.Digest,
		KeyID: next.KeyID, KeyHash: next.KeyHash,
	}
	for _, a := range next.Approvals {
		body.Approvals = append(body.Approvals, record.PolicyApproval{Operator: a.Operator, Serial: a.Serial, Time: a.At})
	}
	env := record.Envelope{Type: record.TypePolicy, Policy: next.Digest}
	nameCaller(&env, by)
	gone := replace(keyCandidate+next.Name, v.raw, nil, time.Time{}, errActivated())
	gone.Delete = true
	return draft{
		env: env, body: body,
		mutations: append(v.standing, gone, swap(keyPolicyActive, v.rawActive, value), KnownPolicy(next.Digest)),
	}, nil
}
