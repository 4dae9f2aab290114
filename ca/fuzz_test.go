package ca_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/signet-pki/signet/ca/lint"
)

// FuzzResume: whatever is accepted is signed exactly as given, fits the profile, and verifies to the root.
func FuzzResume(f *testing.F) {
	keys := memoryKeys{}
	r := newRigWith(f, fixedKeys{keys}, keys)
	i := r.agents(f)
	for _, life := range []time.Duration{time.Minute, time.Hour} {
		req := r.agentRequest(f)
		req.NotAfter = start.Add(life)
		p, err := i.PrepareAgent(req, start)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.TBS())
	}
	expect := lint.Expect{Kind: lint.Agent, TrustDomain: trustDomain, DelegationOID: delegationOID(), Issuer: r.result.AgentCAs[0].Leaf}
	f.Fuzz(func(t *testing.T, tbs []byte) {
		p, err := i.Resume(tbs)
		if err != nil {
			return
		}
		if !bytes.Equal(p.TBS(), tbs) {
			t.Fatal("other bytes than those given")
		}
		c, err := i.Issue(t.Context(), p)
		if err != nil {
			t.Fatalf("accepted, then refused: %v", err)
		}
		if found := lint.Run(c.Leaf, expect); len(found) > 0 || !bytes.Equal(c.Leaf.RawTBSCertificate, tbs) {
			t.Fatalf("released: %v", found)
		}
	})
}
