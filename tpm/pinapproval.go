package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/signet-pki/signet/tpm/quote"
)

const (
	approvalFormat = "signet/pin-approval@v1"
	maxSignature   = 72 // ECDSA-Sig-Value of P-256
	pcrBank        = 24
)

// PINApproval is the approver's word that a sealed PIN may be released while registers have these values. It holds for good:
// sealing anew is what ends it.
type PINApproval struct {
	reference []byte
	pcrs      map[int][]byte
	signature []byte // ECDSA-Sig-Value
}

type approvalFile struct {
	Format    string               `json:"format"`
	Reference quote.Hex            `json:"policy_ref"`
	PCRs      map[string]quote.Hex `json:"pcrs"`
	Signature []byte               `json:"signature"`
}

// ParseApprover reads the approver's public key, a SubjectPublicKeyInfo of P-256.
func ParseApprover(spki []byte) (*ecdsa.PublicKey, error) {
	key, err := parseApprover(spki)
	if err != nil {
		return nil, fmt.Errorf("tpm: %w", err)
	}
	return key, nil
}

func parseApprover(spki []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, fmt.Errorf("approver: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("approver: not a P-256 key")
	}
	return key, nil
}

// Approve signs that the PIN may be released while the registers have these values: those of now, or of after an update. It
// needs no TPM, and belongs where the approver's key is. [ErrApprover] means that key is another one.
func (s *SealedPIN) Approve(key crypto.Signer, pcrs map[int][]byte) (PINApproval, error) {
	if err := checkPCRs(pcrs); err != nil {
		return PINApproval{}, fmt.Errorf("tpm: approve: %w", err)
	}
	if !s.approver.Equal(key.Public()) {
		return PINApproval{}, fmt.Errorf("tpm: approve: %w", ErrApprover)
	}
	a := PINApproval{reference: s.reference(), pcrs: maps.Clone(pcrs)}
	digest, err := a.digest()
	if err != nil {
		return PINApproval{}, fmt.Errorf("tpm: approve: %w", err)
	}
	if a.signature, err = key.Sign(rand.Reader, digest, crypto.SHA256); err != nil {
		return PINApproval{}, fmt.Errorf("tpm: approve: %w", err)
	}
	if err := s.approves(a); err != nil {
		return PINApproval{}, err
	}
	return a, nil
}

// checkPCRs accepts values of registers that only a reboot sets back.
func checkPCRs(pcrs map[int][]byte) error {
	if len(pcrs) == 0 {
		return errors.New("pcrs: no register")
	}
	for _, pcr := range slices.Sorted(maps.Keys(pcrs)) {
		if pcr < 0 || pcr >= pcrBank || len(pcrs[pcr]) != sha256.Size {
			return fmt.Errorf("pcrs: %d is not a register from 0 to %d with a SHA-256 value", pcr, pcrBank-1)
		}
		// PC Client Platform TPM Profile, 4.6: anybody resets the debug and the application register.
		if pcr == 16 || pcr == 23 {
			return fmt.Errorf("pcrs: whoever may use the TPM sets register %d", pcr)
		}
	}
	return nil
}

// Accept adds an approval, after checking that it is the approver's and for this sealing. One that is there already changes nothing.
func (s *SealedPIN) Accept(a PINApproval) (*SealedPIN, error) {
	if err := s.approves(a); err != nil {
		return nil, err
	}
	for _, b := range s.approvals {
		if maps.EqualFunc(a.pcrs, b.pcrs, bytes.Equal) {
			return s, nil
		}
	}
	if len(s.approvals) == maxApprovals {
		return nil, fmt.Errorf("tpm: approval: %d are there, and all hold for good: seal the PIN anew", maxApprovals)
	}
	next := *s
	next.approvals = append(slices.Clone(s.approvals), a)
	return &next, nil
}

func (s *SealedPIN) approves(a PINApproval) error {
	if !bytes.Equal(a.reference, s.reference()) {
		return fmt.Errorf("tpm: approval: %w", ErrApprovalOther)
	}
	digest, err := a.digest()
	if err != nil {
		return fmt.Errorf("tpm: approval: %w", err)
	}
	if !ecdsa.VerifyASN1(s.approver, digest, a.signature) {
		return fmt.Errorf("tpm: approval: %w: its signature does not verify", ErrApprover)
	}
	return nil
}

// PCRs lists the registers that an approval is about.
func (a PINApproval) PCRs() []int { return slices.Sorted(maps.Keys(a.pcrs)) }

// Marshal is the file of one approval.
func (a PINApproval) Marshal() ([]byte, error) { return marshalFile(a.file()) }

// ParsePINApproval reads a file. Whether the approval is worth anything is for [SealedPIN.Accept].
func ParsePINApproval(data []byte) (PINApproval, error) {
	var f approvalFile
	err := unmarshalFile(data, &f)
	var a PINApproval
	if err == nil {
		a, err = f.parse()
	}
	if err != nil {
		return PINApproval{}, fmt.Errorf("tpm: approval: %w: %w", ErrSealedDamaged, err)
	}
	return a, nil
}

func (a PINApproval) file() approvalFile {
	f := approvalFile{Format: approvalFormat, Reference: a.reference, PCRs: make(map[string]quote.Hex, len(a.pcrs)), Signature: a.signature}
	for pcr, value := range a.pcrs {
		f.PCRs[strconv.Itoa(pcr)] = value
	}
	return f
}

