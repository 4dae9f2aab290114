package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/delegation/chain"
)

// synthetic is a log that no appliance wrote, made in seconds: a ceremony, an orchestrator, a grant, agents with their certificates, and then decisions
// about them in turn, without payloads, each of 604 bytes, sealed as often as an appliance at work does it. It is the source of its bundle.
type synthetic struct {
	start               time.Time
	root, ca            *x509.Certificate
	rootKey, key, audit *ecdsa.PrivateKey // key: the CA's
	tpm                 *statements
	akCert              *x509.Certificate

	head      [][]byte // the first entries
	issued    map[uint64][]byte
	decisions [][]byte // one for each agent; time and id stand in for those of all
	leaves    []merkle.Hash
	above     [][]merkle.Hash // tiles' hashes by level, from 1
	seals     []checkpoint.Sealed
	recorded  map[uint64][]byte // the entries that record seals
	previous  checkpoint.Seal
	tree      merkle.Tree
}

const (
	syntheticOrigin = "bench.signet.example/log"
	syntheticAgents = 64
	sealEach        = 2048 // entries: about a second's
	perSecond       = 2000
)

// The places of what differs between decisions of one agent.
const (
	timeMark = "2000-01-01T00:00:00.000Z"
	idMark   = "01890000-0000-7000-8000-000000000000"
)

func newSynthetic(entries int) (s *synthetic, err error) {
	s = &synthetic{start: time.Now().UTC().Truncate(time.Second), issued: map[uint64][]byte{}, recorded: map[uint64][]byte{}}
	if err := s.makeKeys(); err != nil {
		return nil, err
	}
	if err := s.begin(); err != nil {
		return nil, err
	}
	for n := len(s.head); n < entries; n = len(s.leaves) {
		if err := s.grow(min(entries, n-n%sealEach+sealEach)); err != nil {
			return nil, err
		}
	}
	for hashes := s.leaves; len(hashes) >= merkle.TileWidth; {
		var next []merkle.Hash
		for ; len(hashes) >= merkle.TileWidth; hashes = hashes[merkle.TileWidth:] {
			next = append(next, merkle.Root(hashes[:merkle.TileWidth], 1))
		}
		s.above, hashes = append(s.above, next), next
	}
	return s, nil
}

func (s *synthetic) makeKeys() (err error) {
	keys := make([]*ecdsa.PrivateKey, 5)
	for i := range keys {
		if keys[i], err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return err
		}
	}
	s.rootKey, s.key, s.audit = keys[0], keys[1], keys[2]
	var errs [4]error
	s.root, errs[0] = certify(authority("root", 1), nil, s.rootKey.Public(), s.rootKey)
	if errs[0] != nil {
		return errs[0]
	}
	s.ca, errs[1] = certify(authority("agents", 0), s.root, s.key.Public(), s.rootKey)
	s.akCert, errs[2] = certify(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "AK"}, KeyUsage: x509.KeyUsageDigitalSignature, NotBefore: s.start.Add(-time.Hour),
		NotAfter: s.start.Add(24 * time.Hour),
	}, s.root, keys[3].Public(), s.rootKey)
	s.tpm, errs[3] = newStatements(keys[3], keys[4])
	return errors.Join(errs[:]...)
}

// begin makes the entries that the decisions rest on.
func (s *synthetic) begin() error {
	spki, err := x509.MarshalPKIXPublicKey(s.audit.Public())
	if err != nil {
		return err
	}
	b64 := base64.StdEncoding.EncodeToString
	err = s.add(record.Envelope{Type: record.TypeCeremony}, record.Ceremony{
		Origin: syntheticOrigin, TrustDomain: verifyDomain, Root: b64(s.root.Raw), AuditKey: b64(spki), AKPublic: b64(s.tpm.ak), AKName: hex.EncodeToString(s.tpm.akName),
		NVPublic: b64(s.tpm.nv), NVName: hex.EncodeToString(s.tpm.nvName), NVIndex: softNV, PCRs: softPCRs, AgentCAs: []string{b64(s.ca.Raw)}, ServiceCAs: []string{b64(s.ca.Raw)},
	})
	if err != nil {
		return err
	}
	scope, err := chain.ParseScope([]string{"database:read:patients"})
	if err != nil {
		return err
	}
	end := s.start.Add(time.Hour)
	d := chain.Delegation{TaskID: [16]byte{1, 6: 0x70, 8: 0x80}, Grant: chain.Grant{
		Issuer: "https://idp.bench.example", Subject: "physician", GrantID: [16]byte{2, 6: 0x70, 8: 0x80}, Consent: chain.OIDCNonce, EvidenceHash: [32]byte{1}, Scope: scope,
		NotAfter: end, MaxDepth: 4,
	}, Hops: []chain.Hop{{ID: "spiffe://" + verifyDomain + "/orchestrator/research", Scope: scope, NotAfter: end, MaxDepth: 4}}}
	if d.Hops[0].SPKIHash, err = s.issue(&d, "orchestrator"); err != nil {
		return err
	}
	env := record.Envelope{Type: record.TypeGrant, Grant: chain.FormatUUID(d.Grant.GrantID), Task: chain.FormatUUID(d.TaskID)}
	if err := s.add(env, record.GrantBody{GrantID: env.Grant, TaskID: env.Task, Status: "pending", ConsentType: d.Grant.Consent.String()}); err != nil {
		return err
	}
	for i := range syntheticAgents {
		id := fmt.Sprintf("spiffe://%s/agent/research/%s%02x", verifyDomain, idMark[:34], i)
		agent := d
		agent.Hops = append(agent.Hops[:1:1], chain.Hop{ID: id, Scope: scope, NotAfter: end, MaxDepth: 3})
		if _, err := s.issue(&agent, "agent"); err != nil {
			return err
		}
	}
	return nil
}

