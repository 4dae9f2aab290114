package delegation_test

import (
	"slices"
	"testing"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
)

// poll gives the numbers of what is left for a caller once all are acknowledged.
func (r *rig) poll(by delegation.Caller, all ...delegation.Cursor) []uint64 {
	r.t.Helper()
	page := r.s.PollFeed(by, delegation.FeedPoll{Limit: 100, Acked: all})
	var out []uint64
	for _, e := range page.Events {
		if got := r.verified(e.SET); got.Seq != e.Seq || got.Epoch != page.Next.Epoch {
			r.t.Errorf("%d is %+v", e.Seq, got)
		}
		out = append(out, e.Seq)
	}
	return out
}

// Acknowledgements are of a registration, and of this process: who cannot have had an event gets it.
func TestAcknowledgementsAreAReadersOwn(t *testing.T) {
	r := newRig(t)
	stop := r.run()
	first, other := r.service("records"), r.service("billing")
	r.revoke(chain.RevCertificate, "0a")
	r.revoke(chain.RevCertificate, "0b")
	r.read(2)
	if got := r.poll(first, delegation.Cursor{Epoch: 1, Seq: 1}); !slices.Equal(got, []uint64{2}) {
		t.Errorf("left %v", got)
	}
	if got := r.poll(other); !slices.Equal(got, []uint64{1, 2}) {
		t.Errorf("another's acknowledgement took some: %v", got)
	}
	again, err := r.s.Register(t.Context(), r.operator, chain.Service, delegation.Registration{Name: "records", CSR: csr(t, newKey(t)), Replace: true})
	if err != nil {
		t.Fatal(err)
	}
	successor := r.auth(r.identity(nil, again.Issued.Chain))
	if got := r.poll(successor); len(got) < 2 || got[0] != 1 {
		t.Errorf("whoever has the name now is spared events: %v", got)
	}
	all := r.poll(other)
	stop()
	r.restart()
	stop = r.run()
	defer stop()
	r.read(all[len(all)-1])
	if got := r.poll(first); !slices.Equal(got, all) {
		t.Errorf("after a restart %v is left of %v", got, all)
	}
	if got := r.poll(first, delegation.Cursor{Epoch: 2, Seq: 1}, delegation.Cursor{Seq: 1}); !slices.Equal(got, all) {
		t.Errorf("another epoch's acknowledgement counts: %v", got)
	}
}
