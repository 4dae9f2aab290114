package quote

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const maxBinding = 64 << 10

// ErrTranscript means that a credential activation transcript contradicts itself.
var ErrTranscript = errors.New("credential activation transcript is inconsistent")

// Binding records what ties an attestation key and a counter to one TPM, as `ak-binding.json`. Byte fields are base64 in JSON,
// names and digests hexadecimal.
type Binding struct {
	EKCertificate string   `json:"ek_certificate,omitempty"` // PEM; absent where the TPM holds none
	EKPublic      []byte   `json:"ek_public"`                // TPMT_PUBLIC
	AKPublic      []byte   `json:"ak_public"`                // TPMT_PUBLIC
	AKName        Hex      `json:"ak_name"`
	Activation    Activate `json:"activation"`
	NVIndex       Handle   `json:"nv_index"`
	NVName        Hex      `json:"nv_name"`
	NVPublic      []byte   `json:"nv_public"` // TPMS_NV_PUBLIC
}

// Activate is the transcript of a credential activation (Part 1, 24): whoever chose Secret made CredentialBlob and
// EncryptedSecret from the EK and the AK's name alone, and the TPM answered with the secret, which it does only if it holds the
// EK's private key and a key of that name.
//
// It convinces only who chose the secret. Everybody else sees bytes that anybody could have written after the fact, so third
// parties need a certificate over the AK from who ran it; the appliance's root ceremony makes one.
type Activate struct {
	CredentialBlob  []byte `json:"credential_blob"`  // TPMS_ID_OBJECT: TPM2B_DIGEST integrityHMAC, encIdentity
	EncryptedSecret []byte `json:"encrypted_secret"` // content of the TPM2B_ENCRYPTED_SECRET
	SecretSHA256    Hex    `json:"secret_sha256"`
	Secret          []byte `json:"secret"` // what the TPM returned; worthless afterwards
}

// Bound is what [Binding.Verify] established.
type Bound struct {
	AK            *AK
	Counter       *NVCounter
	EK            crypto.PublicKey
	EKCertificate *x509.Certificate // nil if there is none; its path is for [VerifyEK]
}

// ParseBinding reads `ak-binding.json`. Unknown and repeated fields, trailing data and more than 64 KiB are refused. It does not verify.
func ParseBinding(data []byte) (Binding, error) {
	if len(data) > maxBinding {
		return Binding{}, fmt.Errorf("quote: binding: %w: more than %d bytes", ErrMalformed, maxBinding)
	}
	if err := refuseRepeats(json.NewDecoder(bytes.NewReader(data))); err != nil {
		return Binding{}, fmt.Errorf("quote: binding: %w: %w", ErrMalformed, err)
	}
	var b Binding
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&b); err != nil {
		return Binding{}, fmt.Errorf("quote: binding: %w: %w", ErrMalformed, err)
	}
	return b, nil
}

// refuseRepeats walks one JSON object, of objects of scalars, which is all that a binding is.
func refuseRepeats(decoder *json.Decoder) error {
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return errors.New("not an object")
	}
	for seen := []map[string]bool{{}}; len(seen) > 0; {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		if token == json.Delim('}') {
			seen = seen[:len(seen)-1]
			continue
		}
		key, _ := token.(string) // inside an object the decoder yields nothing else here
		if top := seen[len(seen)-1]; top[key] {
			return fmt.Errorf("field %q is repeated", key)
		}
		seen[len(seen)-1][key] = true
		value, err := decoder.Token()
		if err != nil {
			return err
		}
		switch value {
		case json.Delim('{'):
			seen = append(seen, map[string]bool{})
		case json.Delim('['):
			return fmt.Errorf("field %q is a list", key)
		}
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("trailing data")
	}
	return nil
}

