// Package devid lets a machine prove itself to a Signet appliance by its TPM (attestation tpm_devid), and use keys that live
// in the TPM.
//
// It refuses to replace anything in the TPM: the attestation key is made where there is none, at the handle that package tpm
// keeps for it, and signing keys only at free handles. No private key is ever outside the TPM. A Machine is safe for
// concurrent use; what it does to the TPM happens one after the other.
package devid

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/client"
	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// Prefix begins the URI of a key in the TPM; a persistent handle follows, as 0x81 and six lower-case hexadecimal digits.
const Prefix = "tpm:handle="

// Machine is a machine with a TPM.
type Machine struct{ device *tpm.Device }

// Open connects to the TPM at path: /dev/tpmrm0, or unix:PATH of a software TPM.
func Open(ctx context.Context, path string, log *slog.Logger) (*Machine, error) {
	d, err := tpm.Open(ctx, tpm.Config{Path: path}, log)
	if err != nil {
		return nil, err
	}
	return &Machine{d}, nil
}

// Close disconnects. Keys sign no more.
func (m *Machine) Close() error { return m.device.Close() }

// Key gives a signing key of the TPM.
func (m *Machine) Key(ctx context.Context, uri string) (crypto.Signer, error) {
	key, err := m.device.Signer(ctx, uri)
	if err != nil {
		return nil, err
	}
	return key, nil
}

// MakeKey makes a P-256 signing key at a free handle.
func (m *Machine) MakeKey(ctx context.Context, uri string) (crypto.Signer, error) {
	var handle quote.Handle
	digits, ok := strings.CutPrefix(uri, Prefix)
	if !ok || handle.UnmarshalText([]byte(digits)) != nil {
		return nil, fmt.Errorf("devid: %q is not %s and a handle", uri, Prefix)
	}
	key, err := m.device.GenerateKey(ctx, uint32(handle))
	if err != nil {
		return nil, err
	}
	return key, nil
}

// EK names the TPM as an orchestrator's registration does: the hexadecimal SHA-256 of its endorsement key's SPKI.
func (m *Machine) EK(ctx context.Context) (string, error) {
	ek, err := m.endorsement(ctx)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(ek.Certificate.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:]), nil
}

func (m *Machine) endorsement(ctx context.Context) (tpm.EK, error) {
	ek, err := m.device.EK(ctx)
	if err != nil {
		return tpm.EK{}, err
	}
	if ek.Certificate == nil {
		return tpm.EK{}, errors.New("devid: the TPM holds no certificate of its maker")
	}
	return ek, nil
}

// Attest gets an orchestrator's certificate for a key of this TPM, which Key or MakeKey gave. The appliance learns from the
// TPM that it is the registered one and holds the key.
func (m *Machine) Attest(ctx context.Context, c *client.Client, name string, key crypto.Signer) (v1.Certificate, error) {
	own, ok := key.(*tpm.Key)
	if !ok {
		return v1.Certificate{}, errors.New("devid: the key is not in a TPM")
	}
	csr, err := client.CSR(own)
	if err != nil {
		return v1.Certificate{}, err
	}
	challenge, err := m.challenge(ctx, c, name, csr)
	if err != nil {
		return v1.Certificate{}, err
	}
	a, err := m.answer(ctx, challenge, own)
	if err != nil {
		return v1.Certificate{}, err
	}
	a.CSR = csr
	return c.Attest(ctx, name, a)
}

func (m *Machine) challenge(ctx context.Context, c *client.Client, name, csr string) (v1.Challenge, error) {
	ek, err := m.endorsement(ctx)
	if err != nil {
		return v1.Challenge{}, err
	}
	ak, err := m.device.EnsureAK(ctx)
	if err != nil {
		return v1.Challenge{}, err
	}
	return c.Challenge(ctx, name, v1.ChallengeRequest{
		EKCertificate: ek.Certificate.Raw, EKPublic: ek.Public, AKPublic: ak.Marshal(), CSR: csr,
	})
}

func (m *Machine) answer(ctx context.Context, q v1.Challenge, key *tpm.Key) (v1.Attestation, error) {
	secret, err := m.device.AnswerChallenge(ctx, q.CredentialBlob, q.EncryptedSecret)
	if err != nil {
		return v1.Attestation{}, err
	}
	qualifying := sha256.Sum256([]byte(q.Challenge))
	s, public, err := m.device.Certify(ctx, key, qualifying[:])
	if err != nil {
		return v1.Attestation{}, err
	}
	return v1.Attestation{
		Method: v1.MethodTPM, Challenge: q.Challenge, Secret: secret, KeyPublic: public, CertifyInfo: s.Attest, CertifySignature: s.Signature,
	}, nil
}
