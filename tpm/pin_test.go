package tpm

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/signet-pki/signet/internal/testrig/swtpm"
)

const testPIN = "correct horse 2961"

// sealing is a PIN sealed by one TPM, with the approver's key.
type sealing struct {
	*testing.T
	rig *swtpm.TPM
	d   *Device
	key *ecdsa.PrivateKey
	pin *SealedPIN
}

func newSealing(t *testing.T) *sealing {
	t.Helper()
	s := &sealing{T: t, rig: swtpm.New(t), key: newApprover(t)}
	s.d = open(t, s.rig)
	s.pin = s.seal("issuing")
	return s
}

func newApprover(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func (s *sealing) seal(token string) *SealedPIN {
	s.Helper()
	pin, err := s.d.SealPIN(s.Context(), token, []byte(testPIN), &s.key.PublicKey)
	must(s, err)
	return pin
}

func (s *sealing) pcrs() map[int][]byte {
	s.Helper()
	pcrs, err := s.d.PCRs(s.Context())
	must(s, err)
	return pcrs
}

func (s *sealing) approve(pcrs map[int][]byte) {
	s.Helper()
	a, err := s.pin.Approve(s.key, pcrs)
	must(s, err)
	s.pin, err = s.pin.Accept(a)
	must(s, err)
}

// extend is what an update does to a register at the next boot.
func (s *sealing) extend(pcr int) {
	s.Helper()
	out, err := tool(s.T, s.TempDir(), "tpm2_pcrextend", "-T", s.rig.TCTI(), fmt.Sprintf("%d:sha256=%s", pcr, strings.Repeat("ab", 32)))
	if err != nil {
		s.Fatalf("%v\n%s", err, out)
	}
}

// extended is the value that extend will make.
func extended(pcrs map[int][]byte, pcr int) map[int][]byte {
	next := maps.Clone(pcrs)
	value := sha256.Sum256(append(bytes.Clone(pcrs[pcr]), bytes.Repeat([]byte{0xab}, 32)...))
	next[pcr] = value[:]
	return next
}

func (s *sealing) releases() {
	s.Helper()
	pin, err := s.d.UnsealPIN(s.Context(), s.pin)
	must(s, err)
	if string(pin) != testPIN {
		s.Fatalf("another PIN of %d bytes", len(pin))
	}
}

// refuses gives the error's text.
func (s *sealing) refuses(target error) string {
	s.Helper()
	pin, err := s.d.UnsealPIN(s.Context(), s.pin)
	want(s, err, target)
	if pin != nil {
		s.Fatal("a PIN beside the error")
	}
	s.nothingLeft()
	return err.Error()
}

// nothingLeft looks for objects and sessions that were not flushed.
func (s *sealing) nothingLeft() {
	s.Helper()
	must(s, s.d.do(s.Context(), "look", func(c *conn) error {
		for _, first := range []uint32{firstHMACSession, firstTransient} {
			handles, err := listHandles(c, first)
			if err != nil || len(handles) != 0 {
				s.Errorf("left in the TPM: %x, %v", handles, err)
			}
		}
		return nil
	}))
}

func TestSealedPINFollowsRegisters(t *testing.T) {
	s := newSealing(t)
	if text := s.refuses(ErrNotApproved); !strings.Contains(text, "nothing was approved") {
		t.Error(text)
	}
	before := s.pcrs()
	s.approve(before)
	s.releases()
	s.nothingLeft()

	s.extend(4)
	if text := s.refuses(ErrNotApproved); !strings.Contains(text, fmt.Sprintf("PCR 4 is %x, approved is %x", s.pcrs()[4], before[4])) || strings.Contains(text, "PCR 0") {
		t.Error(text)
	}
	s.approve(extended(extended(before, 4), 7)) // the update after the next reboot, approved before it
	if text := s.refuses(ErrNotApproved); strings.Contains(text, "PCR 4") || !strings.Contains(text, "PCR 7") {
		t.Errorf("not the nearest approval: %s", text)
	}
	s.extend(7)
	s.releases()

	// What reads the file anew gets the same; the rest of the machine's life does not matter.
	text, err := s.pin.Marshal()
	must(t, err)
	s.pin, err = ParseSealedPIN(text)
	must(t, err)
	s.rig.Stop()
	s.rig.Restart()
	s.releases() // the old values are approved, too
	if s.pin.Token() != "issuing" || s.pin.Approvals() != 2 {
		t.Errorf("%q, %d approvals", s.pin.Token(), s.pin.Approvals())
	}
}

// The TPM itself keeps the PIN, not only the comparison before: a patched appliance gets no further.
func TestTPMKeepsThePIN(t *testing.T) {
	s := newSealing(t)
	now := s.pcrs()
	s.approve(now)
	good := s.pin.approvals[0]

	stale, err := s.pin.Approve(s.key, extended(now, 2))
	must(t, err)
	forger := newApprover(t)
	forged := good
	forged.pcrs = extended(now, 2)
	digest, err := forged.digest()
	must(t, err)
	forged.signature, err = ecdsa.SignASN1(rand.Reader, forger, digest)
	must(t, err)
	other := *s.pin
	other.approver = &forger.PublicKey

	for name, c := range map[string]struct {
		pin      *SealedPIN
		approval PINApproval
		changed  bool // the registers have the values of stale and forged
		want     error
	}{
		"approved":             {s.pin, good, false, nil},
		"values of earlier":    {s.pin, good, true, ErrNotApproved},
		"values of later":      {s.pin, stale, false, ErrNotApproved},
		"signed by another":    {s.pin, forged, true, ErrApprover},
		"another's own policy": {&other, forged, true, ErrNotApproved},
	} {
		s.rig.Restart()
		if c.changed {
			s.extend(2)
		}
		var pin []byte
		err := s.d.do(t.Context(), name, func(conn *conn) error {
			ticket, err := c.pin.verify(conn, c.approval)
			if err != nil {
				return err
			}
			parent, err := readStorageKey(conn)
			if err != nil {
				return err
			}
			pin, err = c.pin.unseal(conn, parent, c.approval, ticket)
			return err
		})
		if !errors.Is(err, c.want) || (string(pin) == testPIN) != (c.want == nil) {
			t.Errorf("%s: %v", name, err)
		}
		s.nothingLeft()
	}
	// Nor is there another way to the object: its empty password.
	s.rig.Restart()
	err = s.d.do(t.Context(), "password", func(c *conn) error {
		parent, err := readStorageKey(c)
		must(t, err)
		object, err := tpm2.Load{
			ParentHandle: parent.auth(tpm2.PasswordAuth(nil)), InPrivate: tpm2.TPM2BPrivate{Buffer: s.pin.private},
			InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](s.pin.public),
		}.Execute(c)
		must(t, err)
		defer c.flush(object.ObjectHandle)
		handle := tpm2.AuthHandle{Handle: object.ObjectHandle, Name: object.Name, Auth: tpm2.PasswordAuth(nil)}
		_, err = tpm2.ObjectChangeAuth{ObjectHandle: handle, ParentHandle: tpm2.NamedHandle{Handle: SRKHandle, Name: parent.name}}.Execute(c)
		want(t, err, tpm2.TPMRCAuthType)
		_, err = tpm2.Unseal{ItemHandle: handle}.Execute(c)
		return err
	})
	want(t, err, tpm2.TPMRCAuthUnavailable)
}

