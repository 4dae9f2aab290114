// Package checkpoint is the encoding of the log's signed head (C2SP tlog-checkpoint in a C2SP signed-note) and of the
// seal, the text that the TPM makes its statements over.
//
// It refuses checkpoints with extension lines, texts in any other spelling than the one that it writes, and keys that
// are not ECDSA P-256. It keeps no state; all of it is safe for concurrent use as far as the given crypto.Signer is.
package checkpoint

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	fnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

var (
	// ErrMalformed: the text is not in the one accepted spelling.
	ErrMalformed = errors.New("checkpoint: malformed")
	// ErrUnsigned: no signature by the given key, or one that does not verify.
	ErrUnsigned = errors.New("checkpoint: not signed by the expected key")
)

// Bounds of parsed texts, in bytes.
const (
	MaxOrigin = 255
	maxNote   = 16 << 10
)

// MaxSize bounds tree sizes far above any log, so that arithmetic on parsed ones cannot overflow.
const MaxSize = 1 << 48

// algECDSA is the note signature type "ECDSA with SHA-256" as transparency-dev/formats and the Rekor log use it.
const algECDSA = 0x02

// Checkpoint is a head of the tree.
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   [32]byte
}

// Body is the note text: origin, size, root, each with an LF, and no extension lines.
func (c Checkpoint) Body() []byte {
	return fmt.Appendf(nil, "%s\n%d\n%s\n", c.Origin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
}

// ParseBody reads what Body writes, and nothing else. Errors match [ErrMalformed].
func ParseBody(body []byte) (Checkpoint, error) {
	if len(body) > maxNote {
		return Checkpoint{}, fmt.Errorf("%w: %d bytes", ErrMalformed, len(body))
	}
	lines := strings.Split(string(body), "\n")
	if len(lines) != 4 || lines[3] != "" {
		return Checkpoint{}, fmt.Errorf("%w: not three lines", ErrMalformed)
	}
	c := Checkpoint{Origin: lines[0]}
	if err := CheckOrigin(c.Origin); err != nil {
		return Checkpoint{}, err
	}
	var err error
	if c.Size, err = parseSize(lines[1]); err != nil {
		return Checkpoint{}, err
	}
	if c.Root, err = parseRoot(lines[2]); err != nil {
		return Checkpoint{}, err
	}
	return c, nil
}

// CheckOrigin refuses what cannot be a log's origin and the name of its key at once: empty, over 255 bytes, not UTF-8,
// with white space, control characters or a plus sign (C2SP signed-note).
func CheckOrigin(origin string) error {
	if origin == "" || len(origin) > MaxOrigin || !utf8.ValidString(origin) {
		return fmt.Errorf("%w: origin of %d bytes", ErrMalformed, len(origin))
	}
	bad := func(r rune) bool { return r == '+' || unicode.IsSpace(r) || !unicode.IsPrint(r) }
	if strings.ContainsFunc(origin, bad) {
		return fmt.Errorf("%w: origin %q has a character that a note's key name may not have", ErrMalformed, origin)
	}
	return nil
}

func parseSize(s string) (uint64, error) {
	n, err := parseUint(s, 64)
	if err != nil || n > MaxSize {
		return 0, fmt.Errorf("%w: tree size %.32q", ErrMalformed, s)
	}
	return n, nil
}

// parseUint takes decimal digits without sign or leading zeros.
func parseUint(s string, bits int) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, bits)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, fmt.Errorf("%w: number %.32q", ErrMalformed, s)
	}
	return n, nil
}

func parseRoot(s string) (root [32]byte, err error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(root) || base64.StdEncoding.EncodeToString(b) != s {
		return root, fmt.Errorf("%w: root hash", ErrMalformed)
	}
	return [32]byte(b), nil
}

// Sign makes the signed note of c.
func Sign(c Checkpoint, signer note.Signer) ([]byte, error) {
	if err := CheckOrigin(c.Origin); err != nil {
		return nil, err
	}
	b, err := note.Sign(&note.Note{Text: string(c.Body())}, signer)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: sign: %w", err)
	}
	return b, nil
}

// Open verifies a signed note and parses its body. Signatures by other keys (witnesses) are allowed beside the log's.
// Errors match [ErrMalformed] or [ErrUnsigned].
func Open(signed []byte, verifier note.Verifier) (Checkpoint, error) {
	if len(signed) > maxNote {
		return Checkpoint{}, fmt.Errorf("%w: note of %d bytes", ErrMalformed, len(signed))
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return Checkpoint{}, fmt.Errorf("%w: %w", ErrUnsigned, err)
	}
	return ParseBody([]byte(n.Text))
}

// signer is a note.Signer over a key that lives elsewhere.
type signer struct {
	name string
	hash uint32
	key  crypto.Signer
	pub  *ecdsa.PublicKey
}

// NewSigner makes a note signer of the given key name (the log's origin) over an ECDSA P-256 key.
func NewSigner(name string, key crypto.Signer) (note.Signer, error) {
	if key == nil {
		return nil, errors.New("checkpoint: no signer")
	}
	pub, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("checkpoint: signer has a %T, not an ECDSA key", key.Public())
	}
	der, err := marshalKey(name, pub)
	if err != nil {
		return nil, err
	}
	return &signer{name: name, hash: keyHash(der), key: key, pub: pub}, nil
}

func (s *signer) Name() string    { return s.name }
func (s *signer) KeyHash() uint32 { return s.hash }

// Sign verifies what the device returned: a wrong signature must not leave the appliance.
func (s *signer) Sign(msg []byte) ([]byte, error) {
	digest := sha256.Sum256(msg)
	sig, err := s.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(s.pub, digest[:], sig) {
		return nil, errors.New("checkpoint: the signer returned a signature that does not verify")
	}
	return sig, nil
}

// NewVerifier makes the verifier for NewSigner's notes.
func NewVerifier(name string, pub *ecdsa.PublicKey) (note.Verifier, error) {
	der, err := marshalKey(name, pub)
	if err != nil {
		return nil, err
	}
	v, err := fnote.NewECDSAVerifier(verifierKey(name, der))
	if err != nil {
		return nil, fmt.Errorf("checkpoint: verifier: %w", err)
	}
	return v, nil
}

// VerifierKey is the key in the text form <name>+<hash>+<base64> that transparency tools take.
func VerifierKey(name string, pub *ecdsa.PublicKey) (string, error) {
	der, err := marshalKey(name, pub)
	if err != nil {
		return "", err
	}
	return verifierKey(name, der), nil
}

func verifierKey(name string, der []byte) string {
	return fmt.Sprintf("%s+%08x+%s", name, keyHash(der), base64.StdEncoding.EncodeToString(append([]byte{algECDSA}, der...)))
}

func marshalKey(name string, pub *ecdsa.PublicKey) ([]byte, error) {
	if err := CheckOrigin(name); err != nil {
		return nil, err
	}
	if pub == nil || pub.Curve != elliptic.P256() {
		return nil, errors.New("checkpoint: the key is not on P-256")
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: encode key: %w", err)
	}
	return der, nil
}

// keyHash is that of ECDSA notes: unlike Ed25519's it covers only the SPKI.
func keyHash(der []byte) uint32 {
	h := sha256.Sum256(der)
	return binary.BigEndian.Uint32(h[:])
}

// trimLF removes the final LF, which every text of this package ends with.
func trimLF(b []byte) ([]byte, bool) { return bytes.CutSuffix(b, []byte("\n")) }
