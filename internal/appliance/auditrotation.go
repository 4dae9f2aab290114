package appliance

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/custody"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/audit/rotation"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/tpm/quote"
)

// auditRotation makes a new audit key where the old one is.
type auditRotation struct {
	cfg  *Config
	keys keyring
	log  *audit.Log
	api  *apiLog
}

// rotationDetail is the detail of an act that rotates the audit key.
type rotationDetail struct {
	Label string `json:"label"`         // of the new key: audit-2, audit-3, …
	Key   string `json:"key,omitempty"` // its SPKI, base64, where it was made before; else the appliance makes it
}

func (r *auditRotation) label() string {
	return "audit-" + strconv.FormatUint(r.log.Keys().Newest().Number+1, 10)
}

// plan knows a rotation that was begun and did not come to its entry: its key is there, and no other log has it.
func (r *auditRotation) plan(ctx context.Context, act custody.Act) ([]record.Mutation, error) {
	d, err := decodeDetail[rotationDetail](act)
	if err != nil {
		return nil, err
	}
	if d.Label != r.label() {
		return nil, refuseAct(delegation.Invalid, "bad_detail", "act.detail.label", "the next audit key is %s", r.label())
	}
	if d.Key == "" {
		return nil, r.keys.Check(ctx)
	}
	key, err := r.keys.key(ctx, d.Label)
	if errors.Is(err, hsm.ErrKeyNotFound) || errors.Is(err, fs.ErrNotExist) {
		return nil, refuseAct(delegation.Conflict, "key_missing", "act.detail.key", "there is no key %s yet", d.Label)
	}
	if err != nil {
		return nil, err
	}
	if spki, err := x509.MarshalPKIXPublicKey(key.Public()); err != nil || b64(spki) != d.Key {
		return nil, errors.Join(refuseAct(delegation.Conflict, "key_other", "act.detail.key", "the key %s is another", d.Label), err)
	}
	return nil, nil
}

func (r *auditRotation) carryOut(ctx context.Context, act custody.Act, entry rotation.Act) (map[string]string, error) {
	label := r.label()
	key, err := r.keys.key(ctx, label)
	if errors.Is(err, hsm.ErrKeyNotFound) || errors.Is(err, fs.ErrNotExist) {
		key, _, err = r.keys.generate(ctx, label, false)
	}
	if err != nil {
		return nil, fmt.Errorf("key %s: %w", label, err)
	}
	if err := r.hold(ctx, label); err != nil {
		return nil, err
	}
	pos, err := r.log.Rotate(ctx, key, label, entry)
	if err != nil {
		return nil, err
	}
	keys := r.log.Keys()
	vkey, err := keys.VerifierKey(keys.Newest())
	if err != nil {
		return nil, err
	}
	return map[string]string{"label": label, "rotation_entry": strconv.FormatUint(pos.Index, 10), "verifier_key": vkey}, nil
}

// hold has the attestation key state that a key is in its TPM, beside what the ceremony had it state; nothing where keys are in a token.
func (r *auditRotation) hold(ctx context.Context, label string) error {
	chip, ok := r.keys.(*chipKeys)
	if !ok {
		return nil
	}
	path := filepath.Join(r.cfg.pkiDir(), heldFile)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	held, err := quote.ParseHeldKeys(data)
	if err != nil {
		return err
	}
	key, err := chip.read(ctx, label)
	if err != nil {
		return err
	}
	q := quote.HeldQualifying(r.cfg.Origin, label)
	s, err := chip.Certify(ctx, key, q[:])
	if err != nil {
		return fmt.Errorf("certify %s: %w", label, err)
	}
	held.Keys[label] = quote.HeldStatement{Public: key.Held().Marshal(), Attest: s.Attest, Signature: s.Signature}
	text, err := json.MarshalIndent(held, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if err := durable.WriteFile(path, text, 0o644); err != nil {
		return err
	}
	r.api.holds(text)
	return nil
}

// auditKeys finds the audit keys after the first.
func auditKeys(keys keyring) func(ctx context.Context, label string) (crypto.Signer, error) {
	return func(ctx context.Context, label string) (crypto.Signer, error) { return keys.key(ctx, label) }
}
