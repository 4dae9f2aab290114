package bundle_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/tpm/quote"
)

const (
	origin   = "log.hospital.example/signet"
	domain   = "hospital.example"
	pcrs     = "sha256:0,1,2,3,4,5,6,7"
	nvIndex  = 0x01800042
	issuer   = "https://idp.hospital.example"
	subject  = "b7c1e0aa"
	clientID = "signet-consent"

	pseudonym = "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e"
)

// tpmSide makes a TPM's statements. Its keys are software's in most tests, and a real TPM's in one.
type tpmSide interface {
	public() (ak, nv []byte, akKey *ecdsa.PublicKey)
	quote(t testing.TB, digest [32]byte) (q, sig, values []byte)
	certify(t testing.TB, digest [32]byte) (nv, sig []byte)
	increment(t testing.TB) (counter uint64, reset, restart uint32)
}

// world is a small log with everything that a bundle holds, made of software keys.
type world struct {
	t       testing.TB
	now     time.Time
	tpm     tpmSide
	audit   *ecdsa.PrivateKey
	root    *authority
	agentCA *authority
	peerCA  *authority
	akCert  []byte
	ek      []byte
	entries []record.Stored
	leaves  []merkle.Hash
	seals   []checkpoint.Sealed
	last    checkpoint.Seal

	issued   map[uint64][]byte
	jws      map[uint64]string
	links    map[uint64]string
	evidence map[string][]byte
	policy   map[string][]byte

	rotations []rotation.Proof
	later     []*ecdsa.PrivateKey // audit keys after the first

	user, subject string // whom a story is about
	name          string // of the log
}

type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func id(n int) string { return fmt.Sprintf("01890000-0000-7000-8000-%012x", n) }

func rawID(t testing.TB, text string) [16]byte {
	t.Helper()
	raw, err := chain.ParseUUID(text)
	must(t, err)
	return raw
}

// newWorld starts a log: keys, CAs and leaf 0.
func newWorld(t testing.TB, device tpmSide) *world {
	t.Helper()
	w := &world{
		t: t, now: time.Date(2026, 3, 1, 9, 0, 0, 0, time.UTC), tpm: device, audit: newKey(t),
		issued: map[uint64][]byte{}, jws: map[uint64]string{}, links: map[uint64]string{}, evidence: map[string][]byte{}, policy: map[string][]byte{},
		user: pseudonym, subject: subject, name: origin,
	}
	w.root = w.authority(nil, "root")
	w.agentCA = w.authority(w.root, "agents")
	w.peerCA = w.authority(w.root, "services")
	_, _, akKey := device.public()
	w.akCert = w.leafFor(w.root, akKey, &x509.Certificate{Subject: pkix.Name{CommonName: "AK"}, KeyUsage: x509.KeyUsageDigitalSignature, NotAfter: w.now.AddDate(9, 0, 0)})
	policy := []byte("a policy bundle")
	digest := sha256.Sum256(policy)
	w.policy[hex.EncodeToString(digest[:])] = policy
	w.begin(digest, nil)
	return w
}

// begin writes leaf 0; change may change it.
func (w *world) begin(digest [32]byte, change func(*record.Ceremony)) {
	w.t.Helper()
	t := w.t
	ak, nv, _ := w.tpm.public()
	body := record.Ceremony{
		Origin: w.name, TrustDomain: domain, Root: b64(w.root.cert.Raw), AuditKey: b64(spki(t, &w.audit.PublicKey)), AKPublic: b64(ak),
		AKName: hex.EncodeToString(tpmName(ak)), NVPublic: b64(nv), NVName: hex.EncodeToString(tpmName(nv)), NVIndex: nvIndexOf(nv), PCRs: pcrs,
		AgentCAs: []string{b64(w.agentCA.cert.Raw)}, ServiceCAs: []string{b64(w.peerCA.cert.Raw)}, PolicyDigest: hex.EncodeToString(digest[:]),
	}
	if change != nil {
		change(&body)
	}
	w.add(record.TypeCeremony, record.Envelope{Policy: hex.EncodeToString(digest[:])}, body, nil)
}

