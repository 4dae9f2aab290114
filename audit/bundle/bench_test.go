package bundle_test

import (
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"syscall"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
)

// busy is a log of agents, their sub-agents, and what those were allowed, with the certificates in the payloads.
func busy(b *testing.B, tasks, agents int) *world {
	w := newWorld(b, newSoftTPM(b))
	for i := range tasks {
		p := w.play(0x1000 * (i + 1))
		for n := range agents {
			index, d := w.spawn(p.agent, 0x1000*(i+1)+0x10+n, p.agentKey, newKey(b), *p.agent.Hops[1].Confirmation, "database:read:patients", 0)
			block, _ := pem.Decode(w.issued[index])
			w.add(record.TypeDecision, record.Envelope{Service: "records"}, record.DecisionBody{
				DecisionID: id(len(w.entries)), Allow: true, ResourceType: "database", ResourceID: "patients", Action: "read",
				RequiredScope: []string{"database:read:patients"}, Hops: hopBodies(d),
			}, record.DecisionPayload{Input: json.RawMessage(`{"n":1}`), Chain: [][]byte{block.Bytes}})
		}
		w.seal()
	}
	return w
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it knows no failure for itself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkVerifyAgents reports the CPU time of an entry, half of them of agents, and its ratio to the hashing of the same bytes.
func BenchmarkVerifyAgents(b *testing.B) {
	w := busy(b, 12, 80)
	m := written(b, w)
	started := cpu()
	for range 20 {
		for _, data := range m {
			sha256.Sum256(data)
		}
	}
	floor := (cpu() - started) / 20
	b.ReportAllocs()
	b.ResetTimer()
	started = cpu()
	for b.Loop() {
		if r := verify(b, m, bundle.Options{}); !r.Valid {
			show(b, r)
			b.Fatal("not valid")
		}
	}
	each := float64(cpu()-started) / float64(b.N)
	b.ReportMetric(each/1000/float64(len(w.entries)), "µs-CPU/entry")
	b.ReportMetric(each/float64(floor), "×SHA-256")
}