func TestApprovalsOfOthers(t *testing.T) {
	s := newSealing(t)
	now := s.pcrs()
	if _, err := s.pin.Approve(newApprover(t), now); err == nil {
		t.Error("somebody else approved")
	} else {
		want(t, err, ErrApprover)
	}
	// An approval of the same PIN for the same token in the same TPM, sealed another time, and one for another token.
	for _, sibling := range []*SealedPIN{s.seal("issuing"), s.seal("audit")} {
		replayed, err := sibling.Approve(s.key, now)
		must(t, err)
		_, err = s.pin.Accept(replayed)
		want(t, err, ErrApprovalOther)
		replayed.reference = s.pin.reference()
		_, err = s.pin.Accept(replayed)
		want(t, err, ErrApprover)
	}
	for name, bad := range map[string]map[int][]byte{
		"none": {}, "register 24": {24: now[0]}, "register -1": {-1: now[0]}, "short": {0: now[0][:31]},
		"debug": {0: now[0], 16: now[1]}, "application": {23: now[0]},
	} {
		if _, err := s.pin.Approve(s.key, bad); err == nil {
			t.Errorf("%s was approved", name)
		}
	}
	next := now
	for range maxApprovals {
		s.approve(next)
		s.approve(next) // again is nothing
		next = extended(next, 1)
	}
	last, err := s.pin.Approve(s.key, next)
	must(t, err)
	if _, err := s.pin.Accept(last); err == nil || s.pin.Approvals() != maxApprovals {
		t.Errorf("%d approvals, %v", s.pin.Approvals(), err)
	}
	s.releases()
}

