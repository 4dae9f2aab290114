package appliance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
	"github.com/signet-pki/signet/internal/testrig/swtpm"
)

const wardPIN = "right-4711"

// ward has an appliance after its ceremony, on SoftHSM and swtpm, whose issuing token is behind a module that can be told to misbehave.
type ward struct {
	anchored
	hsm     *softhsm.HSM
	faulty  *softhsm.Faulty
	healthy func() // puts tokens and TPM back
}

func newWard(t *testing.T) *ward {
	t.Helper()
	w := &ward{anchored: anchored{t: t}}
	w.hsm, w.rig = softhsm.New(t), swtpm.New(t)
	token := func(label string) Token {
		return Token{Module: w.hsm.Module(), Label: label, PINFile: w.hsm.InitToken(label, wardPIN), Timeout: 30 * time.Second}
	}
	dir := filepath.Join(t.TempDir(), "data")
	must(t, os.Mkdir(dir, 0o700))
	w.cfg = Config{
		TrustDomain: "ward.signet.example", Origin: "ward.signet.example/log", Dir: dir, PublicURL: "https://ward.signet.example", Development: true,
		Tokens: Tokens{Root: token("root"), Issuing: token("issuing"), Audit: token("audit")},
		TPM:    TPM{Path: w.rig.Path(), Timeout: 30 * time.Second}, Audit: Audit{MinFree: 1},
		Ceremony: ceremony.Config{
			Root:       ceremony.RootConfig{CommonName: "Ward root", ValidityDays: 3650},
			AgentCAs:   ceremony.SeriesConfig{Count: 2, ValidityDays: 365, OverlapDays: 30},
			ServiceCAs: ceremony.ServiceCAsConfig{SeriesConfig: ceremony.SeriesConfig{Count: 1, ValidityDays: 365, OverlapDays: 60}, DNS: []string{"localhost"}},
			Operator:   ceremony.OperatorConfig{Name: "admin", ValidityDays: 365, PublicKey: operatorPEM(t)},
		},
	}
	root, intermediate := w.rig.ManufacturerPEM()
	w.cfg.TPM.EKRootsFile = w.file("maker.pem", string(root)+string(intermediate))
	w.cfg.defaults()
	must(t, Init(t.Context(), w.cfg, slog.New(slog.DiscardHandler)))
	w.faulty = w.hsm.Faulty()
	w.cfg.Tokens.Issuing.Module = w.faulty.Module()
	w.keep()
	return w
}

func operatorPEM(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// file writes a file outside of the appliance's directory.
func (w *ward) file(name, text string) string {
	w.t.Helper()
	path := filepath.Join(w.t.TempDir(), name)
	must(w.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// keep remembers tokens, TPM and directory as they are.
func (w *ward) keep() {
	w.t.Helper()
	tokens, data := w.t.TempDir(), w.t.TempDir()
	must(w.t, os.CopyFS(tokens, os.DirFS(w.hsm.TokenDir())))
	must(w.t, os.CopyFS(data, os.DirFS(w.cfg.Dir)))
	w.rig.Stop()
	restore := w.rig.Snapshot()
	w.rig.Restart()
	w.healthy = func() {
		w.t.Helper()
		w.faulty.Behave()
		w.replace(w.hsm.TokenDir(), tokens)
		w.replace(w.cfg.Dir, data)
		w.rig.Stop()
		restore()
		w.rig.Restart()
	}
}

// replace fills a directory anew. CopyFS gives modes by the umask, so that they are narrowed as the appliance made them.
func (w *ward) replace(dir, from string) {
	w.t.Helper()
	must(w.t, os.RemoveAll(dir))
	must(w.t, os.Mkdir(dir, 0o700))
	must(w.t, os.CopyFS(dir, os.DirFS(from)))
	root, err := os.OpenRoot(dir)
	must(w.t, err)
	must(w.t, fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return root.Chmod(path, 0o700)
		}
		return root.Chmod(path, 0o600)
	}))
	must(w.t, root.Close())
}

// fingerprint is of all names, modes and contents below a directory.
func fingerprint(t *testing.T, dir string) string {
	t.Helper()
	return digest(t, dir, func(info fs.FileInfo) (string, bool) { return fmt.Sprint(info.Mode(), info.ModTime()), true })
}

// keyFiles is of all names below SoftHSM's directory, and of the contents of the keys. It counts its own logins beside them.
func keyFiles(t *testing.T, dir string) string {
	t.Helper()
	return digest(t, dir, func(info fs.FileInfo) (string, bool) {
		return "", filepath.Ext(info.Name()) == ".object" && info.Name() != "token.object"
	})
}

// digest is of names, of what more is wanted of a file, and of its contents if they are.
func digest(t *testing.T, dir string, of func(fs.FileInfo) (more string, contents bool)) string {
	t.Helper()
	h, files := sha256.New(), os.DirFS(dir)
	must(t, fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		must(t, err)
		more, contents := of(info)
		h.Write(fmt.Appendln(nil, path, more))
		if contents && d.Type().IsRegular() {
			b, err := fs.ReadFile(files, path)
			must(t, err)
			h.Write(b)
		}
		return nil
	}))
	return fmt.Sprintf("%x", h.Sum(nil))
}
