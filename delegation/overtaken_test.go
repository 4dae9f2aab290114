package delegation_test

import (
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
)

// before does something when the next entry of that type is on its way: after all checks, before the commit.
func (l *hookLog) before(t *testing.T, typ record.Type, f func()) {
	l.beforeAppend = func(e record.Entry) {
		if typeOf(t, e) == typ {
			l.beforeAppend = nil
			f()
		}
	}
}

// What an operator takes from an orchestrator between the check and the commit gets nobody anything any more.
func TestWorkOfARegistrationReplacedMeanwhile(t *testing.T) {
	for name, do := range map[string]func(r *rig, log *hookLog, replaced func()) error{
		"task": func(r *rig, log *hookLog, replaced func()) error {
			by := r.auth(r.orchestrator("lab"))
			g := r.grantFor(by, time.Hour)
			r.approve(g.ID)
			log.before(r.t, record.TypeTask, replaced)
			_, err := r.s.OpenTask(r.t.Context(), by, delegation.TaskRequest{GrantID: g.ID})
			return err
		},
		"spawn": func(r *rig, log *hookLog, replaced func()) error {
			orch := r.orchestrator("lab")
			task := r.task(orch)
			log.before(r.t, record.TypeIssue, replaced)
			_, err := r.s.Spawn(r.t.Context(), r.auth(orch), r.request(task, newKey(r.t)))
			return err
		},
		"token": func(r *rig, log *hookLog, replaced func()) error {
			orch := r.orchestrator("lab")
			task := r.task(orch)
			log.before(r.t, record.TypeEnrollment, replaced)
			_, err := r.s.Spawn(r.t.Context(), r.auth(orch), r.tokenSpawn(task))
			return err
		},
		"redemption": func(r *rig, log *hookLog, replaced func()) error {
			orch := r.orchestrator("lab")
			out := r.token(orch, r.task(orch))
			log.before(r.t, record.TypeIssue, replaced)
			_, err := r.enroll(out, newKey(r.t))
			return err
		},
		"child": func(r *rig, log *hookLog, replaced func()) error {
			orch := r.orchestrator("lab")
			task := r.task(orch)
			agent := r.spawn(orch, task)
			log.before(r.t, record.TypeIssue, replaced)
			_, err := r.child(agent, task)
			return err
		},
		"re-key": func(r *rig, log *hookLog, replaced func()) error {
			orch := r.orchestrator("lab")
			agent := r.spawn(orch, r.task(orch))
			log.before(r.t, record.TypeIssue, replaced)
			_, err := r.rekey(agent, newKey(r.t))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			log := r.hooked()
			replaced := func() {
				r.register(delegation.Registration{Name: "lab", AgentTypes: []string{"research"}, Replace: true})
			}
			if err := do(r, log, replaced); err == nil || code(t, err) != "registration_changed" {
				t.Error(err)
			}
		})
	}
}

// A certificate that was logged and never signed is not signed for a registration that is gone.
func TestARetryAfterTheRegistrationWasReplaced(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	out, key := r.token(orch, r.task(orch)), newKey(t)
	r.certifier.failing = true
	if _, err := r.enroll(out, key); code(t, err) != "signing_failed" {
		t.Fatal(err)
	}
	r.certifier.failing = false
	r.register(delegation.Registration{Name: "lab", AgentTypes: []string{"research"}, Replace: true})
	if _, err := r.enroll(out, key); err == nil || code(t, err) != "registration_replaced" {
		t.Error(err)
	}
}

// Nothing more is issued to a key that its agent replaces between the check and the commit.
func TestAKeyReplacedMeanwhile(t *testing.T) {
	for typ, ask := range map[record.Type]func(r *rig, agent identity, task delegation.Task) error{
		record.TypeToken: func(r *rig, agent identity, _ delegation.Task) error {
			_, err := r.s.IssueToken(r.t.Context(), r.auth(agent), tokenRequest(r.t))
			return err
		},
		record.TypeIssue: func(r *rig, agent identity, task delegation.Task) error {
			_, err := r.child(agent, task)
			return err
		},
	} {
		t.Run(string(typ), func(t *testing.T) {
			r, agent, task := tokenRig(t)
			r.hooked().before(t, typ, func() {
				if _, err := r.rekey(agent, newKey(t)); err != nil {
					t.Error(err)
				}
			})
			if err := ask(r, agent, task); err == nil || code(t, err) != "certificate_superseded" {
				t.Error(err)
			}
		})
	}
}

// Envelopes are never erased: what a caller writes where an id belongs does not get there, nor keeps its refusal out.
func TestRefusalsHoldNoNonsense(t *testing.T) {
	r := newRig(t)
	by := r.auth(r.orchestrator("lab"))
	for name, ask := range map[string]func(id string) error{
		"spawn": func(id string) error {
			_, err := r.s.Spawn(t.Context(), by, delegation.SpawnRequest{SpawnID: r.newID(), TaskID: id})
			return err
		},
		"child": func(id string) error {
			_, err := r.s.Delegate(t.Context(), by, r.newID(), delegation.SpawnRequest{SpawnID: r.newID(), TaskID: id})
			return err
		},
		"task": func(id string) error {
			_, err := r.s.OpenTask(t.Context(), by, delegation.TaskRequest{GrantID: id})
			return err
		},
		"completion": func(id string) error {
			_, err := r.s.CompleteTask(t.Context(), by, id)
			return err
		},
	} {
		for _, id := range []string{"physician-1 of https://idp.example", strings.Repeat("x", 2000)} {
			denied := r.log.count(record.TypeDeny)
			if err := ask(id); err == nil {
				t.Errorf("%s: nothing refused", name)
			}
			if e := r.log.last(t); e.Task+e.Grant != "" || r.log.count(record.TypeDeny) != denied+1 {
				t.Errorf("%s: task %.40q, grant %.40q, %d entries", name, e.Task, e.Grant, r.log.count(record.TypeDeny)-denied)
			}
		}
	}
}
