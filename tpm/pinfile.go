package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/tpm/quote"
)

// Errors about sealed PINs that callers branch on.
var (
	// ErrSealedDamaged means that a file of a sealed PIN, or an approval, is not what was written.
	ErrSealedDamaged = errors.New("damaged")
	// ErrSealedElsewhere means that a PIN was sealed by another TPM.
	ErrSealedElsewhere = errors.New("sealed by another TPM")
	// ErrSealedCleared means that the TPM is the one that sealed the PIN, and has another storage root key since: it was cleared.
	ErrSealedCleared = errors.New("the TPM was cleared after sealing")
	// ErrNotApproved means that the approver has signed no approval of the values that the registers have now.
	ErrNotApproved = errors.New("the present PCR values are not approved")
	// ErrApprover means that an approval, or the key for one, is not the approver's that the sealed PIN names.
	ErrApprover = errors.New("not by the approver of this sealed PIN")
	// ErrApprovalOther means that an approval is for another sealed PIN.
	ErrApprovalOther = errors.New("approval of another sealed PIN")
)

const (
	sealedFormat   = "signet/sealed-pin@v1"
	maxSealedFile  = 64 << 10
	maxSealedPIN   = 128 // MAX_SYM_DATA of every TPM (Part 2, 11.1.14)
	maxSealedLabel = 32  // of a PKCS#11 token
	maxBlob        = 1 << 10
	maxApprovals   = 16
	sealedNonce    = 16
	nameSize       = 2 + sha256.Size
)

// SealedPIN is a token's PIN that one TPM gives back while its registers have values that the approver has approved. It holds
// nothing secret, says itself whose PIN it is, and never changes; [SealedPIN.Accept] makes another one. Format:
// docs/formats/sealed-pin.md.
type SealedPIN struct {
	token     string
	srk       []byte // the storage root key's name
	ek        []byte // SHA-256 of the endorsement key's public area
	nonce     []byte
	approver  *ecdsa.PublicKey
	public    []byte // TPMT_PUBLIC
	private   []byte // content of the TPM2B_PRIVATE
	approvals []PINApproval
}

// sealedFile is the file.
type sealedFile struct {
	Format    string         `json:"format"`
	Token     string         `json:"token"`
	SRK       quote.Hex      `json:"srk_name"`
	EK        quote.Hex      `json:"ek_sha256"`
	Nonce     quote.Hex      `json:"nonce"`
	Approver  []byte         `json:"approver"` // SubjectPublicKeyInfo
	Public    []byte         `json:"public"`
	Private   []byte         `json:"private"`
	Approvals []approvalFile `json:"approvals"`
}

// Token is the label of the token whose PIN it is.
func (s *SealedPIN) Token() string { return s.token }

// Approvals says how many values were approved.
func (s *SealedPIN) Approvals() int { return len(s.approvals) }

// Marshal is the file.
func (s *SealedPIN) Marshal() ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(s.approver)
	if err != nil {
		return nil, fmt.Errorf("tpm: sealed PIN: %w", err)
	}
	f := sealedFile{
		Format: sealedFormat, Token: s.token, SRK: s.srk, EK: s.ek, Nonce: s.nonce, Approver: spki, Public: s.public, Private: s.private,
		Approvals: []approvalFile{},
	}
	for _, a := range s.approvals {
		f.Approvals = append(f.Approvals, a.file())
	}
	return marshalFile(f)
}

// ParseSealedPIN reads a file. What differs by one byte from what [SealedPIN.Marshal] writes is [ErrSealedDamaged], but for
// the encrypted PIN itself, which only the TPM can check.
func ParseSealedPIN(data []byte) (*SealedPIN, error) {
	s, err := parseSealed(data)
	if err != nil {
		return nil, fmt.Errorf("tpm: sealed PIN: %w: %w", ErrSealedDamaged, err)
	}
	return s, nil
}

