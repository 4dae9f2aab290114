package bundle

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/audit/merkle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/tpm/quote"
)

// ReceiptFormat is the value of a receipt's format field.
const ReceiptFormat = "signet/receipt@v1"

const (
	maxReceipt  = 1 << 20
	fileReceipt = "receipt"
)

// ErrReceipt means that the bytes are no receipt.
var ErrReceipt = errors.New("receipt refused")

// Receipt proves offline that one entry was recorded. Byte fields are base64 in JSON.
type Receipt struct {
	Format   string         `json:"format"` // "signet/receipt@v1"
	Index    uint64         `json:"index"`
	Envelope []byte         `json:"envelope"`          // exact bytes
	Payload  []byte         `json:"payload,omitempty"` // with Salt, or neither
	Salt     []byte         `json:"salt,omitempty"`
	Proof    string         `json:"proof"`          // C2SP tlog-proof, to the sealed checkpoint if there is a seal
	Seal     *ReceiptSeal   `json:"seal,omitempty"` // nil: not sealed yet, so that the log's own signature is all there is
	Anchors  ReceiptAnchors `json:"anchors"`
	// Rotations lead from the anchors' audit key to the one that signed the proof's checkpoint.
	Rotations []rotation.Proof `json:"rotations,omitempty"`
}

// ReceiptSeal is a seal with both statements of the TPM.
type ReceiptSeal struct {
	Text     string `json:"text"`
	Quote    []byte `json:"quote"`     // TPMS_ATTEST
	QuoteSig []byte `json:"quote_sig"` // DER
	PCRs     []byte `json:"pcrs"`
	NV       []byte `json:"nv"`     // TPMS_ATTEST
	NVSig    []byte `json:"nv_sig"` // DER
}

// ReceiptAnchors are the log's own, out of its first entry. Without a trust file the receipt is only consistent with itself.
type ReceiptAnchors struct {
	Origin      string `json:"origin"`
	TrustDomain string `json:"trust_domain"`
	AuditKey    []byte `json:"audit_key"` // SPKI
	AKPublic    []byte `json:"ak_public"` // TPMT_PUBLIC
	NVName      string `json:"nv_name"`   // hexadecimal
	PCRs        string `json:"pcrs"`      // selection
	Root        []byte `json:"root"`      // certificate, DER
}

