package delegation_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

func serial(id string) delegation.RevokeRequest {
	return delegation.RevokeRequest{Kind: chain.RevCertificate, ID: id}
}

// Any part of an agent's chain that is revoked is found by what is held in memory: before the commit, and without the log.
func TestEachPartOfAChainRevoked(t *testing.T) {
	for want, what := range map[string]func(task delegation.Task, parent string) (chain.RevKind, string){
		chain.CodeUserRevoked: func(delegation.Task, string) (chain.RevKind, string) {
			return chain.RevUser, chain.UserID("https://idp.example", "physician-1")
		},
		chain.CodeGrantRevoked:        func(task delegation.Task, _ string) (chain.RevKind, string) { return chain.RevGrant, task.GrantID },
		chain.CodeTaskRevoked:         func(task delegation.Task, _ string) (chain.RevKind, string) { return chain.RevTask, task.ID },
		chain.CodeOrchestratorRevoked: func(delegation.Task, string) (chain.RevKind, string) { return chain.RevOrchestrator, "lab" },
		chain.CodeAgentRevoked:        func(_ delegation.Task, parent string) (chain.RevKind, string) { return chain.RevAgent, parent },
		chain.CodeSubtreeRevoked:      func(_ delegation.Task, parent string) (chain.RevKind, string) { return chain.RevSubtree, parent },
	} {
		t.Run(want, func(t *testing.T) {
			r := newRig(t)
			orch := r.orchestrator("lab")
			task := r.task(orch)
			parent := r.spawn(orch, task)
			child, err := r.child(parent, task)
			if err != nil {
				t.Fatal(err)
			}
			r.auth(child)
			r.revoke(what(task, r.auth(parent).ID.AgentID()))
			if _, err := r.s.Authenticate(child.certs); err == nil || code(t, err) != want {
				t.Errorf("%v", err)
			}
		})
	}
}

// What the log did not take is not in force, and can be revoked when the log is back.
func TestARevocationThatFailedIsNotInForce(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	r.revoke(chain.RevCertificate, "01")
	before := r.s.Revocations(delegation.Cursor{}, 10)
	r.log.fail = errors.New("the disk is full")
	q := serial(chain.Serial(orch.certs[0]))
	if _, err := r.s.Revoke(t.Context(), r.operator, q); err == nil || code(t, err) != "audit_unavailable" {
		t.Fatalf("%v", err)
	}
	if n := len(r.list()); n != 1 || isClosed(before.Changed) {
		t.Errorf("%d are in force, who waits is woken: %v", n, isClosed(before.Changed))
	}
	r.auth(orch)
	r.log.fail = nil
	r.revoke(q.Kind, q.ID)
	if _, err := r.s.Authenticate(orch.certs); err == nil || code(t, err) != "certificate_revoked" {
		t.Errorf("%v", err)
	}
}

// What is revoked already is answered as the first time, and needs no log.
func TestRevokedAgain(t *testing.T) {
	r := newRig(t)
	first, err := r.s.Revoke(t.Context(), r.operator, serial("0a"))
	if err != nil {
		t.Fatal(err)
	}
	entries := r.log.count(record.TypeRevoke)
	q := serial("0a")
	q.Reason = "another"
	r.log.fail = delegation.ErrUnknown
	again, err := r.s.Revoke(t.Context(), r.operator, q)
	if err != nil || again != first {
		t.Errorf("%+v, %v; the first time %+v", again, err, first)
	}
	if n := r.log.count(record.TypeRevoke); n != entries || len(r.list()) != 1 {
		t.Errorf("%d entries, %d revocations", n-entries, len(r.list()))
	}
}

// One thing revoked by several at once is one revocation, whether they come together or while the first is being written.
func TestOneThingRevokedTogetherAndMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		h := r.hooked()
		r.revoke(chain.RevCertificate, "ff")
		entries := h.count(record.TypeRevoke)
		written := make(chan struct{})
		h.beforeAppend = func(record.Entry) { <-written }
		var wg sync.WaitGroup
		var mu sync.Mutex
		got := map[string][]delegation.Revocation{}
		revoke := func(id string) {
			wg.Go(func() {
				v, err := r.s.Revoke(t.Context(), r.operator, serial(id))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				got[id] = append(got[id], v)
			})
			synctest.Wait()
		}
		revoke("01") // has the turn, and waits for the log
		for range 3 {
			revoke("01") // queue until it is written
			revoke("02")
		}
		close(written)
		wg.Wait()
		if n := h.count(record.TypeRevoke) - entries; n != 2 || len(r.list()) != 3 {
			t.Errorf("%d entries, %d revocations", n, len(r.list()))
		}
		for id, all := range got {
			for _, v := range all {
				if v != all[0] || v.ID != id || v.Seq == 0 || v.Position.Index == 0 {
					t.Errorf("%s: %+v and %+v", id, v, all[0])
				}
			}
		}
	})
}

// The log itself refuses a second revocation of a thing, whatever is in memory.
func TestTheLogTakesARevocationOnce(t *testing.T) {
	r := newRig(t)
	r.damaged = true
	r.log.apply([]record.Mutation{{Key: "rev/certificate/0a", Value: []byte(`{"seq":1}`)}})
	entries := r.log.count(record.TypeRevoke)
	if _, err := r.s.Revoke(t.Context(), r.operator, serial("0a")); err == nil || code(t, err) != "idempotency_race" {
		t.Errorf("%v", err)
	}
	if n := r.log.count(record.TypeRevoke); n != entries {
		t.Errorf("%d entries", n-entries)
	}
}

// Whoever asked may be gone, before the log speaks for the first number or while the entry is on its way: what has begun
// is done.
func TestACallerWhoHangsUp(t *testing.T) {
	r := newRig(t)
	h := r.hooked()
	gone, hangUp := context.WithCancel(t.Context())
	hangUp()
	if _, err := r.s.Revoke(gone, r.operator, serial("01")); err != nil {
		t.Errorf("gone before: %v", err)
	}
	ctx, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	h.beforeAppend = func(record.Entry) { hangUp() }
	if _, err := r.s.Revoke(ctx, r.operator, serial("02")); err != nil {
		t.Errorf("gone meanwhile: %v", err)
	}
	if n := len(r.list()); n != 2 || h.count(record.TypeRevoke) != 2 {
		t.Errorf("%d in force, %d entries", n, h.count(record.TypeRevoke))
	}
	user := chain.User{Issuer: "https://idp.example", Subject: "physician-1"}
	if err := r.s.RegisterCredential(gone, delegation.SignIn{User: user, At: r.now()}, delegation.Credential{ID: []byte{1}, PublicKey: []byte{2}}); err != nil {
		t.Errorf("an authenticator of somebody who is gone: %v", err)
	}
	r.restart()
	if n := len(r.list()); n != 2 {
		t.Errorf("%d after a restart", n)
	}
}
