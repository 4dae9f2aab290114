package appliance

import (
	"context"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// keyring is where keys of one purpose are, a PKCS#11 token or the TPM; labels name them.
type keyring interface {
	// key finds a key.
	key(ctx context.Context, label string) (contextSigner, error)
	// generate makes a P-256 key, or a strong one: P-384 where the device has it. It gives a reference for the transcript.
	generate(ctx context.Context, label string, strong bool) (contextSigner, string, error)
	// Check makes the device prove that the keys can be used.
	Check(ctx context.Context) error
	// Ready says at once, asking nobody, whether a signature could be tried now.
	Ready() error
}

var (
	_ keyring = tokenKeys{}
	_ keyring = (*chipKeys)(nil)
)

// openKeys opens what t says.
func (c *Config) openKeys(ctx context.Context, name string, t Token, dev *tpm.Device, log *slog.Logger) (keyring, error) {
	if t.TPM {
		chip, err := c.openChip(name, t, dev)
		if err != nil {
			return nil, err // not a nil *chipKeys in an interface
		}
		return chip, nil
	}
	tok, err := c.openToken(ctx, t, dev, log)
	if err != nil {
		return nil, err
	}
	return tokenKeys{Token: tok, label: t.Label, prefix: t.LabelPrefix}, nil
}

// tokenKeys are keys in a PKCS#11 token, which others may use too: the prefix tells this appliance's.
type tokenKeys struct {
	*hsm.Token
	label, prefix string
}

func (k tokenKeys) object(label string) string { return k.prefix + label }

func (k tokenKeys) uri(label string) string {
	return "pkcs11:token=" + k.label + ";object=" + k.object(label)
}

func (k tokenKeys) key(ctx context.Context, label string) (contextSigner, error) {
	return k.Signer(ctx, k.uri(label))
}

func (k tokenKeys) generate(ctx context.Context, label string, strong bool) (contextSigner, string, error) {
	alg := hsm.P256
	if strong {
		alg = hsm.P384
	}
	key, err := k.Generate(ctx, k.object(label), alg)
	if err != nil {
		return nil, "", err
	}
	return key, key.URI(), nil
}

// chipKeys are keys in the TPM, in files that only it can use.
type chipKeys struct {
	*tpm.Keys
	name, dir string
	made      map[string]*tpm.FileKey // by the ceremony, which certifies them
}

func (c *Config) keysDir() string { return filepath.Join(c.home(), "keys") }

// openChip asks the TPM for nothing yet.
func (c *Config) openChip(name string, t Token, dev *tpm.Device) (*chipKeys, error) {
	cfg := tpm.KeysConfig{Queue: t.Queue}
	if t.PINFile != "" {
		pin, err := hsm.ReadPIN(c.path(t.PINFile))
		if err != nil {
			return nil, fmt.Errorf("tokens.%s: %w", name, err)
		}
		cfg.Auth = []byte(pin)
	}
	keys, err := dev.Keys(cfg)
	if err != nil {
		return nil, fmt.Errorf("tokens.%s: %w", name, err)
	}
	return &chipKeys{Keys: keys, name: name, dir: filepath.Join(c.keysDir(), name), made: map[string]*tpm.FileKey{}}, nil
}

func (k *chipKeys) file(label string) string { return filepath.Join(k.dir, label+".pem") }

func (k *chipKeys) key(ctx context.Context, label string) (contextSigner, error) {
	key, err := k.read(ctx, label)
	if err != nil {
		return nil, err // not a nil *tpm.FileKey in an interface
	}
	return key, nil
}

func (k *chipKeys) read(ctx context.Context, label string) (*tpm.FileKey, error) {
	text, err := os.ReadFile(k.file(label))
	if err != nil {
		return nil, err
	}
	file, err := tpm.ParseKeyFile(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.file(label), err)
	}
	key, err := k.Open(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k.file(label), err)
	}
	return key, nil
}

