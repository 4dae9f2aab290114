package delegation_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/event"
)

// run starts what the Service does in the background, and gives the function that ends it.
func (r *rig) run() (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	done := make(chan error, 1)
	go func() { done <- r.s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Error(err)
		}
	}
}

func (r *rig) list() []delegation.Revocation {
	return r.s.Revocations(delegation.Cursor{}, 1<<20).Revocations
}

// read follows the signed feed from the beginning until a heartbeat says that this was all.
func (r *rig) read(upTo uint64) []event.Event {
	r.t.Helper()
	deadline := time.After(time.Minute)
	var out []event.Event
	var at delegation.Cursor
	for {
		page := r.s.Feed(at, 100)
		for _, e := range page.Events {
			out = append(out, r.verified(e.SET))
		}
		at = page.Next
		if page.More {
			continue
		}
		if page.Heartbeat != "" {
			if beat := r.verified(page.Heartbeat); beat.Kind == chain.RevUnknown && beat.Seq >= upTo {
				return out
			}
		}
		select {
		case <-page.Changed:
		case <-deadline:
			r.t.Fatalf("the feed ends at %d with %d events", at.Seq, len(out))
		}
	}
}

func (r *rig) verified(set string) event.Event {
	r.t.Helper()
	e, err := event.Parse(set, r.statements.key.Public(), trustDomain+"/log", trustDomain)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// child has an agent spawn one below itself.
func (r *rig) child(parent identity, task delegation.Task) (identity, error) {
	r.t.Helper()
	by := r.auth(parent)
	lineage, err := r.s.AgentChain(r.t.Context(), by, by.ID.AgentID())
	if err != nil {
		r.t.Fatal(err)
	}
	key := newKey(r.t)
	q := r.request(task, key)
	q.AgentType, q.MaxDepth, q.TTL = "reader", 0, time.Minute
	q.Confirmation = r.jws(parent, q, lineage.GrantHash, key)
	out, err := r.s.Delegate(r.t.Context(), by, by.ID.AgentID(), q)
	if err != nil {
		return identity{}, err
	}
	return r.identity(key, out.Chain), nil
}

func TestRevokedSubtreeLeavesItsAgent(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	task := r.task(orch)
	parent, service := r.spawn(orch, task), r.service("records")
	child, err := r.child(parent, task)
	if err != nil {
		t.Fatal(err)
	}
	id := r.auth(parent).ID.AgentID()
	for restarted := range 2 {
		if restarted == 1 {
			r.restart()
		} else {
			r.revoke(chain.RevSubtree, id)
		}
		if d := r.decide(service, parent); !d.Allow {
			t.Errorf("the agent itself is refused: %v", d.Reasons)
		}
		if d := r.decide(service, child); d.Allow || d.Reasons[0] != chain.CodeSubtreeRevoked {
			t.Errorf("below it: allowed %v, %v", d.Allow, d.Reasons)
		}
		if _, err := r.s.Authenticate(child.certs); code(t, err) != chain.CodeSubtreeRevoked {
			t.Errorf("below it: %v", err)
		}
		if _, err := r.child(parent, task); code(t, err) != chain.CodeSubtreeRevoked {
			t.Errorf("a later child: %v", err)
		}
	}
	if _, err := r.s.Revoke(t.Context(), r.auth(r.orchestrator("other")), delegation.RevokeRequest{Kind: chain.RevSubtree, ID: id}); code(t, err) != "not_yours" {
		t.Errorf("by another orchestrator: %v", err)
	}
}

// Each revocation says until when anything valid can name its thing, in the log and in the store, and is gone after it.
func TestRevocationsAreDroppedInTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		orch := r.orchestrator("lab")
		task := r.task(orch)
		agent := r.spawn(orch, task)
		id, grantEnd := r.auth(agent).ID.AgentID(), r.clock.Add(time.Hour)
		for kind, q := range map[chain.RevKind]struct {
			id  string
			end time.Time
		}{
			chain.RevCertificate:  {chain.Serial(orch.certs[0]), r.clock.Add(30 * 24 * time.Hour)}, // what it can be renewed to
			chain.RevAgent:        {id, grantEnd},
			chain.RevSubtree:      {id, grantEnd},
			chain.RevTask:         {task.ID, grantEnd},
			chain.RevGrant:        {task.GrantID, grantEnd},
			chain.RevUser:         {id: chain.UserID("https://idp.example", "physician-1")},
			chain.RevOrchestrator: {id: "lab"},
		} {
			v, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: kind, ID: q.id})
			if err != nil {
				t.Fatal(err)
			}
			want := time.Time{}
			if !q.end.IsZero() {
				want = q.end.Add(time.Hour)
			}
			if !v.Expires.Equal(want) || !r.storedUntil("rev/"+kind.String()+"/").Equal(want) {
				t.Errorf("%s: kept until %s, in the store until %s, want %s", kind, v.Expires, r.storedUntil("rev/"+kind.String()+"/"), want)
			}
		}
		newest := r.s.Revocations(delegation.Cursor{}, 0).Newest
		stop := r.run()
		synctest.Wait()
		if n := len(r.read(newest)); n != 7 {
			t.Errorf("%d events", n)
		}
		r.skew.Store(int64(2 * time.Hour))
		time.Sleep(2 * time.Minute) // of the bubble's clock
		synctest.Wait()
		// The user's, the orchestrator's, and the certificate's, which can be renewed for a month.
		if n := len(r.list()); n != 3 {
			t.Errorf("%d revocations are left, want 3", n)
		}
		if n := len(r.s.Feed(delegation.Cursor{}, 10).Events); n != 3 {
			t.Errorf("%d events are left, want 3", n)
		}
		stop()
		r.skew.Store(int64(31 * 24 * time.Hour))
		r.restart()
		if n := len(r.list()); n != 2 {
			t.Errorf("%d revocations are loaded, want 2", n)
		}
		after := r.s.Revocations(delegation.Cursor{}, 0).Newest
		if after < newest {
			t.Errorf("the newest number falls from %d to %d", newest, after)
		}
	})
}

