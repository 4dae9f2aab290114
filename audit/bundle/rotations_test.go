package bundle_test

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/tpm/quote"
)

// keyAt is the audit key that signs a tree of a size.
func (w *world) keyAt(size uint64) *ecdsa.PrivateKey {
	key := w.audit
	for i, p := range w.rotations {
		if size > p.Index+1 {
			key = w.later[i]
		}
	}
	return key
}

func (w *world) sign(key *ecdsa.PrivateKey, c checkpoint.Checkpoint) []byte {
	w.t.Helper()
	signer, err := checkpoint.NewSigner(w.name, key)
	must(w.t, err)
	signed, err := checkpoint.Sign(c, signer)
	must(w.t, err)
	return signed
}

func (w *world) keys() *rotation.Keys {
	w.t.Helper()
	keys, err := rotation.NewKeys(origin, &w.audit.PublicKey)
	must(w.t, err)
	for _, p := range w.rotations {
		keys, err = keys.Follow(p.Index, p.Envelope)
		must(w.t, err)
	}
	return keys
}

// rotate changes the audit key as the appliance does.
func (w *world) rotate() uint64 { return w.rotateOn(rotation.Act{}) }

// rotateOn has the change rest on an act.
func (w *world) rotateOn(act rotation.Act) uint64 {
	w.t.Helper()
	next := newKey(w.t)
	body, err := w.keys().New(w.keyAt(merkle.MaxSize), next, fmt.Sprintf("audit-%d", len(w.later)+2), act)
	must(w.t, err)
	return w.rotateBy(body, next)
}

// rotateBy lets a test choose what the entry says.
func (w *world) rotateBy(body record.RotationBody, next *ecdsa.PrivateKey) uint64 {
	w.t.Helper()
	old := w.keyAt(merkle.MaxSize)
	index := w.add(record.TypeRotation, record.Envelope{}, body, nil)
	head := w.head()
	path := merkle.Proof{Index: index, Path: w.path(index), Checkpoint: w.sign(old, head)}
	w.rotations = append(w.rotations, rotation.Proof{Index: index, Envelope: w.entries[index].Envelope, Proof: string(path.Marshal())})
	w.later = append(w.later, next)
	return index
}

// path proves an entry to the tree as it is.
func (w *world) path(index uint64) []merkle.Hash {
	w.t.Helper()
	path, err := merkle.Inclusion(readerOf{w}, index, uint64(len(w.leaves)))
	must(w.t, err)
	return path
}

type readerOf struct{ w *world }

func (r readerOf) Tile(level int, index uint64, width int) ([]byte, error) {
	return r.w.Tile(r.w.t.Context(), level, index, width)
}

// rotatedWorld has two changes of key, one in each file of entries, and a seal with every key.
func rotatedWorld(t testing.TB) *world {
	t.Helper()
	w := newWorld(t, newSoftTPM(t))
	w.seal()
	w.recordSeal()
	w.play(0x100)
	w.rotate()
	w.seal() // of the tree that ends in it: by the first key
	w.recordSeal()
	w.decide(250)
	w.seal()
	w.recordSeal()
	w.rotate()
	w.decide(3)
	w.seal()
	return w
}

func TestFollowsTheAuditKey(t *testing.T) {
	w := rotatedWorld(t)
	m := written(t, w)
	keys := w.keys().All()
	for name, key := range map[string]*ecdsa.PublicKey{"the first": keys[0].Public, "the second": keys[1].Public, "the newest": keys[2].Public} {
		f := w.trustFile()
		f.AuditKey = string(pemOf("PUBLIC KEY", spki(t, key)))
		trust, err := f.Trust()
		must(t, err)
		if r := verify(t, m, bundle.Options{Trust: trust}); !r.Valid {
			t.Errorf("an auditor who knows %s key: %+v", name, r.Failed())
		}
	}
	if r := verify(t, m, bundle.Options{}); !r.Valid {
		t.Errorf("%+v", r.Failed())
	}
	f := w.trustFile()
	f.AuditKey = string(pemOf("PUBLIC KEY", spki(t, &newKey(t).PublicKey)))
	trust, err := f.Trust()
	must(t, err)
	if r := verify(t, m, bundle.Options{Trust: trust}); r.Valid {
		t.Error("another log's key was taken")
	}
}

