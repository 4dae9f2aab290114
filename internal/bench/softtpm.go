package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/checkpoint"
	"github.com/signet-pki/signet/tpm/quote"
)

// statements signs like a TPM, with a key that anybody could hold: what verifying them costs is the same.
type statements struct {
	key            *ecdsa.PrivateKey
	ak, nv         []byte // TPMT_PUBLIC, TPMS_NV_PUBLIC
	akName, nvName []byte
	ek             []byte // TPMT_PUBLIC
	count          uint64
}

const (
	softNV   = 0x01800042
	softPCRs = "sha256:0,1,2,3,4,5,6,7"
)

func newStatements(key, ek *ecdsa.PrivateKey) (*statements, error) {
	// fixedTPM fixedParent sensitiveDataOrigin userWithAuth restricted sign, ECDSA with SHA-256
	ak, err := eccPublic(key, 0x00050072, nil, []byte{0, 0x10, 0, 0x18, 0, 0x0b})
	if err != nil {
		return nil, err
	}
	ekPublic, err := eccPublic(ek, 0x000300b2, make([]byte, 32), []byte{0, 6, 0, 128, 0, 0x43, 0, 0x10})
	if err != nil {
		return nil, err
	}
	// A counter of 8 bytes that is orderly and written.
	nv := binary.BigEndian.AppendUint32(nil, softNV)
	nv = binary.BigEndian.AppendUint32(append(nv, 0, 0x0b), 1<<4|1<<26|1<<29)
	nv = append(nv, 0, 0, 0, 8)
	return &statements{key: key, ak: ak, nv: nv, akName: tpmName(ak), nvName: tpmName(nv), ek: ekPublic}, nil
}

// eccPublic is a TPMT_PUBLIC over P-256.
func eccPublic(key *ecdsa.PrivateKey, attributes uint32, policy, algorithms []byte) ([]byte, error) {
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	out := sized(binary.BigEndian.AppendUint32([]byte{0, 0x23, 0, 0x0b}, attributes), policy)
	out = append(append(out, algorithms...), 0, 3, 0, 0x10)
	return sized(sized(out, point[1:33]), point[33:]), nil
}

// sized appends data behind its length (a TPM2B).
func sized(out, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(data))), data...) //nolint:gosec // G115: all of it is short
}

func tpmName(public []byte) []byte {
	sum := sha256.Sum256(public)
	return append([]byte{0, 0x0b}, sum[:]...)
}

// seal makes both statements over the seal's text.
func (s *statements) seal(sealed *checkpoint.Sealed, digest [32]byte) (err error) {
	sealed.PCRs = make([]byte, 8*32)
	values := sha256.Sum256(sealed.PCRs)
	selection := []byte{0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0, 0}
	if sealed.Quote, sealed.QuoteSig, err = s.attest(0x8018, digest, sized(selection, values[:])); err != nil {
		return err
	}
	counter := binary.BigEndian.AppendUint64(nil, s.count)
	sealed.NV, sealed.NVSig, err = s.attest(0x8014, digest, sized(append(sized(nil, s.nvName), 0, 0), counter))
	return err
}

// attest is a TPMS_ATTEST of a primary key of the endorsement hierarchy, in boot 3.0.
func (s *statements) attest(kind uint16, digest [32]byte, body []byte) (attest, sig []byte, err error) {
	out := binary.BigEndian.AppendUint16([]byte{0xff, 'T', 'C', 'G'}, kind)
	out = sized(out, tpmName(append(binary.BigEndian.AppendUint32(nil, 0x4000000b), s.akName...)))
	out = sized(out, digest[:])
	out = binary.BigEndian.AppendUint64(out, s.count)
	out = append(out, 0, 0, 0, 3, 0, 0, 0, 0, 1)
	out = binary.BigEndian.AppendUint64(out, 1)
	out = append(out, body...)
	hashed := sha256.Sum256(out)
	sig, err = ecdsa.SignASN1(rand.Reader, s.key, hashed[:])
	return out, sig, err
}

// certificates are the files of the TPM's key, certified by the root.
func (s *statements) certificates(akCert *x509.Certificate) (c bundle.Certificates, err error) {
	secret := make([]byte, 32)
	digest := sha256.Sum256(secret)
	c.Binding, err = json.Marshal(quote.Binding{
		EKPublic: s.ek, AKPublic: s.ak, AKName: s.akName, NVIndex: softNV, NVName: s.nvName, NVPublic: s.nv,
		Activation: quote.Activate{CredentialBlob: []byte{1}, EncryptedSecret: []byte{2}, SecretSHA256: digest[:], Secret: secret},
	})
	c.AKCert = pemOf("CERTIFICATE", akCert.Raw)
	c.AK = pemOf("PUBLIC KEY", akCert.RawSubjectPublicKeyInfo)
	return c, err
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func hexOf(sum [32]byte) string { return hex.EncodeToString(sum[:]) }
