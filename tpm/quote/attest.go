package quote

import (
	"bytes"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
)

// Part 2, 6.2 and 6.9.
const (
	magicGenerated = 0xff544347 // TPM_GENERATED_VALUE
	typeNV         = 0x8014     // TPM_ST_ATTEST_NV
	typeCertify    = 0x8017     // TPM_ST_ATTEST_CERTIFY
	typeQuote      = 0x8018     // TPM_ST_ATTEST_QUOTE
)

const (
	algSHA256   = 0x000b
	counterSize = 8
	maxBanks    = 16 // TPM_NUM_PCR_BANKS of the largest devices
)

// attest is a parsed TPMS_ATTEST (Part 2, 10.12.8). Only the fields of its kind are set; for another kind the body is left unread.
type attest struct {
	magic      uint32
	kind       uint16
	signer     []byte // qualifiedSigner
	qualifying []byte // extraData
	clock      Clock
	firmware   uint64

	selection Selection // quote
	pcrDigest []byte    // quote

	nvName   []byte // NV
	offset   uint16 // NV
	contents []byte // NV

	certified []byte // certify: name of the object
	qualified []byte // certify: its name and those of its parents, hashed (Part 1, 26.5)
}

// parseAttest reads the whole of data. Magic and type are left to check, so that a wrong one has an error of its own.
func parseAttest(data []byte) (attest, error) {
	if len(data) > maxAttest {
		return attest{}, fmt.Errorf("%w attestation: %d bytes, at most %d", ErrMalformed, len(data), maxAttest)
	}
	a, s := attest{}, cryptobyte.String(data)
	if !a.readHeader(&s) {
		return attest{}, fmt.Errorf("%w attestation: header is cut short", ErrMalformed)
	}
	if err := a.readBody(&s); err != nil {
		return attest{}, err
	}
	return a, nil
}

func (a *attest) readHeader(s *cryptobyte.String) bool {
	var safe uint8
	ok := s.ReadUint32(&a.magic) && s.ReadUint16(&a.kind) && read2B(s, &a.signer) && read2B(s, &a.qualifying) &&
		s.ReadUint64(&a.clock.Millis) && s.ReadUint32(&a.clock.Reset) && s.ReadUint32(&a.clock.Restart) &&
		s.ReadUint8(&safe) && s.ReadUint64(&a.firmware)
	a.clock.Safe = safe == 1
	return ok && safe <= 1
}

func (a *attest) readBody(s *cryptobyte.String) error {
	var ok bool
	switch a.kind {
	case typeQuote:
		var err error
		if a.selection, err = readSelection(s); err != nil {
			return err
		}
		ok = read2B(s, &a.pcrDigest)
	case typeNV:
		ok = read2B(s, &a.nvName) && s.ReadUint16(&a.offset) && read2B(s, &a.contents)
	case typeCertify:
		ok = read2B(s, &a.certified) && read2B(s, &a.qualified)
	default:
		return nil // check reports the type
	}
	if !ok || !s.Empty() {
		return fmt.Errorf("%w attestation: body is cut short or followed by %d bytes", ErrMalformed, len(*s))
	}
	return nil
}

// check reports what is wrong with the fields that every kind has.
func (a *attest) check(kind uint16, qualifying []byte) error {
	var errs []error
	if a.magic != magicGenerated {
		errs = append(errs, fmt.Errorf("%w: %#08x", ErrMagic, a.magic))
	}
	if a.kind != kind {
		errs = append(errs, fmt.Errorf("%w: %#04x, want %#04x", ErrType, a.kind, kind))
	}
	if len(qualifying) == 0 || !bytes.Equal(a.qualifying, qualifying) {
		errs = append(errs, ErrQualifying)
	}
	return errors.Join(errs...)
}

// readSelection reads a TPML_PCR_SELECTION. TPMs list further banks with nothing selected in them; those are skipped. PCRs of
// any other bank than SHA-256, or beyond 23, make it malformed: nothing here can state them.
func readSelection(s *cryptobyte.String) (Selection, error) {
	var count uint32
	if !s.ReadUint32(&count) || count > maxBanks {
		return Selection{}, fmt.Errorf("%w PCR selection: %d banks", ErrMalformed, count)
	}
	var sel Selection
	for range count {
		bits, alg, err := readBank(s)
		if err != nil {
			return Selection{}, err
		}
		if bits == 0 {
			continue
		}
		if alg != algSHA256 || sel.bits != 0 {
			return Selection{}, fmt.Errorf("%w PCR selection: bank %#04x beside one SHA-256 bank", ErrMalformed, alg)
		}
		sel.bits = bits
	}
	return sel, nil
}

// readBank reads a TPMS_PCR_SELECTION; bit n of the result is PCR n.
func readBank(s *cryptobyte.String) (bits uint32, alg uint16, err error) {
	var size uint8
	var mask []byte
	if !s.ReadUint16(&alg) || !s.ReadUint8(&size) || size > 4 || !s.ReadBytes(&mask, int(size)) {
		return 0, 0, fmt.Errorf("%w PCR selection: bank is cut short or too long", ErrMalformed)
	}
	for i, b := range mask {
		bits |= uint32(b) << (8 * i)
	}
	if bits>>pcrCount != 0 {
		return 0, 0, fmt.Errorf("%w PCR selection: PCR beyond %d", ErrMalformed, pcrCount-1)
	}
	return bits, alg, nil
}

// read2B reads a TPM2B: a 16-bit length and that many bytes, copied.
func read2B(s *cryptobyte.String, out *[]byte) bool {
	var inner cryptobyte.String
	if !s.ReadUint16LengthPrefixed(&inner) {
		return false
	}
	*out = bytes.Clone([]byte(inner))
	return true
}
