package checkpoint

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// sealHeader is the first line of a seal.
const sealHeader = "signet/seal@v1"

// maxSeal bounds a seal's text, in bytes.
const maxSeal = 1 << 10

// Seal binds a checkpoint to a value of the TPM's monotonic counter and to the seal before it. Numbers start at 1; the
// first seal's Previous is zero.
type Seal struct {
	Origin   string
	Size     uint64
	Root     [32]byte
	Number   uint64
	Previous [32]byte // SHA-256 of the previous seal's text
	Counter  uint64
	Reset    uint32
	Restart  uint32
	Time     time.Time // written in UTC, whole seconds
}

// Sealed is a seal with everything that proves it.
type Sealed struct {
	Number     uint64 `json:"number"`
	Text       []byte `json:"text"`
	Checkpoint []byte `json:"checkpoint"` // signed note over the same size and root
	Quote      []byte `json:"quote"`      // TPMS_ATTEST of TPM2_Quote, qualifyingData = SHA-256(Text)
	QuoteSig   []byte `json:"quote_sig"`  // DER
	PCRs       []byte `json:"pcrs"`       // concatenated values
	NV         []byte `json:"nv"`         // TPMS_ATTEST of TPM2_NV_Certify, likewise
	NVSig      []byte `json:"nv_sig"`     // DER
}

// Digest is what both statements of the TPM are made over.
func (s Sealed) Digest() [32]byte { return sha256.Sum256(s.Text) }

// Text is the seal's exact bytes: nine lines, each with an LF.
func (s Seal) Text() []byte {
	return fmt.Appendf(nil, "%s\n%s\n%d\n%s\n%d\n%x\n%d\n%d.%d\n%s\n",
		sealHeader, s.Origin, s.Size, base64.StdEncoding.EncodeToString(s.Root[:]), s.Number, s.Previous,
		s.Counter, s.Reset, s.Restart, s.Time.UTC().Format(time.RFC3339))
}

// Digest is the SHA-256 of the seal's text.
func (s Seal) Digest() [32]byte { return sha256.Sum256(s.Text()) }

// ParseSeal reads what Text writes, and nothing else. Errors match [ErrMalformed].
func ParseSeal(text []byte) (Seal, error) {
	body, ok := trimLF(text)
	if !ok || len(text) > maxSeal {
		return Seal{}, fmt.Errorf("%w: seal is too long or does not end with LF", ErrMalformed)
	}
	lines := strings.Split(string(body), "\n")
	if len(lines) != 9 || lines[0] != sealHeader {
		return Seal{}, fmt.Errorf("%w: not the lines of a seal", ErrMalformed)
	}
	s := Seal{Origin: lines[1]}
	if err := CheckOrigin(s.Origin); err != nil {
		return Seal{}, err
	}
	if err := s.parseNumbers(lines); err != nil {
		return Seal{}, err
	}
	// One comparison closes what the parsers leave open (letter case, plus signs, offsets of time).
	if string(s.Text()) != string(text) {
		return Seal{}, fmt.Errorf("%w: seal in another spelling", ErrMalformed)
	}
	return s, nil
}

func (s *Seal) parseNumbers(lines []string) (err error) {
	if s.Size, err = parseSize(lines[2]); err != nil {
		return err
	}
	if s.Root, err = parseRoot(lines[3]); err != nil {
		return err
	}
	if s.Number, err = parseUint(lines[4], 64); err != nil {
		return err
	}
	if n, err := hex.Decode(s.Previous[:], []byte(lines[5][:min(len(lines[5]), 64)])); err != nil || n != 32 {
		return fmt.Errorf("%w: digest of the previous seal", ErrMalformed)
	}
	if s.Counter, err = parseUint(lines[6], 64); err != nil {
		return err
	}
	if err := s.parseBoot(lines[7]); err != nil {
		return err
	}
	if s.Time, err = time.Parse(time.RFC3339, lines[8]); err != nil {
		return fmt.Errorf("%w: time", ErrMalformed)
	}
	s.Time = s.Time.UTC()
	if s.Number == 0 || (s.Number == 1) != (s.Previous == [32]byte{}) {
		return fmt.Errorf("%w: seal number and previous seal disagree", ErrMalformed)
	}
	return nil
}

func (s *Seal) parseBoot(line string) error {
	resets, restarts, ok := strings.Cut(line, ".")
	reset, err := parseUint(resets, 32)
	if err != nil || !ok {
		return fmt.Errorf("%w: boot id", ErrMalformed)
	}
	restart, err := parseUint(restarts, 32)
	if err != nil {
		return fmt.Errorf("%w: boot id", ErrMalformed)
	}
	s.Reset, s.Restart = uint32(reset), uint32(restart) //nolint:gosec // G115: parsed with 32 bits
	return nil
}
