// Package quote reads and verifies what a TPM 2.0 signs: quotes over platform configuration registers, certified readings of a
// monotonic NV counter, and the public areas that say what kind of key and index made them.
//
// It is pure: no device, network, clock or randomness, so an auditor's verifier and the appliance run the same code, and it builds
// for WebAssembly. It parses with fixed bounds, refuses trailing bytes, and never panics on outside input. It does not decide
// whether a counter value or a boot is the expected one: it hands these to the caller.
//
// Every function is safe for concurrent use; values are immutable after parsing.
//
// Part numbers in comments refer to the TCG "Trusted Platform Module Library", family 2.0, revision 01.59.
package quote

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// Errors that callers branch on. Several can hold at once; use [errors.Is].
var (
	// ErrMalformed means that the bytes are not the structure they should be; nothing in them was believed.
	ErrMalformed = errors.New("malformed")
	// ErrMagic means that the statement does not start with TPM_GENERATED_VALUE, so no TPM vouches for its content.
	ErrMagic = errors.New("magic is not TPM_GENERATED_VALUE")
	// ErrType means that the statement is of another type than the one asked for.
	ErrType = errors.New("wrong attestation type")
	// ErrQualifying means that the statement is about other data than the caller's.
	ErrQualifying = errors.New("qualifying data differs")
	// ErrSelection means that the quote is over other PCRs or another bank than the caller's.
	ErrSelection = errors.New("PCR selection differs")
	// ErrPCRDigest means that the PCR values given are not those that the TPM quoted.
	ErrPCRDigest = errors.New("PCR values do not match the quoted digest")
	// ErrName means that the counter statement is about another NV index, or that a recorded name is not that of its public area.
	ErrName = errors.New("name differs")
	// ErrContents means that the counter statement does not cover exactly the eight bytes of the counter.
	ErrContents = errors.New("certified bytes are not the counter")
	// ErrSigner means that the statement was not signed by this key as a primary key of the endorsement hierarchy.
	ErrSigner = errors.New("qualified signer differs")
	// ErrSignature means that the signature is not this key's over these bytes.
	ErrSignature = errors.New("signature does not verify")
	// ErrKey means that a public area does not describe the kind of key that is needed.
	ErrKey = errors.New("unsuitable key")
)

// Sizes that bound every input, in bytes.
const (
	maxAttest    = 1024
	maxSignature = 80 // a P-256 ECDSA-Sig-Value is at most 72
	digestSize   = sha256.Size
)

// Statement is one TPM attestation as it stands in a seal or an evidence bundle.
type Statement struct {
	Attest    []byte // marshalled TPMS_ATTEST (Part 2, 10.12.8)
	Signature []byte // ASN.1 DER ECDSA-Sig-Value over SHA-256(Attest)
	PCRs      []byte // the quoted PCR values, 32 bytes each in ascending order of index; empty for a counter
}

// Clock is the TPM's own account of its boots and time. Order statements by Reset and a counter, never by Millis: after a power
// loss the clock may go back although Safe is set.
type Clock struct {
	Reset   uint32 // TPM resets: cold boots
	Restart uint32 // restarts and resumes since the last reset
	Millis  uint64 // milliseconds of powered time
	Safe    bool   // false if Millis may have been reported before
}

// Quote is what a verified TPM2_Quote says.
type Quote struct {
	Clock           Clock
	PCRs            map[int][]byte // SHA-256 bank, by index
	FirmwareVersion uint64
	QualifiedSigner []byte // TPM name
}

// Counter is what a verified TPM2_NV_Certify of a counter says.
type Counter struct {
	Value           uint64
	Clock           Clock
	FirmwareVersion uint64
	QualifiedSigner []byte // TPM name
}