// storedUntil is when the store drops the newest key with a prefix.
func (r *rig) storedUntil(prefix string) time.Time {
	r.t.Helper()
	for i := len(r.log.entries) - 1; i >= 0; i-- {
		for _, m := range r.log.entries[i].Mutations {
			if strings.HasPrefix(m.Key, prefix) && !m.CheckOnly {
				return m.Expires
			}
		}
	}
	r.t.Fatalf("nothing is stored under %s", prefix)
	return time.Time{}
}

// A certificate whose end is not known is kept for as long as any could live.
func TestRevokedSerialOfNobody(t *testing.T) {
	r := newRig(t)
	v, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: "0a:0B"})
	if err != nil {
		t.Fatal(err)
	}
	if v.ID != "0a0b" || v.Expires.Before(r.clock.Add(30*24*time.Hour)) {
		t.Errorf("%s until %s", v.ID, v.Expires)
	}
}

// No number is used twice: not after a restart, not after all was dropped, not after a write that was lost.
func TestNumbersAreNeverUsedAgain(t *testing.T) {
	r := newRig(t)
	var last uint64
	next := func(id string) {
		t.Helper()
		v, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: id})
		if err != nil {
			t.Fatal(err)
		}
		if v.Seq <= last {
			t.Errorf("number %d after %d", v.Seq, last)
		}
		last = v.Seq
	}
	next("01")
	next("02")
	r.restart()
	next("03")
	r.clock = r.clock.Add(10 * 365 * 24 * time.Hour)
	r.restart()
	if n := len(r.list()); n != 0 {
		t.Fatalf("%d are left", n)
	}
	r.clock = r.clock.Add(-10 * 365 * 24 * time.Hour)
	next("04")
	// It may have been written: it is in force and may have been seen. Then the machine stops, and it was not.
	r.log.fail = delegation.ErrUnknown
	if _, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: "05"}); code(t, err) != "outcome_unknown" {
		t.Fatal(err)
	}
	all := r.list()
	if v := all[len(all)-1]; v.ID != "05" || v.Seq <= last {
		t.Fatalf("%+v", v)
	}
	last = all[len(all)-1].Seq
	r.log.fail = nil
	r.restart()
	next("06")
}

// The first number after a start is not used again either, when its entry was lost: at the very first start, and later.
func TestTheFirstNumberIsNotUsedAgain(t *testing.T) {
	r := newRig(t)
	var last uint64
	for _, lost := range []string{"01", "02", "03"} {
		h := r.hooked()
		h.beforeAppend = func(record.Entry) { h.fail = delegation.ErrUnknown }
		if _, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: lost}); code(t, err) != "outcome_unknown" {
			t.Fatal(err)
		}
		all := r.list() // in force, and any reader may have seen it
		if len(all) != 1 || all[0].ID != lost || all[0].Seq <= last {
			t.Fatalf("%+v after %d", all, last)
		}
		last = all[0].Seq
		r.log.fail = nil
	}
	r.restart()
	r.revoke(chain.RevCertificate, "04")
	if all := r.list(); len(all) != 1 || all[0].Seq <= last {
		t.Errorf("%+v after %d", all, last)
	}
}

