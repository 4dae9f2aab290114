package delegation_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// replays holds the state at the end of each test of this package to the entries that made it, unless the test damaged it.
func (r *rig) replays() {
	r.t.Helper()
	if r.damaged || r.t.Failed() {
		return
	}
	for _, finding := range r.replay() {
		r.t.Error(finding)
	}
}

func (r *rig) replay() (findings []string) {
	r.t.Helper()
	r.log.mu.Lock()
	entries, state := r.log.entries, maps.Clone(r.log.state)
	r.log.mu.Unlock()
	p := delegation.NewReplay(r.clock.Add(time.Duration(r.skew.Load())), pseudonym)
	for key, value := range state {
		p.State(key, value)
	}
	for i, e := range entries {
		env, err := record.Check(e.Envelope)
		if err == nil {
			err = p.Entry(uint64(i), env, e.Payload)
		}
		if err != nil {
			r.t.Fatalf("entry %d: %v", i, err)
		}
	}
	p.Findings(func(index uint64, detail string) {
		findings = append(findings, fmt.Sprintf("entry %d: %s", index, detail))
	})
	return findings
}

// TestReplayNotices: each row is a line of the store that no entry wrote as it is.
func TestReplayNotices(t *testing.T) {
	var orch, agent identity
	var task delegation.Task
	agentID := func() string {
		return agent.certs[0].URIs[0].Path[strings.LastIndex(agent.certs[0].URIs[0].Path, "/")+1:]
	}
	change := func(r *rig, key, old, value string) {
		had := string(r.log.state[key])
		if !strings.Contains(had, old) {
			r.t.Fatalf("%s has no %q: %s", key, old, had)
		}
		r.log.state[key] = []byte(strings.Replace(had, old, value, 1))
	}
	for name, row := range map[string]struct {
		harm func(r *rig)
		want string
	}{
		"a revocation taken out":        {func(r *rig) { delete(r.log.state, "rev/task/"+task.ID) }, `the state has no "rev/task/`},
		"a user's revocation taken out": {func(r *rig) { delete(r.log.state, "rev/user/"+chain.UserID("https://idp.example", "clerk")) }, `the state has no "rev/user/`},
		"a revocation put in":           {func(r *rig) { r.log.state["rev/agent/x"] = []byte(`{"seq":1}`) }, `the state has "rev/agent/x", which no entry makes`},
		"a revocation's reason":         {func(r *rig) { change(r, "rev/task/"+task.ID, "completed", "left") }, "differs from this entry: reason"},
		"numbers of the feed":           {func(r *rig) { r.log.state["feed/head"] = []byte(`{"epoch":1,"seq":0}`) }, `the state has no "feed/head"`},
		"an operator put in":            {func(r *rig) { r.log.state["id/operator/eve"] = r.log.state["id/operator/ops"] }, `the state has "id/operator/eve", which no entry makes`},
		"an operator's role":            {func(r *rig) { change(r, "id/service/records", `"registration"`, `"role":"operator","registration"`) }, "differs from this entry: role"},
		"an orchestrator's limit": {func(r *rig) {
			change(r, "id/orchestrator/lab", `"methods":["join_token"]`, `"methods":["join_token","oidc_jwt"]`)
		}, "differs from this entry: methods"},
		"an orchestrator taken out": {func(r *rig) { delete(r.log.state, "id/orchestrator/lab") }, `the state has no "id/orchestrator/lab"`},
		"a grant's scope":           {func(r *rig) { change(r, "grant/"+task.GrantID, "read", "write") }, "differs from this entry: scope"},
		"a grant's user":            {func(r *rig) { change(r, "grant/"+task.GrantID, "physician-1", "physician-2") }, "differs from this entry: user"},
		"a user's roles":            {func(r *rig) { change(r, "grant/"+task.GrantID, `"analyst"`, `"director"`) }, "differs from this entry: roles"},
		"a grant put in":            {func(r *rig) { r.log.state["grant/x"] = r.log.state["grant/"+task.GrantID] }, `the state has "grant/x", which no entry makes`},
		"a task's scope":            {func(r *rig) { change(r, "task/"+task.ID, "read", "write") }, "differs from this entry: scope"},
		"a task taken out":          {func(r *rig) { delete(r.log.state, "task/"+task.ID) }, `the state has no "task/`},
		"an agent's task":           {func(r *rig) { change(r, "agent/"+agentID(), task.ID, task.GrantID) }, "differs from this entry: task"},
		"an agent taken out":        {func(r *rig) { delete(r.log.state, "agent/"+agentID()) }, `the state has no "agent/`},
		"a key set free":            {func(r *rig) { delete(r.log.state, "spki/"+keyHash(t, agent)) }, `the state has no "spki/`},
		"a key given to another":    {func(r *rig) { r.log.state["spki/"+keyHash(t, agent)] = []byte("another") }, "differs from this entry: agent"},
		"a policy put in":           {func(r *rig) { r.log.state["policy/active"] = []byte(`{"digest":"x"}`) }, `the state has "policy/active", which no entry makes`},
		"an authenticator put in":   {func(r *rig) { r.log.state["cred/00"] = []byte(`{}`) }, `the state has "cred/00", which no entry makes`},
		"what cannot be read":       {func(r *rig) { r.log.state["task/"+task.ID] = []byte("{") }, "unexpected end"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.damaged = true
			orch = r.orchestrator("lab")
			r.service("records")
			task = r.task(orch)
			agent = r.spawn(orch, task)
			if _, err := r.s.CompleteTask(t.Context(), r.auth(orch), task.ID); err != nil {
				t.Fatal(err)
			}
			r.revoke(chain.RevUser, chain.UserID("https://idp.example", "clerk"))
			if found := r.replay(); len(found) > 0 {
				t.Fatal(found)
			}
			row.harm(r)
			if found := r.replay(); len(found) != 1 || !strings.Contains(found[0], row.want) {
				t.Errorf("%q, want %q", found, row.want)
			}
		})
	}
}