// VerifyQuote checks that s is a quote, signed by ak, over the PCRs of sel with exactly the values in s.PCRs, with qualifying as
// its qualifying data. The error joins every check that failed. It does not check what ak is: a key that is not restricted signs
// forged statements, so ak must come from [ParseAK] or from a certificate that an AK was checked for.
func VerifyQuote(ak *ecdsa.PublicKey, s Statement, qualifying []byte, sel Selection) (Quote, error) {
	a, err := parseAttest(s.Attest)
	if err != nil {
		return Quote{}, fmt.Errorf("quote: %w", err)
	}
	errs := []error{a.check(typeQuote, qualifying), verifySignature(ak, s), checkPCRs(a, s.PCRs, sel)}
	if err := errors.Join(errs...); err != nil {
		return Quote{}, fmt.Errorf("quote: %w", err)
	}
	return Quote{
		Clock: a.clock, PCRs: splitPCRs(s.PCRs, sel), FirmwareVersion: a.firmware, QualifiedSigner: a.signer,
	}, nil
}

// VerifyCounter checks that s is a certified reading, signed by ak, of the eight bytes of the NV index named nvName, with
// qualifying as its qualifying data. The error joins every check that failed. That the index is a counter at all follows from
// its name, which hashes the public area: see [ParseCounter]. For ak the same holds as in [VerifyQuote].
func VerifyCounter(ak *ecdsa.PublicKey, s Statement, qualifying, nvName []byte) (Counter, error) {
	a, err := parseAttest(s.Attest)
	if err != nil {
		return Counter{}, fmt.Errorf("quote: counter: %w", err)
	}
	errs := []error{a.check(typeNV, qualifying), verifySignature(ak, s), checkCounter(a, s.PCRs, nvName)}
	if err := errors.Join(errs...); err != nil {
		return Counter{}, fmt.Errorf("quote: counter: %w", err)
	}
	return Counter{
		Value: binary.BigEndian.Uint64(a.contents), Clock: a.clock, FirmwareVersion: a.firmware, QualifiedSigner: a.signer,
	}, nil
}

func verifySignature(ak *ecdsa.PublicKey, s Statement) error {
	if ak == nil || ak.Curve != elliptic.P256() {
		return fmt.Errorf("%w: the attestation key is not P-256", ErrKey)
	}
	digest := sha256.Sum256(s.Attest)
	if len(s.Signature) > maxSignature || !ecdsa.VerifyASN1(ak, digest[:], s.Signature) {
		return ErrSignature
	}
	return nil
}

func checkPCRs(a attest, values []byte, sel Selection) error {
	if a.kind != typeQuote {
		return nil // already an error; there is no digest to compare
	}
	var errs []error
	if sel.IsZero() || a.selection != sel {
		errs = append(errs, fmt.Errorf("%w: quoted %q, want %q", ErrSelection, a.selection, sel))
	}
	digest := sha256.Sum256(values)
	if len(values) != sel.Len()*digestSize || !bytes.Equal(a.pcrDigest, digest[:]) {
		errs = append(errs, ErrPCRDigest)
	}
	return errors.Join(errs...)
}

func checkCounter(a attest, pcrs, nvName []byte) error {
	if a.kind != typeNV {
		return nil // already an error; there is no index to compare
	}
	var errs []error
	if len(nvName) == 0 || !bytes.Equal(a.nvName, nvName) {
		errs = append(errs, fmt.Errorf("%w: of the NV index", ErrName))
	}
	if a.offset != 0 || len(a.contents) != counterSize {
		errs = append(errs, fmt.Errorf("%w: %d bytes at offset %d", ErrContents, len(a.contents), a.offset))
	}
	if len(pcrs) != 0 {
		errs = append(errs, fmt.Errorf("%w: PCR values beside a counter statement", ErrMalformed))
	}
	return errors.Join(errs...)
}

func splitPCRs(values []byte, sel Selection) map[int][]byte {
	pcrs := make(map[int][]byte, sel.Len())
	for i, index := range sel.PCRs() {
		pcrs[index] = bytes.Clone(values[i*digestSize : (i+1)*digestSize])
	}
	return pcrs
}
