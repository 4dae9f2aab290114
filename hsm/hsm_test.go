package hsm_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/testrig/signertest"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

const pin = "user-pin-1"

func config(h *softhsm.HSM, label, pinFile string) hsm.Config {
	return hsm.Config{Module: h.Module(), Token: label, PINFile: pinFile, Sessions: 3, Timeout: 20 * time.Second}
}

func open(t testing.TB, cfg hsm.Config) *hsm.Token {
	t.Helper()
	token, err := hsm.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := token.Close(); err != nil {
			t.Error(err)
		}
	})
	return token
}

func newToken(t testing.TB) (*softhsm.HSM, *hsm.Token) {
	t.Helper()
	h := softhsm.New(t)
	return h, open(t, config(h, "issuing", h.InitToken("issuing", pin)))
}

func generate(t testing.TB, token *hsm.Token, label string, alg hsm.Algorithm) *hsm.Key {
	t.Helper()
	k, err := token.Generate(t.Context(), label, alg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wantError(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// tool runs pkcs11-tool, an implementation that is not ours, as the user of the token.
func tool(t *testing.T, h *softhsm.HSM, label string, args ...string) (string, error) {
	t.Helper()
	path, err := exec.LookPath("pkcs11-tool")
	if err != nil {
		t.Fatal("pkcs11-tool is missing: apt-get install opensc")
	}
	cmd := exec.CommandContext(t.Context(), path, append([]string{"--module", h.Module(), "--token-label", label, "--login", "--pin", "env:TOOL_PIN"}, args...)...)
	cmd.Env = append(cmd.Environ(), "TOOL_PIN="+pin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mustTool(t *testing.T, h *softhsm.HSM, label string, args ...string) string {
	t.Helper()
	out, err := tool(t, h, label, args...)
	if err != nil {
		t.Fatalf("pkcs11-tool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func TestConformance(t *testing.T) {
	for _, alg := range []hsm.Algorithm{hsm.P256, hsm.P384, hsm.Ed25519} {
		t.Run(alg.String(), func(t *testing.T) {
			h, token := newToken(t)
			made := generate(t, token, "key", alg)
			if made.Algorithm() != alg || !made.VerifiesSignatures() {
				t.Fatalf("generated %v", made.Algorithm())
			}
			signertest.Run(t, func(t *testing.T) crypto.Signer {
				found, err := token.Signer(t.Context(), "pkcs11:token=issuing;object=key;type=private")
				if err != nil {
					t.Fatal(err)
				}
				return found
			}, signertest.Closed(func(t *testing.T) crypto.Signer {
				other, err := hsm.Open(t.Context(), config(h, "issuing", h.WritePIN("again", pin, 0o600)), slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				k, err := other.Signer(t.Context(), made.URI())
				if err != nil {
					t.Fatal(err)
				}
				if err := other.Close(); err != nil {
					t.Fatal(err)
				}
				return k
			}))
			if err := token.Check(t.Context()); err != nil {
				t.Fatalf("closing one opening of a token broke the other: %v", err)
			}
		})
	}
}

func TestSignerIsFoundOnceAndSurvivesReopening(t *testing.T) {
	h := softhsm.New(t)
	cfg := config(h, "issuing", h.InitToken("issuing", pin))
	first, err := hsm.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	made := generate(t, first, "agent ca 1", hsm.P256)
	again, err := first.Signer(t.Context(), made.URI())
	if err != nil {
		t.Fatal(err)
	}
	if again != made {
		t.Error("the same URI led to two Keys")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := open(t, cfg)
	found, err := second.Signer(t.Context(), made.URI())
	if err != nil {
		t.Fatal(err)
	}
	public, ok := made.Public().(*ecdsa.PublicKey)
	if !ok || !public.Equal(found.Public()) {
		t.Error("another public key after closing and opening")
	}
}

func TestLookupRefusals(t *testing.T) {
	h, token := newToken(t)
	generate(t, token, "taken", hsm.P256)
	for range 2 {
		mustTool(t, h, "issuing", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "twin", "--id", "aa")
	}
	for _, id := range []string{"a1", "a2"} {
		mustTool(t, h, "issuing", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "namesake", "--id", id, "--sensitive")
	}
	mustTool(t, h, "issuing", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "loose", "--id", "bb", "--extractable")
	mustTool(t, h, "issuing", "--keypairgen", "--key-type", "EC:secp521r1", "--label", "p521", "--id", "cc")
	mustTool(t, h, "issuing", "--keypairgen", "--key-type", "rsa:2048", "--label", "rsa", "--id", "dd")
	for _, c := range []struct {
		uri  string
		want error
	}{
		{"pkcs11:token=issuing;object=none", hsm.ErrKeyNotFound},
		{"pkcs11:token=issuing;id=%01", hsm.ErrKeyNotFound},
		{"pkcs11:token=issuing;object=taken;id=%aa", hsm.ErrKeyNotFound},
		{"pkcs11:token=issuing;object=twin", hsm.ErrAmbiguous},
		{"pkcs11:token=issuing;id=%aa", hsm.ErrAmbiguous},
		{"pkcs11:token=issuing;object=namesake", hsm.ErrAmbiguous},
		{"pkcs11:token=issuing;object=loose", hsm.ErrExportable},
		{"pkcs11:token=issuing;object=p521", hsm.ErrUnsupported},
		{"pkcs11:token=issuing;object=rsa", hsm.ErrUnsupported},
		{"pkcs11:token=other;object=taken", hsm.ErrURI},
		{"pkcs11:object=taken", hsm.ErrURI},
	} {
		t.Run(c.uri, func(t *testing.T) {
			_, err := token.Signer(t.Context(), c.uri)
			wantError(t, err, c.want)
		})
	}
	if _, err := token.Signer(t.Context(), "pkcs11:token=issuing;object=namesake;id=%a1"); err != nil {
		t.Errorf("label and id together name one key: %v", err)
	}
	_, err := token.Generate(t.Context(), "taken", hsm.P384)
	wantError(t, err, hsm.ErrKeyExists)
	_, err = token.Generate(t.Context(), "zero", 0)
	wantError(t, err, hsm.ErrUnsupported)
	_, err = token.Generate(t.Context(), "", hsm.P256)
	wantError(t, err, hsm.ErrURI)
}

func TestSignerFromCertificate(t *testing.T) {
	h, token := newToken(t)
	mustTool(t, h, "issuing", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "cert", "--id", "0a", "--sensitive")
	k, err := token.Signer(t.Context(), "pkcs11:token=issuing;id=%0a")
	if err != nil {
		t.Fatal(err)
	}
	path := writeCertificate(t, k)
	mustTool(t, h, "issuing", "--write-object", path, "--type", "cert", "--id", "0a", "--label", "cert")
	mustTool(t, h, "issuing", "--delete-object", "--type", "pubkey", "--id", "0a")
	other, err := token.Signer(t.Context(), "pkcs11:token=issuing;object=cert;id=%0A")
	if err != nil {
		t.Fatal(err)
	}
	if other == k {
		t.Fatal("the second lookup did not happen")
	}
	d := sha256.Sum256([]byte("x"))
	if _, err := other.Sign(rand.Reader, d[:], crypto.SHA256); err != nil {
		t.Fatal(err)
	}
}

func TestOpenRefusals(t *testing.T) {
	h := softhsm.New(t)
	good := config(h, "issuing", h.InitToken("issuing", pin))
	h.InitToken("twin", pin)
	twin := h.InitToken("twin", pin)
	with := func(change func(c *hsm.Config)) hsm.Config { c := good; change(&c); return c }
	for name, c := range map[string]struct {
		cfg  hsm.Config
		want error
	}{
		"token missing":        {with(func(c *hsm.Config) { c.Token = "nowhere" }), hsm.ErrUnavailable},
		"two tokens":           {config(h, "twin", twin), hsm.ErrAmbiguous},
		"wrong PIN":            {with(func(c *hsm.Config) { c.PINFile = h.WritePIN("w", "wrong", 0o600) }), hsm.ErrPIN},
		"PIN too short":        {with(func(c *hsm.Config) { c.PINFile = h.WritePIN("w", "1", 0o600) }), hsm.ErrPIN},
		"PIN world-readable":   {with(func(c *hsm.Config) { c.PINFile = h.WritePIN("w", pin, 0o604) }), hsm.ErrConfig},
		"PIN group-writable":   {with(func(c *hsm.Config) { c.PINFile = h.WritePIN("w", pin, 0o620) }), hsm.ErrConfig},
		"PIN empty":            {with(func(c *hsm.Config) { c.PINFile = h.WritePIN("w", "", 0o600) }), hsm.ErrConfig},
		"PIN of two lines":     {with(func(c *hsm.Config) { c.PINFile = h.WritePIN("w", "a\nb", 0o600) }), hsm.ErrConfig},
		"PIN too long":         {with(func(c *hsm.Config) { c.PINFile = h.WritePIN("w", strings.Repeat("x", 256), 0o600) }), hsm.ErrConfig},
		"PIN file missing":     {with(func(c *hsm.Config) { c.PINFile += ".none" }), hsm.ErrConfig},
		"PIN file directory":   {with(func(c *hsm.Config) { c.PINFile = t.TempDir() }), hsm.ErrConfig},
		"no PIN file":          {with(func(c *hsm.Config) { c.PINFile = "" }), hsm.ErrConfig},
		"module missing":       {with(func(c *hsm.Config) { c.Module += ".none" }), hsm.ErrConfig},
		"module relative":      {with(func(c *hsm.Config) { c.Module = "libsofthsm2.so" }), hsm.ErrConfig},
		"module no library":    {with(func(c *hsm.Config) { c.Module = h.Conf() }), hsm.ErrConfig},
		"label empty":          {with(func(c *hsm.Config) { c.Token = "" }), hsm.ErrConfig},
		"label too long":       {with(func(c *hsm.Config) { c.Token = strings.Repeat("x", 33) }), hsm.ErrConfig},
		"label trailing blank": {with(func(c *hsm.Config) { c.Token = "issuing " }), hsm.ErrConfig},
		"sessions":             {with(func(c *hsm.Config) { c.Sessions = 65 }), hsm.ErrConfig},
		"negative timeout":     {with(func(c *hsm.Config) { c.Timeout = -1 }), hsm.ErrConfig},
	} {
		t.Run(name, func(t *testing.T) {
			token, err := hsm.Open(t.Context(), c.cfg, slog.New(slog.DiscardHandler))
			wantError(t, err, c.want)
			if token != nil {
				t.Error("a token came with the error")
			}
			for _, secret := range []string{pin, "wrong"} {
				if strings.Contains(err.Error(), secret) && name != "wrong PIN" {
					t.Errorf("the error shows the PIN: %v", err)
				}
			}
		})
	}
	_, err := hsm.Open(t.Context(), hsm.Config{Module: "x", Sessions: -1}, slog.New(slog.DiscardHandler))
	for _, field := range []string{"module:", "token:", "pin_file:", "sessions:"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("not all problems in one run: %q is missing in %v", field, err)
		}
	}
	if err := open(t, good).Check(t.Context()); err != nil {
		t.Fatalf("after all refusals: %v", err)
	}
}

// The caller may have the PIN from elsewhere; what it does with its copy afterwards is its own business.
func TestPINOfTheCaller(t *testing.T) {
	h := softhsm.New(t)
	good := config(h, "issuing", h.InitToken("issuing", pin))
	good.PINFile = "sealed elsewhere"
	for bad, target := range map[string]error{"wrong-pin-9": hsm.ErrPIN, "": hsm.ErrConfig, "a\nb": hsm.ErrConfig, strings.Repeat("x", 256): hsm.ErrConfig} {
		good.PIN = []byte(bad)
		_, err := hsm.Open(t.Context(), good, nil)
		wantError(t, err, target)
		if !strings.Contains(err.Error(), "sealed elsewhere") || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%v", err)
		}
	}
	good.PIN = []byte(pin)
	token := open(t, good)
	clear(good.PIN)
	if err := token.Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestPINIsCheckedWhileLoggedIn: login belongs to the process, so the token itself accepts any PIN the second time.
func TestPINIsCheckedWhileLoggedIn(t *testing.T) {
	h, token := newToken(t)
	wrong := config(h, "issuing", h.WritePIN("w", "wrong-pin-9", 0o600))
	_, err := hsm.Open(t.Context(), wrong, slog.New(slog.DiscardHandler))
	wantError(t, err, hsm.ErrPIN)
	if err := token.Check(t.Context()); err != nil {
		t.Fatalf("the refused opening broke the open token: %v", err)
	}
	same := open(t, config(h, "issuing", h.WritePIN("s", pin, 0o440)))
	if err := same.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestSessionsAtTheirBounds(t *testing.T) {
	for _, n := range []int{1, 64} {
		h := softhsm.New(t)
		cfg := config(h, "issuing", h.InitToken("issuing", pin))
		cfg.Sessions = n
		token, err := hsm.Open(t.Context(), cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		k := generate(t, token, "key", hsm.P256)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if err := signOne(k, "many"); err != nil {
					t.Errorf("%d sessions: %v", n, err)
				}
			})
		}
		wg.Wait()
		if err := token.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestForeignLoginIsRefused: who else logged in, and with which PIN, cannot be known.
func TestForeignLoginIsRefused(t *testing.T) {
	h, _ := newToken(t) // keeps the module initialised
	cfg := config(h, "audit", h.InitToken("audit", pin))
	first := open(t, cfg) // makes the new token show
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	raw := pkcs11.New(h.Module())
	defer raw.Destroy()
	slots, err := raw.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if info, err := raw.GetTokenInfo(slot); err != nil || info.Label != "audit" {
			continue
		}
		s, err := raw.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		if err := raw.Login(s, pkcs11.CKU_USER, pin); err != nil {
			t.Fatal(err)
		}
		_, err = hsm.Open(t.Context(), cfg, nil)
		wantError(t, err, hsm.ErrPIN)
		if err := raw.CloseSession(s); err != nil {
			t.Fatal(err)
		}
	}
	open(t, cfg)
}

func TestInfo(t *testing.T) {
	h := softhsm.New(t)
	cfg := config(h, "issuing", h.InitToken("issuing", pin))
	wrong := cfg
	wrong.PINFile = h.WritePIN("w", "wrong-pin-9", 0o600)
	_, err := hsm.Open(t.Context(), wrong, nil)
	wantError(t, err, hsm.ErrPIN)
	info, err := open(t, cfg).Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Manufacturer != "SoftHSM project" || info.Model != "SoftHSM v2" || info.Serial == "" || info.Firmware == "0.0" {
		t.Errorf("%+v", info)
	}
	if !slices.Equal(info.Algorithms, []hsm.Algorithm{hsm.P256, hsm.P384, hsm.Ed25519}) {
		t.Errorf("algorithms %v", info.Algorithms)
	}
	if !info.LoginTriesLow {
		t.Error("a wrong PIN before this login left no trace")
	}
	if !strings.Contains(info.Library, "SoftHSM") {
		t.Errorf("library %q", info.Library)
	}
}

func TestOpenFindsTokenMadeLater(t *testing.T) {
	h, token := newToken(t)
	k := generate(t, token, "key", hsm.P256)
	later := open(t, config(h, "audit", h.InitToken("audit", pin)))
	if err := later.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := sha256.Sum256([]byte("x"))
	if _, err := k.Sign(nil, d[:], crypto.SHA256); err != nil {
		t.Fatalf("the earlier token: %v", err)
	}
}

func TestEndedContextIsHonoured(t *testing.T) {
	h, token := newToken(t)
	k := generate(t, token, "key", hsm.P256)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d := sha256.Sum256([]byte("x"))
	for range 20 {
		if sig, err := k.SignContext(ctx, d[:], crypto.SHA256); err != nil {
			wantError(t, err, context.Canceled)
		} else if sig == nil {
			t.Fatal("neither signature nor error")
		}
	}
	_, err := hsm.Open(ctx, config(h, "issuing", h.WritePIN("p", pin, 0o600)), slog.New(slog.DiscardHandler))
	wantError(t, err, context.Canceled)
	if err := token.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
}
