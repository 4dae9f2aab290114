package bundle_test

import (
	"crypto/ecdsa"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/tpm/quote"
)

// hold states that a key is in the TPM below srk.
func (s *softTPM) hold(t testing.TB, srk []byte, label string, key *ecdsa.PublicKey) quote.HeldStatement {
	t.Helper()
	// fixedTPM fixedParent sensitiveDataOrigin userWithAuth noDA sign
	public := eccPublic(key, 0x00040472, nil, []byte{0, 0x10, 0, 0x18, 0, 0x0b})
	parent := tpmName(append(binary.BigEndian.AppendUint32(nil, 0x40000001), tpmName(srk)...))
	body := append2B(append2B(nil, tpmName(public)), tpmName(append(parent, tpmName(public)...)))
	attest, sig := s.attest(t, 0x8017, quote.HeldQualifying(origin, label), body)
	return quote.HeldStatement{Public: public, Attest: attest, Signature: sig}
}

func TestTPMKeys(t *testing.T) {
	device := newSoftTPM(t)
	w := newWorld(t, device)
	w.play(0x100)
	w.seal()
	srk := ekPublic(&newKey(t).PublicKey) // of the same kind
	for what, tc := range map[string]struct {
		change func(*quote.HeldKeys)
		says   string // "": valid
	}{
		"good":        {func(*quote.HeldKeys) {}, ""},
		"another key": {func(k *quote.HeldKeys) { k.Keys["audit"] = device.hold(t, srk, "audit", &newKey(t).PublicKey) }, "the log goes by"},
		"of no CA": {func(k *quote.HeldKeys) {
			k.Keys["agent-ca-9"] = device.hold(t, srk, "agent-ca-9", &newKey(t).PublicKey)
		}, "the log goes by"},
		"labels swapped":  {func(k *quote.HeldKeys) { k.Keys["audit"], k.Keys["root"] = k.Keys["root"], k.Keys["audit"] }, "qualifying data differs"},
		"another's":       {func(k *quote.HeldKeys) { k.Keys["audit"] = newSoftTPM(t).hold(t, srk, "audit", &w.audit.PublicKey) }, "signature does not verify"},
		"another parent":  {func(k *quote.HeldKeys) { k.SRKPublic = ekPublic(&newKey(t).PublicKey) }, "not below this storage root key"},
		"nothing claimed": {func(k *quote.HeldKeys) { k.Keys = map[string]quote.HeldStatement{} }, "no key"},
	} {
		held := quote.HeldKeys{SRKPublic: srk, Keys: map[string]quote.HeldStatement{
			"root": device.hold(t, srk, "root", &w.root.key.PublicKey), "audit": device.hold(t, srk, "audit", &w.audit.PublicKey),
			"agent-ca-1": device.hold(t, srk, "agent-ca-1", &w.agentCA.key.PublicKey),
		}}
		tc.change(&held)
		o := w.options()
		o.Certificates.TPMKeys = jsonOf(t, held)
		m := memory{}
		must(t, bundle.Write(t.Context(), m, w, o))
		r := verify(t, m, bundle.Options{})
		var said []string
		for _, c := range r.Failed() {
			if c.Name != bundle.CheckAK {
				t.Errorf("%s: %v", what, c)
			}
			said = append(said, c.Detail)
		}
		if all := strings.Join(said, "; "); (tc.says == "") != (len(said) == 0) || !strings.Contains(all, tc.says) {
			t.Errorf("%s: %q does not say %q", what, all, tc.says)
		}
	}
}
