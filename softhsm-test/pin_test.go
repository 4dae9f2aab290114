package softhsmtest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/devkit"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

// TestSealedPINs serves with both PINs sealed to the TPM, and with no copy of them: released under the registers that were approved,
// and not when somebody changed one; approved anew, again. A token is not asked for as long as its PIN stays sealed.
func TestSealedPINs(t *testing.T) {
	var faulty *softhsm.Faulty
	p := plant(t, func(cfg *appliance.Config) {
		faulty = softhsm.NewFaulty(t, cfg.Tokens.Issuing.Module) // counts calls
		cfg.Tokens.Issuing.Module, cfg.Tokens.Audit.Module = faulty.Module(), faulty.Module()
	})
	s := sealedPINs{T: t, planted: p, config: filepath.Join(p.dir, "signet.yaml"), approver: t.TempDir()}
	succeed(t, "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", s.key())
	must(t, os.Chmod(s.key(), 0o600))
	succeed(t, "openssl", "pkey", "-in", s.key(), "-pubout", "-out", s.key()+".pub")
	s.seal()
	s.refuses(faulty, "nothing was approved yet")
	s.approve("first")
	s.serves()

	extend := func() {
		succeed(t, "tpm2_pcrextend", "-T", "swtpm:path="+filepath.Join(p.dir, "devices", "tpm", "sock"), "7:sha256="+strings.Repeat("ab", 32))
	}
	extend()
	s.refuses(faulty, "PCR 7 is ")
	s.approve("second")
	s.serves()
	extend()
	s.refuses(faulty, "PCR 7 is ")
	takeTPM(t, p.dir, "tpm")() // another boot: the registers are what they were at first
	s.serves()
	fsck(t, p.dir)
}

// sealedPINs is an appliance and whoever approves what releases its PINs.
type sealedPINs struct {
	*testing.T
	planted
	config   string
	approver string // directory
}

func (s sealedPINs) key() string { return filepath.Join(s.approver, "approver.key") }

// signetd is a command of an operator; it gives what is printed.
func (s sealedPINs) signetd(input string, args ...string) string {
	s.Helper()
	cmd := exec.CommandContext(s.Context(), program("signetd"), args...) // #nosec G204 -- our own program
	var said bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &said
	out, err := cmd.Output()
	if err != nil {
		s.Fatalf("signetd %v: %v\n%s", args, err, said.String())
	}
	return string(out)
}

// seal seals both PINs, forgets their files, and changes the configuration.
func (s sealedPINs) seal() {
	s.Helper()
	text := string(read(s.T, s.config))
	for role, label := range map[string]string{"issuing": devkit.TokenIssuing, "audit": devkit.TokenAudit} {
		file := devkit.PINFile(filepath.Join(s.dir, "devices"), label)
		s.signetd(string(read(s.T, file)), "pin", "seal", "--config", s.config, "--token", role, "--approver", s.key()+".pub", "--out", s.sealed(role))
		must(s.T, os.Remove(file))
		if strings.Count(text, "pin_file: "+file+"\n") != 1 {
			s.Fatalf("the configuration does not name %s once:\n%s", file, text)
		}
		text = strings.Replace(text, "pin_file: "+file+"\n", "pin_file: sealed:"+s.sealed(role)+"\n", 1)
	}
	must(s.T, os.WriteFile(s.config, []byte(text), 0o600))
}

func (s sealedPINs) sealed(role string) string { return filepath.Join(s.dir, role+".sealed") }

// approve has the present values approved for both.
func (s sealedPINs) approve(name string) {
	s.Helper()
	values := filepath.Join(s.approver, name+".json")
	must(s.T, os.WriteFile(values, []byte(s.signetd("", "pin", "pcrs", "--config", s.config)), 0o600))
	for _, role := range []string{"issuing", "audit"} {
		approval := filepath.Join(s.approver, name+"-"+role+".json")
		s.signetd("", "pin", "approve", "--sealed", s.sealed(role), "--values", values, "--key", s.key(), "--out", approval)
		s.signetd("", "pin", "accept", "--sealed", s.sealed(role), "--approval", approval)
	}
}

// refuses starts the daemon, which ends with its reason and leaves the tokens alone.
func (s sealedPINs) refuses(module *softhsm.Faulty, reason string) {
	s.Helper()
	before := module.Calls("C_Login")
	d := launchServe(s.T, s.dir, s.url)
	if code := d.wait(30 * time.Second); code == 0 || !strings.Contains(d.out.String(), "pin_not_approved") || !strings.Contains(d.out.String(), reason) {
		s.Errorf("exit %d, and it does not say %q:\n%s", code, reason, d.out.String())
	}
	if n := module.Calls("C_Login") - before; n != 0 {
		s.Errorf("%d PINs were presented", n)
	}
}

func (s sealedPINs) serves() {
	s.Helper()
	d := s.serve(s.T)
	must(s.T, s.c.works(s.task))
	d.stop()
}
