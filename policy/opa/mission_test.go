package opa_test

import (
	"slices"
	"testing"
	"time"

	"github.com/signet-pki/signet/policy"
	"github.com/signet-pki/signet/policy/opa"
)

// The mission's rule: an agent may read database X if its certificate has scope=database-X and its task context was
// created by a user with role=analyst. Each of role, scope and task turns yes into no by itself, for a reason of its own.
func TestMissionsRule(t *testing.T) {
	e := engine(t, opa.Options{Timeout: 5 * time.Second})
	if d := e.Decide(t.Context(), access()); !d.Allow || len(d.Reasons) != 0 {
		t.Fatalf("an analyst's agent with the scope: %+v", d)
	}
	for reason, change := range map[string]func(*policy.Input){
		"user_not_analyst": func(in *policy.Input) { in.User.Roles = []string{"physician"} },
		"scope_missing":    func(in *policy.Input) { in.Agent.Scope = []string{"database:read:billing"} },
		"task_missing":     func(in *policy.Input) { in.Task = policy.Task{} },
	} {
		in := access()
		change(&in)
		if d := e.Decide(t.Context(), in); d.Allow || !slices.Equal(d.Reasons, []string{reason}) {
			t.Errorf("want %s alone: %+v", reason, d)
		}
	}
}
