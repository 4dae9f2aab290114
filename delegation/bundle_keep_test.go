package delegation_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/internal/testrig/policybundle"
	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

func TestBundleSurvivesARestart(t *testing.T) {
	s := newShop(t)
	big := policybundle.New(3, "true").With("filler.rego", "package signet.filler\n\n"+strings.Repeat("# more than one part of the store\n", 20_000))
	archive := big.Sign(t, writer, s.key, jose.ES256).Archive(t)
	c := s.push("main", archive)
	s.approveBundle(s.alice, "main", c.Digest)
	s.approveBundle(s.bob, "main", c.Digest)
	s.push("next", s.signed(4, "true"))
	s.reopen()
	if d := s.decides(); !d.Allow || d.Digest != c.Digest || d.Revision != "3" {
		t.Fatalf("%+v", d)
	}
	if all, err := s.s.Bundles(t.Context()); err != nil || len(all) != 2 || all[1].Name != "next" {
		t.Fatalf("%+v %v", all, err)
	}
}

// A bundle that is active and cannot be loaded is never replaced by another one: everything is denied, and the reason told.
func TestWhatCannotBeLoadedDenies(t *testing.T) {
	for name, harm := range map[string]func(*shop, string){
		"a changed byte": func(s *shop, digest string) { s.log.state["policy/part/"+digest+"/0"][700] ^= 1 },
		"a missing part": func(s *shop, digest string) { delete(s.log.state, "policy/part/"+digest+"/0") },
		"nothing stored": func(s *shop, digest string) { delete(s.log.state, "policy/stored/"+digest) },
		"another key":    func(s *shop, _ string) { s.engines.keys = pinned(s.t, writer, newKey(s.t).Public()) },
		"an unread head": func(s *shop, _ string) { s.log.state["policy/active"] = []byte("{") },
	} {
		s := newShop(t)
		s.damaged = true
		c := s.makeActive(3, "true")
		harm(s, c.Digest)
		s.engines.active.Use(nil)
		s.restart()
		err := s.s.KeepPolicy(t.Context())
		if err == nil {
			t.Errorf("%s: loaded", name)
			continue
		}
		if d := s.decides(); d.Allow || !slices.Equal(d.Reasons, []string{policy.ReasonUnavailable}) {
			t.Errorf("%s: %+v", name, d)
		}
		// Asked again at once, it says the same without trying: a bundle that fails slowly must not keep the machine busy.
		opened := s.engines.opened.Load()
		if again := s.s.KeepPolicy(t.Context()); again == nil || s.engines.opened.Load() != opened {
			t.Errorf("%s: %v, opened again", name, again)
		}
	}
}

// A crash while an archive was removed leaves it marked as whole: it is stored again when it is uploaded again.
func TestHalfRemovedArchiveIsStoredAgain(t *testing.T) {
	s := newShop(t)
	archive := s.signed(1, "true")
	c := s.push("main", archive)
	mark := "policy/stored/" + c.Digest
	was := s.log.state[mark]
	s.push("main", s.signed(2, "true"))
	if s.log.state[mark] != nil {
		t.Fatal("a replaced candidate is kept")
	}
	s.log.state[mark] = was
	s.push("main", archive)
	if again, err := s.s.PolicyArchive(c.Digest); err != nil || len(again) == 0 {
		t.Fatalf("%d bytes, %v", len(again), err)
	}
	s.approveBundle(s.alice, "main", c.Digest)
	if out := s.approveBundle(s.bob, "main", c.Digest); !out.Active {
		t.Fatalf("%+v", out)
	}
}

// The way out of a lost key: two people approve a newer bundle by the new key.
func TestNewerBundleHealsWhatCannotBeLoaded(t *testing.T) {
	s := newShop(t)
	s.makeActive(3, "true")
	s.key = newKey(t)
	s.engines.keys = pinned(t, writer, s.key.Public())
	s.engines.active.Use(nil)
	s.restart()
	if s.s.KeepPolicy(t.Context()) == nil {
		t.Fatal("loaded with another key")
	}
	out := s.makeActive(4, "true")
	if err := s.s.KeepPolicy(t.Context()); err != nil || s.decides().Digest != out.Digest {
		t.Fatalf("%v %+v", err, s.decides())
	}
}

