package softhsmtest

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/devkit"
	"github.com/signet-pki/signet/internal/testrig/custodian"
)

// rite is a first ceremony to be held: devices without a key, and three custodians of whom two are enough.
type rite struct {
	t       *testing.T
	dir     string
	cfg     appliance.Config
	devices *devkit.Devices
	people  []custodian.Custodian
	before  string // what its maker left in the TPM
}

func newRite(t *testing.T) *rite {
	t.Helper()
	r := &rite{t: t, dir: newDir(t)}
	must(t, os.MkdirAll(r.dir, 0o700))
	devices := filepath.Join(r.dir, "devices")
	t.Setenv("SOFTHSM2_CONF", "") // devkit sets it; the test puts it back
	must(t, devkit.Make(t.Context(), devices, devkit.InSoftHSM))
	var err error
	r.devices, err = devkit.Start(t.Context(), devices)
	must(t, err)
	t.Cleanup(func() { _ = r.devices.Stop() }) // newDir's cleanup takes what is left
	_, r.people = custodian.Three(t)
	r.cfg, r.before = r.config(), r.handles()
	r.save()
	return r
}

func (r *rite) config() appliance.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(r.t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(r.t, err)
	token := func(label string) appliance.Token {
		return appliance.Token{Module: r.devices.Module(), Label: label, PINFile: devkit.PINFile(filepath.Join(r.dir, "devices"), label)}
	}
	c := appliance.Config{
		TrustDomain: "rite.signet.example", Origin: "rite.signet.example/log", Dir: r.dir, Listen: "127.0.0.1:0", PublicURL: "https://localhost:8443",
		Development: true, TPM: appliance.TPM{Path: r.devices.TPMPath()},
		Tokens:            appliance.Tokens{Root: token(devkit.TokenRoot), Issuing: token(devkit.TokenIssuing), Audit: token(devkit.TokenAudit)},
		Audit:             appliance.Audit{MinFree: 1 << 20},
		IdentityProviders: []appliance.IdentityProvider{{Name: "test", Issuer: "https://idp.test.example", ClientID: "consent"}},
		Ceremony: ceremony.Config{
			Root:       ceremony.RootConfig{CommonName: "Rite root", ValidityDays: 3650},
			AgentCAs:   ceremony.SeriesConfig{Count: 1, ValidityDays: 365, OverlapDays: 30},
			ServiceCAs: ceremony.ServiceCAsConfig{SeriesConfig: ceremony.SeriesConfig{Count: 1, ValidityDays: 365, OverlapDays: 60}, DNS: []string{"localhost"}},
			Operator:   ceremony.OperatorConfig{Name: "admin", ValidityDays: 30, PublicKey: pemOf("PUBLIC KEY", der)},
			Custodians: &ceremony.CustodiansConfig{Threshold: 2},
		},
	}
	for _, p := range r.people {
		c.Ceremony.Custodians.Members = append(c.Ceremony.Custodians.Members, ceremony.CustodianConfig{Name: p.Name, Key: p.Key})
	}
	return c
}

func (r *rite) file() string { return filepath.Join(r.dir, "signet.yaml") }

func (r *rite) save() {
	r.t.Helper()
	text, err := yaml.Marshal(r.cfg)
	must(r.t, err)
	must(r.t, os.WriteFile(r.file(), text, 0o600))
}

// init runs the command where nobody sits.
func (r *rite) init(args ...string) (out string, code int) {
	r.t.Helper()
	return command(r.t, "", nil, program("signetd"), append([]string{"init", "--config", r.file()}, args...)...)
}

// refused runs it, and nothing may be made.
func (r *rite) refused(what, says string, code int, args ...string) {
	r.t.Helper()
	if out, got := r.init(args...); got != code || !strings.Contains(out, says) {
		r.t.Errorf("%s: exit %d, wanted %d and %q:\n%s", what, got, code, says, out)
	}
	r.empty(what)
}

// empty asks the devices themselves.
func (r *rite) empty(what string) {
	r.t.Helper()
	for _, label := range []string{devkit.TokenRoot, devkit.TokenIssuing, devkit.TokenAudit} {
		if out := r.objects(label); strings.Contains(out, "Object") {
			r.t.Errorf("%s: in %s:\n%s", what, label, out)
		}
	}
	if out := r.handles(); out != r.before {
		r.t.Errorf("%s: the TPM held\n%s and holds\n%s", what, r.before, out)
	}
	for _, name := range []string{"pki/root.pem", "log", "index.key", "ceremony/begin.json"} {
		if _, err := os.Lstat(filepath.Join(r.dir, name)); err == nil {
			r.t.Errorf("%s: %s was made", what, name)
		}
	}
}