func TestAnotherTPM(t *testing.T) {
	s := newSealing(t)
	s.approve(s.pcrs())
	other := &sealing{T: t, rig: swtpm.New(t), key: s.key, pin: s.pin}
	other.d = open(t, other.rig)
	other.refuses(ErrSealedElsewhere)
	other.seal("issuing") // it has a storage root key now
	other.refuses(ErrSealedElsewhere)

	out, err := tool(t, t.TempDir(), "tpm2_clear", "-T", s.rig.TCTI())
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s.refuses(ErrSealedCleared)
	again := s.seal("issuing")
	s.refuses(ErrSealedCleared)
	s.pin = again
	s.approve(s.pcrs())
	s.releases()
}

// An interposer that answers for the TPM with a key of its own learns nothing: sessions are salted to the pinned key.
func TestSubstitutedParent(t *testing.T) {
	s := newSealing(t)
	s.approve(s.pcrs())
	mallory := open(t, swtpm.New(t))
	var substitute []byte
	must(t, mallory.do(t.Context(), "make key", func(c *conn) error {
		if _, err := mallory.ensureStorageKey(c); err != nil {
			return err
		}
		var err error
		substitute, err = readPublic(c, SRKHandle)
		return err
	}))
	own := s.storagePublic()
	s.rig.Intercept(func(_, response []byte) []byte { return bytes.Replace(response, own, substitute, 1) })
	s.refuses(ErrSealedCleared)
	s.rig.Intercept(nil)
	s.releases()
}

func (s *sealing) storagePublic() []byte {
	s.Helper()
	var public []byte
	must(s, s.d.do(s.Context(), "read", func(c *conn) (err error) {
		public, err = readPublic(c, SRKHandle)
		return err
	}))
	return public
}

func TestBusDoesNotSeeThePIN(t *testing.T) {
	s := newSealing(t)
	s.approve(s.pcrs())
	var mu sync.Mutex
	var bus []byte
	s.rig.Intercept(func(command, response []byte) []byte {
		mu.Lock()
		defer mu.Unlock()
		bus = append(append(bus, command...), response...)
		return response
	})
	s.seal("issuing")
	s.releases()
	s.rig.Intercept(nil)
	mu.Lock()
	defer mu.Unlock()
	if len(bus) < 1000 || !bytes.Contains(bus, s.pin.private) {
		t.Fatalf("the bus was not listened to: %d bytes", len(bus))
	}
	if bytes.Contains(bus, []byte(testPIN)) {
		t.Error("the PIN crossed the bus")
	}
}

// A changed answer is not a PIN, and a lost one leaves nothing behind.
func TestUnsealOverBadBus(t *testing.T) {
	s := newSealing(t)
	s.approve(s.pcrs())
	unseal, _ := hex.DecodeString("0000015e") // TPM_CC_Unseal
	s.rig.Intercept(func(command, response []byte) []byte {
		changed := bytes.Clone(response)
		if bytes.Equal(command[6:10], unseal) {
			changed[20] ^= 1 // inside the encrypted PIN
		}
		return changed
	})
	if pin, err := s.d.UnsealPIN(t.Context(), s.pin); err == nil {
		t.Errorf("a changed PIN of %d bytes was taken", len(pin))
	}
	s.rig.Intercept(nil)
	s.nothingLeft()
	for n := range 12 {
		lose := n
		var mu sync.Mutex
		s.rig.Intercept(func(_, response []byte) []byte {
			mu.Lock()
			defer mu.Unlock()
			lose--
			if lose == -1 {
				return nil
			}
			return response
		})
		if _, err := s.d.UnsealPIN(t.Context(), s.pin); err == nil && n < 9 {
			t.Errorf("nothing was lost at %d", n)
		}
		s.rig.Intercept(nil)
		s.releases()
		s.nothingLeft()
	}
}

func TestSealRefuses(t *testing.T) {
	s := newSealing(t)
	for name, c := range map[string]struct {
		token string
		pin   []byte
	}{
		"no PIN": {"issuing", nil}, "long PIN": {"issuing", make([]byte, 129)},
		"no token": {"", []byte(testPIN)}, "long token": {strings.Repeat("x", 33), []byte(testPIN)}, "lines": {"a\nb", []byte(testPIN)},
	} {
		_, err := s.d.SealPIN(t.Context(), c.token, c.pin, &s.key.PublicKey)
		if err == nil || strings.Contains(err.Error(), testPIN) {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := bytes.Repeat([]byte("x"), maxSealedPIN)
	sealed, err := s.d.SealPIN(t.Context(), "issuing", long, &s.key.PublicKey)
	must(t, err)
	a, err := sealed.Approve(s.key, s.pcrs())
	must(t, err)
	sealed, err = sealed.Accept(a)
	must(t, err)
	got, err := s.d.UnsealPIN(t.Context(), sealed)
	if err != nil || !bytes.Equal(got, long) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
