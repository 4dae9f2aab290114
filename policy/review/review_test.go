package review_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
	"github.com/signet-pki/signet/policy/review"
)

func now() time.Time { return time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC) }

// memoryLog is a log of entries as the domain writes them.
type memoryLog []record.Stored

func (l memoryLog) Size() uint64 { return uint64(len(l)) }

func (l memoryLog) Minimum() uint64 { return 0 }

func (l memoryLog) Lookup(_ context.Context, term record.Term, from uint64, limit int) ([]uint64, error) {
	for i, e := range l {
		var body struct {
			Body struct {
				DecisionID string `json:"decision_id"`
			}
		}
		if err := json.Unmarshal(e.Envelope, &body); err != nil {
			return nil, err
		}
		if term.Kind == "decision" && body.Body.DecisionID == term.ID && uint64(i) >= from && limit > 0 {
			return []uint64{uint64(i)}, nil
		}
	}
	return nil, nil
}

func (l memoryLog) Entries(ctx context.Context, from, to uint64, fn func(record.Stored) error) error {
	if to > uint64(len(l)) {
		return review.ErrNotFound
	}
	for _, e := range l[from:to] {
		if err := errors.Join(ctx.Err(), fn(e)); err != nil {
			return err
		}
	}
	return nil
}

func (l *memoryLog) add(t *testing.T, env record.Envelope, body, payload any) {
	t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	env.Body = raw
	if env.Time.IsZero() {
		env.Time = now().Add(time.Duration(len(*l)) * time.Second)
	}
	e, err := record.New(env, payload, [record.SaltSize]byte{1})
	if err != nil {
		t.Fatal(err)
	}
	*l = append(*l, record.Stored{Index: uint64(len(*l)), Envelope: e.Envelope, Payload: e.Payload, Salt: e.Salt})
}