// If the entry is not written nothing changes; if nobody knows, the state tells later.
func TestActivationNeedsItsEntry(t *testing.T) {
	s := newShop(t)
	before := s.makeActive(1, "true")
	c := s.push("main", s.signed(2, "true"))
	s.approveBundle(s.alice, "main", c.Digest)
	s.log.fail = errors.New("disk full")
	_, err := s.s.ApproveBundle(t.Context(), s.bob, "main", c.Digest)
	s.log.fail = nil
	if err == nil || code(t, err) != "audit_unavailable" || s.decides().Digest != before.Digest {
		t.Fatalf("%v %+v", err, s.decides())
	}
	s.start(&unsureLog{memoryLog: s.log})
	if err := s.s.KeepPolicy(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = s.s.ApproveBundle(t.Context(), s.bob, "main", c.Digest)
	if err == nil || code(t, err) != "outcome_unknown" {
		t.Fatal(err)
	}
	if err := s.s.KeepPolicy(t.Context()); err != nil || s.decides().Digest != c.Digest {
		t.Fatalf("%v: the log has the activation and %s decides", err, s.decides().Digest)
	}
}

// unsureLog takes activations and does not say so.
type unsureLog struct{ *memoryLog }

func (l *unsureLog) Append(ctx context.Context, e record.Entry) (delegation.Position, error) {
	pos, err := l.memoryLog.Append(ctx, e)
	if env, bad := record.Check(e.Envelope); err == nil && bad == nil && env.Type == record.TypePolicy {
		return delegation.Position{}, delegation.ErrUnknown
	}
	return pos, err
}

// Another default bundle, after an upgrade, is in the log before it decides; the known one is there already.
func TestDefaultBundleIsInTheLog(t *testing.T) {
	s := newShop(t)
	if n := s.log.count(record.TypePolicy); n != 1 {
		t.Fatalf("%d policy entries", n)
	}
	s.reopen()
	if n := s.log.count(record.TypePolicy); n != 1 {
		t.Fatalf("%d policy entries after a restart", n)
	}
	digest := s.decides().Digest
	if archive, err := s.s.PolicyArchive(digest); err != nil || len(archive) == 0 {
		t.Fatalf("the default bundle's archive is not kept: %v", err)
	}
	s.makeActive(1, "true")
	if archive, err := s.s.PolicyArchive(digest); err != nil || len(archive) == 0 {
		t.Fatalf("not any more: %v", err)
	}
}

// An upgrade's other default bundle is a change, too: what was approved before it was a change of the one before.
func TestApprovalsLapseWithTheDefaultBundle(t *testing.T) {
	s := newShop(t)
	c := s.push("main", s.signed(1, "true"))
	s.approveBundle(s.alice, "main", c.Digest)
	files, err := opa.OpenArchive(policybundle.New(1, "false").Archive(t))
	if err != nil {
		t.Fatal(err)
	}
	o := s.engines.options()
	o.Bundle = files
	s.engines.shipped = func() (*opa.Engine, error) { return opa.New(t.Context(), o) }
	s.reopen()
	if out, err := s.s.Bundle(t.Context(), "main"); err != nil || len(out.Approvals) != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	if out := s.approveBundle(s.bob, "main", c.Digest); out.Active || len(out.Approvals) != 1 {
		t.Fatalf("%+v", out)
	}
}

// While bundles are activated, everybody is answered by one bundle from beginning to end, which was active meanwhile; and each
// entry's digest is of one whose activation stands before it in the log.
func TestDecisionsWhileBundlesChange(t *testing.T) {
	s := newShop(t)
	orch := s.orchestrator("lab")
	agent := s.spawn(orch, s.task(orch))
	records := s.service("records")
	const activations = 8
	var changes policybundle.Reloading
	activate := func(revision uint64) {
		changes.Activate(revision, func() {
			s.activate(policybundle.Telling(revision).Sign(t, writer, s.key, jose.ES256).Archive(t))
		})
	}
	activate(1)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer func() { stop(); wg.Wait() }()
	made := make(chan struct{}, 32)
	s.start(&crowdedLog{memoryLog: s.log, wait: func() {
		for range 2 * cap(made) { // as many as fit are of the time before
			select {
			case <-made:
			case <-ctx.Done():
			}
		}
	}})
	if err := s.s.KeepPolicy(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 32 {
		wg.Go(func() {
			defer stop() // the first that fails ends all
			for ctx.Err() == nil {
				err := changes.Ask(func() (policybundle.Answer, error) { return s.asksOnce(context.WithoutCancel(ctx), records, agent) })
				if err != nil {
					t.Error(err)
					return
				}
				select {
				case made <- struct{}{}:
				default:
				}
			}
		})
	}
	for n := range uint64(activations) {
		activate(n + 2)
	}
	stop()
	wg.Wait()
	answers, err := changes.Recorded(s.written())
	// All but the last bundle have answered; that one may have.
	if err != nil || len(answers) < activations {
		t.Fatalf("%v %v", answers, err)
	}
}

// crowdedLog is as slow with activations as a disk is, in decisions made meanwhile: still by the bundle before.
type crowdedLog struct {
	*memoryLog
	wait func()
}

func (l *crowdedLog) Append(ctx context.Context, e record.Entry) (delegation.Position, error) {
	if env, err := record.Check(e.Envelope); err == nil && env.Type == record.TypePolicy {
		l.wait()
	}
	return l.memoryLog.Append(ctx, e)
}

func (s *shop) asksOnce(ctx context.Context, service delegation.Caller, agent identity) (policybundle.Answer, error) {
	out, err := s.s.Decide(ctx, service, delegation.DecisionRequest{
		Chain: agent.certs, ResourceType: "database", ResourceID: "patients", Action: "read",
	})
	if err != nil || out.Position == nil {
		return policybundle.Answer{}, fmt.Errorf("not recorded: %+v %w", out, err)
	}
	return policybundle.Answer{
		Allow: out.Allow, Reasons: out.Reasons, Obligations: out.Obligations, Advice: out.Advice, Entry: out.Position.Index,
	}, nil
}

// written is the log from its first entry on.
func (s *shop) written() [][]byte {
	var out [][]byte
	for _, e := range s.log.entries {
		out = append(out, e.Envelope)
	}
	return out
}

// Many approve at once: one activation, and nobody counts twice.
func TestConcurrentApprovals(t *testing.T) {
	s := newShop(t)
	people := []delegation.Caller{s.alice, s.bob, s.staff("carol", delegation.RoleOperator), s.staff("dan", delegation.RoleOfficer)}
	a, b := s.push("a", s.signed(1, "true")), s.push("b", s.signed(2, "true"))
	var wg sync.WaitGroup
	for _, by := range people {
		for _, c := range []delegation.BundleStatus{a, b} {
			wg.Go(func() { _, _ = s.s.ApproveBundle(t.Context(), by, c.Name, c.Digest) })
		}
	}
	wg.Wait()
	revision := 0
	for _, e := range s.log.entries {
		env, err := record.Check(e.Envelope)
		if err != nil {
			t.Fatal(err)
		}
		body, err := record.DecodeBody[record.PolicyBody](env)
		if env.Type != record.TypePolicy || err != nil || body.Name == "default" {
			continue
		}
		n, err := strconv.Atoi(body.Revision)
		if err != nil || n <= revision || len(body.Approvals) != 2 || body.Approvals[0].Operator == body.Approvals[1].Operator {
			t.Fatalf("%+v after revision %d", body, revision)
		}
		revision = n
	}
	if revision == 0 {
		t.Fatal("nothing became active")
	}
}

// A review finds a candidate by name, and whatever is stored by its digest.
func TestFindBundle(t *testing.T) {
	s := newShop(t)
	shipped := s.decides().Digest
	first := s.makeActive(1, "true")
	c := s.push("next", s.signed(2, "true"))
	for name, q := range map[string]struct{ name, digest, want string }{
		"candidate":        {"next", "", c.Digest},
		"both":             {"next", c.Digest, c.Digest},
		"candidate's":      {"", c.Digest, c.Digest},
		"active":           {"", first.Digest, first.Digest},
		"default":          {"", shipped, shipped},
		"another digest":   {"next", first.Digest, ""},
		"unknown":          {"nothing", "", ""},
		"unknown digest":   {"", strings.Repeat("0", 64), ""},
		"nothing":          {"", "", ""},
		"active, no name":  {"main", "", ""},
		"prefix of a part": {"", c.Digest[:8], ""},
	} {
		b, err := s.s.FindBundle(t.Context(), q.name, q.digest)
		if q.want == "" {
			if delegation.AsError(err).Kind != delegation.NotFound {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || b.Bundle().Digest != q.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
