package bundle_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/record"
)

// scene is what a row of the table tampers with: a good log, and its bundle. A row may also put something else in its place.
type scene struct {
	w       *world
	p       *physician
	m       memory
	kept    bool // the manifest is not recomputed
	opts    bundle.Options
	link    string // a file that becomes a symbolic link to somewhere else
	tar     []byte // an archive instead of m
	receipt *bundle.Receipt
}

// TestFamiliesOfTampering has a row for each way to lie with a bundle: what our verifier must name, and whether the second one
// (docs/formats/verify.py) must name the same. TestTampering, TestFalseLogs and the tests of hostile files go into detail.
func TestFamiliesOfTampering(t *testing.T) {
	w, p := goodWorld(t, newSoftTPM(t))
	good, both := written(t, w), newSecond(t)
	for _, row := range families() {
		t.Run(row.family, func(t *testing.T) {
			s := &scene{w: w, p: p, m: good.clone()}
			want := row.tamper(t, s)
			if s.tar != nil {
				s.judgeTar(t, both, row.family)
				return
			}
			r := s.judge(t)
			for _, e := range want {
				wantFinding(t, r, e)
			}
			unproven := want[0].status == bundle.Unproven
			if r.Valid != unproven || unproven && r.Completeness != "unproven" {
				t.Errorf("valid %v, completeness %s", r.Valid, r.Completeness)
			}
			if !row.second {
				want = nil
			}
			switch {
			case s.receipt != nil: // bundles alone
			case s.link != "":
				both.add(row.family, s.linked(both.t), r, want...)
			default:
				both.add(row.family, s.m.onDisk(both.t), r, want...)
			}
			if row.second && both.cases[len(both.cases)-1].alone {
				t.Error("no check that the second verifier has")
			}
		})
	}
	both.agree()
}

func (s *scene) judge(t *testing.T) bundle.Report {
	t.Helper()
	if s.receipt != nil {
		return bundle.VerifyReceipt(*s.receipt, nil)
	}
	if !s.kept {
		s.m.remanifest()
	}
	if s.link == "" {
		return verify(t, s.m, s.opts)
	}
	root, err := os.OpenRoot(s.linked(t))
	must(t, err)
	defer root.Close()
	r, err := bundle.Verify(t.Context(), root.FS(), s.opts)
	must(t, err)
	return r
}

// linked is the bundle on disk with a link in it, to the same bytes outside.
func (s *scene) linked(t *testing.T) string {
	t.Helper()
	dir, outside := s.m.onDisk(t), filepath.Join(t.TempDir(), "outside")
	must(t, os.Rename(filepath.Join(dir, s.link), outside))
	must(t, os.Symlink(outside, filepath.Join(dir, s.link)))
	return dir
}

func (s *scene) judgeTar(t *testing.T, both *second, name string) {
	t.Helper()
	if _, err := bundle.OpenTar(bytes.NewReader(s.tar), int64(len(s.tar))); !errors.Is(err, bundle.ErrArchive) {
		t.Errorf("the archive was not refused: %v", err)
	}
	path := filepath.Join(both.t.TempDir(), "bundle.tar")
	must(t, os.WriteFile(path, s.tar, 0o600))
	both.cases = append(both.cases, secondCase{name: name, path: path})
}

// family is a row. second says whether verify.py must name the same.
type family struct {
	family string
	second bool
	tamper func(t *testing.T, s *scene) []expected
}

func families() []family {
	return slices.Concat(logFamilies(), tpmFamilies(), entryFamilies(), fileFamilies(), witnessFamilies(), selectionFamilies())
}

