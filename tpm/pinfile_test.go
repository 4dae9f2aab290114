package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// One flipped bit anywhere in either file is noticed, by us or by the TPM.
func TestFlippedBits(t *testing.T) {
	s := newSealing(t)
	unapproved := s.pin
	s.approve(s.pcrs())
	text, err := s.pin.Marshal()
	must(t, err)
	asked := 0
	for i := range text {
		bad := bytes.Clone(text)
		bad[i] ^= 1 << (i % 8)
		pin, err := ParseSealedPIN(bad)
		if err == nil {
			asked++
			_, err = s.d.UnsealPIN(t.Context(), pin)
		}
		if !errors.Is(err, ErrSealedDamaged) {
			t.Errorf("byte %d %q: %v", i, text[max(0, i-20):i+1], err)
		}
	}
	if asked < 100 {
		t.Errorf("only %d went to the TPM: the encrypted PIN is longer", asked)
	}
	s.nothingLeft()
	s.releases()

	text, err = s.pin.approvals[0].Marshal()
	must(t, err)
	for i := range text {
		bad := bytes.Clone(text)
		bad[i] ^= 1 << (i % 8)
		a, err := ParsePINApproval(bad)
		if err == nil {
			_, err = unapproved.Accept(a)
		}
		if !errors.Is(err, ErrSealedDamaged) && !errors.Is(err, ErrApprover) && !errors.Is(err, ErrApprovalOther) {
			t.Errorf("approval, byte %d: %v", i, err)
		}
	}
}

// Parts of two sealings do not make a third.
func TestMixedParts(t *testing.T) {
	s := newSealing(t)
	s.approve(s.pcrs())
	mine, sibling := *s.pin, s.seal("issuing")
	for name, mix := range map[string]func(p *SealedPIN){
		"token":    func(p *SealedPIN) { p.token = "audit" },
		"srk":      func(p *SealedPIN) { p.srk = append([]byte{0, 0xb}, make([]byte, 32)...) },
		"ek":       func(p *SealedPIN) { p.ek = make([]byte, 32) },
		"nonce":    func(p *SealedPIN) { p.nonce = sibling.nonce },
		"approver": func(p *SealedPIN) { p.approver = &newApprover(t).PublicKey },
		"public":   func(p *SealedPIN) { p.public = sibling.public },
		"private":  func(p *SealedPIN) { p.private = sibling.private },
		"attributes": func(p *SealedPIN) {
			p.public = bytes.Clone(p.public)
			p.public[7] |= 1 << 6 // userWithAuth
		},
	} {
		mixed := mine
		mix(&mixed)
		text, err := mixed.Marshal()
		must(t, err)
		parsed, err := ParseSealedPIN(text)
		if err == nil {
			_, err = s.d.UnsealPIN(t.Context(), parsed)
		}
		if !errors.Is(err, ErrSealedDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.nothingLeft()
}

func FuzzSealedPIN(f *testing.F) {
	f.Add([]byte(`{"format":"signet/sealed-pin@v1"}`))
	f.Add(readVector(f, "sealed.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSealedPIN(data)
		if err != nil {
			if !errors.Is(err, ErrSealedDamaged) {
				t.Error(err)
			}
			return
		}
		again, err := s.Marshal()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("written another way: %v", err)
		}
	})
}

func FuzzPINApproval(f *testing.F) {
	f.Add([]byte(`{"format":"signet/pin-approval@v1"}`))
	f.Add(readVector(f, "approval.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := ParsePINApproval(data)
		if err != nil {
			return
		}
		if again, err := a.Marshal(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("written another way: %v", err)
		}
		if len(a.PCRs()) == 0 {
			t.Error("an approval of nothing")
		}
		if _, err := tpmSignature(a.signature); err == nil && len(a.signature) > maxSignature {
			t.Error("a long signature")
		}
	})
}

func FuzzPCRs(f *testing.F) {
	f.Add([]byte("{\n  \"0\": \"0000000000000000000000000000000000000000000000000000000000000000\"\n}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		pcrs, err := ParsePCRs(data)
		if err != nil {
			return
		}
		if again, err := MarshalPCRs(pcrs); err != nil || !bytes.Equal(again, data) || len(pcrs) == 0 {
			t.Errorf("written another way: %v", err)
		}
	})
}

func readVector(tb testing.TB, name string) []byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "sealed-pin", name))
	must(tb, err)
	return data
}

