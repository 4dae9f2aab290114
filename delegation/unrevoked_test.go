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
			r.damaged = true
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

// A retry that is recorded anew is held to the revocation of its own certificate, too, at the moment of commit.
func TestARetryRevokedBeforeTheCommit(t *testing.T) {
	r := newRig(t)
	r.damaged = true
	orch := r.orchestrator("lab")
	by, q := r.auth(orch), r.request(r.task(orch), newKey(t))
	r.certifier.failing = true
	if _, err := r.s.Spawn(t.Context(), by, q); code(t, err) != "signing_failed" {
		t.Fatal(err)
	}
	r.certifier.failing = false
	var serial string
	for _, term := range r.log.entries[len(r.log.entries)-2].Terms {
		if term.Kind == "serial" {
			serial = term.ID
		}
	}
	r.log.apply([]record.Mutation{{Key: "rev/certificate/" + serial, Value: []byte("{}")}})
	if _, err := r.s.Spawn(t.Context(), by, q); serial == "" || code(t, err) != chain.CodeCertificateRevoked {
		t.Errorf("certificate %q: %v", serial, err)
	}
}
