package delegation

import (
	"testing"
	"time"

	"github.com/signet-pki/signet/delegation/chain"
)

// What is dropped is gone from what decisions ask, not from the list alone.
func TestDroppedRevocationsAreNotInForce(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	r := &revocations{set: map[string]Revocation{}, changed: make(chan struct{})}
	r.add(true,
		Revocation{Seq: 1, Kind: chain.RevCertificate, ID: "01", Expires: now},
		Revocation{Seq: 2, Kind: chain.RevCertificate, ID: "02", Expires: now.Add(1)},
		Revocation{Seq: 3, Kind: chain.RevUser, ID: "03"})
	r.drop(now)
	if r.has(chain.RevCertificate, "01") || !r.has(chain.RevCertificate, "02") || !r.has(chain.RevUser, "03") || len(r.list) != 2 || len(r.set) != 2 {
		t.Errorf("%v, listed %v", r.set, r.list)
	}
}