func keyHash(t *testing.T, id identity) string {
	t.Helper()
	sum := chain.SPKIHash(id.certs[0])
	return hex.EncodeToString(sum[:])
}

// An approval that nobody gave does not stand in a candidate unnoticed.
func TestReplayNoticesAnApproval(t *testing.T) {
	s := newShop(t)
	c := s.push("main", s.signed(1, "true"))
	s.approveBundle(s.bob, "main", c.Digest)
	if found := s.replay(); len(found) > 0 {
		t.Fatal(found)
	}
	s.damaged = true
	s.log.state["policy/candidate/main"] = bytes.Replace(s.log.state["policy/candidate/main"], []byte(`"bob"`), []byte(`"eve"`), 1)
	if found := s.replay(); len(found) != 1 || !strings.Contains(found[0], "approvals") {
		t.Error(found)
	}
}

// What was erased is not missed, though its entry is there.
func TestReplayAfterAnErasure(t *testing.T) {
	r := newRig(t)
	task := r.task(r.orchestrator("lab"))
	r.damaged = true
	delete(r.log.state, "grant/"+task.GrantID)
	if found := r.replay(); len(found) != 1 {
		t.Fatal(found)
	}
	var grant uint64
	for i := range r.log.entries {
		if r.log.entry(t, uint64(i)).Type == record.TypeGrant {
			grant = uint64(i)
		}
	}
	b, err := record.EncodeBody(record.RedactBody{Reason: "asked", Entries: []record.Range{{grant, grant + 1}}})
	if err != nil {
		t.Fatal(err)
	}
	e, err := record.New(record.Envelope{Type: record.TypeRedact, Time: r.clock, Body: b}, nil, [32]byte{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.log.Append(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if found := r.replay(); len(found) > 0 {
		t.Error(found)
	}
}