// A log that has not spoken for any number is asked again, and nothing is revoked until then.
func TestNumbersThatTheLogDoesNotSpeakFor(t *testing.T) {
	r := newRig(t)
	r.log.fail = delegation.ErrUnknown
	if err := r.s.Recover(t.Context()); err == nil {
		t.Error("recovered without the log")
	}
	for range 2 {
		if _, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: "01"}); code(t, err) != "audit_unavailable" {
			t.Errorf("%v", err)
		}
	}
	if n := len(r.list()); n != 0 {
		t.Errorf("%d in force", n)
	}
	r.log.fail = nil
	r.revoke(chain.RevCertificate, "01")
}

// A log that never answers is not given numbers that it could hold against us.
func TestNumbersEndWhenTheLogIsSilent(t *testing.T) {
	r := newRig(t)
	if err := r.s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.log.fail = delegation.ErrUnknown
	for i := range 2000 {
		_, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: fmt.Sprintf("%04x", i+1)})
		switch code(t, err) {
		case "outcome_unknown":
		case "audit_unavailable":
			if i < 1000 {
				t.Fatalf("no number is left after %d", i)
			}
			return
		default:
			t.Fatal(err)
		}
	}
	t.Error("numbers went on and on")
}

func TestTenThousandRevocationsAtOnce(t *testing.T) {
	const many = 10_000
	r := newRig(t)
	defer r.run()()
	entries := len(r.log.entries)
	errs := make([]error, many)
	seqs := make([]uint64, many)
	var wg sync.WaitGroup
	for i := range many {
		wg.Go(func() {
			v, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: fmt.Sprintf("%06x", 1<<20+i)})
			seqs[i], errs[i] = v.Seq, err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	if n := len(r.log.entries) - entries; n != many {
		t.Errorf("%d entries", n)
	}
	known := map[string]uint64{}
	for i, seq := range seqs {
		known[fmt.Sprintf("%06x", 1<<20+i)] = seq
	}
	list := r.list()
	events := r.read(many)
	if len(list) != many || len(events) != many {
		t.Fatalf("%d listed, %d events", len(list), len(events))
	}
	for i, e := range events {
		if e.Seq != uint64(i+1) || list[i].Seq != e.Seq || list[i].ID != e.ID || known[e.ID] != e.Seq || !e.Expires.Equal(list[i].Expires.Truncate(time.Second)) {
			t.Fatalf("event %d is %+v, listed as %+v, answered as %d", i, e, list[i], known[e.ID])
		}
	}
	if n := r.statements.signed.Load(); n < many || n > 2*many {
		t.Errorf("%d signatures: each event is signed once", n)
	}
	// Whoever reads it a second time costs no signature.
	before := r.statements.signed.Load()
	if n := len(r.s.Feed(delegation.Cursor{}, many).Events); n != many || r.statements.signed.Load() > before+2 {
		t.Errorf("%d events for %d signatures", n, r.statements.signed.Load()-before)
	}
}

// The same thing revoked by many at once is one revocation.
func TestOneThingRevokedByManyAtOnce(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			v, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: "0a"})
			if err != nil || v.Seq != 1 {
				t.Errorf("number %d, %v", v.Seq, err)
			}
		})
	}
	wg.Wait()
	if n := len(r.list()); n != 1 {
		t.Errorf("%d revocations", n)
	}
}

// A device that is away delays events and heartbeats; it does not delay revocations.
func TestAwayDeviceDelaysTheFeedAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.run()()
		synctest.Wait()
		beat := r.s.Feed(delegation.Cursor{}, 10).Heartbeat
		if beat == "" {
			t.Fatal("no first heartbeat")
		}
		away := errors.New("the token is gone")
		r.statements.failing.Store(&away)
		r.revoke(chain.RevCertificate, "0a")
		r.skew.Store(int64(time.Minute))
		time.Sleep(time.Minute)
		synctest.Wait()
		page := r.s.Feed(delegation.Cursor{}, 10)
		if len(page.Events) != 0 || page.Heartbeat != beat || len(r.list()) != 1 {
			t.Errorf("%d events, a new heartbeat %v, %d revocations", len(page.Events), page.Heartbeat != beat, len(r.list()))
		}
		r.statements.failing.Store(nil)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		events := r.read(1)
		if len(events) != 1 || events[0].ID != "0a" || !r.verified(r.s.Feed(delegation.Cursor{}, 10).Heartbeat).Time.Equal(r.now()) {
			t.Errorf("afterwards: %+v", events)
		}
	})
}

