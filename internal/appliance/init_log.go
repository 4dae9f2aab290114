package appliance

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/policy/opa"
	"github.com/signet-pki/signet/tpm/quote"
)

// product is what the ceremony made, before there is a log.
type product struct {
	result   ceremony.Result
	binding  quote.Binding
	begun    *beginning
	indexKey []byte
}

// beginLog begins the log with the account of the ceremony, and signs it. A run that was interrupted after the log was made finds it.
func (i *initiation) beginLog(ctx context.Context, k *ceremonyKeys, o product) error {
	l := begunLog{Time: time.Now().UTC().Truncate(time.Millisecond)}
	known, err := i.records.get(recordLog, &l)
	if err != nil {
		return err
	}
	entries, err := i.firstEntries(ctx, o, l.Time)
	if err != nil {
		return err
	}
	leaves := make([]merkle.Hash, len(entries))
	for n, e := range entries {
		leaves[n] = record.LeafHash(e.Envelope)
	}
	root := merkle.Root(leaves, 1)
	if !known {
		l.Root = root[:]
		err = i.records.put(recordLog, l)
	} else if !bytes.Equal(l.Root, root[:]) {
		err = errors.New("the log's first entries are not those that were recorded: is this the same program?")
	}
	if err != nil {
		return err
	}
	if _, err := os.Lstat(i.logDir()); errors.Is(err, os.ErrNotExist) {
		cfg := i.auditConfig(k.auditKey, quoter{k.tpm}, o.indexKey, time.Now, slog.New(slog.DiscardHandler))
		if err := audit.Create(ctx, cfg, entries); err != nil {
			return err
		}
	}
	if err := i.writeTranscript(k, entries, checkpoint.Checkpoint{Origin: i.Origin, Size: uint64(len(entries)), Root: root}); err != nil {
		return err
	}
	summary := i.summary(o)
	if err := writeOnce(filepath.Join(i.pkiDir(), summaryFile), summary); err != nil {
		return err
	}
	_, err = i.o.Out.Write(summary)
	return err
}

