package tpm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/tpm/quote"
)

const uriPrefix = "tpm:handle="

// Key is a P-256 signing key in the TPM, a [crypto.Signer]. It is safe for concurrent use and signs until its Device is closed.
type Key struct {
	device *Device
	handle uint32
	name   []byte
	public *ecdsa.PublicKey
}

// Signer gives the key of a URI "tpm:handle=0x81…" (eight hexadecimal digits). [ErrKeyNotFound] means that there is none;
// [ErrUnsuitable] that what is there is not an unrestricted P-256 signing key that was made in this TPM and cannot leave it.
func (d *Device) Signer(ctx context.Context, uri string) (*Key, error) {
	handle, err := parseURI(uri)
	if err != nil {
		return nil, fmt.Errorf("tpm: signer: %w", err)
	}
	var key *Key
	err = d.do(ctx, "signer "+uri, func(c *conn) (err error) {
		key, err = d.findKey(c, handle)
		return err
	})
	return key, err
}

// GenerateKey makes a signing key and keeps it at handle, 0x81020000 to 0x817fffff. It refuses with [ErrExists] a handle that is
// occupied. The key is a primary key of the owner hierarchy made from the TPM's seed and 32 random bytes that nobody keeps, so no
// other call makes it again, and clearing the TPM destroys it.
func (d *Device) GenerateKey(ctx context.Context, handle uint32) (*Key, error) {
	if !isOwnerPersistent(handle) || handle == d.config.AKHandle {
		return nil, fmt.Errorf("tpm: generate key: %w: handle %v is reserved", ErrUnsuitable, quote.Handle(handle))
	}
	var key *Key
	err := d.do(ctx, "generate key", func(c *conn) (err error) {
		if err := requireFree(c, tpm2.TPMHandle(handle)); err != nil {
			return err
		}
		if err := createKey(c, tpm2.TPMHandle(handle)); err != nil {
			return err
		}
		key, err = d.findKey(c, handle)
		return err
	})
	return key, err
}

func createKey(c *conn, handle tpm2.TPMHandle) error {
	unique := make([]byte, 2*sha256.Size)
	_, _ = rand.Read(unique) // never fails (crypto/rand)
	template := signingTemplate()
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: unique[:sha256.Size]}, Y: tpm2.TPM2BECCParameter{Buffer: unique[sha256.Size:]},
	})
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: emptyAuth(tpm2.TPMRHOwner), InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		return err
	}
	defer c.flush(rsp.ObjectHandle)
	return persist(c, rsp.ObjectHandle, rsp.Name, handle)
}

func (d *Device) findKey(c *conn, handle uint32) (*Key, error) {
	rsp, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(c)
	if isNoObject(err) {
		return nil, fmt.Errorf("%w: nothing at %v", ErrKeyNotFound, quote.Handle(handle))
	}
	if err != nil {
		return nil, err
	}
	public, err := rsp.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	point, err := signingKey(public)
	if err != nil {
		return nil, fmt.Errorf("key at %v: %w", quote.Handle(handle), err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return &Key{device: d, handle: handle, name: name.Buffer, public: point}, nil
}

func signingKey(public *tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	a := public.ObjectAttributes
	var errs []error
	refuse := func(bad bool, why string) {
		if bad {
			errs = append(errs, fmt.Errorf("%w: %s", ErrUnsuitable, why))
		}
	}
	refuse(!a.SignEncrypt || a.Decrypt, "not for signing alone")
	refuse(a.Restricted, "restricted: it signs only what the TPM itself made")
	refuse(!a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin, "imported, or it can leave the TPM")
	key, err := p256(public)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return key, nil
}

func p256(public *tpm2.TPMTPublic) (*ecdsa.PublicKey, error) {
	if public.Type != tpm2.TPMAlgECC {
		return nil, fmt.Errorf("%w: not ECC P-256", ErrUnsuitable)
	}
	parameters, err := public.Parameters.ECCDetail()
	if err != nil || parameters.CurveID != tpm2.TPMECCNistP256 {
		return nil, fmt.Errorf("%w: not ECC P-256", ErrUnsuitable)
	}
	point, err := public.Unique.ECC()
	if err != nil || len(point.X.Buffer) > 32 || len(point.Y.Buffer) > 32 {
		return nil, fmt.Errorf("%w: no point of P-256", ErrUnsuitable)
	}
	encoded := make([]byte, 65)
	encoded[0] = 4 // uncompressed (SEC 1, 2.3.3)
	copy(encoded[33-len(point.X.Buffer):], point.X.Buffer)
	copy(encoded[65-len(point.Y.Buffer):], point.Y.Buffer)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), encoded)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsuitable, err)
	}
	return key, nil
}

// Public is the *ecdsa.PublicKey, read once.
func (k *Key) Public() crypto.PublicKey { return k.public }

// URI is what [Device.Signer] takes.
func (k *Key) URI() string { return uriPrefix + quote.Handle(k.handle).String() }

// VerifiesSignatures says that callers need not verify again: Sign releases only what verifies with Public.
func (k *Key) VerifiesSignatures() bool { return true }

// Sign signs a SHA-256 digest and returns an ASN.1 DER ECDSA-Sig-Value, after verifying it. The TPM has its own randomness. The
// interface leaves no room for a context: the call ends within the Device's deadlines.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(context.Background(), digest, opts)
}

// SignContext is Sign with a context.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, fmt.Errorf("tpm: sign: %w: this key signs 32 bytes of SHA-256, got %d", ErrUnsuitable, len(digest))
	}
	var der []byte
	err := k.device.do(ctx, "sign", func(c *conn) error {
		rsp, err := tpm2.Sign{
			KeyHandle: tpm2.AuthHandle{
				Handle: tpm2.TPMHandle(k.handle), Name: tpm2.TPM2BName{Buffer: k.name}, Auth: tpm2.PasswordAuth(nil),
			},
			Digest:     tpm2.TPM2BDigest{Buffer: digest},
			InScheme:   ecdsaSHA256(),
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
		}.Execute(c)
		if isNoObject(err) {
			return fmt.Errorf("%w: nothing at %v any more", ErrKeyNotFound, quote.Handle(k.handle))
		}
		if err != nil {
			return err
		}
		der, err = signatureDER(&rsp.Signature)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !ecdsa.VerifyASN1(k.public, digest, der) {
		return nil, fmt.Errorf("tpm: sign: %w: key at %v", ErrRefused, quote.Handle(k.handle))
	}
	return der, nil
}

func parseURI(uri string) (uint32, error) {
	digits, found := strings.CutPrefix(uri, uriPrefix)
	var handle quote.Handle
	if !found || handle.UnmarshalText([]byte(digits)) != nil || handle>>24 != 0x81 {
		return 0, fmt.Errorf("%w: key reference %s is not %s0x81 and six lower-case hexadecimal digits", ErrUnsuitable, strconv.Quote(uri), uriPrefix)
	}
	return uint32(handle), nil
}
