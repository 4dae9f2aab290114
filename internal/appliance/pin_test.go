package appliance

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/signet-pki/signet/internal/testrig/softhsm"
	"github.com/signet-pki/signet/internal/testrig/swtpm"
	"github.com/signet-pki/signet/tpm"
)

const sealedTestPIN = "user-pin-4711"

// pinCustody is an appliance whose issuing token's PIN is sealed to its TPM.
type pinCustody struct {
	*testing.T
	rig *swtpm.TPM
	hsm *softhsm.HSM
	cfg Config
	dir string // of the approver
}

func newCustody(t *testing.T) *pinCustody {
	t.Helper()
	c := &pinCustody{T: t, rig: swtpm.New(t), hsm: softhsm.New(t), cfg: Config{Dir: t.TempDir(), Development: true}, dir: t.TempDir()}
	c.cfg.TPM.Path = c.rig.Path()
	c.cfg.defaults()
	c.cfg.Tokens.Issuing = Token{Module: c.hsm.Module(), Label: "issuing", PINFile: "sealed:issuing.sealed"}
	c.hsm.InitToken("issuing", sealedTestPIN)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	must(t, os.WriteFile(c.at("key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	must(t, os.WriteFile(c.at("pub"), pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600))
	return c
}

func (c *pinCustody) at(name string) string { return filepath.Join(c.dir, name) }

func (c *pinCustody) sealed() string { return filepath.Join(c.cfg.Dir, "issuing.sealed") }

func (c *pinCustody) seal(pin string) error {
	return SealPIN(c.Context(), c.cfg, "issuing", c.at("pub"), c.sealed(), []byte(pin), slog.New(slog.DiscardHandler))
}

// values are those of now, and of after an update of register 4.
func (c *pinCustody) values() (now, next map[int][]byte) {
	c.Helper()
	var text bytes.Buffer
	must(c, PrintPCRs(c.Context(), c.cfg, &text, slog.New(slog.DiscardHandler)))
	now, err := tpm.ParsePCRs(text.Bytes())
	must(c, err)
	next, err = tpm.ParsePCRs(text.Bytes())
	must(c, err)
	value := sha256.Sum256(append(bytes.Clone(now[4]), bytes.Repeat([]byte{0xcd}, 32)...))
	next[4] = value[:]
	return now, next
}

func (c *pinCustody) approve(pcrs map[int][]byte) {
	c.Helper()
	text, err := tpm.MarshalPCRs(pcrs)
	must(c, err)
	must(c, os.WriteFile(c.at("values"), text, 0o600))
	must(c, os.RemoveAll(c.at("approval")))
	must(c, ApprovePIN(c.sealed(), c.at("values"), c.at("key"), c.at("approval")))
	must(c, AcceptPIN(c.sealed(), c.at("approval"), &bytes.Buffer{}))
}

func (c *pinCustody) tool(name string, args ...string) {
	c.Helper()
	out, err := exec.CommandContext(c.Context(), name, append([]string{"-T", c.rig.TCTI()}, args...)...).CombinedOutput() // #nosec G204 -- the test's own
	if err != nil {
		c.Fatalf("%s (apt-get install tpm2-tools): %v\n%s", name, err, out)
	}
}

func (c *pinCustody) update() { c.tool("tpm2_pcrextend", "4:sha256="+strings.Repeat("cd", 32)) }

// opens is a start: word is how the refusal begins, after the token's name.
func (c *pinCustody) opens(what string, t Token, word string) {
	c.Helper()
	tok, err := c.cfg.openToken(c.Context(), t, nil, slog.New(slog.DiscardHandler))
	if err == nil {
		must(c, tok.Close())
	}
	if word == "" && err != nil || word != "" && (err == nil || !strings.Contains(err.Error(), word)) {
		c.Errorf("%s: %v, want %q", what, err, word)
	}
	if err != nil && strings.Contains(err.Error(), sealedTestPIN) {
		c.Errorf("%s: the PIN is in the error", what)
	}
}

// triesLow is what the token says after a wrong PIN, and until a right one.
func (c *pinCustody) triesLow() bool {
	c.Helper()
	out, err := exec.CommandContext(c.Context(), "pkcs11-tool", "--module", c.hsm.Module(), "-L").CombinedOutput() // #nosec G204 -- the test's own
	if err != nil {
		c.Fatalf("pkcs11-tool (apt-get install opensc): %v\n%s", err, out)
	}
	return strings.Contains(string(out), "user PIN count low")
}

func TestSealedPINAtStart(t *testing.T) {
	c := newCustody(t)
	issuing := c.cfg.Tokens.Issuing
	c.opens("no file", issuing, "no such file or directory")
	must(t, c.seal(sealedTestPIN))
	c.opens("unapproved", issuing, "pin_not_approved")
	now, next := c.values()
	c.approve(now)
	c.opens("approved", issuing, "")

	c.update()
	for range 4 { // more often than a token with three tries would bear
		c.opens("after an update", issuing, "pin_not_approved")
	}
	_, err := c.cfg.openToken(t.Context(), issuing, nil, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "PCR 4 is ") || !strings.Contains(err.Error(), "signetd pin pcrs") || strings.Contains(err.Error(), "PCR 5") {
		t.Errorf("neither what differs nor the fix: %v", err)
	}
	if c.triesLow() {
		t.Fatal("the token was asked")
	}
	c.rig.Restart()
	c.opens("the old values again", issuing, "")
	c.approve(next) // before the update
	c.update()
	c.opens("approved before", issuing, "")

	c.opens("another token", Token{Module: issuing.Module, Label: "audit", PINFile: issuing.PINFile}, "pin_other_token")
	c.rig.Kill()
	c.opens("no TPM", issuing, "TPM is not reachable")
	c.rig.Restart()
	c.update()
	c.refusesFiles(issuing)
	if c.triesLow() {
		t.Error("the token was asked")
	}
	c.opens("in the end", issuing, "")
}

// refusesFiles changes the file in ways that are noticed, and leaves it as it was.
func (c *pinCustody) refusesFiles(t Token) {
	c.Helper()
	good, err := os.ReadFile(c.sealed())
	must(c, err)
	must(c, os.Chmod(c.sealed(), 0o620)) // #nosec G302 -- what is refused
	c.opens("writable", t, "mode 0620: chmod 0600")
	must(c, os.Chmod(c.sealed(), 0o600))
	must(c, os.WriteFile(c.sealed(), bytes.Replace(good, []byte(`"nonce": "`), []byte(`"nonce":  "`), 1), 0o600))
	c.opens("damaged", t, "pin_damaged")
	must(c, os.WriteFile(c.sealed(), make([]byte, maxPINFile+1), 0o600))
	if _, err := loadSealedPIN(c.sealed()); err == nil || !strings.Contains(err.Error(), "more than") {
		c.Errorf("long file: %v", err)
	}
	must(c, os.WriteFile(c.sealed(), good, 0o600))
}

func TestSealedPINOfAnotherTPM(t *testing.T) {
	c := newCustody(t)
	must(t, c.seal(sealedTestPIN))
	now, _ := c.values()
	c.approve(now)
	own := c.cfg.TPM.Path
	c.cfg.TPM.Path = swtpm.New(t).Path()
	c.opens("another TPM", c.cfg.Tokens.Issuing, "pin_other_tpm")
	c.cfg.TPM.Path = own
	c.tool("tpm2_clear")
	c.opens("cleared", c.cfg.Tokens.Issuing, "pin_tpm_cleared")
	if c.triesLow() {
		t.Error("the token was asked")
	}
}

func TestSealPINRefuses(t *testing.T) {
	c := newCustody(t)
	if err := c.seal("wrong-pin"); err == nil || strings.Contains(err.Error(), "wrong-pin") {
		t.Errorf("a PIN that is not the token's: %v", err)
	}
	if _, err := os.Lstat(c.sealed()); err == nil {
		t.Error("it was sealed")
	}
	if !c.triesLow() {
		t.Error("the token does not say when it was asked: the other tests would not see it")
	}
	if err := c.seal(""); err == nil {
		t.Error("no PIN was sealed")
	}
	must(t, c.seal(sealedTestPIN))
	if err := c.seal(sealedTestPIN); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("overwritten: %v", err)
	}
	if err := SealPIN(t.Context(), c.cfg, "root", c.at("pub"), c.at("x"), []byte("x"), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a token that is not configured")
	}
	must(t, os.Chmod(c.at("key"), 0o640)) // #nosec G302 -- what is refused
	if err := ApprovePIN(c.sealed(), c.at("pub"), c.at("key"), c.at("x")); err == nil {
		t.Error("values that are none")
	}
	if _, err := readApprover(c.at("key")); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("a key that others read: %v", err)
	}
}

func TestCredential(t *testing.T) {
	c := newCustody(t)
	token := c.cfg.Tokens.Issuing
	token.PINFile = "credential:issuing.pin"
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	c.opens("no service manager", token, "pin_no_credential")
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	c.opens("no such credential", token, "no such file or directory")
	must(t, os.WriteFile(filepath.Join(dir, "issuing.pin"), []byte(sealedTestPIN), 0o400))
	c.opens("credential", token, "")
	for form, want := range map[string]bool{
		"/run/pin": true, "pin": true, "credential:a.pin": true, "sealed:a": true,
		"credential:": false, "credential:../a": false, "credential:a/b": false, "credential:..": false, "credential:.": false, "sealed:": false,
	} {
		if validPINFile(form) != want {
			t.Errorf("%q: %v", form, !want)
		}
	}
}

func TestReadPIN(t *testing.T) {
	for text, want := range map[string]string{
		"4711\n": "4711", "4711": "4711", "4711\r\n": "4711", "": "", " 47 11 \n": " 47 11 ", strings.Repeat("x", 255) + "\r\n": strings.Repeat("x", 255),
	} {
		if pin, err := readPINFrom(t, text); err != nil || string(pin) != want {
			t.Errorf("%q: %q, %v", text, pin, err)
		}
	}
	if _, err := readPINFrom(t, strings.Repeat("x", 300)); err == nil || strings.Contains(err.Error(), "xxx") {
		t.Errorf("a long one: %v", err)
	}
}

func readPINFrom(t *testing.T, text string) ([]byte, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "stdin")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	return ReadPIN(f, os.Stderr)
}
