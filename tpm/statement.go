package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/signet-pki/signet/tpm/quote"
)

// attempts bounds what is done again because the TPM's state moved meanwhile.
const attempts = 3

// Quote makes a TPM2_Quote over Config.PCRs, with the PCR values that it is about, and verifies it.
func (d *Device) Quote(ctx context.Context, qualifying [32]byte) (quote.Statement, error) {
	return d.statement(ctx, "quote", func(c *conn) (quote.Statement, error) {
		var err error
		for range attempts {
			var s quote.Statement
			if s, err = d.quoteOnce(c, qualifying); err != nil {
				return quote.Statement{}, err
			}
			if _, err = d.ak.VerifyQuote(s, qualifying[:], d.config.PCRs); err == nil {
				return s, nil
			}
			if !onlyPCRsMoved(err) {
				break
			}
		}
		return quote.Statement{}, fmt.Errorf("%w: %w", ErrRefused, err)
	})
}

// PCRs reads the values of Config.PCRs, by index. Nobody signs them: they steer the appliance, and prove nothing to others.
func (d *Device) PCRs(ctx context.Context) (map[int][]byte, error) {
	values := make(map[int][]byte, d.config.PCRs.Len())
	err := d.do(ctx, "read PCRs", func(c *conn) error {
		raw, err := readPCRs(c, d.config.PCRs)
		if err != nil {
			return err
		}
		for i, pcr := range d.config.PCRs.PCRs() {
			values[pcr] = raw[i*sha256.Size : (i+1)*sha256.Size]
		}
		return nil
	})
	return values, err
}

// CertifyCounter makes a TPM2_NV_Certify of the counter and verifies it.
func (d *Device) CertifyCounter(ctx context.Context, qualifying [32]byte) (quote.Statement, error) {
	return d.statement(ctx, "certify counter", func(c *conn) (quote.Statement, error) {
		rsp, err := tpm2.NVCertify{
			SignHandle: d.akHandle(), AuthHandle: d.nvHandle(), NVIndex: d.nvHandle(),
			QualifyingData: tpm2.TPM2BData{Buffer: qualifying[:]}, InScheme: ecdsaSHA256(), Size: counterSize,
		}.Execute(c)
		if err != nil {
			return quote.Statement{}, err
		}
		s, err := newStatement(rsp.CertifyInfo.Bytes(), &rsp.Signature)
		if err != nil {
			return quote.Statement{}, err
		}
		if _, err := d.ak.VerifyCounter(s, qualifying[:], d.counter.Name()); err != nil {
			return quote.Statement{}, fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return s, nil
	})
}

// statement makes one statement. If that fails though the transport works, the likeliest reason is that this is no longer the TPM
// that it was; then the answer says so.
func (d *Device) statement(ctx context.Context, operation string, f func(*conn) (quote.Statement, error)) (quote.Statement, error) {
	var s quote.Statement
	err := d.do(ctx, operation, func(c *conn) (err error) {
		if err := d.ready(c); err != nil {
			return err
		}
		s, err = f(c)
		if err == nil || c.broken {
			return err
		}
		d.forget()
		return errors.Join(err, d.ready(c))
	})
	return s, err
}

func (d *Device) quoteOnce(c *conn, qualifying [32]byte) (quote.Statement, error) {
	values, err := readPCRs(c, d.config.PCRs)
	if err != nil {
		return quote.Statement{}, err
	}
	rsp, err := tpm2.Quote{
		SignHandle: d.akHandle(), QualifyingData: tpm2.TPM2BData{Buffer: qualifying[:]}, InScheme: ecdsaSHA256(),
		PCRSelect: selection(d.config.PCRs.PCRs()),
	}.Execute(c)
	if err != nil {
		return quote.Statement{}, err
	}
	s, err := newStatement(rsp.Quoted.Bytes(), &rsp.Signature)
	s.PCRs = values
	return s, err
}

// onlyPCRsMoved tells a quote that is genuine but over other values than those read just before.
func onlyPCRsMoved(err error) bool {
	if !errors.Is(err, quote.ErrPCRDigest) {
		return false
	}
	for _, other := range []error{
		quote.ErrSignature, quote.ErrMagic, quote.ErrType, quote.ErrQualifying, quote.ErrSelection, quote.ErrSigner,
	} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}

// readPCRs asks for what is missing until nothing is: a TPM returns as many values as fit, at most eight (Part 3, 22.4).
func readPCRs(c *conn, sel quote.Selection) ([]byte, error) {
	values := make([]byte, 0, 32*sel.Len())
	for want := sel.PCRs(); len(want) > 0; {
		rsp, err := tpm2.PCRRead{PCRSelectionIn: selection(want)}.Execute(c)
		if err != nil {
			return nil, err
		}
		got := len(rsp.PCRValues.Digests)
		if got == 0 || got > len(want) {
			return nil, fmt.Errorf("%w: %d PCR values for %d asked", ErrRefused, got, len(want))
		}
		if !sameBanks(rsp.PCRSelectionOut, selection(want[:got])) {
			return nil, fmt.Errorf("%w: values of other PCRs than asked", ErrRefused)
		}
		for _, digest := range rsp.PCRValues.Digests {
			values = append(values, digest.Buffer...)
		}
		want = want[got:]
	}
	if len(values) != 32*sel.Len() {
		return nil, fmt.Errorf("%w: %d bytes of PCR values", ErrRefused, len(values))
	}
	return values, nil
}

func sameBanks(a, b tpm2.TPMLPCRSelection) bool {
	return len(a.PCRSelections) == 1 && a.PCRSelections[0].Hash == b.PCRSelections[0].Hash &&
		bytes.Equal(a.PCRSelections[0].PCRSelect, b.PCRSelections[0].PCRSelect)
}

func selection(pcrs []int) tpm2.TPMLPCRSelection {
	mask := make([]byte, 3) // a PC client's TPM has 24 PCRs and takes no shorter mask
	for _, index := range pcrs {
		mask[index/8] |= 1 << (index % 8)
	}
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: mask}}}
}

func ecdsaSHA256() tpm2.TPMTSigScheme {
	return tpm2.TPMTSigScheme{
		Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256}),
	}
}

func newStatement(attest []byte, sig *tpm2.TPMTSignature) (quote.Statement, error) {
	der, err := signatureDER(sig)
	if err != nil {
		return quote.Statement{}, err
	}
	return quote.Statement{Attest: bytes.Clone(attest), Signature: der}, nil
}

// signatureDER turns the TPM's r and s into an ECDSA-Sig-Value (RFC 3279, 2.2.3).
func signatureDER(sig *tpm2.TPMTSignature) ([]byte, error) {
	ecdsa, err := sig.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		addInteger(b, ecdsa.SignatureR.Buffer)
		addInteger(b, ecdsa.SignatureS.Buffer)
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return der, nil
}

// addInteger writes an unsigned big-endian number as a DER INTEGER: no leading zeros but the one that keeps it positive.
func addInteger(b *cryptobyte.Builder, magnitude []byte) {
	magnitude = bytes.TrimLeft(magnitude, "\x00")
	b.AddASN1(asn1.INTEGER, func(b *cryptobyte.Builder) {
		if len(magnitude) == 0 || magnitude[0]&0x80 != 0 {
			b.AddUint8(0)
		}
		b.AddBytes(magnitude)
	})
}