// logFamilies are lies about the tree: who tells them has the HSM's key, and not the TPM.
func logFamilies() []family {
	return []family{
		{"tail cut back to an older valid checkpoint", true, func(_ *testing.T, s *scene) []expected {
			s.m["log/checkpoint"] = s.w.seals[2].Checkpoint
			return []expected{{bundle.CheckSeal, 6, "seals/6.txt", ""}, {bundle.CheckEntry, 256, "entries/1.jsonl", ""}}
		}},
		{"tail cut back with all that covered it", false, func(t *testing.T, s *scene) []expected {
			s.opts.Range = &bundle.Range{From: 0, To: s.w.last.Size} // what only the auditor knows
			older := *s.w
			older.seals = older.seals[:3]
			s.m = written(t, &older)
			return []expected{{bundle.CheckRange, -1, "log/checkpoint", ""}}
		}},
		{"middle entry removed and everything signed again by the HSM", true, func(t *testing.T, s *scene) []expected {
			s.m = written(t, s.w.without(t, 50))
			return []expected{{bundle.CheckQuote, 3, "seals/3.quote", ""}, {bundle.CheckCounter, 3, "seals/3.nv", ""}}
		}},
		{"fork at one size", true, func(t *testing.T, s *scene) []expected {
			fork := *s.w
			last := len(fork.entries) - 1
			fork.entries, fork.leaves = append(fork.entries[:last:last], fork.entries[last]), append(fork.leaves[:last:last], fork.leaves[last])
			fork.entries[last].Envelope = bytes.Replace(fork.entries[last].Envelope, []byte("patients"), []byte("payrolls"), 1)
			fork.leaves[last] = record.LeafHash(fork.entries[last].Envelope)
			s.m = written(t, &fork)
			s.m["log/checkpoint"] = fork.signed(t, fork.head())
			return []expected{{bundle.CheckSeal, 6, "seals/6.txt", ""}, {bundle.CheckSealRoot, 6, "seals/6.txt", ""}}
		}},
		{"disk restored from a snapshot and continued", true, func(t *testing.T, s *scene) []expected {
			w := newWorld(t, newSoftTPM(t))
			w.seal()
			soft(t, w).count += 2 // seals that the snapshot does not know
			w.decide(3)
			w.seal()
			s.m = written(t, w)
			return []expected{{bundle.CheckBoot, 2, "seals/2.txt", ""}}
		}},
		{"seal removed and the others renumbered", true, func(t *testing.T, s *scene) []expected {
			renumbered := *s.w
			renumbered.seals = append(renumbered.seals[:2:2], renumbered.seals[3:]...)
			renumbered.reseal(t, func(*checkpoint.Seal) {})
			s.m = written(t, &renumbered)
			return []expected{{bundle.CheckQuote, 3, "seals/3.quote", ""}, {bundle.CheckCounter, 3, "seals/3.nv", ""}}
		}},
		{"proof with a wrong index", false, func(t *testing.T, s *scene) []expected {
			r := receiptOf(t, s.w, 50, true)
			r.Index = 51
			s.receipt = &r
			return []expected{{bundle.CheckReceipt, 51, "receipt", ""}}
		}},
		{"proof with a wrong size", false, func(t *testing.T, s *scene) []expected {
			r := receiptOf(t, s.w, 50, true)
			r.Proof = strings.Replace(r.Proof, string(s.w.seals[5].Checkpoint), string(s.w.seals[4].Checkpoint), 1)
			s.receipt = &r
			return []expected{{bundle.CheckReceipt, 50, "receipt", ""}, {bundle.CheckSeal, -1, "receipt", ""}}
		}},
	}
}