func parseSealed(data []byte) (*SealedPIN, error) {
	var f sealedFile
	if err := unmarshalFile(data, &f); err != nil {
		return nil, err
	}
	if f.Format != sealedFormat {
		return nil, fmt.Errorf("format is not %s", sealedFormat)
	}
	approver, err := parseApprover(f.Approver)
	if err != nil {
		return nil, err
	}
	s := &SealedPIN{token: f.Token, srk: f.SRK, ek: f.EK, nonce: f.Nonce, approver: approver, public: f.Public, private: f.Private}
	if err := s.check(); err != nil {
		return nil, err
	}
	if len(f.Approvals) > maxApprovals {
		return nil, fmt.Errorf("more than %d approvals", maxApprovals)
	}
	for i, a := range f.Approvals {
		approval, err := a.parse()
		if err != nil {
			return nil, fmt.Errorf("approval %d: %w", i, err)
		}
		if s, err = s.Accept(approval); err != nil {
			return nil, fmt.Errorf("approval %d: %w", i, err)
		}
		if len(s.approvals) != i+1 {
			return nil, fmt.Errorf("approval %d: repeated", i)
		}
	}
	return s, nil
}

// check holds the parts together: the object's policy names the approver and, by its reference, the token, the TPM and this sealing.
func (s *SealedPIN) check() error {
	if err := checkLabel(s.token); err != nil {
		return err
	}
	if len(s.srk) != nameSize || len(s.ek) != sha256.Size || len(s.nonce) != sealedNonce {
		return errors.New("srk_name, ek_sha256 or nonce has a wrong length")
	}
	if len(s.private) == 0 || len(s.private) > maxBlob || len(s.public) > maxBlob {
		return errors.New("the object has a wrong length")
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](s.public)
	if err != nil {
		return fmt.Errorf("public area: %w", err)
	}
	policy, err := s.policy()
	if err != nil {
		return err
	}
	want := sealedTemplate(policy)
	want.Unique = public.Unique
	if !bytes.Equal(tpm2.Marshal(want), s.public) {
		return errors.New("the object is not under the policy of these names and this approver")
	}
	return nil
}

func checkLabel(label string) error {
	if label == "" || len(label) > maxSealedLabel || !utf8.ValidString(label) {
		return fmt.Errorf("token: not a label of 1..%d bytes of UTF-8", maxSealedLabel)
	}
	for _, r := range label {
		if !unicode.IsPrint(r) {
			return errors.New("token: the label holds an unprintable character")
		}
	}
	return nil
}

// reference is the policyRef (Part 3, 23.16) of this sealing: what approves another one does not approve it.
func (s *SealedPIN) reference() []byte {
	digest := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%x\n%x\n%x\n", sealedFormat, s.token, s.srk, s.ek, s.nonce))
	return digest[:]
}

// policy is the object's: whatever the approver signs under the reference (TPM2_PolicyAuthorize, Part 3, 23.16).
func (s *SealedPIN) policy() ([]byte, error) {
	name, err := tpm2.ObjectName(approverPublic(s.approver))
	if err != nil {
		return nil, err
	}
	return policyDigest(tpm2.PolicyAuthorize{KeySign: *name, PolicyRef: tpm2.TPM2BDigest{Buffer: s.reference()}})
}

// sealedTemplate takes no authorisation but the policy, for any role (Part 1, 27.2): an empty password opens nothing.
func sealedTemplate(policy []byte) *tpm2.TPMTPublic {
	return &tpm2.TPMTPublic{
		Type:             tpm2.TPMAlgKeyedHash,
		NameAlg:          tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, AdminWithPolicy: true, NoDA: true},
		AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{
			Scheme: tpm2.TPMTKeyedHashScheme{Scheme: tpm2.TPMAlgNull},
		}),
	}
}

func policyDigest(command interface {
	Update(policy *tpm2.PolicyCalculator) error
},
) ([]byte, error) {
	calculator, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	if err := command.Update(calculator); err != nil {
		return nil, err
	}
	return calculator.Hash().Digest, nil
}

func freshNonce() []byte {
	nonce := make([]byte, sealedNonce)
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	return nonce
}

func marshalFile(v any) ([]byte, error) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("tpm: sealed PIN: %w", err)
	}
	return append(text, '\n'), nil
}

// unmarshalFile refuses every other way to write the same.
func unmarshalFile[T any](data []byte, v *T) error {
	if len(data) > maxSealedFile {
		return fmt.Errorf("more than %d bytes", maxSealedFile)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(v); err != nil {
		return err
	}
	again, err := marshalFile(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return errors.New("not as it was written")
	}
	return nil
}
