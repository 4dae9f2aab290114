package delegation_test

import (
	"testing"
	"testing/synctest"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// A heartbeat is on the page that has the last event, and on no page before it.
func TestHeartbeatIsOnTheLastPage(t *testing.T) {
	r := newRig(t)
	defer r.run()()
	for _, id := range []string{"0a", "0b", "0c"} {
		r.revoke(chain.RevCertificate, id)
	}
	r.read(3)
	for limit, last := range map[int]bool{1: false, 2: false, 3: true, 4: true} {
		page := r.s.Feed(delegation.Cursor{}, limit)
		if page.More == last || (page.Heartbeat != "") != last {
			t.Errorf("%d events of three: more %v, a heartbeat %v", limit, page.More, page.Heartbeat != "")
		}
	}
}

// An event that no heartbeat speaks for yet has none behind it: the one from before it would be read as a gap.
func TestNoHeartbeatFromBeforeAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		defer r.run()()
		synctest.Wait()
		r.statements.last.Store(r.statements.signed.Load() + 1) // the event's, and not the heartbeat's
		r.revoke(chain.RevCertificate, "0a")
		synctest.Wait()
		if page := r.s.Feed(delegation.Cursor{}, 10); len(page.Events) != 1 || page.Heartbeat != "" {
			t.Errorf("%d events, a heartbeat %v", len(page.Events), page.Heartbeat != "")
		}
	})
}
