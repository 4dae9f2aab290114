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

	"github.com/rogpeppe/go-internal/testscript"

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
