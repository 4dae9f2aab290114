package hsm_test

import (
	"crypto"
	"log/slog"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/testrig/signertest"
	"github.com/signet-pki/signet/internal/testrig/tpm2pkcs11"
)

// overTPM is the configuration of a token of tpm2-pkcs11, which needs more time than SoftHSM.
func overTPM(h *tpm2pkcs11.HSM, label, pinFile string) hsm.Config {
	return hsm.Config{Module: h.Module(), Token: label, PINFile: pinFile, Sessions: 2, Timeout: 30 * time.Second}
}

// TestKeysOverTPM: tokens of tpm2-pkcs11 in one store make keys that only sign, more of them than the TPM has places, and find them
// again when they are opened anew.
func TestKeysOverTPM(t *testing.T) {
	h := tpm2pkcs11.New(t)
	tokens := map[string]*hsm.Token{}
	for _, label := range []string{"issuing", "audit"} {
		h.InitToken(label, pin+label)
	}
	public := map[string]crypto.PublicKey{}
	for _, label := range []string{"issuing", "audit"} {
		tokens[label] = open(t, overTPM(h, label, h.WritePIN(label, pin+label)))
		for name, alg := range map[string]hsm.Algorithm{"a": hsm.P256, "b": hsm.P256, "c": hsm.P384} {
			k := generate(t, tokens[label], name, alg)
			public[k.URI()] = k.Public()
			if err := signAs(k); err != nil {
				t.Fatalf("%s: %v", k.URI(), err)
			}
		}
		_, err := tokens[label].Generate(t.Context(), "a", hsm.P256)
		wantError(t, err, hsm.ErrKeyExists)
		_, err = tokens[label].Generate(t.Context(), "ed", hsm.Ed25519)
		wantError(t, err, hsm.ErrUnsupported)
	}
	onlySign(t, h, "issuing", pin+"issuing", "a", "b", "c")
	for _, token := range tokens {
		if err := token.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, label := range []string{"issuing", "audit"} {
		again := open(t, overTPM(h, label, h.WritePIN(label, pin+label)))
		for _, name := range []string{"a", "b", "c"} {
			k, err := again.Signer(t.Context(), "pkcs11:token="+label+";object="+name)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(k.Public(), public[k.URI()]) {
				t.Errorf("%s is another key", k.URI())
			}
			if err := signAs(k); err != nil {
				t.Fatalf("%s: %v", k.URI(), err)
			}
		}
		_, err := again.Signer(t.Context(), "pkcs11:token="+label+";object=d")
		wantError(t, err, hsm.ErrKeyNotFound)
	}
}

// onlySign asks another process, as the doctor does.
func onlySign(t *testing.T, h *tpm2pkcs11.HSM, token, tokenPIN string, labels ...string) {
	t.Helper()
	cfg := overTPM(h, token, h.WritePIN(token, tokenPIN))
	cfg.Process = apart
	e := hsm.Examine(t.Context(), cfg, labels, slog.New(slog.DiscardHandler))
	for _, label := range labels {
		found := e.Keys[label]
		if len(found) != 1 || len(found[0].Uses) != 1 || found[0].Uses[0] != "sign" || !found[0].Sensitive || found[0].Extractable {
			_, err := e.Done(hsm.StepKeys)
			t.Errorf("%s: %+v, %v", label, found, err)
		}
	}
}

func signAs(k *hsm.Key) error {
	hash := crypto.SHA256
	if k.Algorithm() == hsm.P384 {
		hash = crypto.SHA384
	}
	_, err := k.Sign(nil, make([]byte, hash.Size()), hash)
	return err
}

func TestConformanceOverTPM(t *testing.T) {
	h := tpm2pkcs11.New(t)
	token := open(t, overTPM(h, "issuing", h.InitToken("issuing", pin)))
	made := generate(t, token, "key", hsm.P256)
	signertest.Run(t, func(*testing.T) crypto.Signer { return made })
}

// TestTPMOfTokensVanishes: Check sees it, in the module's own process too; callers are refused meanwhile, and all tokens of the
// store sign again when the TPM is back.
func TestTPMOfTokensVanishes(t *testing.T) {
	for name, process := range map[string][]string{"here": nil, "apart": apart} {
		t.Run(name, func(t *testing.T) {
			h := tpm2pkcs11.New(t)
			for _, label := range []string{"issuing", "audit"} {
				h.InitToken(label, pin)
			}
			var keys []*hsm.Key
			var tokens []*hsm.Token
			for _, label := range []string{"issuing", "audit"} {
				cfg := overTPM(h, label, h.WritePIN(label, pin))
				cfg.Process = process
				token := open(t, cfg)
				tokens, keys = append(tokens, token), append(keys, generate(t, token, "key", hsm.P256))
			}
			for range 2 {
				h.Kill()
				for i, token := range tokens {
					wantError(t, token.Check(t.Context()), hsm.ErrUnavailable)
					wantError(t, signOne(keys[i], "gone"), hsm.ErrUnavailable)
				}
				h.Restart()
				back := time.Now()
				var wg sync.WaitGroup
				for _, k := range keys {
					for range 4 {
						wg.Go(func() {
							if err := signOne(k, "back"); err != nil {
								t.Error(err)
							}
						})
					}
				}
				wg.Wait()
				t.Logf("signs %v after the TPM is back", time.Since(back).Round(time.Millisecond))
				for _, token := range tokens {
					if err := token.Check(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// TestWrongPINOverTPM: it is presented once, for each counts against all users of the TPM.
func TestWrongPINOverTPM(t *testing.T) {
	h := tpm2pkcs11.New(t)
	h.InitToken("issuing", pin)
	for tried := range 2 { // the TPM locks at the third
		_, err := hsm.Open(t.Context(), overTPM(h, "issuing", h.WritePIN("wrong", "wrong-pin")), nil)
		wantError(t, err, hsm.ErrPIN)
		if n := h.WrongTries(); n != tried+1 {
			t.Fatalf("the TPM counts %d wrong tries after %d", n, tried+1)
		}
	}
	token := open(t, overTPM(h, "issuing", h.WritePIN("issuing", pin)))
	if err := token.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
}
