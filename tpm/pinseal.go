package tpm

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/tpm/quote"
)

const everyPCR = "sha256:0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23"

// SealPIN encrypts the PIN of a token, 1 to 128 bytes, under the TPM's storage root key, which it makes where there is none. The
// PIN comes back only under what the approver approves: nothing yet. It crosses the bus to the TPM encrypted; that the storage
// root key is the TPM's own is taken for granted once, here, and pinned.
func (d *Device) SealPIN(ctx context.Context, token string, pin []byte, approver *ecdsa.PublicKey) (*SealedPIN, error) {
	if len(pin) == 0 || len(pin) > maxSealedPIN {
		return nil, fmt.Errorf("tpm: seal PIN: %w: not 1..%d bytes", ErrUnsuitable, maxSealedPIN)
	}
	s := &SealedPIN{token: token, nonce: freshNonce(), approver: approver}
	err := d.do(ctx, "seal PIN", func(c *conn) error {
		parent, err := d.ensureStorageKey(c)
		if err != nil {
			return err
		}
		if s.ek, err = d.digestOfEK(c); err != nil {
			return err
		}
		s.srk = parent.Name()
		if err := s.create(c, parent, pin); err != nil {
			return err
		}
		return s.check()
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (s *SealedPIN) create(c *conn, parent storageKey, pin []byte) error {
	policy, err := s.policy()
	if err != nil {
		return err
	}
	rsp, err := tpm2.Create{
		ParentHandle: parent.auth(parent.session(nil, tpm2.AESEncryption(128, tpm2.EncryptIn))),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: pin}),
		}},
		InPublic: tpm2.New2B(*sealedTemplate(policy)),
	}.Execute(c)
	if err != nil {
		return err
	}
	s.public, s.private = bytes.Clone(rsp.OutPublic.Bytes()), bytes.Clone(rsp.OutPrivate.Buffer)
	return nil
}

// UnsealPIN gives the PIN if the approver approved the values that the registers have now; the caller clears it. Every other
// case has its error, [ErrNotApproved] first of all, and nothing is released. The PIN crosses the bus encrypted to whoever holds
// the storage root key that was pinned when it was sealed.
func (d *Device) UnsealPIN(ctx context.Context, s *SealedPIN) ([]byte, error) {
	var pin []byte
	err := d.do(ctx, "unseal PIN", func(c *conn) error {
		parent, err := d.pinnedStorageKey(c, s)
		if err != nil {
			return err
		}
		approval, err := s.approvedNow(c)
		if err != nil {
			return err
		}
		ticket, err := s.verify(c, approval)
		if err != nil {
			return err
		}
		pin, err = s.unseal(c, parent, approval, ticket)
		return err
	})
	if err != nil {
		return nil, err
	}
	return pin, nil
}

// approvedNow compares values itself, because the TPM would say no more than that they differ.
func (s *SealedPIN) approvedNow(c *conn) (PINApproval, error) {
	every, err := quote.ParseSelection(everyPCR)
	if err != nil {
		return PINApproval{}, err
	}
	raw, err := readPCRs(c, every)
	if err != nil {
		return PINApproval{}, err
	}
	now := make(map[int][]byte, pcrBank)
	for i := range pcrBank {
		now[i] = raw[i*sha256.Size : (i+1)*sha256.Size]
	}
	return s.approvalOf(now)
}

// verify has the TPM check the approver's signature; its ticket is what TPM2_PolicyAuthorize takes.
func (s *SealedPIN) verify(c *conn, a PINApproval) (tpm2.TPMTTKVerified, error) {
	digest, err := a.digest()
	if err != nil {
		return tpm2.TPMTTKVerified{}, err
	}
	signature, err := tpmSignature(a.signature)
	if err != nil {
		return tpm2.TPMTTKVerified{}, err
	}
	key, err := tpm2.LoadExternal{InPublic: tpm2.New2B(*approverPublic(s.approver)), Hierarchy: tpm2.TPMRHOwner}.Execute(c)
	if err != nil {
		return tpm2.TPMTTKVerified{}, fmt.Errorf("load approver: %w", err)
	}
	defer c.flush(key.ObjectHandle)
	rsp, err := tpm2.VerifySignature{KeyHandle: key.ObjectHandle, Digest: tpm2.TPM2BDigest{Buffer: digest}, Signature: signature}.Execute(c)
	if errors.Is(err, tpm2.TPMRCSignature) {
		return tpm2.TPMTTKVerified{}, fmt.Errorf("%w: %w", ErrApprover, err)
	}
	if err != nil {
		return tpm2.TPMTTKVerified{}, err
	}
	return rsp.Validation, nil
}

func (s *SealedPIN) unseal(c *conn, parent storageKey, a PINApproval, ticket tpm2.TPMTTKVerified) ([]byte, error) {
	object, err := tpm2.Load{
		ParentHandle: parent.auth(tpm2.PasswordAuth(nil)), InPrivate: tpm2.TPM2BPrivate{Buffer: s.private},
		InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](s.public),
	}.Execute(c)
	if err != nil {
		return nil, damaged(err)
	}
	defer c.flush(object.ObjectHandle)
	session, _, err := tpm2.PolicySession(c, tpm2.TPMAlgSHA256, 16, parent.salted(), tpm2.AESEncryption(128, tpm2.EncryptOut))
	if err != nil {
		return nil, err
	}
	defer c.flush(session.Handle())
	if err := s.satisfy(c, session.Handle(), a, ticket); err != nil {
		return nil, err
	}
	rsp, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: session}}.Execute(c)
	if err != nil {
		return nil, moved(err)
	}
	if len(rsp.OutData.Buffer) == 0 || len(rsp.OutData.Buffer) > maxSealedPIN {
		return nil, fmt.Errorf("%w: a PIN of %d bytes", ErrRefused, len(rsp.OutData.Buffer))
	}
	return rsp.OutData.Buffer, nil
}

// satisfy runs the policy: the registers have the approved values, and the approver approved them.
func (s *SealedPIN) satisfy(c *conn, session tpm2.TPMHandle, a PINApproval, ticket tpm2.TPMTTKVerified) error {
	pcrs := a.policyPCR()
	pcrs.PolicySession = session
	if _, err := pcrs.Execute(c); err != nil {
		return moved(err)
	}
	policy, err := a.policy()
	if err != nil {
		return err
	}
	name, err := tpm2.ObjectName(approverPublic(s.approver))
	if err != nil {
		return err
	}
	_, err = tpm2.PolicyAuthorize{
		PolicySession: session, ApprovedPolicy: tpm2.TPM2BDigest{Buffer: policy}, PolicyRef: tpm2.TPM2BDigest{Buffer: a.reference},
		KeySign: *name, CheckTicket: ticket,
	}.Execute(c)
	return err
}

// damaged reads the answers of TPM2_Load: the storage root key is the right one, so it is the object that is wrong. Warnings are
// about the TPM.
func damaged(err error) error {
	var code tpm2.TPMRC
	if errors.As(err, &code) && !code.IsWarning() {
		return fmt.Errorf("%w: the TPM does not take the object: %w", ErrSealedDamaged, err)
	}
	return err
}

// moved reads the answers by which a TPM says that the policy does not hold: registers changed after they were compared.
func moved(err error) error {
	for _, code := range []tpm2.TPMRC{tpm2.TPMRCValue, tpm2.TPMRCPCRChanged, tpm2.TPMRCPolicyFail} {
		if errors.Is(err, code) {
			return fmt.Errorf("%w: the TPM refuses the policy: %w", ErrNotApproved, err)
		}
	}
	return err
}