// handles are what the TPM keeps.
func (r *rite) handles() string {
	r.t.Helper()
	tcti := "swtpm:path=" + strings.TrimPrefix(r.devices.TPMPath(), "unix:")
	return succeed(r.t, "tpm2_getcap", "-T", tcti, "handles-persistent") + succeed(r.t, "tpm2_getcap", "-T", tcti, "handles-nv-index")
}

// objects are what OpenSC sees in a token.
func (r *rite) objects(label string) string {
	r.t.Helper()
	devices := filepath.Join(r.dir, "devices")
	pin, err := os.ReadFile(devkit.PINFile(devices, label))
	must(r.t, err)
	env := []string{"SIGNET_TEST_PIN=" + strings.TrimSpace(string(pin)), "SOFTHSM2_CONF=" + filepath.Join(devices, "softhsm2.conf")}
	out, code := command(r.t, "", env, "pkcs11-tool", "--module", r.devices.Module(), "--token-label", label, "--login", "--pin", "env:SIGNET_TEST_PIN", "--list-objects")
	if code != 0 {
		r.t.Fatalf("%s: exit %d\n%s", label, code, out)
	}
	return out
}

func (r *rite) act() []byte {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "ceremony", "act.json"))
	must(r.t, err)
	return b
}

// signed leaves a custodian's signature in a file.
func (r *rite) signed(signature []byte) string {
	r.t.Helper()
	f, err := os.CreateTemp(r.t.TempDir(), "*.sig")
	must(r.t, err)
	_, err = f.Write(signature)
	must(r.t, err)
	must(r.t, f.Close())
	return f.Name()
}

// holds checks what a ceremony that is over leaves: each key once, a whole log, and a transcript that others can check.
func (r *rite) holds() {
	r.t.Helper()
	for label, want := range map[string][]string{
		devkit.TokenRoot: {"root"}, devkit.TokenIssuing: {"agent-ca-1", "jwt", "service-ca-1"}, devkit.TokenAudit: {"audit"},
	} {
		var keys []string
		for _, m := range regexp.MustCompile(`Private Key Object; EC\s+label:\s+(\S+)`).FindAllStringSubmatch(r.objects(label), -1) {
			keys = append(keys, m[1])
		}
		if slices.Sort(keys); !slices.Equal(keys, want) {
			r.t.Errorf("%s holds %v, wanted %v", label, keys, want)
		}
	}
	if out, code := command(r.t, "", nil, program("signetd"), "fsck", "--config", r.file()); code != 0 {
		r.t.Errorf("fsck: exit %d\n%s", code, out)
	}
	pki := filepath.Join(r.dir, "pki")
	out := succeed(r.t, program("signet-verify"), "transcript", "--json", filepath.Join(pki, "transcript.txt"))
	if !strings.Contains(out, `"custodians"`) || strings.Contains(out, `"fail"`) {
		r.t.Errorf("transcript: %s", out)
	}
	succeed(r.t, "openssl", "verify", "-CAfile", filepath.Join(pki, "root.pem"), "-untrusted", filepath.Join(pki, "service-ca-1.pem"), filepath.Join(pki, "operator.pem"))
	summary, err := os.ReadFile(filepath.Join(pki, "summary.txt"))
	must(r.t, err)
	fingerprint := succeed(r.t, "openssl", "x509", "-in", filepath.Join(pki, "root.pem"), "-noout", "-fingerprint", "-sha256")
	_, hex, _ := strings.Cut(strings.TrimSpace(fingerprint), "=")
	custodian := strings.Fields(succeed(r.t, "ssh-keygen", "-l", "-f", r.people[0].KeyFile+".pub"))[1]
	for _, want := range []string{hex, custodian, "2 of 3"} {
		if !bytes.Contains(summary, []byte(want)) {
			r.t.Errorf("the summary has no %s:\n%s", want, summary)
		}
	}
}

