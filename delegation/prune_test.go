package delegation_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
)

// shelf is an archive that believes what it is given.
type shelf struct {
	log    *memoryLog
	open   []string // serials that it was told of
	held   []string // keys that belong to what goes, as long as no later entry keeps them
	plan   error
	broken error
	steps  []string
}

func (s *shelf) Plan(_ context.Context, _ time.Time, open []string) (record.PruneBody, error) {
	s.open = open
	return record.PruneBody{To: 512}, s.plan
}

func (s *shelf) Holding(context.Context, uint64, int) ([]string, error) {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	var out []string
	for _, key := range s.held {
		_, name, _ := strings.Cut(key, "/")
		if !slices.ContainsFunc(s.log.entries, func(e record.Entry) bool {
			return strings.Contains(string(e.Envelope), `"action":"credential.keep","target":"`+name)
		}) {
			out = append(out, key)
		}
	}
	return out, nil
}

func (s *shelf) Store(_ context.Context, plan record.PruneBody) (record.PruneBody, error) {
	s.steps = append(s.steps, "stored")
	plan.Archive, plan.SHA256 = "a.tar", strings.Repeat("ab", 32)
	return plan, s.broken
}

func (s *shelf) Prune(ctx context.Context, e record.Entry) (delegation.Position, error) {
	s.steps = append(s.steps, "pruned")
	return s.log.Append(ctx, e)
}

// Nothing is recorded before the archive is good, and what a user still needs has moved.
func TestPrune(t *testing.T) {
	r := newRig(t)
	s := &shelf{log: r.log}
	r.archive = s
	r.restart()
	if err := r.s.RegisterCredential(t.Context(), r.signIn(physician1), delegation.Credential{ID: []byte("one"), PublicKey: []byte("key")}); err != nil {
		t.Fatal(err)
	}
	prune := func(q delegation.PruneRequest) (delegation.Pruned, error) {
		return r.s.Prune(t.Context(), r.operator, q)
	}
	q := delegation.PruneRequest{Before: r.clock, Reason: "old", DryRun: true}
	if done, err := prune(q); err != nil || done.To != 512 || done.Position != nil || s.steps != nil {
		t.Errorf("%+v %v %v", done, err, s.steps)
	}
	q.DryRun = false
	s.held = []string{"grant/1"}
	if _, err := prune(q); code(t, err) != "state_in_force" || s.steps != nil {
		t.Errorf("%v %v", err, s.steps)
	}
	s.held = nil
	for key := range r.log.state {
		if strings.HasPrefix(key, "cred/") {
			s.held = append(s.held, key)
		}
	}
	s.broken = &delegation.Error{Kind: delegation.Conflict, Code: "archive_invalid"}
	if _, err := prune(q); code(t, err) != "archive_invalid" || !slices.Equal(s.steps, []string{"stored"}) {
		t.Errorf("%v %v", err, s.steps)
	}
	s.broken, s.steps = nil, nil
	done, err := prune(q)
	if err != nil || !slices.Equal(s.steps, []string{"stored", "pruned"}) || done.Archive != "a.tar" {
		t.Fatalf("%+v %v %v", done, err, s.steps)
	}
	last := r.log.last(t)
	if last.Type != record.TypePrune || last.Operator == "" || !strings.Contains(string(last.Body), `"reason":"old","from":0,"to":512,"archive":"a.tar"`) {
		t.Errorf("%+v %s", last, last.Body)
	}
	kept := 0
	for i := range r.log.entries {
		e := r.log.entry(t, uint64(i))
		if strings.Contains(string(e.Body), "credential.keep") {
			kept++
			if e.User == "" || e.Operator == "" {
				t.Errorf("%+v", e)
			}
		}
	}
	if got, err := r.s.Credentials(t.Context(), physician1); kept != 1 || err != nil || len(got) != 1 || string(got[0].PublicKey) != "key" {
		t.Errorf("%d moved, %v %v", kept, got, err)
	}
}

// Refusals are recorded; those of the archive are its own.
func TestPruneRefuses(t *testing.T) {
	r := newRig(t)
	good := delegation.PruneRequest{Before: r.clock, Reason: "old"}
	if _, err := r.s.Prune(t.Context(), r.operator, good); code(t, err) != "retention_unset" {
		t.Error(err)
	}
	s := &shelf{log: r.log, plan: &delegation.Error{Kind: delegation.Invalid, Code: "too_recent", Field: "before"}}
	r.archive = s
	r.restart()
	for want, q := range map[string]delegation.PruneRequest{
		"bad_reason": {Before: r.clock},
		"bad_before": {Reason: "old"},
		"too_recent": good,
	} {
		_, err := r.s.Prune(t.Context(), r.operator, q)
		var e *delegation.Error
		if !errors.As(err, &e) || e.Code != want || e.AuditIndex == nil {
			t.Errorf("%s: %v", want, err)
		}
		if last := r.log.last(t); last.Type != record.TypeDeny || last.Code != want {
			t.Errorf("%s: %+v", want, last)
		}
	}
	if s.steps != nil {
		t.Error(s.steps)
	}
}

// State that only pruned entries made is not missed, and what later entries say is still held against it.
func TestReplayOfAPrunedLog(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	from := len(r.log.entries)
	r.spawn(orch, task)
	findings := func() (out []string) {
		p := delegation.NewReplay(r.now(), pseudonym)
		for key, value := range r.log.state {
			p.State(key, value)
		}
		p.Pruned()
		for i := from; i < len(r.log.entries); i++ {
			if err := p.Entry(uint64(i), r.log.entry(t, uint64(i)), r.log.entries[i].Payload); err != nil {
				t.Fatal(err)
			}
		}
		p.Findings(func(_ uint64, detail string) { out = append(out, detail) })
		return out
	}
	if got := findings(); len(got) > 0 {
		t.Error(got)
	}
	r.damaged = true
	for key := range r.log.state {
		if strings.HasPrefix(key, "agent/") {
			delete(r.log.state, key)
		}
	}
	if got := findings(); len(got) != 1 || !strings.Contains(got[0], "agent/") {
		t.Error(got)
	}
}