// AnchorsOf takes a receipt's anchors from the exact bytes of the log's first entry.
func AnchorsOf(ceremony []byte) (ReceiptAnchors, error) {
	p, err := parsePins(ceremony)
	if err != nil {
		return ReceiptAnchors{}, fmt.Errorf("bundle: anchors: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(p.audit)
	if err != nil {
		return ReceiptAnchors{}, fmt.Errorf("bundle: anchors: %w", err)
	}
	return ReceiptAnchors{
		Origin: p.Origin, TrustDomain: p.TrustDomain, AuditKey: spki, AKPublic: p.ak.Marshal(), NVName: p.NVName,
		PCRs: p.PCRs, Root: p.root.Raw,
	}, nil
}

// NewReceipt puts a receipt together. proof must lead to the checkpoint that sealed is over; a nil sealed makes an unsealed receipt.
func NewReceipt(e record.Stored, proof merkle.Proof, sealed *checkpoint.Sealed, anchors ReceiptAnchors) Receipt {
	r := Receipt{
		Format: ReceiptFormat, Index: e.Index, Envelope: e.Envelope, Payload: e.Payload, Salt: e.Salt,
		Proof: string(proof.Marshal()), Anchors: anchors,
	}
	if sealed != nil {
		r.Seal = &ReceiptSeal{
			Text: string(sealed.Text), Quote: sealed.Quote, QuoteSig: sealed.QuoteSig, PCRs: sealed.PCRs,
			NV: sealed.NV, NVSig: sealed.NVSig,
		}
	}
	return r
}

// Marshal is the receipt's file, without a final line feed. It refuses what ParseReceipt would.
func (r Receipt) Marshal() ([]byte, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("bundle: receipt: %w", err)
	}
	if _, err := ParseReceipt(data); err != nil {
		return nil, err
	}
	return data, nil
}

// ParseReceipt reads a receipt of at most 1 MiB, strictly. It verifies nothing.
func ParseReceipt(data []byte) (Receipt, error) {
	if len(data) > maxReceipt {
		return Receipt{}, fmt.Errorf("bundle: %w: more than %d bytes", ErrReceipt, maxReceipt)
	}
	var r Receipt
	if err := strictJSON(data, &r); err != nil {
		return Receipt{}, fmt.Errorf("bundle: %w: %w", ErrReceipt, err)
	}
	switch {
	case r.Format != ReceiptFormat:
		return Receipt{}, fmt.Errorf("bundle: %w: format is not %q", ErrReceipt, ReceiptFormat)
	case len(r.Envelope) == 0 || len(r.Envelope) > maxEnvelope || len(r.Payload) > maxPayload:
		return Receipt{}, fmt.Errorf("bundle: %w: envelope or payload out of bounds", ErrReceipt)
	case len(r.Salt) != 0 && len(r.Salt) != record.SaltSize, len(r.Salt) == 0 && len(r.Payload) > 0:
		return Receipt{}, fmt.Errorf("bundle: %w: salt", ErrReceipt)
	case len(r.Rotations) >= rotation.MaxKeys:
		return Receipt{}, fmt.Errorf("bundle: %w: too many changes of the audit key", ErrReceipt)
	case r.Proof == "":
		return Receipt{}, fmt.Errorf("bundle: %w: proof is missing", ErrReceipt)
	}
	return r, nil
}

// pins parses the anchors.
func (a ReceiptAnchors) pins() (*pins, error) {
	p := &pins{Ceremony: record.Ceremony{
		Origin: a.Origin, TrustDomain: a.TrustDomain, AuditKey: base64.StdEncoding.EncodeToString(a.AuditKey), NVName: a.NVName, PCRs: a.PCRs,
	}}
	var errs []error
	field := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("anchors: %s: %w", name, err))
		}
	}
	var err error
	field("origin", checkpoint.CheckOrigin(a.Origin))
	p.audit, err = parseSPKI(a.AuditKey)
	field("audit_key", err)
	p.ak, err = quote.ParseAK(a.AKPublic)
	field("ak_public", err)
	p.nvName, err = parseName(a.NVName)
	field("nv_name", err)
	p.pcrs, err = quote.ParseSelection(a.PCRs)
	field("pcrs", err)
	p.root, err = x509.ParseCertificate(a.Root)
	field("root", err)
	return p, errors.Join(errs...)
}

// VerifyReceipt checks everything that a receipt shows, each check by itself. A nil trust takes the receipt's own anchors. A receipt without a
// seal can be valid; its completeness is then unproven, since only the log's key speaks for it and that log can still be forked.
func VerifyReceipt(r Receipt, trust *Trust) Report {
	t := newTally()
	p, err := r.Anchors.pins()
	t.check(CheckReceipt, in(fileReceipt), err)
	a := anchorsFrom(p, r.Rotations, fileReceipt, trust, t)
	env, err := record.Check(r.Envelope)
	t.check(CheckEntry, at(r.Index, fileReceipt), err)
	head, err := r.included(&a)
	t.check(CheckReceipt, at(r.Index, fileReceipt), err)
	witnesses := r.cosignatures(t, &a, trust)
	r.checkPayload(t, env)
	seals := uint64(0)
	if r.Seal == nil {
		t.unsure(CheckSeal, in(fileReceipt), "unsealed: the audit key alone vouches for it, no TPM statement covers it yet")
	} else {
		seals = 1
		r.checkSeal(t, &a, head, env)
	}
	kind := SelfAsserted
	if trust != nil {
		kind = Anchored
	}
	report := t.report(kind)
	report.Origin, report.Size, report.Entries, report.Seals = a.origin, head.Size, 1, seals
	report.Witnesses = witnesses
	report.Tells = r.tells(report, env)
	return report
}

