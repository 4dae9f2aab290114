package tpm

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/pem"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/signet-pki/signet/tpm/quote"
)

// Activate proves to the caller that the AK lives in the same TPM as the EK, by credential activation with a random secret, and
// returns the transcript together with the public areas of AK, EK and counter. What a transcript is worth to others stands at
// [quote.Activate]. Both keys and the counter must exist.
func (d *Device) Activate(ctx context.Context) (quote.Binding, error) {
	var binding quote.Binding
	err := d.do(ctx, "activate credential", func(c *conn) error {
		if err := d.ready(c); err != nil {
			return err
		}
		ek, err := d.loadEK(c)
		if err != nil {
			return fmt.Errorf("EK: %w", err)
		}
		defer ek.release(c)
		transcript, err := d.activate(c, ek)
		if err != nil {
			return err
		}
		binding = d.bind(ek.EK, transcript)
		if _, err := binding.Verify(); err != nil {
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		return nil
	})
	if err != nil {
		return quote.Binding{}, err
	}
	return binding, nil
}

func (d *Device) bind(ek EK, transcript quote.Activate) quote.Binding {
	binding := quote.Binding{
		EKPublic: ek.Public, AKPublic: d.ak.Marshal(), AKName: d.ak.Name(), Activation: transcript,
		NVIndex: quote.Handle(d.counter.Index()), NVName: d.counter.Name(), NVPublic: d.counter.Marshal(),
	}
	if ek.Certificate != nil {
		binding.EKCertificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ek.Certificate.Raw}))
	}
	return binding
}

// activate makes the challenge in software, so that the secret is on the way to the TPM only encrypted (Part 1, 24).
func (d *Device) activate(c *conn, ek *loadedEK) (quote.Activate, error) {
	secret := make([]byte, sha256.Size)
	_, _ = rand.Read(secret) // never fails (crypto/rand)
	blob, encrypted, err := MakeCredential(ek.Public, d.ak.Name(), secret)
	if err != nil {
		return quote.Activate{}, err
	}
	answer, err := d.decrypt(c, ek, blob, encrypted)
	if err != nil {
		return quote.Activate{}, err
	}
	if subtle.ConstantTimeCompare(answer, secret) != 1 {
		return quote.Activate{}, fmt.Errorf("%w: another secret than was encrypted", ErrRefused)
	}
	digest := sha256.Sum256(secret)
	return quote.Activate{CredentialBlob: blob, EncryptedSecret: encrypted, SecretSHA256: digest[:], Secret: answer}, nil
}

// MakeCredential encrypts a secret of at most 32 bytes to an endorsement key, so that its TPM gives it back only while it holds a
// key of that TPM name (Part 1, 24). It needs no TPM. The caller has checked the endorsement key.
func MakeCredential(ekPublic, name, secret []byte) (blob, encrypted []byte, err error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](ekPublic)
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: make credential: %w", err)
	}
	recipient, err := tpm2.ImportEncapsulationKey(public)
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: make credential: %w", err)
	}
	blob, encrypted, err = tpm2.CreateCredential(rand.Reader, recipient, name, secret)
	if err != nil {
		return nil, nil, fmt.Errorf("tpm: make credential: %w", err)
	}
	return blob, encrypted, nil
}

// decrypt is TPM2_ActivateCredential with the AK.
func (d *Device) decrypt(c *conn, ek *loadedEK, blob, encrypted []byte) ([]byte, error) {
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](ek.Public)
	if err != nil {
		return nil, fmt.Errorf("EK: %w", err)
	}
	rsp, err := tpm2.ActivateCredential{
		ActivateHandle: d.akHandle(), KeyHandle: ekHandle(ek, public),
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
	}.Execute(c)
	if err != nil {
		return nil, err
	}
	return rsp.CertInfo.Buffer, nil
}

// ekHandle authorises the EK's use: by its empty authorisation if it takes that, else by TPM2_PolicySecret of the endorsement
// hierarchy, the policy of the older templates.
func ekHandle(ek *loadedEK, public *tpm2.TPMTPublic) tpm2.AuthHandle {
	handle := tpm2.AuthHandle{Handle: ek.handle, Auth: tpm2.PasswordAuth(nil)}
	if name, err := tpm2.ObjectName(public); err == nil {
		handle.Name = *name
	}
	if public.ObjectAttributes.UserWithAuth {
		return handle
	}
	handle.Auth = tpm2.Policy(tpm2.TPMAlgSHA256, 16, func(t transport.TPM, session tpm2.TPMISHPolicy, nonce tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: emptyAuth(tpm2.TPMRHEndorsement), PolicySession: session, NonceTPM: nonce}.Execute(t)
		return err
	})
	return handle
}
