package hsm_test

import (
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"testing"

	"github.com/ThalesGroup/crypto11"
	"github.com/miekg/pkcs11"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

// These tests hold what docs/decisions/0003 rests on. When one fails after an upgrade, the decision is due for a look.

func configure(t *testing.T, h *softhsm.HSM, label, with string) (*crypto11.Context, error) {
	t.Helper()
	return crypto11.Configure(&crypto11.Config{Path: h.Module(), TokenLabel: label, Pin: with, MaxSessions: 2})
}

func TestCrypto11TakesAnyPINWhileLoggedIn(t *testing.T) {
	h := softhsm.New(t)
	h.InitToken("issuing", pin)
	first, err := configure(t, h, "issuing", pin)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	second, err := configure(t, h, "issuing", "wrong")
	if err != nil {
		t.Fatalf("crypto11 now refuses a wrong PIN while logged in (%v): hsm could leave login to it", err)
	}
	defer second.Close()
}

func TestCrypto11CannotHealOneContextOfSeveral(t *testing.T) {
	h := softhsm.New(t)
	contexts, keys := map[string]*crypto11.Context{}, map[string]crypto.Signer{}
	for _, label := range labels {
		h.InitToken(label, pin)
	}
	for _, label := range labels {
		c, err := configure(t, h, label, pin)
		if err != nil {
			t.Fatal(err)
		}
		contexts[label] = c
		if keys[label], err = c.GenerateECDSAKeyPairWithLabel([]byte(label), []byte(label), elliptic.P256()); err != nil {
			t.Fatal(err)
		}
	}
	h.Remove()
	h.Restore()
	d := sha256.Sum256([]byte("x"))
	if _, err := keys["root"].Sign(nil, d[:], crypto.SHA256); err != nil {
		t.Fatalf("a loss that nobody saw: %v", err)
	}
	h.Remove()
	for _, label := range labels {
		if _, err := keys[label].Sign(nil, d[:], crypto.SHA256); err == nil {
			t.Fatal("signed while the token was gone")
		}
	}
	h.Restore()
	if _, err := keys["root"].Sign(nil, d[:], crypto.SHA256); err == nil {
		t.Fatal("crypto11 healed by itself: hsm could be simpler")
	}
	closeContext(t, contexts["issuing"])
	if alone, err := configure(t, h, "issuing", pin); err == nil {
		closeContext(t, alone)
		t.Fatal("one context of three could be opened anew: hsm need not re-open all tokens of a module")
	}
	closeContext(t, contexts["root"])
	closeContext(t, contexts["audit"])
	c, err := configure(t, h, "issuing", pin)
	if err != nil {
		t.Fatalf("after all contexts were closed: %v", err)
	}
	closeContext(t, c)
}

func closeContext(t *testing.T, c *crypto11.Context) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// TestSoftHSMHealthAnswers: why Check does not ask for random bytes or session information.
func TestSoftHSMHealthAnswers(t *testing.T) {
	h, token := newToken(t)
	generate(t, token, "key", 1)
	raw := pkcs11.New(h.Module())
	defer raw.Destroy()
	slots, err := raw.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	s, err := raw.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	h.Remove()
	defer h.Restore()
	if _, err := raw.GenerateRandom(s, 8); err != nil {
		t.Errorf("C_GenerateRandom: %v", err)
	}
	if _, err := raw.GetSessionInfo(s); err != nil {
		t.Errorf("C_GetSessionInfo: %v", err)
	}
	if _, err := raw.GetTokenInfo(slots[0]); err == nil {
		t.Error("C_GetTokenInfo succeeds for a token that is gone")
	}
}