// TestPartShowsChangesOfKey: a part of the log has the proofs although it has not the entries.
func TestPartShowsChangesOfKey(t *testing.T) {
	w := rotatedWorld(t)
	w.decide(600)
	w.seal()
	o := w.options()
	o.From, o.To = 512, uint64(len(w.leaves))
	m := memory{}
	must(t, bundle.Write(t.Context(), m, w, o))
	if _, here := m["entries/1.jsonl"]; here {
		t.Fatal("the second change is in the part")
	}
	trust, err := w.trustFile().Trust()
	must(t, err)
	r := verify(t, m, bundle.Options{Trust: trust, Range: &bundle.Range{From: o.From, To: o.To}})
	if !r.Valid {
		t.Errorf("%+v", r.Failed())
	}
}

func TestUnprovedChangeOfKey(t *testing.T) {
	const file = "log/rotations.jsonl"
	for name, c := range map[string]struct {
		change func(w *world)
		spoil  func(m memory)
		want   bundle.CheckName
		at     bool // names the entry
	}{
		"a key that nobody signed for": {change: func(w *world) {
			body, next := w.nextBody()
			body.OldSignature = body.NewSignature
			w.rotateBy(body, next)
		}, want: bundle.CheckRotation, at: true},
		"a key that does not sign for itself": {change: func(w *world) {
			body, next := w.nextBody()
			body.NewSignature = body.OldSignature
			w.rotateBy(body, next)
		}, want: bundle.CheckRotation, at: true},
		"a number left out": {change: func(w *world) {
			body, next := w.nextBody()
			body.Number++
			w.rotateBy(body, next)
		}, want: bundle.CheckRotation, at: true},
		"another act": {change: func(w *world) {
			body, next := w.nextBody()
			body.ActHash = strings.Repeat("ab", 32)
			w.rotateBy(body, next)
		}, want: bundle.CheckRotation, at: true},
		"vouched for by the new key": {change: func(w *world) {
			body, next := w.nextBody()
			index := w.rotateBy(body, next)
			p := merkle.Proof{Index: index, Path: w.path(index), Checkpoint: w.sign(next, w.head())}
			w.rotations[0].Proof = string(p.Marshal())
		}, want: bundle.CheckRotation, at: true},
		"proof left out":   {change: func(w *world) { w.rotate() }, spoil: func(m memory) { delete(m, file) }, want: bundle.CheckCheckpoint},
		"proof shifted":    {change: func(w *world) { w.rotate() }, spoil: func(m memory) { m[file] = bytes.Replace(m[file], []byte(`{"index":`), []byte(`{"index":1`), 1) }, want: bundle.CheckRotation},
		"another spelling": {change: func(w *world) { w.rotate() }, spoil: func(m memory) { m[file] = append(m[file], '\n') }, want: bundle.CheckRotation},
		"the old key goes on": {change: func(w *world) {
			w.rotate()
			w.later[0] = w.audit
		}, want: bundle.CheckCheckpoint},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newSoftTPM(t))
			w.seal()
			w.recordSeal()
			c.change(w)
			index := int64(w.rotations[0].Index)
			w.decide(3)
			w.seal()
			m := written(t, w)
			if c.spoil != nil {
				c.spoil(m)
				m.remanifest()
			}
			trust, err := w.trustFile().Trust()
			must(t, err)
			for _, o := range []bundle.Options{{Trust: trust}, {}} {
				r := verify(t, m, o)
				if r.Valid || !names(r, c.want, index, c.at) {
					t.Errorf("valid %t: %+v", r.Valid, r.Failed())
				}
			}
		})
	}
}

func (w *world) nextBody() (record.RotationBody, *ecdsa.PrivateKey) {
	w.t.Helper()
	next := newKey(w.t)
	body, err := w.keys().New(w.audit, next, "audit-2", rotation.Act{})
	must(w.t, err)
	return body, next
}

func names(r bundle.Report, want bundle.CheckName, index int64, at bool) bool {
	for _, f := range r.Failed() {
		if f.Name == want && (!at || f.Index != nil && int64(*f.Index) == index) {
			return true
		}
	}
	return false
}

// TestForgedBehindTheRotation: who has an old key can continue the log as it was before the change; who knows the newer key is not fooled.
func TestForgedBehindTheRotation(t *testing.T) {
	w := rotatedWorld(t)
	newer := w.trustFile()
	newer.AuditKey = string(pemOf("PUBLIC KEY", spki(t, &w.later[0].PublicKey)))
	trust, err := newer.Trust()
	must(t, err)
	w.rotations, w.later = nil, nil
	w.seal()
	if r := verify(t, written(t, w), bundle.Options{Trust: trust}); r.Valid {
		t.Error("a log signed by the old key alone was taken")
	}
}