// firstEntries are the account: leaf 0, which pins every key that later entries are checked with; the act and who agreed to it; what was
// made and where; and the first operator.
func (i *initiation) firstEntries(ctx context.Context, o product, at time.Time) ([]record.Entry, error) {
	first, err := i.leafZero(ctx, o, at)
	if err != nil {
		return nil, err
	}
	entries := []record.Entry{first}
	if o.begun.Act != nil {
		e, err := entryOf(record.TypeAct, at, record.Act{Act: o.begun.Act, Signatures: o.begun.Signatures})
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	for _, s := range steps(o) {
		e, err := entryOf(record.TypeAdmin, at, s)
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
	operator, err := delegation.FirstOperator(o.result.Operator.Leaf, o.result.ServiceCAs[0].Leaf, at)
	if err != nil {
		return nil, err
	}
	return append(entries, operator), nil
}

func entryOf(kind record.Type, at time.Time, body any) (record.Entry, error) {
	b, err := record.EncodeBody(body)
	if err != nil {
		return record.Entry{}, err
	}
	return record.New(record.Envelope{Type: kind, Time: at, Body: b}, nil, [32]byte{})
}

// steps are what was made in devices.
func steps(o product) []record.AdminBody {
	ek := sha256.Sum256(o.binding.EKPublic)
	out := []record.AdminBody{
		{Action: "ceremony.activate", Target: "attestation-key", Detail: map[string]string{
			"ak_name": hex.EncodeToString(o.binding.AKName), "ek_sha256": hex.EncodeToString(ek[:]), "secret_sha256": hex.EncodeToString(o.binding.Activation.SecretSHA256),
		}},
		{Action: "ceremony.counter", Target: "counter", Detail: map[string]string{"nv_name": hex.EncodeToString(o.binding.NVName)}},
	}
	for _, s := range o.result.Transcript {
		if s.Act == ceremony.ActGenerate {
			out = append(out, record.AdminBody{Action: "ceremony.generate", Target: s.Name, Detail: map[string]string{
				"role": string(s.Role), "key_uri": s.KeyURI, "spki_sha256": s.KeyHash,
			}})
		}
	}
	return out
}

func (i *initiation) leafZero(ctx context.Context, o product, at time.Time) (record.Entry, error) {
	policy, err := defaultPolicy(ctx)
	if err != nil {
		return record.Entry{}, err
	}
	r, b := o.result, o.binding
	body := record.Ceremony{
		Origin: i.Origin, TrustDomain: i.TrustDomain, Root: b64(r.Root.DER), AuditKey: b64(r.Audit.Leaf.RawSubjectPublicKeyInfo),
		JWTKey:   b64(r.JWT.Leaf.RawSubjectPublicKeyInfo),
		AKPublic: b64(b.AKPublic), AKName: hex.EncodeToString(b.AKName), NVPublic: b64(b.NVPublic), NVName: hex.EncodeToString(b.NVName),
		NVIndex: uint32(b.NVIndex), EKCertificate: b64(pemDER(b.EKCertificate)), PCRs: i.TPM.PCRs,
		AgentCAs: ders(r.AgentCAs), ServiceCAs: ders(r.ServiceCAs), PolicyDigest: policy,
	}
	if i.set.Threshold() > 0 {
		if body.Custodians, err = i.set.Marshal(); err != nil {
			return record.Entry{}, err
		}
	}
	e, err := entryOf(record.TypeCeremony, at, body)
	e.Mutations = []record.Mutation{delegation.KnownPolicy(policy)}
	return e, err
}

// defaultPolicy is the digest of the policy that decides until another one is activated.
func defaultPolicy(ctx context.Context) (string, error) {
	engine, err := opa.New(ctx, opa.Options{})
	if err != nil {
		return "", err
	}
	return engine.Digest(), nil
}

// writeTranscript has the audit key sign the account, as the log's first checkpoint: the entries are durable in the log by now.
func (i *initiation) writeTranscript(k *ceremonyKeys, entries []record.Entry, head checkpoint.Checkpoint) error {
	path := filepath.Join(i.pkiDir(), transcriptFile)
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	signer, err := checkpoint.NewSigner(i.Origin, k.auditKey)
	if err != nil {
		return err
	}
	note, err := checkpoint.Sign(head, signer)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, e := range entries {
		text.Write(e.Envelope)
		text.WriteByte('\n')
	}
	text.WriteByte('\n')
	text.Write(note)
	return writeOnce(path, text.Bytes())
}

// summary is what the people who attended compare, write down and give to auditors.
func (i *initiation) summary(o product) []byte {
	var b bytes.Buffer
	say := func(what, value string) { fmt.Fprintf(&b, "%-18s %s\n", what, value) }
	say("origin", i.Origin)
	say("trust domain", i.TrustDomain)
	say("begun", o.begun.Time.Format(time.RFC3339))
	say("root", "SHA-256 "+colons(o.result.Root.DER))
	say("audit key", "SHA-256 "+colons(o.result.Audit.Leaf.RawSubjectPublicKeyInfo))
	say("attestation key", "name "+hex.EncodeToString(o.binding.AKName))
	say("counter", "name "+hex.EncodeToString(o.binding.NVName))
	for _, line := range o.begun.Plan {
		if what, value, found := strings.Cut(line, ": "); found && (what == "policy" || what == "custodians" || what == "custodian") {
			say(what, value)
		}
	}
	if o.begun.Act != nil {
		digest := sha256.Sum256(o.begun.Act)
		say("act", "SHA-256 "+hex.EncodeToString(digest[:]))
		if names, err := i.set.Approved(o.begun.Act, o.begun.Signatures); err == nil {
			say("approved by", strings.Join(names, ", "))
		}
	}
	return b.Bytes()
}

// colons is the SHA-256 of bytes in the form of openssl x509 -fingerprint.
func colons(der []byte) string {
	sum := sha256.Sum256(der)
	parts := make([]string, len(sum))
	for n, b := range sum {
		parts[n] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func pemDER(text string) []byte {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil
	}
	return block.Bytes
}

func ders(certs []ceremony.Certificate) []string {
	out := make([]string, len(certs))
	for i, c := range certs {
		out[i] = b64(c.DER)
	}
	return out
}

// readCertificates reads one PEM file.
func readCertificates(path string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no certificate", path)
	}
	return out, nil
}
