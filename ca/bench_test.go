package ca_test

import (
	"sync/atomic"
	"testing"

	"github.com/signet-pki/signet/ca"
)

func BenchmarkPrepareAgent(b *testing.B) {
	r := newRig(b)
	i, req := r.agents(b), r.agentRequest(b)
	for b.Loop() {
		if _, err := i.PrepareAgent(req, start); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkIssue is with a software key: "verifying" leaves the verification to the signer, as devices do.
func BenchmarkIssue(b *testing.B) {
	r := newRig(b)
	for name, i := range map[string]*ca.Issuer{
		"plain": r.agents(b), "verifying": r.agentsBy(b, bounded{r.keys["agent-ca-1"], new(atomic.Int32)}),
	} {
		b.Run(name, func(b *testing.B) {
			p, err := i.PrepareAgent(r.agentRequest(b), start)
			if err != nil {
				b.Fatal(err)
			}
			tbs := p.TBS()
			for b.Loop() {
				b.StopTimer()
				p, err := i.Resume(tbs)
				b.StartTimer()
				if err != nil {
					b.Fatal(err)
				}
				if _, err := i.Issue(b.Context(), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkResume(b *testing.B) {
	r := newRig(b)
	i := r.agents(b)
	p, err := i.PrepareAgent(r.agentRequest(b), start)
	if err != nil {
		b.Fatal(err)
	}
	tbs := p.TBS()
	for b.Loop() {
		if _, err := i.Resume(tbs); err != nil {
			b.Fatal(err)
		}
	}
}