// Verify checks what can be checked without the TPM: that the AK is an attestation key and AKName its name, that the index is an
// orderly counter and NVName its name, that the EK is an endorsement key and the certificate, if any, is for it, and that the
// transcript is consistent. It joins every failure. What a consistent transcript is worth stands at [Activate].
func (b Binding) Verify() (Bound, error) {
	ak, akErr := b.verifyAK()
	counter, nvErr := b.verifyCounter()
	ek, cert, ekErr := b.verifyEK()
	if err := errors.Join(akErr, nvErr, ekErr, b.Activation.verify()); err != nil {
		return Bound{}, fmt.Errorf("quote: binding: %w", err)
	}
	return Bound{AK: ak, Counter: counter, EK: ek, EKCertificate: cert}, nil
}

func (b Binding) verifyAK() (*AK, error) {
	ak, err := ParseAK(b.AKPublic)
	if err != nil {
		return nil, fmt.Errorf("ak_public: %w", err)
	}
	if !bytes.Equal(ak.Name(), b.AKName) {
		return nil, fmt.Errorf("ak_name: %w", ErrName)
	}
	return ak, nil
}

func (b Binding) verifyCounter() (*NVCounter, error) {
	counter, err := ParseCounter(b.NVPublic)
	if err != nil {
		return nil, fmt.Errorf("nv_public: %w", err)
	}
	if !bytes.Equal(counter.Name(), b.NVName) {
		return nil, fmt.Errorf("nv_name: %w", ErrName)
	}
	if counter.Index() != uint32(b.NVIndex) {
		return nil, fmt.Errorf("nv_index: %w: nv_public is of %v", ErrName, Handle(counter.Index()))
	}
	return counter, nil
}

func (b Binding) verifyEK() (crypto.PublicKey, *x509.Certificate, error) {
	key, err := ParseEK(b.EKPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("ek_public: %w", err)
	}
	if b.EKCertificate == "" {
		return key, nil, nil
	}
	block, rest := pem.Decode([]byte(b.EKCertificate))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, nil, fmt.Errorf("ek_certificate: %w: not one PEM certificate", ErrMalformed)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("ek_certificate: %w: %w", ErrMalformed, err)
	}
	if err := checkEKLeaf(cert, key); err != nil {
		return nil, nil, fmt.Errorf("ek_certificate: %w", err)
	}
	return key, cert, nil
}

func (a Activate) verify() error {
	digest := sha256.Sum256(a.Secret)
	if len(a.Secret) != sha256.Size || subtle.ConstantTimeCompare(digest[:], a.SecretSHA256) != 1 {
		return fmt.Errorf("secret: %w: it does not hash to secret_sha256", ErrTranscript)
	}
	if len(a.CredentialBlob) == 0 || len(a.EncryptedSecret) == 0 {
		return fmt.Errorf("activation: %w: the challenge is missing", ErrTranscript)
	}
	return nil
}

// Hex is a byte string that is lower-case hexadecimal in JSON.
type Hex []byte

// MarshalText implements [encoding.TextMarshaler].
func (h Hex) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Hex) UnmarshalText(text []byte) error {
	decoded, err := hex.DecodeString(string(text))
	if err != nil || strings.ToLower(string(text)) != string(text) {
		return fmt.Errorf("%w: not lower-case hexadecimal", ErrMalformed)
	}
	*h = decoded
	return nil
}

// Handle is a TPM handle, as 0x and eight lower-case hexadecimal digits in JSON.
type Handle uint32

// String is the JSON form.
func (h Handle) String() string { return fmt.Sprintf("0x%08x", uint32(h)) }

// MarshalText implements [encoding.TextMarshaler].
func (h Handle) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Handle) UnmarshalText(text []byte) error {
	value, err := strconv.ParseUint(strings.TrimPrefix(string(text), "0x"), 16, 32)
	if err != nil || Handle(value).String() != string(text) {
		return fmt.Errorf("%w: a handle is 0x and eight lower-case hexadecimal digits", ErrMalformed)
	}
	*h = Handle(value)
	return nil
}
