package hsm_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/testrig/softhsm"
)

var labels = []string{"root", "issuing", "audit"}

// three opens the tokens of a development appliance, all on one module, with a key each.
func three(t *testing.T, timeout time.Duration) (*softhsm.HSM, map[string]*hsm.Token, map[string]*hsm.Key) {
	t.Helper()
	h := softhsm.New(t)
	tokens, keys := map[string]*hsm.Token{}, map[string]*hsm.Key{}
	for _, label := range labels {
		cfg := config(h, label, h.InitToken(label, pin))
		cfg.Timeout = timeout
		tokens[label] = open(t, cfg)
		keys[label] = generate(t, tokens[label], label+" key", hsm.P256)
	}
	return h, tokens, keys
}

func signOne(k *hsm.Key, text string) error {
	public, ok := k.Public().(*ecdsa.PublicKey)
	if !ok {
		return errors.New("not an ECDSA key")
	}
	d := sha256.Sum256([]byte(text))
	sig, err := k.Sign(nil, d[:], crypto.SHA256)
	if err != nil {
		if sig != nil {
			return errors.New("signature and error together")
		}
		return err
	}
	if !ecdsa.VerifyASN1(public, d[:], sig) {
		return errors.New("signature does not verify")
	}
	return nil
}

func TestTokensHealAfterReturn(t *testing.T) {
	const timeout = 5 * time.Second
	h, tokens, keys := three(t, timeout)
	for round := range 3 {
		h.Remove()
		for _, label := range labels {
			start := time.Now()
			wantError(t, signOne(keys[label], "gone"), hsm.ErrUnavailable)
			wantError(t, tokens[label].Check(t.Context()), hsm.ErrUnavailable)
			if took := time.Since(start); took > 2*timeout {
				t.Errorf("round %d: %s took %v to fail twice, deadline %v", round, label, took, timeout)
			}
		}
		h.Restore()
		for _, label := range labels {
			if err := signOne(keys[label], "back"); err != nil {
				t.Fatalf("round %d: sign with %s: %v", round, label, err)
			}
			if err := tokens[label].Check(t.Context()); err != nil {
				t.Fatalf("round %d: check %s: %v", round, label, err)
			}
		}
	}
}

