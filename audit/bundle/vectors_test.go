package bundle_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
)

// The vectors also serve the tests of cmd/signet-verify. Their keys are made anew with -update.
var update = flag.Bool("update", false, "write the test vectors in testdata anew")

const vectors = "testdata"

func vector(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(vectors, name))
	must(t, err)
	return data
}

func writeVectors(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	w.seal()
	w.recordSeal()
	p := w.play(0x100)
	w.decide(3)
	w.seal()
	w.recordSeal()
	w.decide(2)
	w.seal()
	trust, err := w.trustFile().Marshal()
	must(t, err)
	sealed, err := receiptOf(t, w, p.second, true).Marshal()
	must(t, err)
	unsealed, err := receiptOf(t, w, p.second, false).Marshal()
	must(t, err)
	delegations, err := json.MarshalIndent(map[string]any{
		"delegations": []string{"", w.jws[p.first], w.jws[p.second]},
		"keys":        [][]byte{spki(t, &p.orchKey.PublicKey), spki(t, &p.agentKey.PublicKey), {}},
		"grant":       b64url(p.document),
	}, "", "  ")
	must(t, err)
	must(t, os.MkdirAll(vectors, 0o755))
	for name, data := range map[string][]byte{
		"bundle.tar": tarOf(t, w, w.options()), "trust.yaml": trust, "receipt.json": sealed, "unsealed.json": unsealed,
		"other-trust.yaml": otherTrust(t), "root.pem": pemOf("CERTIFICATE", w.root.cert.Raw), "issuing.pem": pemOf("CERTIFICATE", w.agentCA.cert.Raw),
		"agent.pem": w.issued[p.second], "parent.pem": w.issued[p.first], "delegations.json": append(delegations, '\n'),
	} {
		must(t, os.WriteFile(filepath.Join(vectors, name), data, 0o644))
	}
}

func otherTrust(t *testing.T) []byte {
	text, err := newWorld(t, newSoftTPM(t)).trustFile().Marshal()
	must(t, err)
	return text
}

// TestVectors holds the formats still: what was written once must stay valid.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	trust, err := bundle.ParseTrust(vector(t, "trust.yaml"))
	must(t, err)
	archive := vector(t, "bundle.tar")
	files, err := bundle.OpenTar(bytes.NewReader(archive), int64(len(archive)))
	must(t, err)
	r, err := bundle.Verify(t.Context(), files, bundle.Options{Trust: trust})
	must(t, err)
	if !r.Valid || r.Completeness != "complete" {
		show(t, r)
		t.Error("bundle.tar")
	}
	for _, name := range []string{"receipt.json", "unsealed.json"} {
		receipt, err := bundle.ParseReceipt(vector(t, name))
		must(t, err)
		if r := bundle.VerifyReceipt(receipt, trust); !r.Valid {
			show(t, r)
			t.Error(name)
		}
		again, err := receipt.Marshal()
		must(t, err)
		if !bytes.Equal(again, vector(t, name)) {
			t.Errorf("%s is written differently", name)
		}
	}
}

// BenchmarkVerify is for a large log of decisions: entries and payloads, tiles, few signatures.
func BenchmarkVerify(b *testing.B) {
	const count = 100_000
	w := newWorld(b, newSoftTPM(b))
	w.decide(count - 1)
	w.seal()
	m := written(b, w)
	b.ResetTimer()
	start := time.Now()
	for b.Loop() {
		if r := verify(b, m, bundle.Options{}); !r.Valid {
			b.Fatal("not valid")
		}
	}
	b.ReportMetric(float64(count)*float64(b.N)/time.Since(start).Seconds(), "entries/s")
}
