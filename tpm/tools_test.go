package tpm

import (
	"bytes"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/internal/testrig/swtpm"
	"github.com/signet-pki/signet/tpm/quote"
)

var update = flag.Bool("update", false, "write the test vectors of tpm/quote anew")

// write puts a statement into files as an evidence bundle names them.
func write(t *testing.T, dir string, files map[string][]byte) {
	t.Helper()
	for name, data := range files {
		must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
	}
}

func spki(t *testing.T, ak *quote.AK) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(ak.Public())
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func tool(t *testing.T, dir, name string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%v (this test needs: apt-get install tpm2-tools openssl)", err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestStockToolsVerify is the promise of README.verify: no line of ours is needed to check a statement.
func TestStockToolsVerify(t *testing.T) {
	d := ready(t, swtpm.New(t))
	ctx := t.Context()
	q := qualifying("the seal")
	s, err := d.Quote(ctx, q)
	must(t, err)
	nv, err := d.CertifyCounter(ctx, q)
	must(t, err)
	ak, err := d.LoadAK(ctx)
	must(t, err)
	dir := t.TempDir()
	wrong := bytes.Clone(s.PCRs)
	wrong[0] ^= 1
	write(t, dir, map[string][]byte{
		"ak.pem": spki(t, ak), "1.quote": s.Attest, "1.quote.sig": s.Signature, "1.pcrs": s.PCRs, "wrong.pcrs": wrong,
		"1.nv": nv.Attest, "1.nv.sig": nv.Signature,
	})
	checkquote := func(pcrs, qualification string) (string, error) {
		// As in docs/formats/tpm-statements.md.
		script := `{ printf '\1\0\0\0\13\0\3\377\0\0\0\0'; head -c 120 /dev/zero; printf '\1\0\0\0\10\0\0\0'
for i in 0 1 2 3 4 5 6 7; do
  printf '\40\0'; dd if=` + pcrs + ` bs=32 skip=$i count=1 status=none; head -c 32 /dev/zero
done; } > 1.pcrs.tools && tpm2_checkquote -u ak.pem -m 1.quote -s 1.quote.sig -f 1.pcrs.tools -g sha256 -q ` + qualification
		return tool(t, dir, "sh", "-c", script)
	}
	if out, err := checkquote("1.pcrs", hex.EncodeToString(q[:])); err != nil {
		t.Errorf("tpm2_checkquote: %v\n%s", err, out)
	}
	if out, err := checkquote("wrong.pcrs", hex.EncodeToString(q[:])); err == nil || !strings.Contains(out, "PCR values failed to match") {
		t.Errorf("tpm2_checkquote accepts wrong PCR values\n%s", out)
	}
	if out, err := checkquote("1.pcrs", strings.Repeat("00", 32)); err == nil {
		t.Errorf("tpm2_checkquote accepts other qualifying data\n%s", out)
	}
	out, err := tool(t, dir, "sh", "-c", `test "$(sha256sum < 1.pcrs | cut -c1-64)" = "$(xxd -p -c 64 -s 113 -l 32 1.quote)"`)
	if err != nil {
		t.Errorf("PCR digest: %v\n%s", err, out)
	}
	for _, name := range []string{"1.quote", "1.nv"} {
		if out, err := tool(t, dir, "openssl", "dgst", "-sha256", "-verify", "ak.pem", "-signature", name+".sig", name); err != nil {
			t.Errorf("openssl dgst %s: %v\n%s", name, err, out)
		}
	}
	if out, err := tool(t, dir, "openssl", "dgst", "-sha256", "-verify", "ak.pem", "-signature", "1.nv.sig", "1.quote"); err == nil {
		t.Errorf("openssl accepts another statement's signature\n%s", out)
	}
}

// TestCheckquoteTakesRawValues: tpm2_checkquote 5.4 reads at most seven raw values (its issue 3542).
func TestCheckquoteTakesRawValues(t *testing.T) {
	d := ready(t, swtpm.New(t), func(c *Config) { c.PCRs = mustSelect(t, "sha256:0,2,4,7,11") })
	q := qualifying("the seal")
	s, err := d.Quote(t.Context(), q)
	must(t, err)
	ak, err := d.LoadAK(t.Context())
	must(t, err)
	dir := t.TempDir()
	write(t, dir, map[string][]byte{"ak.pem": spki(t, ak), "1.quote": s.Attest, "1.quote.sig": s.Signature, "1.pcrs": s.PCRs})
	out, err := tool(t, dir, "tpm2_checkquote", "-u", "ak.pem", "-m", "1.quote", "-s", "1.quote.sig", "-f", "1.pcrs",
		"-l", d.config.PCRs.String(), "-g", "sha256", "-q", hex.EncodeToString(q[:]))
	if err != nil {
		t.Errorf("tpm2_checkquote: %v\n%s", err, out)
	}
}

// TestDocumentedOffsets holds docs/formats/tpm-statements.md against a real statement, with the very tool that it names.
func TestDocumentedOffsets(t *testing.T) {
	d := ready(t, swtpm.New(t))
	ctx := t.Context()
	q := qualifying("the seal")
	nv, err := d.CertifyCounter(ctx, q)
	must(t, err)
	s, err := d.Quote(ctx, q)
	must(t, err)
	counter, err := d.LoadCounter(ctx)
	must(t, err)
	ak, err := d.LoadAK(ctx)
	must(t, err)
	verified, err := ak.VerifyCounter(nv, q[:], counter.Name())
	must(t, err)
	dir := t.TempDir()
	write(t, dir, map[string][]byte{"1.nv": nv.Attest, "1.quote": s.Attest})
	u32 := func(v uint32) string { return quote.Handle(v).String()[2:] }
	for _, c := range []struct {
		file         string
		offset, size string
		want         string
	}{
		{"1.nv", "0", "4", "ff544347"},
		{"1.nv", "4", "2", "8014"},
		{"1.nv", "6", "2", "0022"},
		{"1.nv", "8", "34", hex.EncodeToString(ak.QualifiedName())},
		{"1.nv", "42", "2", "0020"},
		{"1.nv", "44", "32", hex.EncodeToString(q[:])},
		{"1.nv", "84", "4", u32(verified.Clock.Reset)},
		{"1.nv", "88", "4", u32(verified.Clock.Restart)},
		{"1.nv", "101", "2", "0022"},
		{"1.nv", "103", "34", hex.EncodeToString(counter.Name())},
		{"1.nv", "137", "2", "0000"},
		{"1.nv", "139", "2", "0008"},
		{"1.nv", "141", "8", "00000000" + u32(uint32(verified.Value))},
		{"1.quote", "4", "2", "8018"},
		{"1.quote", "44", "32", hex.EncodeToString(q[:])},
		{"1.quote", "101", "4", "00000001"},
		{"1.quote", "105", "6", "000b03ff0000"},
		{"1.quote", "111", "2", "0020"},
	} {
		out, err := tool(t, dir, "xxd", "-p", "-c", "64", "-s", c.offset, "-l", c.size, c.file)
		if err != nil || strings.TrimSpace(out) != c.want {
			t.Errorf("%s at %s: %s (%v), want %s", c.file, c.offset, out, err, c.want)
		}
	}
	if len(nv.Attest) != 149 || len(s.Attest) != 145 {
		t.Errorf("lengths %d and %d, documented 149 and 145", len(nv.Attest), len(s.Attest))
	}
}

func TestEKCertificates(t *testing.T) {
	rig := swtpm.New(t)
	d := open(t, rig)
	roots, intermediates := rig.ManufacturerCA()
	trust := quote.EKRoots{Roots: roots, Intermediates: intermediates, At: time.Now()}
	ek, err := d.EK(t.Context())
	must(t, err)
	if ek.Certificate == nil {
		t.Fatal("no certificate")
	}
	maker, err := quote.VerifyEK(ek.Certificate, ek.Public, trust)
	must(t, err)
	if maker != (quote.Maker{Manufacturer: "id:00001014", Model: "swtpm", Version: "id:20191023"}) {
		t.Errorf("%+v", maker)
	}
	must(t, d.do(t.Context(), "each kind", func(c *conn) error {
		for _, kind := range ekKinds() {
			cert, err := readCertificate(c, kind.certificate)
			if err != nil {
				return err
			}
			made, err := createEK(c, kind)
			if err != nil {
				return err
			}
			// A certified kind must come out of its template as it stands in the TPM.
			if cert != nil && !isFor(cert, made.Key) {
				t.Errorf("template of %#x does not make the certified key", kind.certificate)
			}
			if cert != nil {
				_, err = quote.VerifyEK(cert, made.Public, trust)
				must(t, err)
			}
			if transcript, err := d.activateFor(c, made); err != nil || len(transcript.Secret) != 32 {
				t.Errorf("activation with the key of %#x: %v", kind.certificate, err)
			}
			made.release(c)
		}
		return nil
	}))
}

// activateFor is activate with an AK made for it.
func (d *Device) activateFor(c *conn, ek *loadedEK) (quote.Activate, error) {
	if d.ak == nil {
		d.turn <- struct{}{} // lend our turn
		err := d.CreateAK(c.ctx)
		<-d.turn
		if err != nil {
			return quote.Activate{}, err
		}
		if _, err := d.loadAK(c); err != nil {
			return quote.Activate{}, err
		}
	}
	return d.activate(c, ek)
}

func TestActivation(t *testing.T) {
	rig := swtpm.New(t)
	d := ready(t, rig)
	binding, err := d.Activate(t.Context())
	must(t, err)
	text, err := json.MarshalIndent(binding, "", "  ")
	must(t, err)
	parsed, err := quote.ParseBinding(text)
	must(t, err)
	bound, err := parsed.Verify()
	must(t, err)
	ak, err := d.LoadAK(t.Context())
	must(t, err)
	if !bound.AK.Public().Equal(ak.Public()) || bound.EKCertificate == nil {
		t.Error("the binding is of something else")
	}
	roots, intermediates := rig.ManufacturerCA()
	_, err = quote.VerifyEK(bound.EKCertificate, parsed.EKPublic, quote.EKRoots{Roots: roots, Intermediates: intermediates, At: time.Now()})
	must(t, err)
	again, err := d.Activate(t.Context())
	must(t, err)
	if bytes.Equal(again.Activation.Secret, binding.Activation.Secret) {
		t.Error("the secret is not random")
	}
	if *update {
		writeVectors(t, rig, d, text)
	}
}

// TestActivationRefusesAnotherAK shows that the TPM answers only for the very AK that the challenge names.
func TestActivationRefusesAnotherAK(t *testing.T) {
	rig, other := swtpm.New(t), swtpm.New(t)
	d := ready(t, rig)
	must(t, d.do(t.Context(), "load", d.ready))
	foreign, err := ready(t, other).LoadAK(t.Context())
	must(t, err)
	d.ak = foreign // the challenge is for the other TPM's key, the handle is ours
	if _, err := d.Activate(t.Context()); err == nil {
		t.Fatal("the TPM answered for a key that it has not")
	}
}

func writeVectors(t *testing.T, rig *swtpm.TPM, d *Device, binding []byte) {
	t.Helper()
	q := qualifying("signet test vector")
	s, err := d.Quote(t.Context(), q)
	must(t, err)
	nv, err := d.CertifyCounter(t.Context(), q)
	must(t, err)
	ak, err := d.LoadAK(t.Context())
	must(t, err)
	root, intermediate := rig.ManufacturerPEM()
	dir := filepath.Join("quote", "testdata")
	must(t, os.MkdirAll(dir, 0o755))
	write(t, dir, map[string][]byte{
		"1.quote": s.Attest, "1.quote.sig": s.Signature, "1.pcrs": s.PCRs, "1.nv": nv.Attest, "1.nv.sig": nv.Signature,
		"ak.pem": spki(t, ak), "ak-binding.json": append(binding, '\n'), "ek-root.pem": root, "ek-intermediate.pem": intermediate,
	})
}
