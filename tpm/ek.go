package tpm

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/signet-pki/signet/tpm/quote"
)

const (
	maxCertificate = 8 << 10
	nvChunk        = 512 // every TPM reads that much at once (PC Client Platform TPM Profile, TPM_PT_NV_BUFFER_MAX)
)

// EK is the TPM's endorsement key: the key that its maker certifies, and by which it decrypts but never signs.
type EK struct {
	Public      []byte // TPMT_PUBLIC
	Key         crypto.PublicKey
	Certificate *x509.Certificate // the maker's, unverified: see quote.VerifyEK; nil if the TPM holds none
}

// ekKind is one kind of endorsement key (TCG EK Credential Profile 2.5, B).
type ekKind struct {
	certificate uint32 // NV index of its certificate
	template    func() tpm2.TPMTPublic
}

// ekKinds in order of preference; a kind with a certificate goes before one without.
func ekKinds() []ekKind {
	return []ekKind{
		{0x01c0000a, func() tpm2.TPMTPublic { return tpm2.ECCEKTemplate }}, // L-2: P-256
		{0x01c00014, templateH2}, // P-256
		{0x01c00016, templateH3}, // P-384
		{0x01c00002, func() tpm2.TPMTPublic { return tpm2.RSAEKTemplate }}, // L-1: RSA 2048
	}
}

// EK reads the endorsement key: ECC where there is a certificate for it, else RSA where there is one, else P-256 without.
func (d *Device) EK(ctx context.Context) (EK, error) {
	var ek EK
	err := d.do(ctx, "read EK", func(c *conn) error {
		loaded, err := d.loadEK(c)
		if err != nil {
			return err
		}
		defer loaded.release(c)
		ek = loaded.EK
		return nil
	})
	return ek, err
}

// loadedEK is an endorsement key that can be used until it is released.
type loadedEK struct {
	EK
	handle    tpm2.TPMHandle
	transient bool
}

func (l *loadedEK) release(c *conn) {
	if l.transient {
		c.flush(l.handle)
	}
}

func (d *Device) loadEK(c *conn) (*loadedEK, error) {
	kinds := ekKinds()
	for _, kind := range kinds {
		cert, err := readCertificate(c, kind.certificate)
		if err != nil {
			return nil, fmt.Errorf("certificate %v: %w", quote.Handle(kind.certificate), err)
		}
		if cert == nil {
			continue
		}
		ek, err := loadCertified(c, kind, cert)
		if err != nil {
			return nil, err
		}
		if ek != nil {
			return ek, nil
		}
		d.log.WarnContext(c.ctx, "EK certificate is for no key of this TPM", slog.String("nv_index", quote.Handle(kind.certificate).String()))
	}
	return createEK(c, kinds[0])
}

// loadCertified finds the key of a certificate among the persistent ones, or makes it from its template. Nil is for neither.
func loadCertified(c *conn, kind ekKind, cert *x509.Certificate) (*loadedEK, error) {
	handles, err := listHandles(c, firstEK)
	if err != nil {
		return nil, err
	}
	for _, handle := range handles {
		public, err := readPublic(c, handle)
		if err != nil {
			return nil, err
		}
		if key, err := quote.ParseEK(public); err == nil && isFor(cert, key) {
			return &loadedEK{EK{public, key, cert}, handle, false}, nil
		}
	}
	ek, err := createEK(c, kind)
	if err != nil {
		return nil, err
	}
	if !isFor(cert, ek.Key) {
		ek.release(c)
		return nil, nil
	}
	ek.Certificate = cert
	return ek, nil
}

func createEK(c *conn, kind ekKind) (*loadedEK, error) {
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: emptyAuth(tpm2.TPMRHEndorsement), InPublic: tpm2.New2B(kind.template())}.Execute(c)
	if err != nil {
		return nil, err
	}
	public := rsp.OutPublic.Bytes()
	key, err := quote.ParseEK(public)
	if err != nil {
		c.flush(rsp.ObjectHandle)
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return &loadedEK{EK{public, key, nil}, rsp.ObjectHandle, true}, nil
}

func isFor(cert *x509.Certificate, key crypto.PublicKey) bool {
	public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(key)
}

// readCertificate returns nil if there is no index. Makers pad certificates.
func readCertificate(c *conn, index uint32) (*x509.Certificate, error) {
	data, err := readNV(c, index)
	if err != nil || data == nil {
		return nil, err
	}
	var der cryptobyte.String
	if input := cryptobyte.String(data); !input.ReadASN1Element(&der, cbasn1.SEQUENCE) {
		return nil, fmt.Errorf("%w: not DER", ErrRefused)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return cert, nil
}

func readNV(c *conn, index uint32) ([]byte, error) {
	rsp, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(c)
	if isNoObject(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	public, err := rsp.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	if public.DataSize > maxCertificate {
		return nil, fmt.Errorf("%w: %d bytes", ErrRefused, public.DataSize)
	}
	handle := tpm2.AuthHandle{Handle: tpm2.TPMHandle(index), Name: rsp.NVName, Auth: tpm2.PasswordAuth(nil)}
	data := make([]byte, 0, public.DataSize)
	for len(data) < int(public.DataSize) {
		offset := uint16(len(data)) // #nosec G115 -- at most DataSize, a uint16
		part, err := tpm2.NVRead{AuthHandle: handle, NVIndex: handle, Size: min(nvChunk, public.DataSize-offset), Offset: offset}.Execute(c)
		if err != nil {
			return nil, err
		}
		if len(part.Data.Buffer) == 0 {
			return nil, errors.New("empty read")
		}
		data = append(data, part.Data.Buffer...)
	}
	return data, nil
}
