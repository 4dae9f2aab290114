package bundle_test

import (
	"crypto/ecdsa"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/internal/testrig/swtpm"
	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// hardTPM is a whole TPM.
type hardTPM struct {
	device *tpm.Device
	ak     *quote.AK
	nv     *quote.NVCounter
}

func newHardTPM(t *testing.T, rig *swtpm.TPM) *hardTPM {
	t.Helper()
	device, err := tpm.Open(t.Context(), tpm.Config{Path: rig.Path()}, slog.New(slog.DiscardHandler))
	must(t, err)
	t.Cleanup(func() { device.Close() })
	must(t, device.CreateAK(t.Context()))
	must(t, device.CreateCounter(t.Context()))
	h := &hardTPM{device: device}
	h.ak, err = device.LoadAK(t.Context())
	must(t, err)
	h.nv, err = device.LoadCounter(t.Context())
	must(t, err)
	return h
}

func (h *hardTPM) public() (ak, nv []byte, key *ecdsa.PublicKey) {
	return h.ak.Marshal(), h.nv.Marshal(), h.ak.Public()
}

func (h *hardTPM) quote(t testing.TB, digest [32]byte) (q, sig, values []byte) {
	s, err := h.device.Quote(t.Context(), digest)
	must(t, err)
	return s.Attest, s.Signature, s.PCRs
}

func (h *hardTPM) certify(t testing.TB, digest [32]byte) (nv, sig []byte) {
	s, err := h.device.CertifyCounter(t.Context(), digest)
	must(t, err)
	return s.Attest, s.Signature
}

func (h *hardTPM) increment(t testing.TB) (counter uint64, reset, restart uint32) {
	counter, err := h.device.Increment(t.Context())
	must(t, err)
	state, err := h.device.State(t.Context())
	must(t, err)
	return counter, state.Reset, state.Restart
}

// TestRealTPM seals with swtpm, pulls its plug in between, and has the bundle checked by the stock tools and by ours.
func TestRealTPM(t *testing.T) {
	rig := swtpm.New(t)
	device := newHardTPM(t, rig)
	w := newWorld(t, device)
	w.seal()
	w.recordSeal()
	w.play(0x100)
	w.seal()
	w.recordSeal()
	rig.Kill()
	rig.Restart()
	w.add(record.TypeDevice, record.Envelope{}, record.DeviceBody{Event: record.EventTPMReset, Seal: 2}, nil)
	w.seal()
	w.recordSeal()
	w.decide(5)
	w.seal()
	binding, err := device.device.Activate(t.Context())
	must(t, err)
	o := w.options()
	o.Certificates.Binding = jsonOf(t, binding)
	dir := onDisk(t, w, o)
	trust, err := w.trustFile().Trust()
	must(t, err)
	r, err := bundle.Verify(t.Context(), os.DirFS(dir), bundle.Options{Trust: trust})
	must(t, err)
	if !r.Valid || len(r.Unproven()) != 1 || r.Unproven()[0].Name != bundle.CheckBoot {
		show(t, r)
		t.Error("not valid, or more in doubt than the power loss")
	}
	out, err := runReadme(t, dir)
	if err != nil || !strings.HasSuffix(out, "verified\n") {
		t.Errorf("README.verify: %v", err)
	}
	t.Log(out)
}
