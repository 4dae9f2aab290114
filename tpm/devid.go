package tpm

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/tpm/quote"
)

// What follows is for a machine that proves itself by its TPM to somebody else: AnswerChallenge and Certify. Neither needs the
// counter.

// EnsureAK loads the attestation key, or makes it where there is none. See [Device.CreateAK].
func (d *Device) EnsureAK(ctx context.Context) (*quote.AK, error) {
	ak, err := d.LoadAK(ctx)
	if !errors.Is(err, ErrNoAK) {
		return ak, err
	}
	if err := d.CreateAK(ctx); err != nil {
		return nil, err
	}
	return d.LoadAK(ctx)
}

// AnswerChallenge gives what [MakeCredential] encrypted to this TPM's endorsement key and attestation key.
func (d *Device) AnswerChallenge(ctx context.Context, blob, encrypted []byte) ([]byte, error) {
	var secret []byte
	err := d.do(ctx, "answer challenge", func(c *conn) error {
		if _, err := d.loadAK(c); err != nil {
			return err
		}
		ek, err := d.loadEK(c)
		if err != nil {
			return fmt.Errorf("EK: %w", err)
		}
		defer ek.release(c)
		secret, err = d.decrypt(c, ek, blob, encrypted)
		return err
	})
	return secret, err
}

// Certify has the attestation key state, over qualifying data, that the signing key is in this TPM. It gives the key's public
// area, a TPMT_PUBLIC, too; what it releases has verified.
func (d *Device) Certify(ctx context.Context, key *Key, qualifying []byte) (quote.Statement, []byte, error) {
	var s quote.Statement
	var public []byte
	err := d.do(ctx, "certify", func(c *conn) error {
		ak, err := d.loadAK(c)
		if err != nil {
			return err
		}
		if public, err = readPublic(c, tpm2.TPMHandle(key.handle)); err != nil {
			return err
		}
		if s, err = d.certify(c, key, qualifying); err != nil {
			return err
		}
		if _, err := ak.VerifyCertify(s, qualifying, public); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return nil
	})
	if err != nil {
		return quote.Statement{}, nil, err
	}
	return s, public, nil
}

func (d *Device) certify(c *conn, key *Key, qualifying []byte) (quote.Statement, error) {
	rsp, err := tpm2.Certify{
		ObjectHandle: tpm2.AuthHandle{
			Handle: tpm2.TPMHandle(key.handle), Name: tpm2.TPM2BName{Buffer: key.name}, Auth: tpm2.PasswordAuth(nil),
		},
		SignHandle:     d.akHandle(),
		QualifyingData: tpm2.TPM2BData{Buffer: qualifying},
		InScheme:       ecdsaSHA256(),
	}.Execute(c)
	if err != nil {
		return quote.Statement{}, err
	}
	return newStatement(rsp.CertifyInfo.Bytes(), &rsp.Signature)
}
