package bundle_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-pki/signet/audit/bundle"
)

// onDisk writes a bundle to a directory.
func onDisk(t *testing.T, w *world, o bundle.WriteOptions) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bundle")
	sink, err := bundle.NewDirectory(dir)
	must(t, err)
	must(t, bundle.Write(t.Context(), sink, w, o))
	must(t, sink.Close())
	return dir
}

// runReadme does what README.verify tells an auditor to do.
func runReadme(t *testing.T, dir string) (string, error) {
	t.Helper()
	for _, tool := range []string{"tpm2_checkquote", "openssl", "xxd", "sha256sum"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: apt-get install tpm2-tools openssl xxd coreutils", tool)
		}
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `sh -c "$(sed -n 's/^    //p' README.verify)"`)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestReadmeVerifies(t *testing.T) {
	w, _ := goodWorld(t, newSoftTPM(t))
	dir := onDisk(t, w, w.options())
	out, err := runReadme(t, dir)
	t.Log(out)
	if err != nil || !strings.HasSuffix(out, "verified\n") {
		t.Fatalf("README.verify failed on a good bundle: %v", err)
	}
	report, err := bundle.Verify(t.Context(), os.DirFS(dir), bundle.Options{})
	must(t, err)
	if !report.Valid {
		t.Errorf("after README.verify ran: %v", report.Failed())
	}
}

// TestReadmeStops tampers with a bundle, recomputes the manifest, and expects the stock tools to stop at the right place.
func TestReadmeStops(t *testing.T) {
	w := newWorld(t, newSoftTPM(t))
	w.seal()
	w.recordSeal()
	p := w.play(0x100)
	w.seal()
	good := written(t, w)
	cert := issued(int64(p.first))
	for name, row := range map[string]struct {
		tamper func(m memory)
		want   string
	}{
		"checkpoint":        {func(m memory) { flip(m, "log/checkpoint", -5) }, "checkpoint signature"},
		"seal's time":       {func(m memory) { flip(m, "seals/2.txt", -3) }, "seal 2: quote"},
		"quote":             {func(m memory) { flip(m, "seals/2.quote", -1) }, "seal 2: quote"},
		"PCR values":        {func(m memory) { flip(m, "seals/2.pcrs", 9) }, "seal 2: quote"},
		"counter":           {func(m memory) { flip(m, "seals/2.nv", -1) }, "seal 2: counter statement"},
		"quote for counter": {func(m memory) { m["seals/2.nv"], m["seals/2.nv.sig"] = m["seals/2.quote"], m["seals/2.quote.sig"] }, "seal 2: magic and type"},
		"counter for quote": {func(m memory) { m["seals/2.quote"], m["seals/2.quote.sig"] = m["seals/2.nv"], m["seals/2.nv.sig"] }, "seal 2:"},
		"seal removed":      {func(m memory) { removeSeal(m, "1") }, "seal number"},
		"entry":             {func(m memory) { flip(m, "entries/0.jsonl", -4) }, "Merkle root"},
		"leaf 0":            {func(m memory) { replaceOnce(t, m, "entries/0.jsonl", `"ak_name":"000b`, `"ak_name":"000a`) }, "AK name"},
		"AK":                {func(m memory) { m["certs/ak.pem"] = pemOf("PUBLIC KEY", spki(t, &newKey(t).PublicKey)) }, "AK public key"},
		"certificate":       {func(m memory) { m[cert] = m[issued(int64(p.second))] }, "is not the certificate of entry"},
		"AK certificate":    {func(m memory) { m["certs/ak-cert.pem"] = pemOf("CERTIFICATE", w.authority(nil, "x").cert.Raw) }, "certs/ak-cert.pem"},
	} {
		t.Run(name, func(t *testing.T) {
			m := good.clone()
			row.tamper(m)
			m.remanifest()
			out, err := runReadme(t, m.onDisk(t))
			if err == nil || !strings.Contains(out, "FAILED: ") || !strings.Contains(out, row.want) {
				t.Errorf("want it to stop at %q: %v\n%s", row.want, err, out)
			}
		})
	}
	m := good.clone()
	flip(m, "policy.txt", 0)
	if out, err := runReadme(t, m.onDisk(t)); err == nil || !strings.Contains(out, "FAILED: manifest") {
		t.Errorf("manifest: %v\n%s", err, out)
	}
	m = good.clone()
	m["extra"] = []byte("x")
	if out, err := runReadme(t, m.onDisk(t)); err == nil || !strings.Contains(out, "FAILED: files differ") {
		t.Errorf("extra file: %v\n%s", err, out)
	}
}

func (m memory) onDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for path, data := range m {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, path), data, 0o644))
	}
	return dir
}