// issue gives the last hop a key and a certificate, and for an agent what is decided about it.
func (s *synthetic) issue(d *chain.Delegation, kind string) (spki [32]byte, err error) {
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return spki, err
	}
	if spki, err = chain.KeyHash(own.Public()); err != nil {
		return spki, err
	}
	last := &d.Hops[len(d.Hops)-1]
	last.SPKIHash = spki
	name, err := url.Parse(last.ID)
	if err != nil {
		return spki, err
	}
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(append([]byte{1}, spki[:15]...)), URIs: []*url.URL{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, NotBefore: s.start.Add(-30 * time.Second), NotAfter: last.NotAfter,
	}
	env, body := record.Envelope{Type: record.TypeIssue}, record.IssueBody{Kind: kind, SPIFFEID: last.ID}
	if kind == "agent" {
		extension, err := d.Marshal()
		if err != nil {
			return spki, err
		}
		template.ExtraExtensions = []pkix.Extension{{Id: chain.OID(), Value: extension}}
		env.Task, env.Grant = chain.FormatUUID(d.TaskID), chain.FormatUUID(d.Grant.GrantID)
		body.ConsentType, body.EvidenceHash = d.Grant.Consent.String(), hexOf(d.Grant.EvidenceHash)
		for _, h := range d.Hops {
			body.Hops = append(body.Hops, record.HopBody{ID: h.ID, SPKIHash: hexOf(h.SPKIHash), Scope: h.Scope.Strings(), NotAfter: h.NotAfter, MaxDepth: h.MaxDepth})
		}
	}
	cert, err := certify(template, s.ca, own.Public(), s.key)
	if err != nil {
		return spki, err
	}
	body.Serial, body.TBSHash, body.SPKIHash, body.IssuerSPKIHash = chain.Serial(cert), hexOf(chain.TBSHash(cert)), hexOf(spki), hexOf(chain.SPKIHash(s.ca))
	body.NotBefore, body.NotAfter = cert.NotBefore, cert.NotAfter
	s.issued[uint64(len(s.head))] = pemOf("CERTIFICATE", cert.Raw)
	if err := s.add(env, body); err != nil || kind != "agent" {
		return spki, err
	}
	return spki, s.decide(env, body.TBSHash)
}

// decide makes an agent's decision.
func (s *synthetic) decide(env record.Envelope, tbs string) error {
	env.Type, env.Agent, env.Orchestrator, env.Service = record.TypeDecision, idMark[:34]+fmt.Sprintf("%02x", len(s.decisions)), "research", "records"
	env.User = hexOf(sha256.Sum256([]byte("physician")))
	var err error
	env.Body, err = record.EncodeBody(record.DecisionBody{
		DecisionID: idMark, Allow: true, ResourceType: "database", ResourceID: "patients", Action: "read", RequiredScope: []string{"database:read:patients"},
		PolicyAllow: true, TBSHash: tbs,
	})
	if err != nil {
		return err
	}
	if env.Time, err = time.Parse(record.TimeLayout, timeMark); err != nil {
		return err
	}
	e, err := record.New(env, nil, [32]byte{})
	s.decisions = append(s.decisions, e.Envelope)
	return err
}

// add appends one of the first entries.
func (s *synthetic) add(env record.Envelope, body any) (err error) {
	text, err := s.encode(env, uint64(len(s.head)), body)
	s.head = append(s.head, text)
	return err
}

func (s *synthetic) encode(env record.Envelope, index uint64, body any) (text []byte, err error) {
	env.Time = s.at(index)
	if env.Body, err = record.EncodeBody(body); err != nil {
		return nil, err
	}
	e, err := record.New(env, nil, [32]byte{})
	return e.Envelope, err
}

func (s *synthetic) at(index uint64) time.Time {
	return s.start.Add(time.Duration(index) * time.Second / perSecond) //nolint:gosec // G115: far fewer
}