func (k *chipKeys) generate(ctx context.Context, label string, strong bool) (contextSigner, string, error) {
	curve := elliptic.P256()
	if strong {
		curve = elliptic.P384()
	}
	file, err := k.Create(ctx, curve)
	if strong && errors.Is(err, tpm.ErrUnsuitable) {
		file, err = k.Create(ctx, elliptic.P256())
	}
	if err != nil {
		return nil, "", err
	}
	text, err := file.PEM()
	if err != nil {
		return nil, "", err
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, "", err
	}
	if err := durable.Create(k.file(label), text, 0o600); err != nil {
		return nil, "", err
	}
	key, err := k.read(ctx, label)
	if err != nil {
		return nil, "", err
	}
	k.made[label] = key
	return key, k.reference(label), nil
}

func (k *chipKeys) reference(label string) string { return "tpm:file=" + k.name + "/" + label + ".pem" }

// inTPM tells whether there are keys in the TPM.
func (t Tokens) inTPM() bool { return t.Root.TPM || t.servedByTPM() }

// servedByTPM leaves out the root, which serves nobody.
func (t Tokens) servedByTPM() bool { return t.Issuing.TPM || t.Audit.TPM }

// heldFile says which keys are in the TPM, by statements of the attestation key.
const heldFile = "tpm-keys.json"

// readHeld reads and verifies what the ceremony had the TPM state, and gives the storage root key; nil where all keys are in tokens.
func (c *Config) readHeld(ceremony quote.Binding) (*quote.SRK, error) {
	if !c.Tokens.inTPM() {
		return nil, nil //nolint:nilnil // there is none
	}
	data, err := os.ReadFile(filepath.Join(c.pkiDir(), heldFile))
	if err != nil {
		return nil, fmt.Errorf("pki: %w (was the ceremony held with keys in the TPM?)", err)
	}
	held, err := quote.ParseHeldKeys(data)
	if err != nil {
		return nil, fmt.Errorf("pki: %s: %w", heldFile, err)
	}
	ak, err := quote.ParseAK(ceremony.AKPublic)
	if err != nil {
		return nil, fmt.Errorf("pki: %s: %w", bindingFile, err)
	}
	if _, err := held.Verify(ak, c.Origin); err != nil {
		return nil, fmt.Errorf("pki: %s: %w", heldFile, err)
	}
	return quote.ParseSRK(held.SRKPublic)
}

// ensureSRK makes the storage root key where there is none. One that an installer made is as good: it is of this TPM, which the
// attestation key states of every key below it.
func ensureSRK(ctx context.Context, dev *tpm.Device) error {
	err := dev.CreateSRK(ctx)
	if errors.Is(err, tpm.ErrExists) {
		_, err = dev.LoadSRK(ctx)
	}
	if err != nil {
		return fmt.Errorf("storage root key: %w", err)
	}
	return nil
}

// writeHeld has the attestation key state which of the ceremony's keys are in its TPM, unless it has done so before.
func (c *Config) writeHeld(ctx context.Context, dev *tpm.Device, ceremony quote.Binding, rings ...keyring) error {
	if _, err := os.Lstat(filepath.Join(c.pkiDir(), heldFile)); err == nil {
		_, err = c.readHeld(ceremony)
		return err
	}
	held := quote.HeldKeys{Keys: map[string]quote.HeldStatement{}}
	for _, ring := range rings {
		chip, ok := ring.(*chipKeys)
		if !ok {
			continue
		}
		for label, key := range chip.made {
			q := quote.HeldQualifying(c.Origin, label)
			s, err := chip.Certify(ctx, key, q[:])
			if err != nil {
				return fmt.Errorf("certify %s: %w", label, err)
			}
			held.Keys[label] = quote.HeldStatement{Public: key.Held().Marshal(), Attest: s.Attest, Signature: s.Signature}
		}
	}
	if len(held.Keys) == 0 {
		return nil
	}
	srk, err := dev.LoadSRK(ctx)
	if err != nil {
		return err
	}
	held.SRKPublic = srk.Marshal()
	text, err := json.MarshalIndent(held, "", "  ")
	if err != nil {
		return err
	}
	return durable.Create(filepath.Join(c.pkiDir(), heldFile), append(text, '\n'), 0o644)
}
