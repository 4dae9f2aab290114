package bundle_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

func soft(t *testing.T, w *world) *softTPM {
	t.Helper()
	device, ok := w.tpm.(*softTPM)
	if !ok {
		t.Fatal("not a software TPM")
	}
	return device
}

// TestFalseLogs are lies that the appliance itself would have to tell: everything is signed and consistent.
func TestFalseLogs(t *testing.T) {
	both := newSecond(t)
	rows := []struct {
		name  string
		build func(t *testing.T, w *world) expected
	}{
		{"counter jumps with a device entry", func(t *testing.T, w *world) expected {
			w.add(record.TypeDevice, record.Envelope{}, record.DeviceBody{Event: record.EventCounterGap}, nil)
			soft(t, w).count += 2
			w.seal()
			return expected{bundle.CheckBoot, 2, "seals/2.txt", bundle.Unproven}
		}},
		{"counter stands still", func(t *testing.T, w *world) expected {
			soft(t, w).count--
			w.seal()
			return expected{bundle.CheckSealChain, 2, "seals/2.txt", ""}
		}},
		{"reset without a device entry", func(t *testing.T, w *world) expected {
			w.decide(1)
			soft(t, w).reset++
			w.seal()
			return expected{bundle.CheckBoot, 2, "seals/2.txt", ""}
		}},
		{"reset with a jump that no power loss explains", func(t *testing.T, w *world) expected {
			w.add(record.TypeDevice, record.Envelope{}, record.DeviceBody{Event: record.EventTPMReset}, nil)
			soft(t, w).reset++
			soft(t, w).count += 1000
			w.seal()
			return expected{bundle.CheckBoot, 2, "seals/2.txt", ""}
		}},
		{"another counter than the TPM's", func(t *testing.T, w *world) expected {
			seal := w.next()
			seal.Counter++
			w.add(record.TypeDevice, record.Envelope{}, record.DeviceBody{Event: record.EventCounterGap}, nil)
			w.sealAs(seal)
			return expected{bundle.CheckCounter, 2, "seals/2.nv", ""}
		}},
		{"another boot than the TPM's", func(t *testing.T, w *world) expected {
			seal := w.next()
			seal.Restart++
			w.sealAs(seal)
			return expected{bundle.CheckQuote, 2, "seals/2.quote", ""}
		}},
		{"the tree shrinks", func(t *testing.T, w *world) expected {
			w.decide(3)
			small := w.next()
			w.decide(3)
			w.seal()
			seal := w.next()
			seal.Size, seal.Root = small.Size, small.Root
			w.sealAs(seal)
			w.seal()
			return expected{bundle.CheckSealChain, 3, "seals/3.txt", ""}
		}},
		{"seal recorded by an entry that it covers", func(t *testing.T, w *world) expected {
			seal := w.next()
			seal.Size = 2 // of a root that is not known yet, so that other checks fail too
			digest := seal.Digest()
			at := w.add(record.TypeSeal, record.Envelope{}, record.SealBody{Number: 2, Digest: hex.EncodeToString(digest[:]), Size: 2}, nil)
			w.sealAs(seal)
			w.seal()
			return expected{bundle.CheckSealEntry, int64(at), "entries/0.jsonl", ""}
		}},
		{"two certificates under one entry", func(t *testing.T, w *world) expected {
			w.issuePeer(&newKey(t).PublicKey)
			w.seal()
			list, err := chain.ParsePEM(w.issued[1], 1)
			must(t, err)
			second := *list[0]
			second.ExtKeyUsage = second.ExtKeyUsage[:1]
			der, err := x509.CreateCertificate(rand.Reader, &second, w.peerCA.cert, second.PublicKey, w.peerCA.key)
			must(t, err)
			w.issued[1] = pemOf("CERTIFICATE", der)
			return expected{bundle.CheckCertificate, 1, "certs/issued/1.pem", ""}
		}},
		{"another chain in the entry than in the certificate", func(t *testing.T, w *world) expected {
			p := w.play(0x200)
			old := w.entries[p.second].Envelope
			w.entries[p.second].Envelope = bytes.Replace(old, []byte(`"max_depth":2`), []byte(`"max_depth":1`), 1)
			w.leaves[p.second] = record.LeafHash(w.entries[p.second].Envelope)
			w.seal()
			return expected{bundle.CheckDelegation, int64(p.second), "entries/0.jsonl", ""}
		}},
		{"two resets move the counter further than one", func(t *testing.T, w *world) expected {
			for range 2 {
				w.add(record.TypeDevice, record.Envelope{}, record.DeviceBody{Event: record.EventTPMReset}, nil)
				soft(t, w).reset++
				soft(t, w).count += 250
			}
			w.seal()
			return expected{bundle.CheckBoot, 2, "seals/2.txt", bundle.Unproven}
		}},
		{"a policy that is not here", func(t *testing.T, w *world) expected {
			digest := strings.Repeat("a1", 32)
			w.add(record.TypeDecision, record.Envelope{Policy: digest}, nil, nil)
			w.seal()
			return expected{bundle.CheckPolicy, -1, "policy/" + digest + ".tar.gz", bundle.Unproven}
		}},
		{"another issuer", func(t *testing.T, w *world) expected {
			genuine := w.peerCA
			w.peerCA = w.authority(w.root, "services")
			w.issuePeer(&newKey(t).PublicKey)
			w.peerCA = genuine
			w.seal()
			return expected{bundle.CheckCertificate, 1, "certs/issued/1.pem", ""}
		}},
		{"seal before its predecessor", func(t *testing.T, w *world) expected {
			seal := w.next()
			seal.Time = seal.Time.Add(-time.Second)
			w.sealAs(seal)
			return expected{bundle.CheckSealChain, 2, "seals/2.txt", ""}
		}},
		{"seal of another log", func(t *testing.T, w *world) expected {
			seal := w.next()
			seal.Origin = "log.hospital.example/other"
			w.sealAs(seal)
			return expected{bundle.CheckSeal, 2, "seals/2.txt", ""}
		}},
		{"reset count goes back", func(t *testing.T, w *world) expected {
			soft(t, w).reset--
			w.seal()
			return expected{bundle.CheckSealChain, 2, "seals/2.txt", ""}
		}},
		{"root of a seal", func(t *testing.T, w *world) expected {
			w.decide(5)
			seal := w.last
			seal.Number, seal.Previous, seal.Size, seal.Time = 2, w.last.Digest(), 4, w.now
			seal.Counter, seal.Reset, seal.Restart = w.tpm.increment(t)
			w.sealAs(seal)
			w.seal()
			return expected{bundle.CheckSealRoot, 2, "seals/2.txt", ""}
		}},
		{"previous digest", func(t *testing.T, w *world) expected {
			seal := w.last
			seal.Number, seal.Previous, seal.Time = 2, [32]byte{1}, w.now
			seal.Counter, seal.Reset, seal.Restart = w.tpm.increment(t)
			w.sealAs(seal)
			return expected{bundle.CheckSealChain, 2, "seals/2.txt", ""}
		}},
		{"entry after its seal", func(t *testing.T, w *world) expected {
			w.now = w.now.Add(time.Hour)
			w.decide(1)
			w.now = w.now.Add(-time.Minute)
			w.seal()
			return expected{bundle.CheckTime, 1, "entries/0.jsonl", ""}
		}},
		{"eleven minutes without a seal", func(t *testing.T, w *world) expected {
			w.now = w.now.Add(11 * time.Minute)
			w.seal()
			return expected{bundle.CheckTime, 2, "seals/2.txt", bundle.Unproven}
		}},
		{"seal recorded with another digest", func(t *testing.T, w *world) expected {
			at := w.add(record.TypeSeal, record.Envelope{}, record.SealBody{Number: 1, Digest: strings.Repeat("0", 64), Size: 1}, nil)
			w.seal()
			return expected{bundle.CheckSealEntry, int64(at), "entries/0.jsonl", ""}
		}},
		{"scope wider than the delegator's", func(t *testing.T, w *world) expected {
			p := w.play(0x200)
			d := p.agent
			d.Hops = slices.Clone(d.Hops)
			d.Hops[1].Scope = scope(t, "database:write:*")
			at := w.issueAgent(d, &p.agentKey.PublicKey, w.jws[p.first])
			w.seal()
			return expected{bundle.CheckDelegation, int64(at), issued(int64(at)), ""}
		}},
		{"agent that no delegator confirmed under this name", func(t *testing.T, w *world) expected {
			p := w.play(0x200)
			d := p.agent
			d.Hops = slices.Clone(d.Hops)
			other, err := chain.AgentID(domain, "research", id(0x999))
			must(t, err)
			d.Hops[1].ID = other.String()
			at := w.issueAgent(d, &p.agentKey.PublicKey, w.jws[p.first])
			w.seal()
			return expected{bundle.CheckConfirmation, int64(at), "delegators/0.jsonl", ""}
		}},
		{"grant of another user", func(t *testing.T, w *world) expected {
			p := w.play(0x200)
			d := p.agent
			d.Grant.Subject = "somebody-else"
			at := w.issueAgent(d, &p.agentKey.PublicKey, w.jws[p.first])
			w.seal()
			return expected{bundle.CheckConfirmation, int64(at), "delegators/0.jsonl", ""}
		}},
		{"ID token for another grant", func(t *testing.T, w *world) expected {
			p := w.play(0x200)
			document, err := chain.ParseGrantDocument(p.document)
			must(t, err)
			document.Scope = scope(t, "database:*")
			document.GrantID = id(0x300)
			raw, err := document.Canonical()
			must(t, err)
			evidence := bytes.Replace(w.consent(p.document), []byte(b64url(p.document)), []byte(b64url(raw)), 1)
			w.evidence[id(0x300)] = evidence
			sum, hash := sha256.Sum256(evidence), sha256.Sum256(raw)
			at := w.add(record.TypeGrant, record.Envelope{Grant: id(0x300)}, record.GrantBody{
				GrantID: id(0x300), ConsentType: "oidc_nonce", EvidenceHash: hex.EncodeToString(sum[:]), GrantHash: hex.EncodeToString(hash[:]),
			}, nil)
			w.seal()
			return expected{bundle.CheckConsentOIDC, int64(at), "evidence/" + id(0x300) + ".json", ""}
		}},
		{"a second ceremony", func(t *testing.T, w *world) expected {
			w.entries = append(w.entries, record.Stored{Index: 1, Envelope: w.entries[0].Envelope})
			w.leaves = append(w.leaves, w.leaves[0])
			w.seal()
			return expected{bundle.CheckCeremony, 1, "entries/0.jsonl", ""}
		}},
	}
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			w.seal()
			want := row.build(t, w)
			m := written(t, w)
			r := verify(t, m, bundle.Options{})
			wantFinding(t, r, want)
			if r.Valid != (want.status == bundle.Unproven) {
				t.Errorf("valid %v", r.Valid)
			}
			if row.name == "another issuer" {
				want.name = bundle.CheckDelegation // a path to the root, which verify.py leaves to ours
			}
			both.add(row.name, m.onDisk(both.t), r, want)
		})
	}
	both.agree()
}
