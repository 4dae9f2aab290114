package bundle_test

import (
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
)

// TestBitFlips flips one bit in each kind of file. The manifest, unless it is the file, is recomputed: it must not be what protects them.
func TestBitFlips(t *testing.T) {
	w, p := goodWorld(t, newSoftTPM(t))
	good, both := written(t, w), newSecond(t)
	first, evidence := int64(p.first), "evidence/"+id(0x100)+".json"
	line := strings.Index(string(good["entries/0.jsonl"]), "patients")
	text := strings.LastIndex(string(good["payloads/0.jsonl"]), `"payload":"`) + len(`"payload":"`)
	for _, row := range []struct {
		path string
		at   int
		want expected // the index is that of the entry or seal
		kept bool     // the manifest is not recomputed
	}{
		{"MANIFEST.sha256", 64, expected{bundle.CheckManifest, -1, "MANIFEST.sha256", ""}, true},
		{"README.verify", 5, expected{bundle.CheckManifest, -1, "README.verify", ""}, true},
		{"policy.txt", 2, expected{bundle.CheckManifest, -1, "policy.txt", ""}, true},
		{"log/checkpoint", -9, expected{bundle.CheckCheckpoint, -1, "log/checkpoint", ""}, false},
		{"log/tile/0/000", 64, expected{bundle.CheckTile, 2, "log/tile/0/000", ""}, false},
		{"log/tile/1/000.p/1", 5, expected{bundle.CheckTile, -1, "log/tile/1/000.p/1", ""}, false},
		{"entries/0.jsonl", line, expected{bundle.CheckEntry, entryAt(good, line), "entries/0.jsonl", ""}, false},
		{"payloads/0.jsonl", text, expected{bundle.CheckPayload, 255, "payloads/0.jsonl", ""}, false},
		{"delegators/0.jsonl", 40, expected{bundle.CheckConfirmation, first, "delegators/0.jsonl", ""}, false},
		{"seals/2.txt", -3, expected{bundle.CheckQuote, 2, "seals/2.quote", ""}, false},
		{"seals/2.quote", 80, expected{bundle.CheckQuote, 2, "seals/2.quote", ""}, false},
		{"seals/2.quote.sig", 20, expected{bundle.CheckQuote, 2, "seals/2.quote", ""}, false},
		{"seals/2.pcrs", 0, expected{bundle.CheckQuote, 2, "seals/2.quote", ""}, false},
		{"seals/2.nv", 80, expected{bundle.CheckCounter, 2, "seals/2.nv", ""}, false},
		{"seals/2.nv.sig", 20, expected{bundle.CheckCounter, 2, "seals/2.nv", ""}, false},
		{evidence, 60, expected{bundle.CheckEvidence, grantEntry(w), evidence, ""}, false},
		{onlyPolicy(good), 3, expected{bundle.CheckPolicy, -1, onlyPolicy(good), ""}, false},
		{"certs/root.pem", 200, expected{bundle.CheckCertificate, -1, "certs/root.pem", ""}, false},
		{"certs/audit.pem", 120, expected{bundle.CheckCertificate, -1, "certs/audit.pem", ""}, false},
		{"certs/issuing-0.pem", 300, expected{bundle.CheckCertificate, -1, "certs/issuing-0.pem", ""}, false},
		{issued(first), 600, expected{bundle.CheckCertificate, first, issued(first), ""}, false},
		{"certs/ak.pem", 120, expected{bundle.CheckAK, -1, "certs/ak.pem", ""}, false},
		{"certs/ak-cert.pem", 300, expected{bundle.CheckAK, -1, "certs/ak-cert.pem", ""}, false},
		{"certs/ak-binding.json", 200, expected{bundle.CheckAK, -1, "certs/ak-binding.json", ""}, false},
	} {
		t.Run(row.path, func(t *testing.T) {
			m := good.clone()
			flip(m, row.path, row.at)
			if !row.kept {
				m.remanifest()
			}
			r := verify(t, m, bundle.Options{})
			wantFinding(t, r, row.want)
			if r.Valid {
				t.Error("valid")
			}
			both.add(row.path, m.onDisk(both.t), r, row.want)
		})
	}
	both.agree()
}

// entryAt is the entry at an offset of the first file of entries.
func entryAt(m memory, at int) int64 {
	return int64(strings.Count(string(m["entries/0.jsonl"][:at]), "\n"))
}
