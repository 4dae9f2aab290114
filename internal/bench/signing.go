package main

import (
	"context"
	"fmt"
	"time"
)

// signRows are signatures by the token, which verifies each before it is released, and the same in software.
func (b *bench) signRows(ctx context.Context) error {
	f := &b.floors
	for _, r := range []struct {
		what    string
		workers int
		do      func(context.Context, int, int) error
		floor   floor
	}{
		{"P-256 signature, software", 1, f.signSoftware, floor{"itself", f.sign, false}},
		{"P-256 verification, software", 1, f.verifySoftware, floor{"itself", f.verify, false}},
		{"P-256 signature, SoftHSM token, verified", 1, f.signToken, f.signFloor()},
		{"P-256 signature, SoftHSM token, verified", 8, f.signToken, f.signFloor()},
	} {
		samples, err := b.repeat(fmt.Sprintf("%s, %d callers", r.what, r.workers), func() (sample, error) {
			return load(ctx, r.workers, 12000/b.scale, self{}, r.do)
		})
		if err != nil {
			return err
		}
		b.table.add(row{what: r.what, at: fmt.Sprint(r.workers), samples: samples, floor: r.floor})
	}
	return nil
}

func (f *floors) signFloor() floor {
	return floor{name: "sign and verify in software", cost: f.sign + f.verify}
}

// spawnFloor is what no issuance goes without: the request, the CSR's proof of possession, the token's signature, and
// with confirm the delegator's.
func (f *floors) spawnFloor(confirm bool) floor {
	out := floor{name: "TLS POST + verify + token's signature", cost: f.spawn + f.verify + f.hsm}
	if confirm {
		out.name, out.cost = "TLS POST + 2 verify + token's signature", out.cost+f.verify
	}
	return out
}

func (f *floors) decideFloor() floor { return floor{name: "TLS POST", cost: f.decide} }

// perOp divides a time among what it was for.
func perOp(d time.Duration, n int) time.Duration { return d / time.Duration(n) }