func input(i int) policy.Input {
	in := policy.Input{
		Point: policy.PointAccess, Time: now(),
		Agent:    policy.Agent{ID: fmt.Sprint("a", i), Scope: []string{"database:read:patients"}, Depth: 1},
		User:     policy.User{Issuer: "https://idp", Subject: fmt.Sprint("s", i), Roles: []string{"analyst"}},
		Task:     policy.Task{ID: "t", GrantID: "g"},
		Resource: &policy.Resource{Type: "database", ID: "patients", RequiredScope: []string{"database:read:patients"}},
		Action:   &policy.Action{Name: "read"},
	}
	if i%10 == 0 {
		in.User.Roles = []string{"clerk"} // denied
	}
	if i%7 == 0 {
		in.User.Groups = []string{"cardiology"}
	}
	return in
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// decision records what the engine answers about in, as the domain does.
func (l *memoryLog) decision(t *testing.T, e *opa.Engine, in policy.Input) {
	t.Helper()
	d := e.Decide(t.Context(), in)
	raw, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	body := record.DecisionBody{
		DecisionID: fmt.Sprint("d", len(*l)), Allow: d.Allow, PolicyAllow: d.Allow, Reasons: d.Reasons, InputHash: digestOf(raw),
	}
	payload := record.DecisionPayload{Input: raw}
	if len(d.Obligations) > 0 {
		if payload.Obligations, err = json.Marshal(d.Obligations); err != nil {
			t.Fatal(err)
		}
		body.ObligationsHash = digestOf(payload.Obligations)
	}
	l.add(t, record.Envelope{Type: record.TypeDecision, Policy: e.Digest()}, body, payload)
}

func engine(t *testing.T, rego string) *opa.Engine {
	t.Helper()
	o := opa.Options{Timeout: 10 * time.Second}
	if rego != "" {
		o.Bundle = fstest.MapFS{
			"access.rego": {Data: []byte("package signet.access\n\n" + rego + "\n")}, "x_test.rego": {Data: []byte("package x_test\n\ntest_x if true\n")},
		}
	}
	e, err := opa.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// shelf is where the bundles are.
type shelf map[string]*opa.Engine

func (s shelf) Engine(_ context.Context, name, digest string) (review.Engine, error) {
	for n, e := range s {
		if (name == "" && digest == "" && n == review.Active) || name == n && digest == "" || digest == e.Digest() && (name == "" || name == n) {
			return e.Apart(), nil
		}
	}
	return nil, review.ErrNoBundle
}

func reviewer(t *testing.T, l review.Log, b review.Bundles, clock func() time.Time) *review.Reviewer {
	t.Helper()
	r, err := review.New(review.Config{Log: l, Bundles: b, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// tighter denies, of what the default bundle allows, exactly who is in cardiology, and obliges who may.
const tighter = `default allow := false

allow if "analyst" in input.user.roles

deny_reasons contains "user_not_analyst" if not "analyst" in input.user.roles

deny_reasons contains "cardiology_closed" if "cardiology" in input.user.groups`

// A replay tells exactly the answers that change, in the order of the log.
func TestReplayTellsExactlyWhatChanges(t *testing.T) { replayAll(t, 700) }

func TestSoakReplay(t *testing.T) {
	if os.Getenv("SIGNET_SOAK") != "" {
		replayAll(t, 10_000)
	}
}

func replayAll(t *testing.T, n int) {
	t.Helper()
	old, candidate := engine(t, ""), engine(t, tighter)
	var log memoryLog
	var want []uint64
	for i := range n {
		log.decision(t, old, input(i))
		if i%7 == 0 { // allowed before, or denied with one reason less
			want = append(want, uint64(i))
		}
	}
	r := reviewer(t, log, shelf{review.Active: old, "candidate": candidate}, time.Now)
	last := uint64(n - 10)
	for _, same := range []review.ReplayRequest{{}, {Name: review.Active, From: last}, {Digest: old.Digest(), From: last}} {
		totals, err := r.Replay(t.Context(), same, func(c review.Change) error { return fmt.Errorf("%d changed", c.Index) })
		if err != nil || totals.Replayed != uint64(n)-same.From || totals.Changed != 0 || totals.Next != nil || totals.Skipped != (review.Skipped{}) {
			t.Fatalf("the same bundle: %+v %v", totals, err)
		}
	}
	var got []uint64
	totals, err := r.Replay(t.Context(), review.ReplayRequest{Name: "candidate"}, func(c review.Change) error {
		got = append(got, c.Index)
		after := []string{"cardiology_closed"}
		if c.Index%10 == 0 {
			after = append(after, "user_not_analyst")
		}
		if c.After.Allow || !slices.Equal(c.After.Reasons, after) || c.Answer.Allow != (c.Index%10 != 0) || c.DecisionID != fmt.Sprint("d", c.Index) {
			t.Errorf("change %+v after %+v", c.Answer, c.After)
		}
		return nil
	})
	if err != nil || !slices.Equal(got, want) || totals.Changed != uint64(len(want)) || totals.Replayed != uint64(n) ||
		totals.Digest != candidate.Digest() {
		t.Fatalf("%+v %v: %d changes, want %d", totals, err, len(got), len(want))
	}
}

// What cannot be compared is counted, by reason, and what policy was never asked about is not.
func TestReplayCounts(t *testing.T) {
	e := engine(t, "")
	var log memoryLog
	log.decision(t, e, input(1))
	log.decision(t, e, input(2))
	log[1].Payload, log[1].Salt = nil, nil // erased
	log.add(t, record.Envelope{Type: record.TypeDecision}, record.DecisionBody{DecisionID: "checks", Reasons: []string{"deadline_passed"}}, nil)
	raw, err := json.Marshal(input(3))
	if err != nil {
		t.Fatal(err)
	}
	hash := digestOf(raw)
	payload := record.DecisionPayload{Input: raw}
	decided := func(b record.DecisionBody) {
		b.InputHash = hash
		log.add(t, record.Envelope{Type: record.TypeDecision}, b, payload)
	}
	decided(record.DecisionBody{PolicyAllow: true, Reasons: []string{"task_revoked"}})
	decided(record.DecisionBody{Reasons: []string{policy.ReasonBusy}})
	log.add(t, record.Envelope{Type: record.TypeDecision}, record.DecisionBody{InputHash: digestOf(nil)}, payload)
	spawn := input(4)
	spawn.Point, spawn.Resource, spawn.Action = policy.PointSpawn, nil, nil
	spawn.Consent.Type = "oidc_nonce"
	spawn.Request = &policy.Request{Scope: []string{"database:read:patients"}}
	if raw, err = json.Marshal(spawn); err != nil {
		t.Fatal(err)
	}
	log.add(t, record.Envelope{Type: record.TypeIssue}, record.IssueBody{InputHash: digestOf(raw)}, record.IssuePayload{Input: raw})
	log.add(t, record.Envelope{Type: record.TypeIssue}, record.IssueBody{}, record.IssuePayload{})
	log.add(t, record.Envelope{Type: record.TypeDeny}, record.DenyBody{InputHash: digestOf(raw), Reasons: []string{"scope_not_permitted"}}, record.DenyPayload{Input: raw})
	log.add(t, record.Envelope{Type: record.TypeDeny}, record.DenyBody{Code: "task_revoked"}, nil)
	log.add(t, record.Envelope{Type: record.TypeTask}, record.TaskBody{}, nil)

	var changed []uint64
	totals, err := reviewer(t, log, shelf{review.Active: e}, time.Now).Replay(t.Context(), review.ReplayRequest{}, func(c review.Change) error {
		changed = append(changed, c.Index)
		return nil
	})
	want := review.Totals{
		Digest: e.Digest(), Revision: e.Revision(), Replayed: 3, Changed: 1,
		Skipped: review.Skipped{NotAsked: 1, Erased: 1, Overruled: 1, Busy: 1, Unreadable: 1},
	}
	if err != nil || totals != want || !slices.Equal(changed, []uint64{8}) {
		t.Errorf("%+v %v %v, want %+v", totals, err, changed, want)
	}
}

// Obligations that a bundle adds to a permission are a change.
func TestReplayOfObligations(t *testing.T) {
	old := engine(t, "allow := true")
	var log memoryLog
	log.decision(t, old, input(1))
	log.decision(t, engine(t, "allow := true\n\nobligations := [{\"mask\": 1}]"), input(1))
	changes := 0
	_, err := reviewer(t, log, shelf{review.Active: engine(t, "allow := true\n\nobligations := [{\"mask\": 1}]")}, time.Now).
		Replay(t.Context(), review.ReplayRequest{}, func(c review.Change) error {
			changes++
			if c.Index != 0 || c.Answer.ObligationsHash != "" || c.After.ObligationsHash != digestOf([]byte(`[{"mask":1}]`)) {
				t.Errorf("%+v", c)
			}
			return nil
		})
	if err != nil || changes != 1 {
		t.Error(changes, err)
	}
}

func TestReplayRange(t *testing.T) {
	old, none := engine(t, "allow := true"), engine(t, "allow := false")
	var log memoryLog
	for i := range 200 {
		log.decision(t, old, input(i)) // one a second
	}
	r := reviewer(t, log, shelf{review.Active: none}, time.Now)
	for name, c := range map[string]struct {
		q           review.ReplayRequest
		first, last uint64
	}{
		"indexes": {review.ReplayRequest{From: 10, To: 20}, 10, 19},
		"times":   {review.ReplayRequest{Since: now().Add(50 * time.Second), Until: now().Add(60 * time.Second)}, 50, 60},
		"both":    {review.ReplayRequest{From: 55, Since: now().Add(50 * time.Second), To: 1 << 40}, 55, 199},
	} {
		var got []uint64
		totals, err := r.Replay(t.Context(), c.q, func(c review.Change) error { got = append(got, c.Index); return nil })
		if err != nil || len(got) == 0 || got[0] != c.first || got[len(got)-1] != c.last || totals.Replayed != c.last-c.first+1 {
			t.Errorf("%s: %+v %v %v", name, totals, err, got)
		}
	}
	for _, empty := range []review.ReplayRequest{{From: 200}, {From: 5, To: 5}, {Since: now().Add(time.Hour)}} {
		if totals, err := r.Replay(t.Context(), empty, nil); err != nil || totals.Replayed != 0 {
			t.Errorf("%+v: %+v %v", empty, totals, err)
		}
	}
}

// A replay ends when its time is up, saying where to go on; when its reader leaves; and there is one at a time.
func TestReplayEnds(t *testing.T) {
	old, none := engine(t, "allow := true"), engine(t, "allow := false")
	var log memoryLog
	for i := range 200 {
		log.decision(t, old, input(i))
	}
	at := now()
	clock := func() time.Time { at = at.Add(time.Second); return at }
	r := reviewer(t, log, shelf{review.Active: none}, clock)
	var got []uint64
	for from, rounds := uint64(0), 0; ; rounds++ {
		totals, err := r.Replay(t.Context(), review.ReplayRequest{From: from}, func(c review.Change) error { got = append(got, c.Index); return nil })
		if err != nil || rounds > 10 {
			t.Fatal(rounds, err)
		}
		if totals.Next == nil {
			if rounds < 2 {
				t.Errorf("200 seconds fitted into %d rounds", rounds+1)
			}
			break
		}
		from = *totals.Next
	}
	if len(got) != 200 || !slices.IsSorted(got) || got[199] != 199 {
		t.Errorf("%d changes: %v", len(got), got)
	}

	ctx, cancel := context.WithCancel(t.Context())
	left := 0
	_, err := r.Replay(ctx, review.ReplayRequest{}, func(review.Change) error {
		left++
		cancel()
		return nil
	})
	if !errors.Is(err, context.Canceled) || left != 1 {
		t.Errorf("after its reader left: %v, %d changes", err, left)
	}
	broken := errors.New("broken")
	if _, err := r.Replay(t.Context(), review.ReplayRequest{}, func(review.Change) error {
		if _, err := r.Replay(t.Context(), review.ReplayRequest{}, nil); !errors.Is(err, review.ErrBusy) {
			t.Errorf("a second at a time: %v", err)
		}
		return broken
	}); !errors.Is(err, broken) {
		t.Error(err)
	}
	if _, err := r.Replay(t.Context(), review.ReplayRequest{Name: "other"}, nil); !errors.Is(err, review.ErrNoBundle) {
		t.Error(err)
	}
}

func TestExplain(t *testing.T) {
	old, candidate := engine(t, ""), engine(t, tighter)
	var log memoryLog
	log.decision(t, old, input(7))
	log.add(t, record.Envelope{Type: record.TypeDecision}, record.DecisionBody{DecisionID: "checks"}, nil)
	log.decision(t, old, input(7))
	log[2].Payload = nil
	log.add(t, record.Envelope{Type: record.TypeTask}, record.TaskBody{}, nil)
	r := reviewer(t, log, shelf{review.Active: candidate, "old": old}, time.Now)
	zero, in := uint64(0), input(7)
	for name, q := range map[string]review.ExplainRequest{"decision": {DecisionID: "d0"}, "entry": {Index: &zero}, "input": {Input: &in}} {
		x, err := r.Explain(t.Context(), q)
		if err != nil || x.Allow || !slices.Equal(x.Reasons, []string{"cardiology_closed"}) || len(x.Steps) == 0 || x.Digest != candidate.Digest() {
			t.Errorf("%s: %+v %v", name, x, err)
		}
		if (x.Question == nil) != (name == "input") || x.Question != nil && !x.Question.Answer.Allow {
			t.Errorf("%s: recorded %+v", name, x.Question)
		}
	}
	for _, q := range []review.ExplainRequest{{DecisionID: "d0", Recorded: true}, {Input: &in, Digest: old.Digest()}} {
		if x, err := r.Explain(t.Context(), q); err != nil || !x.Allow || x.Digest != old.Digest() {
			t.Errorf("with the old bundle: %+v %v", x.Decision, err)
		}
	}
	index := func(i uint64) *uint64 { return &i }
	for _, c := range []struct {
		q    review.ExplainRequest
		want error
	}{
		{review.ExplainRequest{DecisionID: "none"}, review.ErrNotFound},
		{review.ExplainRequest{Index: index(9)}, review.ErrNotFound},
		{review.ExplainRequest{DecisionID: "checks"}, review.ErrNoInput},
		{review.ExplainRequest{Index: index(2)}, review.ErrErased},
		{review.ExplainRequest{Index: index(3)}, review.ErrNoInput},
		{review.ExplainRequest{Input: &in, Digest: "00"}, review.ErrNoBundle},
	} {
		if _, err := r.Explain(t.Context(), c.q); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.q, err, c.want)
		}
	}
}

// prunedLog has no entries before minimum.
type prunedLog struct {
	memoryLog
	minimum uint64
}

func (l prunedLog) Minimum() uint64 { return l.minimum }

func (l prunedLog) Entries(ctx context.Context, from, to uint64, fn func(record.Stored) error) error {
	if from < l.minimum {
		return review.ErrPruned
	}
	return l.memoryLog.Entries(ctx, from, to, fn)
}

// What was pruned is counted, not passed over in silence.
func TestPrunedQuestions(t *testing.T) {
	old, none := engine(t, "allow := true"), engine(t, "allow := false")
	var log memoryLog
	for i := range 20 {
		log.decision(t, old, input(i))
	}
	r := reviewer(t, prunedLog{log, 15}, shelf{review.Active: none}, time.Now)
	for from, pruned := range map[uint64]uint64{0: 15, 10: 5, 15: 0, 18: 0} {
		totals, err := r.Replay(t.Context(), review.ReplayRequest{From: from}, func(review.Change) error { return nil })
		if err != nil || totals.Skipped.Pruned != pruned || totals.Replayed != 20-max(from, 15) {
			t.Errorf("from %d: %+v %v", from, totals, err)
		}
	}
	gone := uint64(3)
	if _, err := r.Explain(t.Context(), review.ExplainRequest{Index: &gone}); !errors.Is(err, review.ErrPruned) {
		t.Error(err)
	}
}
