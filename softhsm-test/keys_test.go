package softhsmtest

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/signet-pki/signet/internal/devkit"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

// keysStay asks OpenSC what the tokens hold, and looks for keys outside them.
func keysStay(t *testing.T, dir string) {
	devices := filepath.Join(dir, "devices")
	module := softhsm.New(t).Module()
	t.Setenv("SOFTHSM2_CONF", filepath.Join(devices, "softhsm2.conf"))
	for label, want := range map[string][]string{
		devkit.TokenRoot:    {"root"},
		devkit.TokenIssuing: {"agent-ca-1", "agent-ca-2", "agent-ca-3", "agent-ca-4", "service-ca-1", "service-ca-2", "service-ca-3", "service-ca-4", "jwt"},
		devkit.TokenAudit:   {"audit"},
	} {
		text, err := os.ReadFile(devkit.PINFile(devices, label))
		must(t, err)
		pin := strings.TrimSpace(string(text))
		env := []string{"SIGNET_TEST_PIN=" + pin}
		tool := func(args ...string) (string, int) {
			return command(t, t.TempDir(), env, "pkcs11-tool", append([]string{"--module", module, "--token-label", label, "--login", "--pin", "env:SIGNET_TEST_PIN"}, args...)...)
		}
		out, code := tool("--list-objects", "--type", "privkey")
		if code != 0 {
			t.Fatalf("%s: exit %d\n%s", label, code, out)
		}
		keys := privateKeys(out)
		for _, key := range want {
			access, ok := keys[key]
			if !ok || access != "sensitive, always sensitive, never extractable, local" {
				t.Errorf("%s in %s: %q", key, label, access)
			}
			// pkcs11-tool does not ask for the value of an EC key, so we do.
			if v, err := softhsm.ReadValue(module, label, pin, key); len(v) > 0 || err == nil || !strings.Contains(err.Error(), "CKR_ATTRIBUTE_SENSITIVE") {
				t.Errorf("reading %s: %d bytes, %v", key, len(v), err)
			}
		}
		for key := range keys {
			if !slices.Contains(want, key) {
				t.Errorf("%s holds %s too", label, key)
			}
		}
	}
	noKeyFiles(t, dir)
}

var privateKey = regexp.MustCompile(`Private Key Object; EC[^\n]*\n(?:  [^\n]*\n)*`)

// privateKeys are the access lines of pkcs11-tool's list, by label.
func privateKeys(list string) map[string]string {
	out := map[string]string{}
	field := func(text, name string) string {
		_, rest, _ := strings.Cut(text, "  "+name+":")
		line, _, _ := strings.Cut(rest, "\n")
		return strings.TrimSpace(line)
	}
	for _, object := range privateKey.FindAllString(list, -1) {
		out[field(object, "label")] = field(object, "Access")
	}
	return out
}

// noKeyFiles looks for private keys, as PEM and as DER, outside the devices' own stores. Those that are there are no keys
// of the appliance: the first operator's, the policy author's, and those of the software TPM's pretended manufacturer.
func noKeyFiles(t *testing.T, dir string) {
	allowed := []string{"operator.key", "policy.key"}
	for _, tpm := range []string{"tpm", "token-tpm"} {
		allowed = append(allowed, "devices/"+tpm+"/ca/signkey.pem", "devices/"+tpm+"/ca/swtpm-localca-rootca-privkey.pem")
	}
	stores := []string{"devices/tokens", "devices/tpm/state", "devices/token-tpm/state", "devices/store"}
	seen := 0
	must(t, fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || slices.Contains(stores, path) {
			if d != nil && d.IsDir() && err == nil {
				return fs.SkipDir
			}
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		seen++
		b, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		if found := holdsKey(b); found != slices.Contains(allowed, path) {
			t.Errorf("%s: private key %v", path, found)
		}
		return nil
	}))
	if seen < 50 {
		t.Errorf("only %d files looked at", seen)
	}
}

// holdsKey looks for PEM private keys, and at every place for a DER one: ECPrivateKey (RFC 5915) and PKCS #8, which holds
// one, begin with a sequence and a version.
func holdsKey(b []byte) bool {
	if bytes.Contains(b, []byte("PRIVATE KEY-----")) {
		return true
	}
	for _, version := range []string{"\x02\x01\x00", "\x02\x01\x01"} {
		for at := 0; ; at++ {
			next := bytes.Index(b[at:], []byte(version))
			if next < 0 {
				break
			}
			at += next
			for header := 2; header <= 4 && header <= at; header++ {
				if b[at-header] == 0x30 && isKey(b[at-header:]) {
					return true
				}
			}
		}
	}
	return false
}

func isKey(b []byte) bool {
	var raw asn1.RawValue
	if _, err := asn1.Unmarshal(b, &raw); err != nil {
		return false
	}
	if _, err := x509.ParsePKCS8PrivateKey(raw.FullBytes); err == nil {
		return true
	}
	if _, err := x509.ParseECPrivateKey(raw.FullBytes); err == nil {
		return true
	}
	_, err := x509.ParsePKCS1PrivateKey(raw.FullBytes)
	return err == nil
}

// A scan that finds nothing must be able to find something.
func TestHoldsKey(t *testing.T) {
	key, csr := newKey(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	block, _ := pem.Decode([]byte(csr))
	noise := bytes.Repeat([]byte{0x30, 0x02, 0x01, 0x00}, 50)
	for name, row := range map[string]struct {
		data []byte
		want bool
	}{
		"PEM":          {[]byte("x" + pemOf("EC PRIVATE KEY", pkcs8)), true},
		"DER in noise": {slices.Concat(noise, pkcs8, noise), true},
		"CSR":          {block.Bytes, false},
		"noise":        {noise, false},
	} {
		if holdsKey(row.data) != row.want {
			t.Errorf("%s: %v", name, !row.want)
		}
	}
}

// doctorIsPleased runs the doctor with the devices there and the daemon stopped: a software TPM has one user at a time. keys are the
// checks of the keys, which depend on where these are.
func doctorIsPleased(t *testing.T, dir string, keys ...string) {
	env := []string{"SOFTHSM2_CONF=", "TPM2_PKCS11_STORE=", "TPM2_PKCS11_TCTI="} // it finds the directory's own
	for _, variable := range env {
		t.Setenv(strings.TrimSuffix(variable, "="), "") // back to what it was when the test ends
	}
	p, err := devkit.Start(t.Context(), filepath.Join(dir, "devices"))
	must(t, err)
	out, code := command(t, "", env, program("signetd"), "doctor", "--config", filepath.Join(dir, "signet.yaml"))
	must(t, p.Stop())
	if code != 0 || strings.Contains(out, "FAIL") {
		t.Fatalf("exit %d\n%s", code, out)
	}
	for _, what := range append(keys, "tpm_ek", "tpm_ak", "tpm_counter", "certificates", "data_dir", "secret_files", "disk_space", "clock_log") {
		if !strings.Contains(out, "ok    "+what) {
			t.Errorf("no ok line for %s in:\n%s", what, out)
		}
	}
	out, code = command(t, "", env, program("signetd"), "doctor", "--config", filepath.Join(dir, "signet.yaml"))
	if code != 1 || !strings.Contains(out, "FAIL  tpm") {
		t.Errorf("without a TPM: exit %d\n%s", code, out)
	}
}

// inTokens are the doctor's checks of keys in tokens.
var inTokens = []string{"hsm_pin", "key_kept", "key_certificate"}
