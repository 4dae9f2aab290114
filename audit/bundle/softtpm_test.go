package bundle_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"testing"
)

// softTPM signs like a TPM with a key that anybody could hold.
type softTPM struct {
	key        *ecdsa.PrivateKey
	attributes uint32 // of the AK
	hierarchy  uint32 // that the AK is a primary key of
	nv         uint32 // attributes of the counter
	count      uint64
	reset      uint32
	restart    uint32
	pcr        byte // what each byte of PCR 4 is
}

// fixedTPM fixedParent sensitiveDataOrigin userWithAuth restricted sign
const akAttributes = 0x00050072

func newSoftTPM(t testing.TB) *softTPM {
	return &softTPM{key: newKey(t), attributes: akAttributes, hierarchy: 0x4000000b, nv: 1<<4 | 1<<26 | 1<<29, count: 7, reset: 3}
}

// tpmName is the name of a public area.
func tpmName(public []byte) []byte {
	sum := sha256.Sum256(public)
	return append([]byte{0, 0x0b}, sum[:]...)
}

func (s *softTPM) public() (ak, nv []byte, key *ecdsa.PublicKey) {
	ak = eccPublic(&s.key.PublicKey, s.attributes, nil, []byte{0, 0x10, 0, 0x18, 0, 0x0b})
	nv = binary.BigEndian.AppendUint32(nil, nvIndex)
	nv = append(nv, 0, 0x0b)
	nv = binary.BigEndian.AppendUint32(nv, s.nv)
	nv = append(nv, 0, 0, 0, 8)
	return ak, nv, &s.key.PublicKey
}

// eccPublic is a TPMT_PUBLIC over P-256; algorithms are symmetric and scheme.
func eccPublic(key *ecdsa.PublicKey, attributes uint32, policy, algorithms []byte) []byte {
	point, err := key.Bytes()
	if err != nil {
		panic(err)
	}
	out := []byte{0, 0x23, 0, 0x0b}
	out = binary.BigEndian.AppendUint32(out, attributes)
	out = append2B(out, policy)
	out = append(out, algorithms...)
	out = append(out, 0, 3, 0, 0x10)
	out = append2B(out, point[1:33])
	return append2B(out, point[33:])
}

func ekPublic(key *ecdsa.PublicKey) []byte {
	return eccPublic(key, 0x000300b2, make([]byte, 32), []byte{0, 6, 0, 128, 0, 0x43, 0, 0x10})
}

func append2B(out, data []byte) []byte {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(data))), data...)
}

func (s *softTPM) increment(testing.TB) (uint64, uint32, uint32) {
	s.count++
	return s.count, s.reset, s.restart
}

func (s *softTPM) attest(t testing.TB, kind uint16, digest [32]byte, body []byte) (attest, sig []byte) {
	t.Helper()
	ak, _, _ := s.public()
	out := []byte{0xff, 'T', 'C', 'G'}
	out = binary.BigEndian.AppendUint16(out, kind)
	out = append2B(out, tpmName(append(binary.BigEndian.AppendUint32(nil, s.hierarchy), tpmName(ak)...)))
	out = append2B(out, digest[:])
	out = binary.BigEndian.AppendUint64(out, 1000*s.count)
	out = binary.BigEndian.AppendUint32(out, s.reset)
	out = binary.BigEndian.AppendUint32(out, s.restart)
	out = append(out, 1)
	out = binary.BigEndian.AppendUint64(out, 0x2026)
	out = append(out, body...)
	hashed := sha256.Sum256(out)
	sig, err := ecdsa.SignASN1(rand.Reader, s.key, hashed[:])
	must(t, err)
	return out, sig
}

func (s *softTPM) quote(t testing.TB, digest [32]byte) (q, sig, values []byte) {
	values = make([]byte, 8*32)
	copy(values[4*32:], bytes.Repeat([]byte{s.pcr}, 32))
	summed := sha256.Sum256(values)
	body := append([]byte{0, 0, 0, 1, 0, 0x0b, 3, 0xff, 0, 0}, append2B(nil, summed[:])...)
	q, sig = s.attest(t, 0x8018, digest, body)
	return q, sig, values
}

func (s *softTPM) certify(t testing.TB, digest [32]byte) (nv, sig []byte) {
	_, public, _ := s.public()
	body := append2B(nil, tpmName(public))
	body = append(body, 0, 0)
	body = append2B(body, binary.BigEndian.AppendUint64(nil, s.count))
	return s.attest(t, 0x8014, digest, body)
}