// One custodian alone can do nothing, nor can anybody else without two of them.
func TestCeremonyWithoutApproval(t *testing.T) {
	r := newRite(t)
	out, code := r.init("--dry-run")
	if code != 0 || !strings.Contains(out, "custodian: alice SHA256:") || !strings.Contains(out, "nothing was made") {
		t.Fatalf("dry run: exit %d\n%s", code, out)
	}
	r.empty("dry run")
	r.refused("nobody", "approvals are missing: 2 of 2", 3)
	act := r.act()
	alice, bob := r.signed(r.people[0].Sign(t, act)), r.signed(r.people[1].Sign(t, act))
	r.refused("one alone", "approvals are missing: 1 of 2", 3, "--approval", alice)
	r.refused("one twice", "approvals are missing: 1 of 2", 3, "--approval", alice, "--approval", r.signed(r.people[0].Sign(t, act)))
	stranger := custodian.New(t, "mallory", "ed25519")
	r.refused("a stranger", "no custodian's", 1, "--approval", alice, "--approval", r.signed(stranger.Sign(t, act)))
	other := bytes.Replace(act, []byte(`"origin": "rite`), []byte(`"origin": "site`), 1)
	r.refused("another act", "signature", 1, "--approval", alice, "--approval", r.signed(r.people[1].Sign(t, other)))
	r.refused("another namespace", "namespace", 1, "--approval", alice, "--approval", r.signed(r.people[1].SignAs(t, "file", act)))
	r.refused("no signature", "armored", 1, "--approval", alice, "--approval", r.file())

	good := r.cfg
	r.cfg.Ceremony.AgentCAs.ValidityDays++
	r.save()
	r.refused("a changed configuration", "is now", 1, "--approval", alice, "--approval", bob)
	r.cfg = good
	r.save()

	a, err := custody.ParseAct(act)
	must(t, err)
	a.Created, a.NotAfter = a.Created.AddDate(0, 0, -30), a.NotAfter.AddDate(0, 0, -30)
	expired, err := a.Marshal()
	must(t, err)
	file := filepath.Join(r.dir, "ceremony", "act.json")
	must(t, os.WriteFile(file, expired, 0o600))
	r.refused("an expired act", "not valid at this time", 1,
		"--approval", r.signed(r.people[0].Sign(t, expired)), "--approval", r.signed(r.people[1].Sign(t, expired)))
	must(t, os.WriteFile(file, act, 0o600))

	if out, code := r.init("--approval", alice, "--approval", bob); code != 0 || !strings.Contains(out, "approved by alice, bob") {
		t.Fatalf("two: exit %d\n%s", code, out)
	}
	r.holds()
	if out, code := r.init("--approval", alice, "--approval", bob); code != 1 || !strings.Contains(out, "never overwrites") {
		t.Errorf("again: exit %d\n%s", code, out)
	}
}

func TestCeremonyWantsCustodians(t *testing.T) {
	r := newRite(t)
	for says, change := range map[string]func(c *appliance.Config){
		"ceremony.custodians: missing":           func(c *appliance.Config) { c.Development, c.Ceremony.Custodians = false, nil },
		"threshold 1 of 3 custodians":            func(c *appliance.Config) { c.Ceremony.Custodians.Threshold = 1 },
		"threshold 2 of 1 custodians":            func(c *appliance.Config) { c.Ceremony.Custodians.Members = c.Ceremony.Custodians.Members[:1] },
		"custodian 2: bob: the key is that of a": func(c *appliance.Config) { c.Ceremony.Custodians.Members[1].Key = r.people[0].Key },
	} {
		r.cfg = r.config()
		change(&r.cfg)
		r.save()
		r.refused(says, says, 1)
	}
}

// TestCeremonyByHand is a terminal session: script(1) gives the command a terminal, and each custodian brings a file.
func TestCeremonyByHand(t *testing.T) {
	r := newRite(t)
	cmd := exec.CommandContext(t.Context(), "script", "-qefc", program("signetd")+" init --config "+r.file(), os.DevNull) // #nosec G204 -- the test's own
	keys, err := cmd.StdinPipe()
	must(t, err)
	screen, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	s := session{t: t, keys: keys, screen: bufio.NewReader(screen)}
	s.until("0 of 2 custodians agreed. File of a signature, or nothing to stop: ")
	if !strings.Contains(s.seen.String(), `"kind": "init"`) || !strings.Contains(s.seen.String(), "ssh-keygen -Y sign -n act@signet") {
		t.Errorf("it shows\n%s", s.seen.String())
	}
	s.types("nowhere.sig")
	s.until("no such file")
	s.types(r.signed(r.people[2].Sign(t, r.act())))
	s.until("1 of 2 custodians agreed")
	r.empty("one at the terminal")
	s.types(r.signed(custodian.New(t, "mallory", "ed25519").Sign(t, r.act())))
	s.until("no custodian's")
	s.types(r.signed(r.people[0].Sign(t, r.act())))
	s.until("approved by alice, carol")
	rest, err := io.ReadAll(s.screen)
	must(t, err)
	if err := cmd.Wait(); err != nil || !strings.Contains(string(rest), "root               SHA-256 ") {
		t.Fatalf("%v\n%s", err, rest)
	}
	r.holds()
}

// session is somebody at a terminal.
type session struct {
	t      *testing.T
	keys   io.Writer
	screen *bufio.Reader
	seen   strings.Builder
}

func (s *session) types(text string) {
	s.t.Helper()
	_, err := io.WriteString(s.keys, text+"\n")
	must(s.t, err)
}

// until reads what is shown up to some text.
func (s *session) until(text string) {
	s.t.Helper()
	from := s.seen.Len()
	for !strings.Contains(s.seen.String()[from:], text) {
		b, err := s.screen.ReadByte()
		if err != nil {
			s.t.Fatalf("%v before %q:\n%s", err, text, s.seen.String())
		}
		s.seen.WriteByte(b)
	}
}