func (f approvalFile) parse() (PINApproval, error) {
	if f.Format != approvalFormat {
		return PINApproval{}, fmt.Errorf("format is not %s", approvalFormat)
	}
	if len(f.Reference) != sha256.Size || len(f.Signature) > maxSignature {
		return PINApproval{}, errors.New("policy_ref or signature has a wrong length")
	}
	pcrs, err := parsePCRs(f.PCRs)
	return PINApproval{reference: f.Reference, pcrs: pcrs, signature: f.Signature}, err
}

// ParsePCRs reads the values to approve, as [Device.PCRs] gives them: a JSON object of register and SHA-256 value in hexadecimal.
func ParsePCRs(data []byte) (map[int][]byte, error) {
	var f map[string]quote.Hex
	err := unmarshalFile(data, &f)
	var pcrs map[int][]byte
	if err == nil {
		pcrs, err = parsePCRs(f)
	}
	if err != nil {
		return nil, fmt.Errorf("tpm: PCR values: %w", err)
	}
	return pcrs, nil
}

// MarshalPCRs writes what ParsePCRs reads.
func MarshalPCRs(pcrs map[int][]byte) ([]byte, error) {
	return marshalFile(PINApproval{pcrs: pcrs}.file().PCRs)
}

func parsePCRs(f map[string]quote.Hex) (map[int][]byte, error) {
	pcrs := make(map[int][]byte, len(f))
	for text, value := range f {
		pcr, err := strconv.Atoi(text)
		if err != nil || strconv.Itoa(pcr) != text {
			return nil, errors.New("pcrs: not a register")
		}
		pcrs[pcr] = value
	}
	return pcrs, checkPCRs(pcrs)
}

// policy is the digest of TPM2_PolicyPCR over these values (Part 3, 23.7).
func (a PINApproval) policy() ([]byte, error) { return policyDigest(a.policyPCR()) }

func (a PINApproval) policyPCR() tpm2.PolicyPCR {
	values := sha256.New()
	for _, pcr := range a.PCRs() {
		values.Write(a.pcrs[pcr])
	}
	return tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: values.Sum(nil)}, Pcrs: selection(a.PCRs())}
}

// digest is what is signed: aHash of TPM2_PolicyAuthorize (Part 3, 23.16).
func (a PINApproval) digest() ([]byte, error) {
	policy, err := a.policy()
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(append(policy, a.reference...))
	return digest[:], nil
}

// differs names the registers that have other values; nothing if the approval is of these.
func (a PINApproval) differs(now map[int][]byte) []string {
	var out []string
	for _, pcr := range a.PCRs() {
		if !bytes.Equal(now[pcr], a.pcrs[pcr]) {
			out = append(out, fmt.Sprintf("PCR %d is %x, approved is %x", pcr, now[pcr], a.pcrs[pcr]))
		}
	}
	return out
}

// approvalOf finds the approval of the present values, or says what differs from the nearest one.
func (s *SealedPIN) approvalOf(now map[int][]byte) (PINApproval, error) {
	if len(s.approvals) == 0 {
		return PINApproval{}, fmt.Errorf("%w: nothing was approved yet", ErrNotApproved)
	}
	var nearest []string
	for _, a := range slices.Backward(s.approvals) { // the newest of those that are equally near
		differs := a.differs(now)
		if len(differs) == 0 {
			return a, nil
		}
		if nearest == nil || len(differs) < len(nearest) {
			nearest = differs
		}
	}
	return PINApproval{}, fmt.Errorf("%w: %s", ErrNotApproved, strings.Join(nearest, "; "))
}

// approverPublic is the approver's key as the TPM loads it; its name stands in the policy.
func approverPublic(key *ecdsa.PublicKey) *tpm2.TPMTPublic {
	x, y := make([]byte, sha256.Size), make([]byte, sha256.Size)
	if encoded, err := key.Bytes(); err == nil { // 04, x, y (SEC 1, 2.3.3); parseApprover has seen to the curve
		copy(x, encoded[1:33])
		copy(y, encoded[33:])
	}
	template := signingTemplate()
	template.ObjectAttributes = tpm2.TPMAObject{UserWithAuth: true, SignEncrypt: true}
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: x}, Y: tpm2.TPM2BECCParameter{Buffer: y},
	})
	return &template
}

// tpmSignature is signatureDER backwards.
func tpmSignature(der []byte) (tpm2.TPMTSignature, error) {
	var inner cryptobyte.String
	var r, s []byte
	input := cryptobyte.String(der)
	if !input.ReadASN1(&inner, asn1.SEQUENCE) || !inner.ReadASN1Integer(&r) || !inner.ReadASN1Integer(&s) || len(r) > 32 || len(s) > 32 {
		return tpm2.TPMTSignature{}, fmt.Errorf("%w: not an ECDSA-Sig-Value", ErrApprover)
	}
	pad := func(v []byte) tpm2.TPM2BECCParameter {
		return tpm2.TPM2BECCParameter{Buffer: append(make([]byte, sha256.Size-len(v)), v...)}
	}
	return tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash: tpm2.TPMAlgSHA256, SignatureR: pad(r), SignatureS: pad(s),
		}),
	}, nil
}