func TestPlacesInTheFeed(t *testing.T) {
	r := newRig(t)
	for _, id := range []string{"01", "02", "03"} {
		r.revoke(chain.RevCertificate, id)
	}
	for at, want := range map[delegation.Cursor]int{
		{}: 3, {Epoch: 1}: 3, {Epoch: 1, Seq: 2}: 1, {Epoch: 1, Seq: 3}: 0, {Epoch: 1, Seq: 99}: 0,
		// Another epoch's place is none here: everything is read again.
		{Epoch: 2, Seq: 2}: 3,
	} {
		page := r.s.Revocations(at, 10)
		if len(page.Revocations) != want || want > 0 && page.Next != (delegation.Cursor{Epoch: 1, Seq: 3}) {
			t.Errorf("behind %+v: %d, next %+v", at, len(page.Revocations), page.Next)
		}
	}
	if page := r.s.Revocations(delegation.Cursor{}, 2); len(page.Revocations) != 2 || page.Next.Seq != 2 {
		t.Errorf("a short page: %+v", page)
	}
}

func TestGrantsOfAUser(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	by := r.auth(orch)
	task := r.task(orch)
	agent := r.spawn(orch, task)
	second := r.grantFor(by, time.Hour)
	r.approve(second.ID)
	pending := r.grantFor(by, time.Hour)
	user := chain.User{Issuer: "https://idp.example", Subject: "physician-1"}
	other := chain.User{Issuer: "https://idp.example", Subject: "physician-2"}
	grants, err := r.s.GrantsOf(t.Context(), user)
	if err != nil || len(grants) != 2 || grants[0].ID != task.GrantID && grants[1].ID != task.GrantID {
		t.Fatalf("%+v, %v", grants, err)
	}
	if grants, err := r.s.GrantsOf(t.Context(), other); err != nil || len(grants) != 0 {
		t.Errorf("another user's: %+v, %v", grants, err)
	}
	if _, err := r.s.RevokeUserGrant(t.Context(), other, second.ID, ""); code(t, err) != "grant_not_found" {
		t.Errorf("another user's grant: %v", err)
	}
	if _, err := r.s.RevokeUserGrant(t.Context(), user, pending.ID, ""); code(t, err) != "grant_not_found" {
		t.Errorf("a grant that waits: %v", err)
	}
	if _, err := r.s.RevokeUserGrant(t.Context(), user, second.ID, "changed my mind"); err != nil {
		t.Fatal(err)
	}
	done, err := r.s.RevokeUserGrants(t.Context(), user, "logged out")
	if err != nil || len(done) != 1 || done[0].ID != task.GrantID || done[0].Kind != chain.RevGrant {
		t.Errorf("%+v, %v", done, err)
	}
	if env := r.log.last(t); env.User == "" || env.Grant != task.GrantID || strings.Contains(string(env.Body), user.Subject) {
		t.Errorf("the entry: %+v", env)
	}
	if _, err := r.s.Authenticate(agent.certs); code(t, err) != chain.CodeGrantRevoked {
		t.Errorf("an agent outlived its grant: %v", err)
	}
	grants, err = r.s.GrantsOf(t.Context(), user)
	if err != nil || len(grants) != 2 || grants[0].Status != delegation.GrantRevoked || grants[1].Status != delegation.GrantRevoked {
		t.Errorf("afterwards: %+v, %v", grants, err)
	}
	// The user is not barred.
	third := r.grantFor(by, time.Hour)
	r.approve(third.ID)
	if again, err := r.s.RevokeUserGrants(t.Context(), user, ""); err != nil || len(again) != 1 || again[0].ID != third.ID {
		t.Errorf("again: %+v, %v", again, err)
	}
}

func TestCertificatesOfAgents(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	agent := r.spawn(orch, r.task(orch))
	for serial, want := range map[string]bool{
		chain.Serial(agent.certs[0]): true, chain.Serial(orch.certs[0]): false, chain.Serial(r.operator.Certs[0]): false, "0a": false,
	} {
		if got, err := r.s.OfAgent(serial); err != nil || got != want {
			t.Errorf("%s: %v, %v", serial, got, err)
		}
	}
}

func TestCertificatesOfAnOrchestrator(t *testing.T) {
	r := newRig(t)
	orch := r.orchestrator("lab")
	r.orchestrator("lab-2")
	serials, err := r.s.CertificatesOf(t.Context(), "lab")
	if err != nil || len(serials) != 1 || serials[0] != chain.Serial(orch.certs[0]) {
		t.Errorf("%v, %v", serials, err)
	}
}