// The vectors are a sealing of a TPM that is gone: its PIN is lost, and everything else can be checked.
func TestSealedVectors(t *testing.T) {
	if *update {
		writeSealedVectors(t)
	}
	pin, err := ParseSealedPIN(readVector(t, "sealed.json"))
	must(t, err)
	approval, err := ParsePINApproval(readVector(t, "approval.json"))
	must(t, err)
	again, err := pin.Accept(approval) // it is there already
	must(t, err)
	if again.Approvals() != 1 || pin.Token() != "issuing" {
		t.Errorf("%d approvals for %q", again.Approvals(), pin.Token())
	}
	pcrs, err := ParsePCRs(readVector(t, "pcrs.json"))
	must(t, err)
	if _, err := pin.approvalOf(pcrs); err != nil {
		t.Error(err)
	}
}

// The page's formulas, without go-tpm.
func TestDocumentedDigests(t *testing.T) {
	var f sealedFile
	must(t, json.Unmarshal(readVector(t, "sealed.json"), &f))
	digest := func(parts ...any) []byte {
		h := sha256.New()
		for _, p := range parts {
			switch p := p.(type) {
			case []byte:
				h.Write(p)
			case string:
				raw, err := hex.DecodeString(p)
				must(t, err)
				h.Write(raw)
			}
		}
		return h.Sum(nil)
	}
	zero := make([]byte, 32)
	reference := digest([]byte(fmt.Sprintf("signet/sealed-pin@v1\n%s\n%x\n%x\n%x\n", f.Token, []byte(f.SRK), []byte(f.EK), []byte(f.Nonce))))
	x, y := f.Approver[len(f.Approver)-64:len(f.Approver)-32], f.Approver[len(f.Approver)-32:]
	name := append([]byte{0, 0x0b}, digest("0023000b000400400000"+"0010"+"0018000b"+"0003"+"0010"+"0020", x, "0020", y)...)
	policy := digest(digest(zero, "0000016a", name), reference)
	if want := append([]byte{0, 8, 0, 0x0b, 0, 0, 4, 0x92, 0, 32}, policy...); !bytes.Equal(f.Public[:42], want) {
		t.Errorf("public area begins with %x, want %x", f.Public[:42], want)
	}
	values := sha256.New()
	for i := range 8 {
		values.Write(f.Approvals[0].PCRs[strconv.Itoa(i)])
	}
	approved := digest(zero, "0000017f", "00000001000b03"+"ff0000", values.Sum(nil))
	key, err := ParseApprover(f.Approver)
	must(t, err)
	if !ecdsa.VerifyASN1(key, digest(approved, reference), f.Approvals[0].Signature) || !bytes.Equal(f.Approvals[0].Reference, reference) {
		t.Error("the message is another one")
	}
}

func writeSealedVectors(t *testing.T) {
	t.Helper()
	s := newSealing(t)
	s.approve(s.pcrs())
	sealed, err := s.pin.Marshal()
	must(t, err)
	approval, err := s.pin.approvals[0].Marshal()
	must(t, err)
	pcrs, err := MarshalPCRs(s.pcrs())
	must(t, err)
	dir := filepath.Join("testdata", "sealed-pin")
	must(t, os.MkdirAll(dir, 0o755))
	write(t, dir, map[string][]byte{"sealed.json": sealed, "approval.json": approval, "pcrs.json": pcrs})
}