func TestReceiptBehindTheRotation(t *testing.T) {
	w := rotatedWorld(t)
	anchors, err := bundle.AnchorsOf(w.entries[0].Envelope)
	must(t, err)
	sealed := w.seals[len(w.seals)-1]
	proof := merkle.Proof{Index: 5, Path: w.path(5), Checkpoint: sealed.Checkpoint}
	receipt := bundle.NewReceipt(w.entries[5], proof, &sealed, anchors)
	old, err := w.trustFile().Trust()
	must(t, err)
	if r := bundle.VerifyReceipt(receipt, old); r.Valid {
		t.Error("valid without the changes of key")
	}
	receipt.Rotations = w.rotations
	data, err := receipt.Marshal()
	must(t, err)
	receipt, err = bundle.ParseReceipt(data)
	must(t, err)
	for _, trust := range []*bundle.Trust{old, nil} {
		if r := bundle.VerifyReceipt(receipt, trust); !r.Valid {
			t.Errorf("%+v", r.Failed())
		}
	}
	receipt.Rotations = receipt.Rotations[:1]
	if r := bundle.VerifyReceipt(receipt, old); r.Valid {
		t.Error("valid without the second change of key")
	}
}

// TestStockToolsFollowTheAuditKey: README.verify follows too. The second verifier knows no changes of key, and refuses.
func TestStockToolsFollowTheAuditKey(t *testing.T) {
	w := rotatedWorld(t)
	dir := onDisk(t, w, w.options())
	out, err := runReadme(t, dir)
	if err != nil || !strings.HasSuffix(out, "verified\n") || !strings.Contains(out, "audit key 3 follows") {
		t.Errorf("README.verify: %v\n%s", err, out)
	}
	m := written(t, w)
	proofs, err := rotation.ParseProofs(m["log/rotations.jsonl"])
	must(t, err)
	proofs[0].Envelope = bytes.Replace(proofs[0].Envelope, []byte(`"number":2`), []byte(`"number":9`), 1)
	m["log/rotations.jsonl"], err = rotation.MarshalProofs(proofs)
	must(t, err)
	m.remanifest()
	if out, err := runReadme(t, m.onDisk(t)); err == nil {
		t.Errorf("README.verify took a change of key that nobody signed:\n%s", out)
	}
	hidden := written(t, w)
	delete(hidden, "log/rotations.jsonl")
	hidden.remanifest()
	for name, path := range map[string]string{"shown": dir, "hidden": hidden.onDisk(t)} {
		cmd := exec.CommandContext(t.Context(), "python3", filepath.Join("..", "..", "docs", "formats", "verify.py"), path)
		out, err := cmd.CombinedOutput()
		if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), "invalid ") {
			t.Errorf("verify.py, changes %s: %v\n%s", name, err, out)
		}
	}
}

// TestLaterAuditKeysInTheTPM: what the attestation key states of later audit keys is compared with the log.
func TestLaterAuditKeysInTheTPM(t *testing.T) {
	device := newSoftTPM(t)
	w := newWorld(t, device)
	w.rotate()
	w.decide(3)
	w.seal()
	srk := ekPublic(&newKey(t).PublicKey)
	for name, c := range map[string]struct {
		label string
		key   *ecdsa.PublicKey
		valid bool
	}{
		"the second":       {"audit-2", &w.later[0].PublicKey, true},
		"not yet in force": {"audit-3", &newKey(t).PublicKey, true},
		"another key":      {"audit-2", &newKey(t).PublicKey, false},
	} {
		o := w.options()
		o.Certificates.TPMKeys = jsonOf(t, quote.HeldKeys{SRKPublic: srk, Keys: map[string]quote.HeldStatement{
			"audit": device.hold(t, srk, "audit", &w.audit.PublicKey), c.label: device.hold(t, srk, c.label, c.key),
		}})
		m := memory{}
		must(t, bundle.Write(t.Context(), m, w, o))
		if r := verify(t, m, bundle.Options{}); r.Valid != c.valid {
			t.Errorf("%s: %+v", name, r.Failed())
		}
	}
}
