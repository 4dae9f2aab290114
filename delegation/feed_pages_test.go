package delegation_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// A heartbeat says that this was all: it is on the last page and no other. A place in another epoch is none.
func TestPagesOfTheSignedFeed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		for _, id := range []string{"01", "02", "03"} {
			r.revoke(chain.RevCertificate, id)
		}
		defer r.run()()
		synctest.Wait()
		at := delegation.Cursor{}
		for n := uint64(1); n <= 3; n++ {
			page := r.s.Feed(at, 1)
			if !slices.Equal(shown(page), []uint64{n}) || page.More != (n < 3) || (page.Heartbeat != "") != (n == 3) {
				t.Errorf("page %d: %v, more %v, a heartbeat: %v", n, shown(page), page.More, page.Heartbeat != "")
			}
			at = page.Next
		}
		if page := r.s.Feed(at, 1); len(page.Events) != 0 || page.More || page.Heartbeat == "" || page.Next != at {
			t.Errorf("behind all: %+v", page)
		}
		for _, other := range []delegation.Cursor{{Epoch: 2, Seq: 2}, {Seq: 3}} {
			if page := r.s.Feed(other, 10); !slices.Equal(shown(page), []uint64{1, 2, 3}) || page.Next != at {
				t.Errorf("behind %+v: %v, next %+v", other, shown(page), page.Next)
			}
		}
	})
}

// What is dropped is not taken out of the pages that were given.
func TestPagesKeepWhatIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		orch := r.orchestrator("lab")
		r.revoke(chain.RevTask, r.task(orch).ID)
		r.revoke(chain.RevCertificate, "01")
		r.revoke(chain.RevCertificate, "02")
		defer r.run()()
		synctest.Wait()
		signed, plain := r.s.Feed(delegation.Cursor{}, 10), r.s.Revocations(delegation.Cursor{}, 10)
		r.skew.Store(int64(3 * time.Hour))
		time.Sleep(time.Minute)
		synctest.Wait()
		if page := r.s.Feed(delegation.Cursor{}, 10); !slices.Equal(shown(page), []uint64{2, 3}) {
			t.Fatalf("%v are left", shown(page))
		}
		if !slices.Equal(shown(signed), []uint64{1, 2, 3}) {
			t.Errorf("the page of before has %v", shown(signed))
		}
		for i, v := range plain.Revocations {
			if v.Seq != uint64(i+1) {
				t.Errorf("number %d of the list of before is %d", i+1, v.Seq)
			}
		}
	})
}

// The epoch is the log's: in events, places and acknowledgements, and in what is written next.
func TestTheEpochIsTheLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		reader := r.service("records")
		r.log.apply([]record.Mutation{{Key: "feed/head", Value: []byte(`{"epoch":7,"seq":100}`)}})
		r.restart()
		if err := r.s.Recover(t.Context()); err != nil { // which has the log speak for numbers
			t.Fatal(err)
		}
		last := uint64(100)
		for _, id := range []string{"01", "02"} { // with a start in between
			r.restart()
			r.revoke(chain.RevCertificate, id)
			all := r.s.Revocations(delegation.Cursor{}, 10)
			newest := all.Revocations[len(all.Revocations)-1].Seq
			if all.Next != (delegation.Cursor{Epoch: 7, Seq: newest}) || newest <= last {
				t.Errorf("%+v after %d", all.Next, last)
			}
			last = newest
		}
		stop := r.run()
		synctest.Wait()
		page := r.s.Feed(delegation.Cursor{Epoch: 1, Seq: last}, 10)
		if len(page.Events) != 2 || page.Next != (delegation.Cursor{Epoch: 7, Seq: last}) || page.Heartbeat == "" {
			t.Fatalf("%+v", page)
		}
		if e, beat := r.verified(page.Events[1].SET), r.verified(page.Heartbeat); e.Epoch != 7 || e.Seq != last || beat.Epoch != 7 {
			t.Errorf("%+v, %+v", e, beat)
		}
		if got := r.poll(reader, delegation.Cursor{Epoch: 1, Seq: last}); len(got) != 2 {
			t.Errorf("acknowledged in another epoch: %v are left", got)
		}
		if got := r.poll(reader, delegation.Cursor{Epoch: 7, Seq: last}); len(got) != 1 {
			t.Errorf("acknowledged: %v are left", got)
		}
		stop()
	})
}

// A heartbeat goes by the numbers that were given out, also when nothing of that number is left.
func TestAHeartbeatOverNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.log.apply([]record.Mutation{{Key: "feed/head", Value: []byte(`{"epoch":1,"seq":100}`)}})
		r.restart()
		defer r.run()()
		synctest.Wait()
		if beat := r.verified(r.s.Feed(delegation.Cursor{}, 10).Heartbeat); beat.Seq != 100 {
			t.Errorf("up to %d", beat.Seq)
		}
	})
}

// However many there are, a start loads them all.
func TestEveryRevocationIsLoaded(t *testing.T) {
	const many = 2500
	r := newRig(t)
	r.damaged = true
	var ms []record.Mutation
	for i := range many {
		value, err := json.Marshal(map[string]any{"seq": i + 1, "time": r.clock})
		if err != nil {
			t.Fatal(err)
		}
		ms = append(ms, record.Mutation{Key: fmt.Sprintf("rev/certificate/%06x", 1<<20+i), Value: value})
	}
	r.log.apply(append(ms, record.Mutation{Key: "feed/head", Value: fmt.Appendf(nil, `{"epoch":1,"seq":%d}`, many)}))
	r.restart()
	all := r.list()
	if len(all) != many {
		t.Fatalf("%d of %d", len(all), many)
	}
	for i, v := range all {
		if v.Seq != uint64(i+1) {
			t.Fatalf("number %d is %d", i+1, v.Seq)
		}
	}
}

// Who waits for a revocation is woken by it.
func TestARevocationWakesWhoWaits(t *testing.T) {
	r := newRig(t)
	before := r.s.Revocations(delegation.Cursor{}, 10)
	if isClosed(before.Changed) {
		t.Fatal("woken by nothing")
	}
	r.revoke(chain.RevCertificate, "01")
	if !isClosed(before.Changed) {
		t.Error("not woken")
	}
	if isClosed(r.s.Revocations(delegation.Cursor{}, 10).Changed) {
		t.Error("woken for ever")
	}
}

// Exactly as many numbers are given out as the log speaks for, and none of them again after a start.
func TestTheLastNumberThatTheLogSpeaksFor(t *testing.T) {
	const reserved = 1024
	r := newRig(t)
	if err := r.s.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.log.fail = delegation.ErrUnknown
	for i := range reserved + 1 {
		_, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: fmt.Sprintf("%04x", i+1)})
		want := "outcome_unknown"
		if i == reserved {
			want = "audit_unavailable"
		}
		if code(t, err) != want {
			t.Fatalf("the revocation %d: %v, want %s", i+1, err, want)
		}
	}
	all := r.list()
	last := all[len(all)-1].Seq
	r.log.fail = nil
	r.restart()
	r.revoke(chain.RevCertificate, "0a")
	if all := r.list(); len(all) != 1 || all[0].Seq != last+1 {
		t.Errorf("%+v after %d", all, last)
	}
}