// included checks the signature of the proof's checkpoint, and the path from the entry to its root.
func (r Receipt) included(a *anchors) (checkpoint.Checkpoint, error) {
	proof, err := merkle.ParseProof([]byte(r.Proof))
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	head, err := a.open(proof.Checkpoint)
	if err != nil {
		return checkpoint.Checkpoint{}, err
	}
	if proof.Index != r.Index {
		return head, fmt.Errorf("the proof is for entry %d", proof.Index)
	}
	return head, merkle.VerifyInclusion(proof.Path, r.Index, head.Size, record.LeafHash(r.Envelope), head.Root)
}

func (r Receipt) checkPayload(t *tally, env record.Envelope) {
	where := at(r.Index, fileReceipt)
	switch here := len(r.Salt) > 0; {
	case env.PayloadHash == "" && here:
		t.fail(CheckPayload, where, "a payload that the entry does not commit to")
	case env.PayloadHash == "":
	case !here:
		t.unsure(CheckPayload, where, "absent: erased or withheld")
	case record.PayloadHash(r.Salt, r.Payload) != env.PayloadHash:
		t.fail(CheckPayload, where, "not the payload that the entry commits to")
	default:
		t.pass(CheckPayload, 1)
	}
}

func (r Receipt) checkSeal(t *tally, a *anchors, head checkpoint.Checkpoint, env record.Envelope) {
	where := in(fileReceipt)
	seal, err := checkpoint.ParseSeal([]byte(r.Seal.Text))
	if err != nil {
		t.fail(CheckSeal, where, "%v", err)
		return
	}
	var errs []error
	if seal.Origin != a.origin {
		errs = append(errs, fmt.Errorf("it is of another log, %q", seal.Origin))
	}
	if seal.Size != head.Size || !bytes.Equal(seal.Root[:], head.Root[:]) {
		errs = append(errs, errors.New("it is not over the checkpoint of the proof"))
	}
	if env.Time.After(seal.Time.Add(clockTolerance)) {
		errs = append(errs, fmt.Errorf("the entry's time %s is after it", stamp(env.Time)))
	}
	t.check(CheckSeal, where, errors.Join(errs...))
	info := &sealInfo{Seal: seal, digest: seal.Digest()}
	t.check(CheckQuote, where, a.quote(info, quote.Statement{Attest: r.Seal.Quote, Signature: r.Seal.QuoteSig, PCRs: r.Seal.PCRs}))
	t.check(CheckCounter, where, a.counter(info, quote.Statement{Attest: r.Seal.NV, Signature: r.Seal.NVSig}))
}

// Covers says whether r proves, by the anchors of trust, that the certificate with this SHA-256(TBSCertificate) was recorded before it was
// signed: the check "logged" of chain.Verify. A receipt that vouches for itself proves nothing, so a nil trust is an error.
func (r Receipt) Covers(tbs [32]byte, trust *Trust) error {
	if trust == nil {
		return errors.New("receipt: no trust file")
	}
	report := VerifyReceipt(r, trust)
	if failed := report.Failed(); len(failed) > 0 {
		return fmt.Errorf("receipt: %s: %s", failed[0].Name, failed[0].Detail)
	}
	if !report.Valid {
		return errors.New("receipt: not valid")
	}
	env, err := record.Check(r.Envelope)
	if err != nil {
		return fmt.Errorf("receipt: %w", err)
	}
	body, err := record.DecodeBody[record.IssueBody](env)
	if err != nil || env.Type != record.TypeIssue {
		return errors.New("receipt: not of an issue entry")
	}
	if body.TBSHash != hexOf(tbs) {
		return errors.New("receipt: of another certificate")
	}
	return nil
}