func nvIndexOf(public []byte) uint32 { return binary.BigEndian.Uint32(public) }

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func spki(t testing.TB, key crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	must(t, err)
	return der
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func (w *world) authority(by *authority, name string) *authority {
	a := &authority{key: newKey(w.t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(w.now.UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: w.now.Add(-time.Hour), NotAfter: w.now.AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	if by == nil {
		by = &authority{key: a.key, cert: template}
	} else {
		template.MaxPathLenZero = true
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &a.key.PublicKey, by.key)
	must(w.t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(w.t, err)
	return a
}

func (w *world) leafFor(by *authority, key *ecdsa.PublicKey, template *x509.Certificate) []byte {
	serial := make([]byte, 16)
	_, err := rand.Read(serial)
	must(w.t, err)
	serial[0] &= 0x7f
	template.SerialNumber = new(big.Int).SetBytes(serial)
	template.NotBefore = w.now.Add(-30 * time.Second)
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, key, by.key)
	must(w.t, err)
	return der
}

// add appends an entry one second after the one before.
func (w *world) add(kind record.Type, env record.Envelope, body, payload any) uint64 {
	w.t.Helper()
	w.now = w.now.Add(time.Second)
	env.Type, env.Time = kind, w.now
	if body != nil {
		var err error
		env.Body, err = json.Marshal(body)
		must(w.t, err)
	}
	e, err := record.New(env, payload, sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(len(w.entries)))))
	must(w.t, err)
	index := uint64(len(w.entries))
	w.entries = append(w.entries, record.Stored{Index: index, Envelope: e.Envelope, Payload: e.Payload, Salt: e.Salt})
	w.leaves = append(w.leaves, record.LeafHash(e.Envelope))
	return index
}

func (w *world) head() checkpoint.Checkpoint {
	return checkpoint.Checkpoint{Origin: w.name, Size: uint64(len(w.leaves)), Root: merkle.Root(w.leaves, 1)}
}

// seal makes a checkpoint and the TPM's statements over it.
func (w *world) seal() checkpoint.Sealed {
	w.t.Helper()
	return w.sealAs(w.next())
}

// next is the text of the next seal.
func (w *world) next() checkpoint.Seal {
	w.t.Helper()
	head := w.head()
	counter, reset, restart := w.tpm.increment(w.t)
	seal := checkpoint.Seal{
		Origin: w.name, Size: head.Size, Root: head.Root, Number: w.last.Number + 1, Counter: counter, Reset: reset, Restart: restart, Time: w.now.Truncate(time.Second),
	}
	if w.last.Number > 0 {
		seal.Previous = w.last.Digest()
	}
	return seal
}

// sealAs lets a test choose the text.
func (w *world) sealAs(seal checkpoint.Seal) checkpoint.Sealed {
	w.t.Helper()
	signed := w.sign(w.keyAt(seal.Size), checkpoint.Checkpoint{Origin: w.name, Size: seal.Size, Root: seal.Root})
	sealed := checkpoint.Sealed{Number: seal.Number, Text: seal.Text(), Checkpoint: signed}
	sealed.Quote, sealed.QuoteSig, sealed.PCRs = w.tpm.quote(w.t, seal.Digest())
	sealed.NV, sealed.NVSig = w.tpm.certify(w.t, seal.Digest())
	w.seals, w.last = append(w.seals, sealed), seal
	return sealed
}

// recordSeal puts the last seal into the tree.
func (w *world) recordSeal() {
	digest := w.last.Digest()
	w.add(record.TypeSeal, record.Envelope{}, record.SealBody{Number: w.last.Number, Digest: hex.EncodeToString(digest[:]), Size: w.last.Size}, nil)
}

// Entries, EnvelopeRange, Tile and Seal make w a bundle.Source.
func (w *world) Entries(_ context.Context, from, to uint64, fn func(record.Stored) error) error {
	for _, e := range w.entries[from:to] {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) EnvelopeRange(_ context.Context, from, to uint64, fn func(index uint64, envelope []byte) error) error {
	for _, e := range w.entries[from:to] {
		if err := fn(e.Index, e.Envelope); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) Tile(_ context.Context, level int, index uint64, width int) ([]byte, error) {
	hashes := w.leaves
	for range level {
		var above []merkle.Hash
		for ; len(hashes) >= merkle.TileWidth; hashes = hashes[merkle.TileWidth:] {
			above = append(above, merkle.Root(hashes[:merkle.TileWidth], 1))
		}
		hashes = above
	}
	var out bytes.Buffer
	for _, h := range hashes[index*merkle.TileWidth:][:width] {
		out.Write(h[:])
	}
	return out.Bytes(), nil
}

func (w *world) Seal(_ context.Context, n uint64) (checkpoint.Sealed, error) {
	return w.seals[n-1], nil
}

// Certificate and the following make w its own bundle.Attachments.
func (w *world) Certificate(_ context.Context, entry uint64) ([]byte, error) {
	return w.issued[entry], nil
}

func (w *world) Delegation(_ context.Context, entry uint64) (jws, link string, err error) {
	return w.jws[entry], w.links[entry], nil
}

func (w *world) Evidence(_ context.Context, grant string) ([]byte, error) {
	return w.evidence[grant], nil
}

func (w *world) Policy(_ context.Context, digest string) ([]byte, error) {
	return w.policy[digest], nil
}

func (w *world) options() bundle.WriteOptions {
	_, _, akKey := w.tpm.public()
	return bundle.WriteOptions{
		Head: w.seals[len(w.seals)-1], Attachments: w, Rotations: w.rotations, LogPolicy: []byte("log " + w.name + "\n"),
		Certificates: bundle.Certificates{
			Root: pemOf("CERTIFICATE", w.root.cert.Raw), Audit: pemOf("PUBLIC KEY", spki(w.t, &w.audit.PublicKey)), AKCert: pemOf("CERTIFICATE", w.akCert),
			AK: pemOf("PUBLIC KEY", spki(w.t, akKey)), Binding: w.binding(),
			Issuing: [][]byte{pemOf("CERTIFICATE", w.agentCA.cert.Raw), pemOf("CERTIFICATE", w.peerCA.cert.Raw)},
		},
	}
}

func (w *world) binding() []byte {
	ak, nv, _ := w.tpm.public()
	secret := sha256.Sum256([]byte("secret"))
	digest := sha256.Sum256(secret[:])
	if w.ek == nil {
		w.ek = ekPublic(&newKey(w.t).PublicKey)
	}
	data, err := json.Marshal(quote.Binding{
		EKPublic: w.ek, AKPublic: ak, AKName: tpmName(ak), NVIndex: quote.Handle(nvIndexOf(nv)), NVName: tpmName(nv), NVPublic: nv,
		Activation: quote.Activate{CredentialBlob: []byte{1}, EncryptedSecret: []byte{2}, SecretSHA256: digest[:], Secret: secret[:]},
	})
	must(w.t, err)
	return data
}

func (w *world) trustFile() bundle.TrustFile {
	ak, nv, _ := w.tpm.public()
	return bundle.TrustFile{
		Format: bundle.TrustFormat, Origin: w.name, TrustDomain: domain, Roots: string(pemOf("CERTIFICATE", w.root.cert.Raw)),
		AuditKey: string(pemOf("PUBLIC KEY", spki(w.t, &w.audit.PublicKey))), AKName: hex.EncodeToString(tpmName(ak)),
		NVName: hex.EncodeToString(tpmName(nv)), PCRs: pcrs,
	}
}
