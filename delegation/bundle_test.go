package delegation_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/internal/testrig/policybundle"
	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

const writer = "writers-1"

// engines is the real engine, as the appliance has it.
type engines struct {
	active  opa.Active
	keys    *opa.Keys
	shipped func() (*opa.Engine, error)
	opened  atomic.Int64
}

func (e *engines) options() opa.Options { return opa.Options{Timeout: 20 * time.Second} }

func (e *engines) Open(ctx context.Context, archive []byte) (delegation.PolicyBundle, error) {
	e.opened.Add(1)
	files, err := opa.OpenArchive(archive)
	if err != nil {
		return nil, err
	}
	o := e.options()
	o.Bundle, o.Keys = files, e.keys
	return opa.New(ctx, o)
}

func (e *engines) Default(context.Context) (delegation.PolicyBundle, error) { return e.shipped() }

func (e *engines) Use(b delegation.PolicyBundle) {
	engine, _ := b.(*opa.Engine) // nil denies
	e.active.Use(engine)
}

// shop is a rig whose policy changes by bundles.
type shop struct {
	*rig
	engines *engines
	key     *ecdsa.PrivateKey
	alice   delegation.Caller // operator
	bob     delegation.Caller // security officer
}

func newShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{rig: newRig(t), key: newKey(t), engines: &engines{}}
	s.engines.keys = pinned(t, writer, s.key.Public())
	s.engines.shipped = sync.OnceValues(func() (*opa.Engine, error) { return opa.New(context.Background(), s.engines.options()) })
	s.bundles = s.engines
	s.reopen()
	s.alice, s.bob = s.operator, s.staff("bob", delegation.RoleOfficer)
	return s
}

