package bundle_test

import (
	"bytes"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// expected is a finding that must be among those of a report.
type expected struct {
	name   bundle.CheckName
	index  int64 // -1: none
	file   string
	status bundle.Status
}

func wantFinding(t *testing.T, r bundle.Report, want expected) {
	t.Helper()
	if want.status == "" {
		want.status = bundle.Fail
	}
	for _, c := range slices.Concat(r.Failed(), r.Unproven()) {
		index := int64(-1)
		if c.Index != nil {
			index = int64(*c.Index)
		}
		if c.Name == want.name && c.Status == want.status && index == want.index && c.File == want.file {
			return
		}
	}
	t.Errorf("no finding %+v", want)
	show(t, r)
}

func replaceOnce(t *testing.T, m memory, path, old, with string) {
	t.Helper()
	if !bytes.Contains(m[path], []byte(old)) {
		t.Fatalf("%s does not hold %q", path, old)
	}
	m[path] = bytes.Replace(m[path], []byte(old), []byte(with), 1)
}

// line cuts line i of a file out and returns it.
func cutLine(m memory, path string, i int) string {
	list := strings.SplitAfter(string(m[path]), "\n")
	cut := list[i]
	m[path] = []byte(strings.Join(slices.Delete(list, i, i+1), ""))
	return cut
}

func flip(m memory, path string, at int) {
	if at < 0 {
		at += len(m[path])
	}
	m[path][at] ^= 1
}

// TestTampering changes one thing in a good bundle and, unless the row says otherwise, recomputes the manifest as an attacker would. The families of
// lies stand in TestFamiliesOfTampering; these are the details.
func TestTampering(t *testing.T) {
	w, p := goodWorld(t, newSoftTPM(t))
	good, both := written(t, w), newSecond(t)
	first, second := int64(p.first), int64(p.second)
	rows := []struct {
		name     string
		tamper   func(t *testing.T, m memory)
		manifest bool // leave the manifest as it was
		want     []expected
	}{
		{"entry", func(t *testing.T, m memory) {
			line := strings.SplitAfter(string(m["entries/0.jsonl"]), "\n")[50]
			replaceOnce(t, m, "entries/0.jsonl", line, strings.Replace(line, "patients", "patientz", 1))
		}, false, []expected{{bundle.CheckEntry, 50, "entries/0.jsonl", ""}}},
		{"entry, with its tile", func(t *testing.T, m memory) {
			line := strings.SplitAfter(string(m["entries/0.jsonl"]), "\n")[50]
			changed := strings.Replace(line, "patients", "patientz", 1)
			replaceOnce(t, m, "entries/0.jsonl", line, changed)
			leaf := record.LeafHash([]byte(strings.TrimSuffix(changed, "\n")))
			copy(m["log/tile/0/000"][50*32:], leaf[:])
		}, false, []expected{
			{bundle.CheckCheckpoint, -1, "log/checkpoint", ""},
			{bundle.CheckTile, -1, "log/tile/1/000.p/1", ""},
			{bundle.CheckSealRoot, 6, "seals/6.txt", ""},
		}},
		{
			"entry is no JSON", func(t *testing.T, m memory) { flip(m, "entries/1.jsonl", 0) }, false,
			[]expected{{bundle.CheckEntry, 256, "entries/1.jsonl", ""}},
		},
		{
			"entry removed", func(t *testing.T, m memory) { cutLine(m, "entries/0.jsonl", 80) }, false,
			[]expected{{bundle.CheckEntry, 80, "entries/0.jsonl", ""}},
		},
		{
			"last entry removed", func(t *testing.T, m memory) { cutLine(m, "entries/1.jsonl", len(w.entries)-257) }, false,
			[]expected{{bundle.CheckEntry, int64(len(w.entries) - 1), "entries/1.jsonl", ""}},
		},
		{"entry added", func(t *testing.T, m memory) {
			m["entries/1.jsonl"] = append(m["entries/1.jsonl"], w.entries[40].Envelope...)
			m["entries/1.jsonl"] = append(m["entries/1.jsonl"], '\n')
		}, false, []expected{{bundle.CheckEntry, int64(len(w.entries)), "entries/1.jsonl", ""}}},
		{
			"entries removed", func(t *testing.T, m memory) { delete(m, "entries/1.jsonl"); delete(m, "payloads/1.jsonl") }, false,
			[]expected{{bundle.CheckRange, 256, "entries/1.jsonl", ""}},
		},
		{"payload", func(t *testing.T, m memory) {
			line := strings.SplitAfter(string(m["payloads/0.jsonl"]), "\n")[20]
			changed := []byte(line)
			changed[len(changed)-20] ^= 1
			replaceOnce(t, m, "payloads/0.jsonl", line, string(changed))
		}, false, []expected{{bundle.CheckPayload, payloadIndex(good, 20), "payloads/0.jsonl", ""}}},
		{
			"payload removed", func(t *testing.T, m memory) { cutLine(m, "payloads/0.jsonl", 20) }, false,
			[]expected{{bundle.CheckPayload, payloadIndex(good, 20), "payloads/0.jsonl", bundle.Unproven}},
		},
		{"payload of another entry", func(t *testing.T, m memory) {
			replaceOnce(t, m, "payloads/0.jsonl", `{"index":`+fmtUint(uint64(payloadIndex(good, 20)))+`,`, `{"index":1,`)
		}, false, []expected{{bundle.CheckPayload, 1, "payloads/0.jsonl", ""}}},
		{
			"tile", func(t *testing.T, m memory) { flip(m, "log/tile/0/000", 70*32) }, false,
			[]expected{{bundle.CheckTile, 70, "log/tile/0/000", ""}},
		},
		{
			"higher tile", func(t *testing.T, m memory) { flip(m, "log/tile/1/000.p/1", 3) }, false,
			[]expected{{bundle.CheckTile, -1, "log/tile/1/000.p/1", ""}},
		},
		{
			"tile removed", func(t *testing.T, m memory) { delete(m, "log/tile/0/000") }, false,
			[]expected{{bundle.CheckTile, 0, "log/tile/0/000", ""}},
		},
		{
			"checkpoint", func(t *testing.T, m memory) { flip(m, "log/checkpoint", -5) }, false,
			[]expected{{bundle.CheckCheckpoint, -1, "log/checkpoint", ""}},
		},
		{"checkpoint by another key", func(t *testing.T, m memory) {
			signer, err := checkpoint.NewSigner(origin, newKey(t))
			must(t, err)
			m["log/checkpoint"], err = checkpoint.Sign(w.head(), signer)
			must(t, err)
		}, false, []expected{{bundle.CheckCheckpoint, -1, "log/checkpoint", ""}}},
		{"checkpoint of another log by the same key", func(t *testing.T, m memory) {
			head := w.head()
			head.Origin = "log.hospital.example/other"
			m["log/checkpoint"] = w.signed(t, head)
		}, false, []expected{{bundle.CheckCheckpoint, -1, "log/checkpoint", ""}}},
		{"seals swapped", func(_ *testing.T, m memory) {
			for _, suffix := range []string{".txt", ".quote", ".quote.sig", ".pcrs", ".nv", ".nv.sig"} {
				m["seals/2"+suffix], m["seals/3"+suffix] = m["seals/3"+suffix], m["seals/2"+suffix]
			}
		}, false, []expected{{bundle.CheckSeal, 2, "seals/2.txt", ""}, {bundle.CheckSeal, 3, "seals/3.txt", ""}}},
		{
			"seal", func(t *testing.T, m memory) {
				replaceOnce(t, m, "seals/3.txt", "2026-03-01T09:01:", "2026-03-01T09:02:")
			}, false,
			[]expected{{bundle.CheckQuote, 3, "seals/3.quote", ""}, {bundle.CheckCounter, 3, "seals/3.nv", ""}, {bundle.CheckSealChain, 4, "seals/4.txt", ""}},
		},
		{
			"seal in another spelling", func(t *testing.T, m memory) { m["seals/3.txt"] = append(m["seals/3.txt"], '\n') }, false,
			[]expected{{bundle.CheckSeal, 3, "seals/3.txt", ""}},
		},
		{
			"seal removed", func(t *testing.T, m memory) { removeSeal(m, "3") }, false,
			[]expected{{bundle.CheckSealChain, 3, "seals/3.txt", ""}, {bundle.CheckSealEntry, 109 - 1, "entries/0.jsonl", ""}},
		},
		{
			"first seal removed", func(t *testing.T, m memory) { removeSeal(m, "1") }, false,
			[]expected{{bundle.CheckSealChain, 1, "seals/1.txt", ""}},
		},
		{
			"last seal removed", func(t *testing.T, m memory) { removeSeal(m, "6") }, false,
			[]expected{{bundle.CheckSeal, 5, "seals/5.txt", ""}},
		},
		{
			"quote", func(t *testing.T, m memory) { flip(m, "seals/2.quote", -1) }, false,
			[]expected{{bundle.CheckQuote, 2, "seals/2.quote", ""}},
		},
		{"quote of another seal", func(t *testing.T, m memory) {
			m["seals/2.quote"], m["seals/2.quote.sig"] = m["seals/3.quote"], m["seals/3.quote.sig"]
		}, false, []expected{{bundle.CheckQuote, 2, "seals/2.quote", ""}}},
		{
			"counter statement", func(t *testing.T, m memory) { flip(m, "seals/2.nv", -1) }, false,
			[]expected{{bundle.CheckCounter, 2, "seals/2.nv", ""}},
		},
		{"counter statement replaced by the quote", func(t *testing.T, m memory) {
			m["seals/2.nv"], m["seals/2.nv.sig"] = m["seals/2.quote"], m["seals/2.quote.sig"]
		}, false, []expected{{bundle.CheckCounter, 2, "seals/2.nv", ""}}},
		{"certificate", func(t *testing.T, m memory) {
			cert, err := chain.ParsePEM(m[issued(first)], 1)
			must(t, err)
			raw := slices.Clone(cert[0].Raw)
			raw[len(raw)-1] ^= 1
			m[issued(first)] = pemOf("CERTIFICATE", raw)
		}, false, []expected{{bundle.CheckCertificate, first, issued(first), ""}}},
		{"certificates swapped", func(t *testing.T, m memory) {
			m[issued(first)], m[issued(second)] = m[issued(second)], m[issued(first)]
		}, false, []expected{
			{bundle.CheckCertificate, first, issued(first), ""},
			{bundle.CheckCertificate, second, issued(second), ""},
		}},
		{
			"certificate removed", func(t *testing.T, m memory) { delete(m, issued(second)) }, false,
			[]expected{{bundle.CheckCertificate, second, issued(second), bundle.Unproven}},
		},
		{"delegations swapped", func(t *testing.T, m memory) {
			a, b := w.jws[p.first], w.jws[p.second]
			replaceOnce(t, m, "delegators/0.jsonl", a, "x")
			replaceOnce(t, m, "delegators/0.jsonl", b, a)
			replaceOnce(t, m, "delegators/0.jsonl", `"x"`, `"`+b+`"`)
		}, false, []expected{
			{bundle.CheckConfirmation, first, "delegators/0.jsonl", ""},
			{bundle.CheckConfirmation, second, "delegators/0.jsonl", ""},
		}},
		{
			"delegation removed", func(t *testing.T, m memory) { cutLine(m, "delegators/0.jsonl", 1) }, false,
			[]expected{{bundle.CheckConfirmation, second, "delegators/0.jsonl", bundle.Unproven}},
		},
		{
			"evidence", func(t *testing.T, m memory) { flip(m, "evidence/"+id(0x100)+".json", 60) }, false,
			[]expected{{bundle.CheckEvidence, grantEntry(w), "evidence/" + id(0x100) + ".json", ""}},
		},
		{
			"evidence with a line feed more", func(t *testing.T, m memory) {
				m["evidence/"+id(0x100)+".json"] = append(m["evidence/"+id(0x100)+".json"], '\n')
			}, false,
			[]expected{{bundle.CheckEvidence, grantEntry(w), "evidence/" + id(0x100) + ".json", ""}},
		},
		{
			"evidence removed", func(t *testing.T, m memory) { delete(m, "evidence/"+id(0x100)+".json") }, false,
			[]expected{{bundle.CheckEvidence, grantEntry(w), "evidence/" + id(0x100) + ".json", bundle.Unproven}},
		},
		{
			"evidence of no grant", func(t *testing.T, m memory) { m["evidence/other.json"] = []byte("{}") }, false,
			[]expected{{bundle.CheckEvidence, -1, "evidence/other.json", ""}},
		},
		{
			"policy", func(t *testing.T, m memory) { flip(m, onlyPolicy(m), 0) }, false,
			[]expected{{bundle.CheckPolicy, -1, onlyPolicy(good), ""}},
		},
		{"root certificate", func(t *testing.T, m memory) {
			m["certs/root.pem"] = pemOf("CERTIFICATE", w.authority(nil, "root").cert.Raw)
		}, false, []expected{{bundle.CheckCertificate, -1, "certs/root.pem", ""}}},
		{
			"audit certificate by another root", func(t *testing.T, m memory) {
				template := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, NotAfter: w.now.AddDate(1, 0, 0)}
				m["certs/audit.pem"] = pemOf("CERTIFICATE", w.leafFor(w.authority(nil, "root"), &w.audit.PublicKey, template))
			}, false,
			[]expected{{bundle.CheckCertificate, -1, "certs/audit.pem", ""}},
		},
		{
			"audit certificate by the root", func(t *testing.T, m memory) {
				template := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, NotAfter: w.now.AddDate(1, 0, 0)}
				m["certs/audit.pem"] = pemOf("CERTIFICATE", w.leafFor(w.root, &w.audit.PublicKey, template))
			}, false, nil,
		},
		{
			"AK", func(t *testing.T, m memory) { m["certs/ak.pem"] = m["certs/audit.pem"] }, false,
			[]expected{{bundle.CheckAK, -1, "certs/ak.pem", ""}},
		},
		{
			"binding", func(t *testing.T, m memory) {
				replaceOnce(t, m, "certs/ak-binding.json", `"ak_name":"000b`, `"ak_name":"000c`)
			}, false,
			[]expected{{bundle.CheckAK, -1, "certs/ak-binding.json", ""}},
		},
		{"issuing CA", func(t *testing.T, m memory) {
			m["certs/issuing-0.pem"] = pemOf("CERTIFICATE", w.authority(w.authority(nil, "root"), "agents").cert.Raw)
		}, false, []expected{{bundle.CheckCertificate, -1, "certs/issuing-0.pem", ""}, {bundle.CheckCertificate, first, issued(first), ""}}},
		{"manifest line missing", func(t *testing.T, m memory) {
			lines := strings.SplitAfter(string(m["MANIFEST.sha256"]), "\n")
			i := slices.IndexFunc(lines, func(l string) bool { return strings.HasSuffix(l, "  seals/2.nv\n") })
			cutLine(m, "MANIFEST.sha256", i)
		}, true, []expected{{bundle.CheckManifest, -1, "seals/2.nv", ""}}},
		{
			"manifest not recomputed", func(t *testing.T, m memory) { flip(m, "policy.txt", 0) }, true,
			[]expected{{bundle.CheckManifest, -1, "policy.txt", ""}},
		},
		{
			"file gone, manifest not recomputed", func(t *testing.T, m memory) { delete(m, "policy.txt") }, true,
			[]expected{{bundle.CheckManifest, -1, "policy.txt", ""}},
		},
		{
			"manifest removed", func(t *testing.T, m memory) { delete(m, "MANIFEST.sha256") }, true,
			[]expected{{bundle.CheckManifest, -1, "MANIFEST.sha256", ""}},
		},
	}
	paths := []string{"certificate", "issuing CA", "audit certificate by another root"} // to the root, which verify.py leaves to ours
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			m := good.clone()
			row.tamper(t, m)
			if !row.manifest {
				m.remanifest()
			}
			r := verify(t, m, bundle.Options{})
			failing := false
			for _, want := range row.want {
				wantFinding(t, r, want)
				failing = failing || want.status == ""
			}
			if r.Valid == failing {
				t.Errorf("valid %v", r.Valid)
				show(t, r)
			}
			if slices.Contains(paths, row.name) {
				row.want = nil
			}
			both.add(row.name, m.onDisk(both.t), r, row.want...)
		})
	}
	both.agree()
}

func issued(index int64) string { return "certs/issued/" + fmtUint(uint64(index)) + ".pem" }

func removeSeal(m memory, n string) {
	for _, suffix := range []string{".txt", ".quote", ".quote.sig", ".pcrs", ".nv", ".nv.sig"} {
		delete(m, "seals/"+n+suffix)
	}
}

func onlyPolicy(m memory) string {
	for path := range m {
		if strings.HasPrefix(path, "policy/") {
			return path
		}
	}
	return ""
}

// payloadIndex is the entry of payload line i.
func payloadIndex(m memory, i int) int64 {
	line := strings.SplitAfter(string(m["payloads/0.jsonl"]), "\n")[i]
	digits, _, _ := strings.Cut(strings.TrimPrefix(line, `{"index":`), ",")
	n := int64(0)
	for _, d := range digits {
		n = 10*n + int64(d-'0')
	}
	return n
}

func grantEntry(w *world) int64 {
	return int64(slices.IndexFunc(w.entries, func(e record.Stored) bool { return bytes.Contains(e.Envelope, []byte(`"type":"grant"`)) }))
}