// entry writes an entry over what buffer holds.
func (s *synthetic) entry(index uint64, buffer []byte) []byte {
	if index < uint64(len(s.head)) {
		return append(buffer[:0], s.head[index]...)
	}
	if text, ok := s.recorded[index]; ok {
		return append(buffer[:0], text...)
	}
	out := append(buffer[:0], s.decisions[index%syntheticAgents]...)
	const timeAt = len(`{"v":1,"type":"decision","time":"`)
	copy(out[timeAt:], s.at(index).Format(record.TimeLayout))
	// The agent's id comes first, the decision's is the one in the body.
	const before = `"body":{"decision_id":"`
	at := len(out)
	for ; string(out[at-len(before):at]) != before; at-- { //nolint:revive // it is there
	}
	copy(out[at+len(idMark)-12:], fmt.Appendf(nil, "%012x", index))
	return out
}

// grow appends decisions up to a size, and seals it. The next entry will record that.
func (s *synthetic) grow(size int) error {
	var buffer []byte
	from := len(s.leaves)
	for i := from; i < size; i++ {
		buffer = s.entry(uint64(i), buffer)
		s.leaves = append(s.leaves, merkle.LeafHash(buffer))
	}
	s.tree, _ = s.tree.Append(s.leaves[from:])
	s.tpm.count++
	seal := checkpoint.Seal{
		Origin: syntheticOrigin, Size: s.tree.Size(), Root: s.tree.Root(), Number: s.tpm.count, Counter: s.tpm.count, Reset: 3, Time: s.at(s.tree.Size()).Truncate(time.Second),
	}
	if seal.Number > 1 {
		seal.Previous = s.previous.Digest()
	}
	s.previous = seal
	signer, err := checkpoint.NewSigner(syntheticOrigin, s.audit)
	if err != nil {
		return err
	}
	sealed := checkpoint.Sealed{Number: seal.Number, Text: seal.Text()}
	if sealed.Checkpoint, err = checkpoint.Sign(checkpoint.Checkpoint{Origin: syntheticOrigin, Size: seal.Size, Root: seal.Root}, signer); err != nil {
		return err
	}
	if err := s.tpm.seal(&sealed, seal.Digest()); err != nil {
		return err
	}
	s.seals = append(s.seals, sealed)
	s.recorded[seal.Size], err = s.encode(record.Envelope{Type: record.TypeSeal}, seal.Size, record.SealBody{Number: seal.Number, Digest: hexOf(seal.Digest()), Size: seal.Size})
	return err
}

// Entries, Tile and Seal make it a [bundle.Source].
func (s *synthetic) Entries(_ context.Context, from, to uint64, fn func(record.Stored) error) error {
	var buffer []byte
	for i := from; i < to; i++ {
		buffer = s.entry(i, buffer)
		if err := fn(record.Stored{Index: i, Envelope: buffer}); err != nil {
			return err
		}
	}
	return nil
}

// EnvelopeRange gives all that an entry has.
func (s *synthetic) EnvelopeRange(ctx context.Context, from, to uint64, fn func(index uint64, envelope []byte) error) error {
	return s.Entries(ctx, from, to, func(e record.Stored) error { return fn(e.Index, e.Envelope) })
}

// Tile gives hashes of a level.
func (s *synthetic) Tile(_ context.Context, level int, index uint64, width int) ([]byte, error) {
	hashes := s.leaves
	if level > 0 {
		hashes = s.above[level-1]
	}
	var out []byte
	for _, h := range hashes[index*merkle.TileWidth:][:width] {
		out = append(out, h[:]...)
	}
	return out, nil
}

// Seal gives a seal.
func (s *synthetic) Seal(_ context.Context, n uint64) (checkpoint.Sealed, error) {
	return s.seals[n-1], nil
}

// Certificate and the following make it its own [bundle.Attachments].
func (s *synthetic) Certificate(_ context.Context, entry uint64) ([]byte, error) {
	return s.issued[entry], nil
}

// Delegation has none: the CA alone vouches for these agents.
func (s *synthetic) Delegation(context.Context, uint64) (jws, link string, err error) {
	return "", "", nil
}

// Evidence has none: the user of this grant was asked and did not answer.
func (s *synthetic) Evidence(context.Context, string) ([]byte, error) { return nil, nil }

// Policy has none.
func (s *synthetic) Policy(context.Context, string) ([]byte, error) { return nil, nil }

func (s *synthetic) options() (bundle.WriteOptions, error) {
	c, err := s.tpm.certificates(s.akCert)
	if err != nil {
		return bundle.WriteOptions{}, err
	}
	spki, err := x509.MarshalPKIXPublicKey(s.audit.Public())
	c.Root, c.Audit, c.Issuing = pemOf("CERTIFICATE", s.root.Raw), pemOf("PUBLIC KEY", spki), [][]byte{pemOf("CERTIFICATE", s.ca.Raw)}
	return bundle.WriteOptions{Head: s.seals[len(s.seals)-1], Attachments: s, Certificates: c}, err
}