// reopen is a restart of the appliance.
func (s *shop) reopen() {
	s.t.Helper()
	s.engines.active.Use(nil)
	s.restart()
	if err := s.s.KeepPolicy(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

func pinned(t *testing.T, id string, key crypto.PublicKey) *opa.Keys {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	k, err := opa.ParseKey(id, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := opa.NewKeys(k)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// staff registers a person.
func (s *shop) staff(name string, role delegation.Role) delegation.Caller {
	s.t.Helper()
	return s.person(name, role, false)
}

func (s *shop) person(name string, role delegation.Role, replace bool) delegation.Caller {
	s.t.Helper()
	key := newKey(s.t)
	reg, err := s.s.Register(s.t.Context(), s.operator, chain.Operator, delegation.Registration{Name: name, Role: role, CSR: csr(s.t, key), Replace: replace})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.auth(s.identity(key, reg.Issued.Chain))
}

func (s *shop) signed(revision uint64, clause string) []byte {
	s.t.Helper()
	return policybundle.New(revision, clause).Sign(s.t, writer, s.key, jose.ES256).Archive(s.t)
}

func (s *shop) push(name string, archive []byte) delegation.BundleStatus {
	s.t.Helper()
	out, err := s.s.PushBundle(s.t.Context(), s.alice, name, archive)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *shop) approveBundle(by delegation.Caller, name, digest string) delegation.BundleStatus {
	s.t.Helper()
	out, err := s.s.ApproveBundle(s.t.Context(), by, name, digest)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// makeActive takes a bundle all the way.
func (s *shop) makeActive(revision uint64, clause string) delegation.BundleStatus {
	s.t.Helper()
	return s.activate(s.signed(revision, clause))
}

func (s *shop) activate(archive []byte) delegation.BundleStatus {
	s.t.Helper()
	c := s.push("main", archive)
	s.approveBundle(s.alice, "main", c.Digest)
	return s.approveBundle(s.bob, "main", c.Digest)
}

// refused asks for a refusal with its entry.
func (s *shop) refused(want string, err error) {
	s.t.Helper()
	if err == nil {
		s.t.Fatalf("nothing refused, want %s", want)
	}
	if got := code(s.t, err); got != want {
		s.t.Fatalf("%s: %v, want %s", got, err, want)
	}
	if env := s.log.last(s.t); env.Type != record.TypeDeny || env.Code != want {
		s.t.Fatalf("the last entry is %s %s", env.Type, env.Code)
	}
}

// decides says under which bundle an input is answered, and how.
func (s *shop) decides() policy.Decision {
	in := policy.Input{Point: policy.PointAccess, Time: s.now(), Resource: &policy.Resource{Type: "database", ID: "x"}, Action: &policy.Action{Name: "read"}}
	return s.engines.active.Decide(s.t.Context(), in)
}

func TestTwoPeopleActivateABundle(t *testing.T) {
	s := newShop(t)
	shipped := s.decides()
	c := s.push("main", s.signed(1, "true"))
	if c.Active || c.Revision != 1 || c.KeyID != writer || len(c.Tests) != 1 || s.decides().Digest != shipped.Digest {
		t.Fatalf("%+v", c)
	}
	if out := s.approveBundle(s.alice, "main", c.Digest); out.Active || len(out.Approvals) != 1 || s.decides().Digest != shipped.Digest {
		t.Fatalf("%+v", out)
	}
	_, err := s.s.ApproveBundle(t.Context(), s.alice, "main", c.Digest)
	s.refused(policy.BundleSecondPerson, err)
	out := s.approveBundle(s.bob, "main", c.Digest)
	if !out.Active || len(out.Approvals) != 2 || s.decides().Digest != c.Digest || !s.decides().Allow {
		t.Fatalf("%+v %+v", out, s.decides())
	}
	env := s.log.last(t)
	body, err := record.DecodeBody[record.PolicyBody](env)
	if err != nil || env.Type != record.TypePolicy || env.Policy != c.Digest || body.Digest != c.Digest || body.Revision != "1" || body.Previous != "" || body.KeyID != writer {
		t.Fatalf("%+v %+v %v", env, body, err)
	}
	if len(body.Approvals) != 2 || body.Approvals[0].Operator != "admin" || body.Approvals[1].Operator != "bob" {
		t.Fatalf("%+v", body.Approvals)
	}
	all, err := s.s.Bundles(t.Context())
	if err != nil || len(all) != 1 || !all[0].Active || all[0].Digest != c.Digest {
		t.Fatalf("%+v %v", all, err)
	}
}

// Operators and security officers change policy; nobody else does, whatever they hold.
func TestWhoMayChangePolicy(t *testing.T) {
	s := newShop(t)
	c := s.push("main", s.signed(1, "true"))
	for _, by := range []delegation.Caller{s.staff("ann", delegation.RoleAuditor), s.staff("pat", delegation.RolePrivacy), s.service("records"), {}} {
		_, err := s.s.PushBundle(t.Context(), by, "other", s.signed(2, "true"))
		s.refused("operator_required", err)
		_, err = s.s.ApproveBundle(t.Context(), by, "main", c.Digest)
		s.refused("operator_required", err)
		_, err = s.s.TestBundle(t.Context(), by, "main")
		s.refused("operator_required", err)
	}
}

// One person with two certificates, or with a second registration, is one person.
func TestApprovalsAreOfDifferentPeople(t *testing.T) {
	s := newShop(t)
	c := s.push("main", s.signed(1, "true"))
	bobs := s.bob
	s.approveBundle(s.bob, "main", c.Digest)
	again := s.person("bob", delegation.RoleOfficer, true)
	if again.Certs[0].Equal(bobs.Certs[0]) {
		t.Fatal("the same certificate")
	}
	// The replaced registration's approval counts no more, and the new one's is the first.
	if out := s.approveBundle(again, "main", c.Digest); out.Active || len(out.Approvals) != 1 {
		t.Fatalf("%+v", out)
	}
	_, err := s.s.ApproveBundle(t.Context(), bobs, "main", c.Digest)
	s.refused(policy.BundleSecondPerson, err)
	if out := s.approveBundle(s.alice, "main", c.Digest); !out.Active {
		t.Fatalf("%+v", out)
	}
}

// The certificate of the first approver is revoked before the second one approves.
func TestApprovalOfARevokedCertificateDoesNotCount(t *testing.T) {
	s := newShop(t)
	c := s.push("main", s.signed(1, "true"))
	s.approveBundle(s.bob, "main", c.Digest)
	_, err := s.s.Revoke(t.Context(), s.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: chain.Serial(s.bob.Certs[0])})
	if err != nil {
		t.Fatal(err)
	}
	if out := s.approveBundle(s.alice, "main", c.Digest); out.Active || len(out.Approvals) != 1 {
		t.Fatalf("%+v", out)
	}
}

// What happens between reading and committing is found at the commit: a revocation that the memory does not know yet.
func TestApproverIsAskedAgainAtCommit(t *testing.T) {
	s := newShop(t)
	s.damaged = true
	c := s.push("main", s.signed(1, "true"))
	s.approveBundle(s.bob, "main", c.Digest)
	err := s.log.Put(t.Context(), []record.Mutation{{Key: "rev/certificate/" + chain.Serial(s.bob.Certs[0]), Value: []byte(`{"seq":1}`)}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.s.ApproveBundle(t.Context(), s.alice, "main", c.Digest)
	s.refused(chain.CodeCertificateRevoked, err)
	if s.decides().Digest == c.Digest {
		t.Fatal("active all the same")
	}
}

func TestApprovalsExpireAndLapse(t *testing.T) {
	s := newShop(t)
	first := s.push("first", s.signed(1, "true"))
	later := s.push("later", s.signed(5, "true"))
	s.approveBundle(s.bob, "later", later.Digest)
	s.skew.Store(int64(24 * time.Hour))
	if out := s.approveBundle(s.alice, "later", later.Digest); out.Active || len(out.Approvals) != 1 {
		t.Fatalf("after a day: %+v", out)
	}
	s.approveBundle(s.bob, "first", first.Digest)
	s.approveBundle(s.alice, "first", first.Digest)
	// Another bundle became active: what was approved was a change of the one before.
	if out, err := s.s.Bundle(t.Context(), "later"); err != nil || len(out.Approvals) != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	if out := s.approveBundle(s.bob, "later", later.Digest); out.Active || len(out.Approvals) != 1 {
		t.Fatalf("%+v", out)
	}
	if out := s.approveBundle(s.alice, "later", later.Digest); !out.Active {
		t.Fatalf("%+v", out)
	}
}

func TestApprovalIsOfOneDigest(t *testing.T) {
	s := newShop(t)
	old := s.push("main", s.signed(1, "true"))
	s.approveBundle(s.bob, "main", old.Digest)
	fresh := s.push("main", s.signed(2, "input.point == \"access\""))
	_, err := s.s.ApproveBundle(t.Context(), s.alice, "main", old.Digest)
	s.refused(policy.BundleOutdated, err)
	if out := s.approveBundle(s.alice, "main", fresh.Digest); out.Active || len(out.Approvals) != 1 {
		t.Fatalf("approvals of the replaced bundle count: %+v", out)
	}
	_, err = s.s.ApproveBundle(t.Context(), s.alice, "nothing", fresh.Digest)
	s.refused(policy.BundleUnknown, err)
	if archive, err := s.s.PolicyArchive(old.Digest); archive != nil || err != nil {
		t.Fatalf("the replaced candidate is still stored: %d bytes, %v", len(archive), err)
	}
}

func TestRevisionsOnlyGrow(t *testing.T) {
	s := newShop(t)
	seven := s.makeActive(7, "true")
	for _, revision := range []uint64{1, 6, 7} {
		_, err := s.s.PushBundle(t.Context(), s.alice, "main", s.signed(revision, "true"))
		s.refused(policy.BundleDowngrade, err)
	}
	low, high := s.push("low", s.signed(8, "true")), s.push("high", s.signed(9, "true"))
	s.approveBundle(s.alice, "high", high.Digest)
	s.approveBundle(s.bob, "high", high.Digest)
	_, err := s.s.ApproveBundle(t.Context(), s.alice, "low", low.Digest)
	s.refused(policy.BundleDowngrade, err)
	if archive, err := s.s.PolicyArchive(seven.Digest); len(archive) == 0 || err != nil {
		t.Fatalf("what was active is not kept: %v", err)
	}
	// The same archive once more is no change.
	before := s.log.count(record.TypeAdmin)
	archive, err := s.s.PolicyArchive(high.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if out := s.push("main", archive); !out.Active || out.Digest != high.Digest || s.log.count(record.TypeAdmin) != before {
		t.Fatalf("%+v", out)
	}
}

func TestPushRefuses(t *testing.T) {
	s := newShop(t)
	good := policybundle.New(1, "true")
	for name, c := range map[string]struct {
		name, code string
		archive    []byte
	}{
		"unsigned":     {"main", policy.BundleUnsigned, good.Archive(t)},
		"wrong key":    {"main", policy.BundleSignature, good.Sign(t, writer, newKey(t), jose.ES256).Archive(t)},
		"failing test": {"main", policy.BundleTests, good.With("y_test.rego", "package signet.y_test\n\ntest_no if false\n").Sign(t, writer, s.key, jose.ES256).Archive(t)},
		"no archive":   {"main", policy.BundleUnreadable, []byte("x")},
		"no name":      {"", policy.BundleNameBad, s.signed(1, "true")},
		"odd name":     {"../x", policy.BundleNameBad, s.signed(1, "true")},
		"pulled":       {delegation.PulledBundle, policy.BundleNameReserved, s.signed(1, "true")},
		"active":       {"active", policy.BundleNameReserved, s.signed(1, "true")},
		"default":      {"default", policy.BundleNameReserved, s.signed(1, "true")},
	} {
		_, err := s.s.PushBundle(t.Context(), s.alice, c.name, c.archive)
		if err == nil || code(t, err) != c.code {
			t.Errorf("%s: %v, want %s", name, err, c.code)
			continue
		}
		s.refused(c.code, err)
	}
	for n := range 16 {
		s.push("c"+strconv.Itoa(n), s.signed(1, "true"))
	}
	_, err := s.s.PushBundle(t.Context(), s.alice, "one-more", s.signed(1, "true"))
	s.refused(policy.BundleTooMany, err)
	s.push("c3", s.signed(2, "true"))
	if all, err := s.s.Bundles(t.Context()); err != nil || len(all) != 17 {
		t.Fatalf("%d %v", len(all), err)
	}
}

// An appliance without pinned keys has the shipped policy, for good.
func TestWithoutKeysNothingIsTaken(t *testing.T) {
	r := newRig(t)
	if err := r.s.KeepPolicy(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := r.s.PushBundle(t.Context(), r.operator, "main", []byte("x"))
	if err == nil || code(t, err) != policy.BundlesNotConfigured {
		t.Fatal(err)
	}
}

// A candidate's tests can be run again; they say what fails, if they do so by then.
func TestTestsOfACandidate(t *testing.T) {
	s := newShop(t)
	c := s.push("main", s.signed(1, "true"))
	out, err := s.s.TestBundle(t.Context(), s.alice, "main")
	if err != nil || !out.Passed || out.Digest != c.Digest || len(out.Tests) != 1 || !out.Tests[0].Passed {
		t.Fatalf("%+v %v", out, err)
	}
	_, err = s.s.TestBundle(t.Context(), s.alice, "other")
	s.refused(policy.BundleUnknown, err)
}

// What is pulled is a candidate, whoever's signature it has; the same again is nothing new.
func TestPulledBundleIsACandidate(t *testing.T) {
	s := newShop(t)
	archive := s.signed(1, "true")
	c, err := s.s.ReceiveBundle(t.Context(), archive)
	if err != nil || c.Active || c.Name != delegation.PulledBundle || c.By != "" {
		t.Fatalf("%+v %v", c, err)
	}
	if env := s.log.last(t); env.Type != record.TypeAdmin || env.Operator != "" {
		t.Fatalf("%+v", env)
	}
	before := s.log.count(record.TypeAdmin)
	if _, err := s.s.ReceiveBundle(t.Context(), archive); err != nil || s.log.count(record.TypeAdmin) != before {
		t.Fatal(err)
	}
	_, err = s.s.ReceiveBundle(t.Context(), []byte("x"))
	s.refused(policy.BundleUnreadable, err)
	s.approveBundle(s.alice, delegation.PulledBundle, c.Digest)
	if out := s.approveBundle(s.bob, delegation.PulledBundle, c.Digest); !out.Active {
		t.Fatalf("%+v", out)
	}
	if out, err := s.s.ReceiveBundle(t.Context(), archive); err != nil || !out.Active {
		t.Fatalf("%+v %v", out, err)
	}
}
