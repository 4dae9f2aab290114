package softhsmtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/goccy/go-yaml"

	v1 "github.com/signet-pki/signet/api/v1"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/devkit"
	"github.com/signet-pki/signet/internal/swtpmd"
)

// TestTwoAppliancesOnOneToken: a second appliance, with its own TPM, log and certificates, has its keys on the first one's tokens
// under labels that begin otherwise. Both sign at once, and neither takes the other's keys.
func TestTwoAppliancesOnOneToken(t *testing.T) {
	dir := newDir(t)
	d := start(t, dir)
	c := newCast(t, dir, d.url)
	_, task := c.task(c.orchestrator)
	l := startLoad(t, c, task, workers)
	l.signs(t)
	tenant, other := newTenant(t, dir)
	second := newCast(t, tenant, other.url)
	for range 2 { // certificates of its own, while the first one issues
		l.signs(t)
		var wg sync.WaitGroup
		for range workers {
			wg.Go(func() { registers(t, second) })
		}
		wg.Wait()
	}
	l.stop(t)
	if l.failed.Load() > 0 {
		t.Errorf("the first appliance refused while the second one worked: %v", l.codes)
	}
	must(t, c.works(task))
	if string(c.rootPEM) == string(second.rootPEM) || c.origin == second.origin {
		t.Error("they are one appliance")
	}
	bothHaveKeys(t, dir)
	out, code := command(t, "", []string{"SOFTHSM2_CONF=" + filepath.Join(dir, "devices", "softhsm2.conf")}, program("signetd"), "doctor", "--config", filepath.Join(tenant, "signet.yaml"))
	if code != 0 || !strings.Contains(out, "ok    key_certificate") {
		t.Errorf("doctor: exit %d\n%s", code, out)
	}
	other.stop()
	d.stop()
	fsck(t, tenant)
	fsck(t, dir)
}

// bothHaveKeys asks OpenSC what the issuing token holds.
func bothHaveKeys(t *testing.T, landlord string) {
	t.Helper()
	devices := filepath.Join(landlord, "devices")
	t.Setenv("SOFTHSM2_CONF", filepath.Join(devices, "softhsm2.conf"))
	cfg, err := appliance.LoadConfig(filepath.Join(landlord, "signet.yaml"))
	must(t, err)
	pin := strings.TrimSpace(string(read(t, devkit.PINFile(devices, devkit.TokenIssuing))))
	out, code := command(t, "", []string{"SIGNET_TEST_PIN=" + pin}, "pkcs11-tool", "--module", cfg.Tokens.Issuing.Module, "--token-label", devkit.TokenIssuing,
		"--login", "--pin", "env:SIGNET_TEST_PIN", "--list-objects", "--type", "privkey")
	keys := privateKeys(out)
	if code != 0 || len(keys) != 18 {
		t.Errorf("exit %d, %d keys:\n%s", code, len(keys), out)
	}
	for _, label := range []string{"agent-ca-1", "b.agent-ca-1", "jwt", "b.jwt"} {
		if keys[label] == "" {
			t.Errorf("no key %s in %v", label, keys)
		}
	}
}

// registers has a certificate issued, which belongs to the root.
func registers(t *testing.T, c *cast) {
	key, csr := newKey(t)
	issued, err := c.operator.RegisterService(t.Context(), v1.ServiceRegistration{Name: unique(t, "tenant"), CSR: csr})
	if err != nil {
		t.Error(err)
		return
	}
	var chain []*x509.Certificate
	for _, text := range issued.CertificateChain {
		block, _ := pem.Decode([]byte(text))
		cert, err := x509.ParseCertificate(block.Bytes)
		must(t, err)
		chain = append(chain, cert)
	}
	above := x509.NewCertPool()
	for _, cert := range chain[1:] {
		above.AddCert(cert)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: c.roots, Intermediates: above, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Error(err)
	}
	if !reflect.DeepEqual(key.Public(), chain[0].PublicKey) {
		t.Error("a certificate of another key")
	}
}

// newTenant makes and runs the second appliance.
func newTenant(t *testing.T, landlord string) (dir string, d *daemon) {
	t.Helper()
	dir = newDir(t)
	must(t, os.MkdirAll(filepath.Join(dir, "devices"), 0o700))
	cfg, err := appliance.LoadConfig(filepath.Join(landlord, "signet.yaml"))
	must(t, err)
	cfg.Dir, cfg.Origin, cfg.Listen, cfg.Policy = dir, "tenant.signet.example/log", freeAddress(t), appliance.Policy{}
	cfg.PublicURL = "https://" + cfg.Listen
	cfg.IdentityProviders[0].CAFile = filepath.Join(landlord, "pki", "root.pem")
	cfg.Ceremony.Operator.PublicKey = makeOperatorKey(t, dir)
	t.Setenv("SOFTHSM2_CONF", filepath.Join(landlord, "devices", "softhsm2.conf"))
	cfg.TPM.Path = tpmIn(t, filepath.Join(dir, "devices", "refused")) // it will have an attestation key
	if err := appliance.Init(t.Context(), cfg, slog.New(slog.DiscardHandler)); !errors.Is(err, hsm.ErrKeyExists) {
		t.Errorf("init with the first appliance's labels: %v", err)
	}
	for _, token := range []*appliance.Token{&cfg.Tokens.Root, &cfg.Tokens.Issuing, &cfg.Tokens.Audit} {
		token.LabelPrefix = "b."
	}
	cfg.TPM.Path = tpmIn(t, filepath.Join(dir, "devices", "tpm"))
	must(t, appliance.Init(t.Context(), cfg, slog.New(slog.DiscardHandler)))
	text, err := yaml.Marshal(cfg)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "signet.yaml"), text, 0o600))
	d = launchServe(t, dir, cfg.PublicURL)
	d.ready(newOperator(t, dir, cfg.PublicURL).operator)
	return dir, d
}

// tpmIn makes and runs a TPM until the test ends, and gives its path for the configuration.
func tpmIn(t *testing.T, dir string) string {
	t.Helper()
	must(t, swtpmd.Provision(t.Context(), dir))
	running, err := swtpmd.Start(t.Context(), dir)
	must(t, err)
	t.Cleanup(running.Kill)
	return "unix:" + running.Socket()
}

// makeOperatorKey writes the first operator's key into dir, and gives its public half.
func makeOperatorKey(t *testing.T, dir string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "operator.key"), []byte(pemOf("PRIVATE KEY", private)), 0o600))
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	return pemOf("PUBLIC KEY", public)
}
