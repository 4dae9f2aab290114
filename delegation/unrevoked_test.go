package delegation_test

import (
	"testing"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// What is revoked between the check in memory and the commit stops the commit: each part of a chain by itself.
func TestRevokedBeforeTheCommit(t *testing.T) {
	for want, name := range map[string]func(task delegation.Task, parent string) string{
		chain.CodeUserRevoked: func(delegation.Task, string) string {
			return "user/" + chain.UserID("https://idp.example", "physician-1")
		},
		chain.CodeGrantRevoked:        func(task delegation.Task, _ string) string { return "grant/" + task.GrantID },
		chain.CodeTaskRevoked:         func(task delegation.Task, _ string) string { return "task/" + task.ID },
		chain.CodeOrchestratorRevoked: func(delegation.Task, string) string { return "orchestrator/lab" },
		chain.CodeAgentRevoked:        func(_ delegation.Task, parent string) string { return "agent/" + parent },
		chain.CodeSubtreeRevoked:      func(_ delegation.Task, parent string) string { return "subtree/" + parent },
	} {
		t.Run(want, func(t *testing.T) {
			r := newRig(t)
			orch := r.orchestrator("lab")
			task := r.task(orch)
			parent := r.spawn(orch, task)
			// In the log, as by a commit of this moment, and not in memory yet.
			r.log.apply([]record.Mutation{{Key: "rev/" + name(task, r.auth(parent).ID.AgentID()), Value: []byte("{}")}})
			if _, err := r.child(parent, task); code(t, err) != want {
				t.Errorf("%v", err)
			}
		})
	}
}
