package delegation_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

var errAway = errors.New("the token is gone")

// shown are the numbers of the events in a page.
func shown(page delegation.FeedPage) []uint64 {
	out := []uint64{}
	for _, e := range page.Events {
		out = append(out, e.Seq)
	}
	return out
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// beats notes the heartbeats that are signed.
type beats struct {
	mu  sync.Mutex
	all []said
}

func (b *beats) note(s said) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, s)
}

// An event that cannot be signed holds back those behind it and the heartbeat that would say that there is none, and not
// those before it. When it can be signed, it comes within a second, and nothing is signed twice.
func TestAnEventThatCannotBeSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var broken atomic.Uint64
		var events atomic.Int64
		r.statements.before = func(_ context.Context, s said) error {
			switch {
			case s.heartbeat():
			case s.Signet.Seq == broken.Load():
				return errAway
			default:
				events.Add(1)
			}
			return nil
		}
		broken.Store(2)
		for _, id := range []string{"01", "02", "03"} {
			r.revoke(chain.RevCertificate, id)
		}
		defer r.run()()
		synctest.Wait()
		if page := r.s.Feed(delegation.Cursor{}, 10); !slices.Equal(shown(page), []uint64{1}) || page.Heartbeat != "" {
			t.Errorf("%v are shown, and a heartbeat: %v", shown(page), page.Heartbeat != "")
		}
		broken.Store(0)
		time.Sleep(time.Second)
		synctest.Wait()
		page := r.s.Feed(delegation.Cursor{}, 10)
		if !slices.Equal(shown(page), []uint64{1, 2, 3}) || page.Heartbeat == "" || events.Load() != 3 {
			t.Fatalf("a second later %v are shown, a heartbeat: %v, %d events were signed", shown(page), page.Heartbeat != "", events.Load())
		}
		if beat := r.verified(page.Heartbeat); beat.Seq != 3 {
			t.Errorf("the heartbeat is up to %d", beat.Seq)
		}
	})
}

// Readers are woken by an event, whatever becomes of the heartbeat behind it; the one before it is not shown behind it.
func TestAHeartbeatThatCannotBeSigned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var away atomic.Bool
		r.statements.before = func(_ context.Context, s said) error {
			if s.heartbeat() && away.Load() {
				return errAway
			}
			return nil
		}
		defer r.run()()
		synctest.Wait()
		before := r.s.Feed(delegation.Cursor{}, 10)
		if before.Heartbeat == "" {
			t.Fatal("no first heartbeat")
		}
		away.Store(true)
		r.revoke(chain.RevCertificate, "01")
		synctest.Wait()
		if !isClosed(before.Changed) {
			t.Error("who waits is not woken")
		}
		if page := r.s.Feed(delegation.Cursor{}, 10); !slices.Equal(shown(page), []uint64{1}) || page.Heartbeat != "" {
			t.Errorf("%v are shown, and a heartbeat from before them: %v", shown(page), page.Heartbeat != "")
		}
		if page := r.s.Feed(delegation.Cursor{Epoch: 1, Seq: 1}, 10); page.Heartbeat != "" {
			t.Error("a heartbeat from before the event is shown behind it")
		}
		away.Store(false)
		time.Sleep(time.Second)
		synctest.Wait()
		if page := r.s.Feed(delegation.Cursor{}, 10); page.Heartbeat == "" || r.verified(page.Heartbeat).Seq != 1 {
			t.Error("no heartbeat a second later")
		}
	})
}

// A heartbeat speaks for its moment: all that was revoked before it has a number that is no higher. The moment is the one
// before the revocations were looked at: neither that after the look nor that after the signatures.
func TestHeartbeatsSpeakForTheirMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var signed beats
		revoke := func(id string, then time.Duration) {
			if _, err := r.s.Revoke(t.Context(), r.operator, delegation.RevokeRequest{Kind: chain.RevCertificate, ID: id}); err != nil {
				t.Error(err)
			}
			r.skew.Add(int64(then))
		}
		r.statements.before = func(_ context.Context, s said) error {
			switch {
			case s.heartbeat():
				signed.note(s)
			case s.Signet.Seq == 1:
				revoke("02", time.Minute)
			}
			return nil
		}
		defer r.run()()
		synctest.Wait()
		meanwhile := func() { revoke("01", 10*time.Second) }
		r.skew.Add(int64(delegation.DefaultLimits().Heartbeat))
		r.onClock.Store(&meanwhile) // the feed reads it next, for the heartbeat that is due
		time.Sleep(delegation.DefaultLimits().Heartbeat)
		synctest.Wait()
		all := r.list()
		if len(all) != 2 || len(signed.all) < 2 {
			t.Fatalf("%d revocations, %d heartbeats", len(all), len(signed.all))
		}
		for _, beat := range signed.all {
			for _, v := range all {
				if v.Time.Unix() < beat.Time && v.Seq > beat.Signet.Seq {
					t.Errorf("the heartbeat of %d says %d: number %d is of %d", beat.Time, beat.Signet.Seq, v.Seq, v.Time.Unix())
				}
			}
		}
	})
}

// A clock that was put back does not silence the feed until it is where it was.
func TestHeartbeatsAfterTheClockWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.run()()
		synctest.Wait()
		r.skew.Store(-int64(time.Hour))
		time.Sleep(delegation.DefaultLimits().Heartbeat)
		synctest.Wait()
		if beat := r.verified(r.s.Feed(delegation.Cursor{}, 10).Heartbeat); !beat.Time.Equal(r.now()) {
			t.Errorf("the heartbeat is of %s, it is %s", beat.Time, r.now())
		}
	})
}

// A device that fails is asked once a second, however much is revoked meanwhile.
func TestABrokenDeviceIsNotAskedInACircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var asked atomic.Int64
		r.statements.before = func(context.Context, said) error {
			asked.Add(1)
			return errAway
		}
		defer r.run()()
		synctest.Wait()
		for second := range int64(3) {
			for _, id := range []string{"01", "02", "03", "04"} {
				r.revoke(chain.RevCertificate, id+string(rune('a'+second))+"0")
				synctest.Wait()
			}
			if n := asked.Load(); n != second+1 {
				t.Errorf("asked %d times in second %d", n, second+1)
			}
			time.Sleep(time.Second)
			synctest.Wait()
		}
	})
}

// A signature that never comes is given up after ten seconds.
func TestASignatureThatNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		var hangs atomic.Bool
		hangs.Store(true)
		r.statements.before = func(ctx context.Context, _ said) error {
			if hangs.Load() {
				<-ctx.Done()
			}
			return ctx.Err()
		}
		r.revoke(chain.RevCertificate, "01")
		defer r.run()()
		synctest.Wait()
		hangs.Store(false)
		time.Sleep(11 * time.Second) // ten, and one until the next try
		synctest.Wait()
		if page := r.s.Feed(delegation.Cursor{}, 10); len(page.Events) != 1 || page.Heartbeat == "" {
			t.Errorf("%d events, a heartbeat: %v", len(page.Events), page.Heartbeat != "")
		}
	})
}
