package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/internal/appliance"
	"github.com/signet-pki/signet/internal/testrig/custodian"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
	"github.com/signet-pki/signet/internal/testrig/swtpm"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata/script")

// TestMain is the command, too: for scripts by its name, and as the process of a PKCS#11 module by its argument.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "module" {
		main()
		return
	}
	testscript.Main(m, map[string]func(){"signetd": main})
}

// TestScripts runs the command as an operator does, with a SoftHSM and a TPM of its own.
func TestScripts(t *testing.T) {
	rig, hsm := swtpm.New(t), softhsm.New(t)
	hsm.InitToken("signet-issuing", "pin-4711")
	example, err := os.ReadFile("../../deploy/signet.yaml")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each run of the command ends a second later
			env.Setenv("SOFTHSM2_CONF", hsm.Conf())
			env.Setenv("TPM2TOOLS_TCTI", rig.TCTI())
			config := strings.NewReplacer(
				"/usr/lib/pkcs11/vendor.so", hsm.Module(), "/dev/tpmrm0", rig.Path(), "isolate: true", "isolate: false",
				"dir: /var/lib/signet\n", "dir: "+env.WorkDir+"\n", "credential:issuing.pin", "sealed:issuing.sealed",
			).Replace(string(example))
			if err := os.WriteFile(filepath.Join(env.WorkDir, "appliance.yaml"), []byte(config), 0o600); err != nil {
				return err
			}
			for _, name := range []string{"approver", "stranger"} {
				if err := writeKey(filepath.Join(env.WorkDir, name)); err != nil {
					return err
				}
			}
			return nil
		},
	})
}

// TestInit holds a first ceremony by script, with devices of its own.
func TestInit(t *testing.T) {
	rig, hsm := swtpm.New(t), softhsm.New(t)
	config := appliance.Config{
		TrustDomain: "signet.hospital.example", Origin: "signet.hospital.example/log", Listen: "127.0.0.1:0", PublicURL: "https://localhost:8443", Development: true,
		TPM: appliance.TPM{Path: rig.Path()}, Audit: appliance.Audit{MinFree: 1 << 20},
		IdentityProviders: []appliance.IdentityProvider{{Name: "test", Issuer: "https://idp.test.example", ClientID: "consent"}},
		Ceremony: ceremony.Config{
			Root:       ceremony.RootConfig{CommonName: "Hospital Signet Root", ValidityDays: 3650},
			AgentCAs:   ceremony.SeriesConfig{Count: 1, ValidityDays: 365, OverlapDays: 30},
			ServiceCAs: ceremony.ServiceCAsConfig{SeriesConfig: ceremony.SeriesConfig{Count: 1, ValidityDays: 365, OverlapDays: 60}},
			Operator:   ceremony.OperatorConfig{Name: "admin", ValidityDays: 30},
			Custodians: &ceremony.CustodiansConfig{Threshold: 2},
		},
	}
	for label, token := range map[string]*appliance.Token{"signet-root": &config.Tokens.Root, "signet-issuing": &config.Tokens.Issuing, "signet-audit": &config.Tokens.Audit} {
		*token = appliance.Token{Module: hsm.Module(), Label: label, PINFile: hsm.InitToken(label, "pin-4711")}
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/init",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("GORACE", "atexit_sleep_ms=0")
			env.Setenv("SOFTHSM2_CONF", hsm.Conf())
			c := config
			c.Dir = env.WorkDir
			return writeCeremony(t, env.WorkDir, c)
		},
	})
}

// writeCeremony leaves the configuration, and the keys of alice, bob and carol, in dir.
func writeCeremony(t *testing.T, dir string, c appliance.Config) error {
	_, people := custodian.Three(t)
	for _, p := range people {
		c.Ceremony.Custodians.Members = append(c.Ceremony.Custodians.Members, ceremony.CustodianConfig{Name: p.Name, Key: p.Key})
		key, err := os.ReadFile(p.KeyFile)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, p.Name), key, 0o600); err != nil {
			return err
		}
	}
	if err := writeKey(filepath.Join(dir, "operator")); err != nil {
		return err
	}
	public, err := os.ReadFile(filepath.Join(dir, "operator.pem"))
	if err != nil {
		return err
	}
	c.Ceremony.Operator.PublicKey = string(public)
	text, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "init.yaml"), text, 0o600)
}

func writeKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}), 0o600); err != nil {
		return err
	}
	return os.WriteFile(path+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
}