// tpmFamilies are lies about what the TPM said.
func tpmFamilies() []family {
	quote2 := []expected{{bundle.CheckQuote, 2, "seals/2.quote", ""}}
	return []family{
		{"old quote under a new checkpoint", true, func(t *testing.T, s *scene) []expected {
			newer := *s.w
			newer.entries, newer.leaves = newer.entries[:len(newer.entries):len(newer.entries)], newer.leaves[:len(newer.leaves):len(newer.leaves)]
			newer.decide(3)
			seal := newer.last
			seal.Number, seal.Previous, seal.Counter, seal.Time = 7, seal.Digest(), seal.Counter+1, newer.now
			seal.Size, seal.Root = newer.head().Size, newer.head().Root
			forged := newer.seals[5]
			forged.Number, forged.Text, forged.Checkpoint = 7, seal.Text(), newer.signed(t, newer.head())
			newer.seals = append(newer.seals[:6:6], forged)
			s.m = written(t, &newer)
			return []expected{{bundle.CheckQuote, 7, "seals/7.quote", ""}, {bundle.CheckCounter, 7, "seals/7.nv", ""}}
		}},
		{"other TPM for one seal", true, func(t *testing.T, s *scene) []expected {
			other := newSoftTPM(t)
			s.m["seals/2.quote"], s.m["seals/2.quote.sig"], s.m["seals/2.pcrs"] = other.quote(t, sha256.Sum256(s.m["seals/2.txt"]))
			return quote2
		}},
		{"other TPM for the whole log", false, func(t *testing.T, s *scene) []expected {
			trust, err := s.w.trustFile().Trust()
			must(t, err)
			s.opts.Trust = trust
			other, _ := goodWorld(t, newSoftTPM(t))
			s.m = written(t, other)
			return []expected{{bundle.CheckTrust, -1, "", ""}}
		}},
		{"AK not bound by the root", false, func(t *testing.T, s *scene) []expected {
			_, _, key := s.w.tpm.public()
			template := &x509.Certificate{KeyUsage: x509.KeyUsageDigitalSignature, NotAfter: s.w.now.AddDate(1, 0, 0)}
			s.m["certs/ak-cert.pem"] = pemOf("CERTIFICATE", s.w.leafFor(s.w.authority(nil, "root"), key, template))
			return []expected{{bundle.CheckAK, -1, "certs/ak-cert.pem", ""}}
		}},
		{"AK not bound to the TPM", true, func(t *testing.T, s *scene) []expected {
			s.m["certs/ak-binding.json"] = newWorld(t, newSoftTPM(t)).binding()
			return []expected{{bundle.CheckAK, -1, "certs/ak-binding.json", ""}}
		}},
		{"unrestricted key", true, func(t *testing.T, s *scene) []expected {
			loose := newSoftTPM(t)
			loose.attributes &^= 1 << 16
			w := newWorld(t, loose)
			w.seal()
			s.m = written(t, w)
			return []expected{{bundle.CheckCeremony, 0, "entries/0.jsonl", ""}, {bundle.CheckQuote, 1, "seals/1.quote", ""}}
		}},
		{"wrong PCRs", true, func(_ *testing.T, s *scene) []expected {
			flip(s.m, "seals/2.pcrs", 40)
			return quote2
		}},
		{"PCRs that the auditor does not accept", false, func(t *testing.T, s *scene) []expected {
			file := s.w.trustFile()
			file.PCRValues = map[string]bundle.PCRValues{"7": {strings.Repeat("65", 32), strings.Repeat("66", 32)}}
			trust, err := file.Trust()
			must(t, err)
			s.opts.Trust = trust
			return quote2
		}},
		{"missing PCRs", true, func(_ *testing.T, s *scene) []expected {
			delete(s.m, "seals/2.pcrs")
			return quote2
		}},
		{"PCRs changed without an entry", true, func(t *testing.T, s *scene) []expected {
			w := newWorld(t, newSoftTPM(t))
			w.seal()
			w.reboots(t)
			w.sealOver(t, 0xee)
			w.recordSeal()
			w.seal()
			s.m = written(t, w)
			return quote2
		}},
		{"PCRs changed within a boot", true, func(t *testing.T, s *scene) []expected {
			w := newWorld(t, newSoftTPM(t))
			w.seal()
			w.sealOver(t, 0xee)
			w.recordSeal()
			w.seal()
			s.m = written(t, w)
			return quote2
		}},
		{"NV statement where a quote is due", true, func(_ *testing.T, s *scene) []expected {
			s.m["seals/2.quote"], s.m["seals/2.quote.sig"] = s.m["seals/2.nv"], s.m["seals/2.nv.sig"]
			return quote2
		}},
		{"statement of another type", true, func(t *testing.T, s *scene) []expected {
			body := s.m["seals/2.quote"][101:]
			device := soft(t, s.w)
			now := *device
			now.reset, now.count = 3, 9 // as it was at that seal
			s.m["seals/2.quote"], s.m["seals/2.quote.sig"] = now.attest(t, 0x8014, sha256.Sum256(s.m["seals/2.txt"]), body)
			return quote2
		}},
		{"heartbeat gap", true, func(t *testing.T, s *scene) []expected {
			w := newWorld(t, newSoftTPM(t))
			w.seal()
			w.now = w.now.Add(11 * time.Minute)
			w.seal()
			s.m = written(t, w)
			return []expected{{bundle.CheckTime, 2, "seals/2.txt", bundle.Unproven}}
		}},
	}
}