// TestLossIsSeenWithoutKeys: no signature, no key handed out; SoftHSM itself then looks like an empty token.
func TestLossIsSeenWithoutKeys(t *testing.T) {
	find := func(token *hsm.Token) error {
		_, err := token.Signer(t.Context(), "pkcs11:token=issuing;object=key")
		return err
	}
	for name, look := range map[string]func(token *hsm.Token) error{
		"check":  func(token *hsm.Token) error { return token.Check(t.Context()) },
		"lookup": find,
	} {
		t.Run(name, func(t *testing.T) {
			h := softhsm.New(t)
			cfg := config(h, "issuing", h.InitToken("issuing", pin))
			first, err := hsm.Open(t.Context(), cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			generate(t, first, "key", hsm.P256)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			token := open(t, cfg)
			h.Remove()
			wantError(t, look(token), hsm.ErrUnavailable)
			h.Restore()
			if err := find(token); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestLookupAfterUnnoticedLoss: gone and back before anybody looked, the module shows an empty token.
func TestLookupAfterUnnoticedLoss(t *testing.T) {
	h := softhsm.New(t)
	cfg := config(h, "issuing", h.InitToken("issuing", pin))
	token := open(t, cfg)
	k := generate(t, token, "key", hsm.P256)
	mustTool(t, h, "issuing", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "second", "--id", "02", "--sensitive")
	h.Remove()
	if err := signOne(k, "gone"); err == nil {
		t.Fatal("signed without a token")
	}
	h.Restore()
	if _, err := token.Signer(t.Context(), "pkcs11:token=issuing;object=second"); err != nil {
		t.Fatal(err)
	}
}

func TestHealUnderLoad(t *testing.T) {
	const signers = 8
	h, tokens, keys := three(t, 5*time.Second)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var signed, failed atomic.Int64
	defer wg.Wait()
	defer stop()
	for g := range signers {
		k := keys[labels[g%len(labels)]]
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				//nolint:contextcheck // Sign is the method under test; its deadline is Config.Timeout
				switch err := signOne(k, fmt.Sprint(g, n)); {
				case err == nil:
					signed.Add(1)
				case errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded):
					failed.Add(1)
				default:
					t.Errorf("signer %d: %v", g, err)
					return
				}
			}
		})
	}
	waitFor(t, "signatures", func() bool { return signed.Load() > 200 })
	for range 3 {
		h.Remove()
		// Calls that were inside the module when the directory went may still finish: one for each signer.
		before := signed.Load()
		fails := failed.Load()
		waitFor(t, "failures", func() bool { return failed.Load() > fails+signers })
		if extra := signed.Load() - before; extra > signers {
			t.Fatalf("%d signatures came from a token that was gone", extra)
		}
		h.Restore()
		for _, label := range labels {
			if err := signOne(keys[label], "back"); err != nil {
				t.Fatalf("sign with %s under load: %v", label, err)
			}
		}
		after := signed.Load()
		waitFor(t, "signatures after recovery", func() bool { return signed.Load() > after+100 })
	}
	for _, label := range labels {
		if err := tokens[label].Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestOneLostTokenLeavesOthersWorking: recovery re-initialises the module under the feet of the tokens that are well.
func TestOneLostTokenLeavesOthersWorking(t *testing.T) {
	h := softhsm.New(t)
	lostCfg := config(h, "audit", h.InitToken("audit", pin))
	files, err := filepath.Glob(filepath.Join(h.TokenDir(), "*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("token directories: %v %v", files, err)
	}
	lost, well := open(t, lostCfg), open(t, config(h, "issuing", h.InitToken("issuing", pin)))
	lostKey, wellKey := generate(t, lost, "key", hsm.P256), generate(t, well, "key", hsm.P256)
	aside := filepath.Join(t.TempDir(), "aside")
	if err := os.Rename(files[0], aside); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		wantError(t, signOne(lostKey, "gone"), hsm.ErrUnavailable)
		if err := signOne(wellKey, "well"); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(aside, files[0]); err != nil {
		t.Fatal(err)
	}
	for _, k := range []*hsm.Key{lostKey, wellKey} {
		if err := signOne(k, "back"); err != nil {
			t.Fatal(err)
		}
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// TestPINRefusalIsFinal: the PIN was changed while the token was away. The old one is presented once and never
// again, not even when it would be right.
func TestPINRefusalIsFinal(t *testing.T) {
	h, tokens, keys := three(t, 5*time.Second)
	changePIN(t, h, "issuing", pin, "changed-pin-2")
	h.Remove()
	wantError(t, signOne(keys["root"], "gone"), hsm.ErrUnavailable)
	h.Restore()
	if err := signOne(keys["root"], "back"); err != nil {
		t.Fatalf("another token's wrong PIN broke this one: %v", err)
	}
	wantError(t, signOne(keys["issuing"], "wrong PIN"), hsm.ErrPIN)
	changePIN(t, h, "issuing", "changed-pin-2", pin)
	h.Remove()
	wantError(t, signOne(keys["audit"], "gone"), hsm.ErrUnavailable)
	h.Restore()
	if err := signOne(keys["audit"], "back"); err != nil {
		t.Fatal(err)
	}
	wantError(t, signOne(keys["issuing"], "latched"), hsm.ErrPIN)
	wantError(t, tokens["issuing"].Check(t.Context()), hsm.ErrPIN)
	_, err := tokens["issuing"].Signer(t.Context(), keys["issuing"].URI())
	wantError(t, err, hsm.ErrPIN)
}

func changePIN(t *testing.T, h *softhsm.HSM, label, from, to string) {
	t.Helper()
	// A process of its own: to the token's login in this process nothing changes until it is opened anew.
	cmd := exec.CommandContext(t.Context(), "pkcs11-tool", "--module", h.Module(), "--token-label", label,
		"--login", "--pin", from, "--change-pin", "--new-pin", to)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pkcs11-tool --change-pin (apt-get install opensc): %v\n%s", err, out)
	}
}

// TestSubstitutedKeyIsRefused: after recovery the same label leads to another key pair.
func TestSubstitutedKeyIsRefused(t *testing.T) {
	h, token := newToken(t)
	mustTool(t, h, "issuing", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "key", "--id", "01", "--sensitive")
	k, err := token.Signer(t.Context(), "pkcs11:token=issuing;object=key")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"privkey", "pubkey"} {
		mustTool(t, h, "issuing", "--delete-object", "--type", kind, "--id", "01")
	}
	mustTool(t, h, "issuing", "--keypairgen", "--key-type", "EC:prime256v1", "--label", "key", "--id", "01", "--sensitive")
	wantError(t, signOne(k, "x"), hsm.ErrKeyChanged)
	wantError(t, token.Check(t.Context()), hsm.ErrKeyChanged)
	_, err = token.Signer(t.Context(), "pkcs11:token=issuing;object=key")
	wantError(t, err, hsm.ErrKeyChanged)
}

func TestClosedTokenStaysClosed(t *testing.T) {
	h := softhsm.New(t)
	cfg := config(h, "issuing", h.InitToken("issuing", pin))
	token, err := hsm.Open(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	k := generate(t, token, "key", hsm.P256)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				if err := signOne(k, "until closed"); err != nil {
					if !errors.Is(err, hsm.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	if err := token.Close(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := token.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	wantError(t, token.Check(t.Context()), hsm.ErrClosed)
	_, err = token.Signer(t.Context(), k.URI())
	wantError(t, err, hsm.ErrClosed)
	_, err = token.Generate(t.Context(), "late", hsm.P256)
	wantError(t, err, hsm.ErrClosed)
}