// entryFamilies are lies that the appliance itself would have to tell, or somebody who changes what stands beside the tree.
func entryFamilies() []family {
	return []family{
		{"payload swapped", true, func(t *testing.T, s *scene) []expected {
			first, second := payloadIndex(s.m, 20), payloadIndex(s.m, 21)
			replaceOnce(t, s.m, "payloads/0.jsonl", indexOf(first), indexOf(1000))
			replaceOnce(t, s.m, "payloads/0.jsonl", indexOf(second), indexOf(first))
			replaceOnce(t, s.m, "payloads/0.jsonl", indexOf(1000), indexOf(second))
			return []expected{{bundle.CheckPayload, first, "payloads/0.jsonl", ""}, {bundle.CheckPayload, second, "payloads/0.jsonl", ""}}
		}},
		{"payload erased without redaction", true, func(t *testing.T, s *scene) []expected {
			w, ranges := erasure(t)
			w.erase(ranges, false)
			w.seal()
			s.m = written(t, w)
			return []expected{{bundle.CheckPayload, int64(ranges[0][0]), "payloads/0.jsonl", bundle.Unproven}}
		}},
		{"prune without leaf", true, func(t *testing.T, s *scene) []expected {
			w := prunable(t)
			w.seal()
			s.m = writtenPruned(t, w, 512)
			return []expected{{bundle.CheckRange, 256, "entries/1.jsonl", ""}}
		}},
		{"prune that its own leaf tells", true, func(t *testing.T, s *scene) []expected {
			w := prunable(t)
			w.prune(0, 512, nil)
			w.seal()
			s.m = writtenPruned(t, w, 512)
			return []expected{{bundle.CheckPrune, 256, "entries/1.jsonl", bundle.Unproven}}
		}},
		{"prune by a leaf before its end", true, func(t *testing.T, s *scene) []expected {
			w := prunable(t)
			at := int64(w.prune(0, 768, nil))
			w.decide(800 - len(w.entries))
			w.seal()
			s.m = writtenPruned(t, w, 512)
			return []expected{{bundle.CheckRange, 256, "entries/1.jsonl", ""}, {bundle.CheckPrune, at, "entries/2.jsonl", ""}}
		}},
		{"certificate without an entry", true, func(_ *testing.T, s *scene) []expected {
			s.m["certs/issued/200.pem"] = s.m[issued(int64(s.p.first))]
			return []expected{{bundle.CheckCertificate, 200, "certs/issued/200.pem", ""}}
		}},
		{"swapped hop", false, func(t *testing.T, s *scene) []expected {
			w := newWorld(t, newSoftTPM(t))
			one, other := w.play(0x200), w.play(0x300)
			d := one.agent
			d.Hops = append(d.Hops[:1:1], other.agent.Hops[1])
			at := int64(w.issueAgent(d, &one.agentKey.PublicKey, w.jws[one.first]))
			w.seal()
			s.m = written(t, w)
			return []expected{{bundle.CheckDelegation, at, issued(at), ""}}
		}},
		{"time backwards", true, func(t *testing.T, s *scene) []expected {
			w := newWorld(t, newSoftTPM(t))
			w.decide(1)
			w.now = w.now.Add(-time.Minute)
			w.decide(1)
			w.now = w.now.Add(time.Hour)
			w.seal()
			s.m = written(t, w)
			return []expected{{bundle.CheckTime, 2, "entries/0.jsonl", ""}}
		}},
	}
}

// fileFamilies are hostile files.
func fileFamilies() []family {
	return []family{
		{"traversal in the manifest", true, func(_ *testing.T, s *scene) []expected {
			s.kept = true
			s.m["MANIFEST.sha256"] = append(s.m["MANIFEST.sha256"], strings.Repeat("0", 64)+"  ../../etc/passwd\n"...)
			return []expected{{bundle.CheckManifest, -1, "MANIFEST.sha256", ""}}
		}},
		{"traversal in a tar", true, func(t *testing.T, s *scene) []expected { return s.archived(t, &tar.Header{Name: "../x"}) }},
		{"bomb in a tar", true, func(t *testing.T, s *scene) []expected {
			return s.archived(t, &tar.Header{Name: "seals/9.txt", Size: 1 << 20})
		}},
		{"link in a tar", true, func(t *testing.T, s *scene) []expected {
			return s.archived(t, &tar.Header{Typeflag: tar.TypeSymlink, Name: "eventlog", Linkname: "/etc/passwd"})
		}},
		{"symbolic link", true, func(_ *testing.T, s *scene) []expected {
			s.link = "policy.txt"
			return []expected{{bundle.CheckLayout, -1, "policy.txt", ""}}
		}},
		{"bomb", true, func(_ *testing.T, s *scene) []expected {
			s.m["seals/2.txt"] = make([]byte, 1<<20)
			return []expected{{bundle.CheckLayout, -1, "seals/2.txt", ""}, {bundle.CheckSeal, 2, "seals/2.txt", ""}}
		}},
		{"CRLF", true, func(t *testing.T, s *scene) []expected {
			s.m = logged(t, 1, func(line []byte) []byte { return append(line, '\r') })
			return []expected{{bundle.CheckEntry, 0, "entries/0.jsonl", ""}}
		}},
		{"duplicate keys", true, func(t *testing.T, s *scene) []expected {
			s.m = logged(t, 1, func(line []byte) []byte { return bytes.Replace(line, []byte(`{"v":1,`), []byte(`{"v":1,"v":1,`), 1) })
			return []expected{{bundle.CheckEntry, 1, "entries/0.jsonl", ""}}
		}},
	}
}
