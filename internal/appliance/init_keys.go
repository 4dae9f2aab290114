package appliance

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"

	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/hsm"
	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// ceremonyKeys are the devices of a ceremony; it generates keys where they belong.
type ceremonyKeys struct {
	root, issuing, audit keyring
	tpm                  *tpm.Device
	records              records
	auditKey             crypto.Signer
}

func (c *Config) openCeremony(ctx context.Context, log *slog.Logger) (k *ceremonyKeys, err error) {
	k = &ceremonyKeys{}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.Close())
		}
	}()
	if k.tpm, err = c.openTPM(ctx, quote.Binding{}, log); err != nil {
		return k, err
	}
	for _, t := range []struct {
		name string
		cfg  Token
		keys *keyring
	}{{"root", c.Tokens.Root, &k.root}, {"issuing", c.Tokens.Issuing, &k.issuing}, {"audit", c.Tokens.Audit, &k.audit}} {
		if *t.keys, err = c.openKeys(ctx, t.name, t.cfg, k.tpm, log); err != nil {
			return k, err
		}
		if err = c.checkToken(ctx, *t.keys); err != nil {
			return k, err
		}
	}
	return k, c.checkTPM(ctx, k.tpm, quote.Binding{})
}

// Close closes the devices.
func (k *ceremonyKeys) Close() error { return closeAll(k.tpm, k.audit, k.issuing, k.root) }

// ring is where the keys of a role belong: the root apart from what serves every day.
func (k *ceremonyKeys) ring(role ceremony.Role) keyring {
	switch role {
	case ceremony.RoleRoot:
		return k.root
	case ceremony.RoleAudit:
		return k.audit
	case ceremony.RoleAgentCA, ceremony.RoleServiceCA, ceremony.RoleJWT:
	}
	return k.issuing
}

// free refuses labels and places in the TPM that are taken: nothing says that what is there is this ceremony's.
func (k *ceremonyKeys) free(ctx context.Context, plan ceremony.Plan) error {
	for _, p := range plan.Keys() {
		if err := unused(ctx, k.ring(p.Role), p.Label); err != nil {
			return err
		}
	}
	return k.freeTPM(ctx)
}

func unused(ctx context.Context, keys keyring, label string) error {
	_, err := keys.key(ctx, label)
	switch {
	case absent(err):
		return nil
	case err == nil:
		err = hsm.ErrKeyExists
	}
	return fmt.Errorf("key %s: %w", label, err)
}

func absent(err error) bool {
	return errors.Is(err, hsm.ErrKeyNotFound) || errors.Is(err, fs.ErrNotExist)
}

func (k *ceremonyKeys) freeTPM(ctx context.Context) error {
	for _, p := range k.places() {
		if err := p.free(ctx); err != nil {
			return err
		}
	}
	return nil
}

// place is where the TPM keeps something of the ceremony's.
type place struct {
	label string
	load  func(context.Context) error // nil: it is there
	make  func(context.Context) error
}

func (k *ceremonyKeys) places() []place {
	return []place{
		{"attestation-key", func(ctx context.Context) error { _, err := k.tpm.LoadAK(ctx); return err }, k.tpm.CreateAK},
		{"counter", func(ctx context.Context) error { _, err := k.tpm.LoadCounter(ctx); return err }, k.tpm.CreateCounter},
	}
}

// free refuses what is there. A counter that was never written is none yet: the TPM refuses to load it, and it is completed.
func (p place) free(ctx context.Context) error {
	if err := p.load(ctx); err == nil {
		return fmt.Errorf("%s: %w", p.label, tpm.ErrExists)
	}
	return nil
}

// Generate makes the key of a role in its device, or finds the one that an interrupted run has made there.
func (k *ceremonyKeys) Generate(ctx context.Context, role ceremony.Role, label string) (crypto.Signer, string, error) {
	keys := k.ring(role)
	key, uri, err := k.adopt(ctx, keys, label)
	if err == nil && key == nil {
		key, uri, err = k.make(ctx, keys, label, role == ceremony.RoleRoot)
	}
	if err != nil {
		return nil, "", err
	}
	if role == ceremony.RoleAudit {
		k.auditKey = key
	}
	return key, uri, nil
}

// adopt takes a key that was announced and is there; nil: none. One that was made and is another now, or gone, is an error.
func (k *ceremonyKeys) adopt(ctx context.Context, keys keyring, label string) (contextSigner, string, error) {
	var made madeKey
	known, err := k.records.get(recordKey+label+".json", &made)
	if err != nil {
		return nil, "", err
	}
	intended, err := k.records.intended(label)
	if err != nil || !intended {
		return nil, "", err
	}
	key, err := keys.key(ctx, label) // which refuses what the device would hand out
	if absent(err) && !known {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	if err := proves(ctx, key); err != nil {
		return nil, "", err
	}
	uri := referenceOf(keys, label, key)
	if !known {
		return key, uri, k.record(label, uri, key)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err == nil && !bytes.Equal(spki, made.SPKI) {
		err = errors.New("not the key that this ceremony made")
	}
	return key, uri, err
}

// referenceOf is the reference of a key that an earlier run has made; of one in the TPM it is remembered, to be certified.
func referenceOf(keys keyring, label string, key contextSigner) string {
	switch k := keys.(type) {
	case *chipKeys:
		if file, ok := key.(*tpm.FileKey); ok {
			k.made[label] = file
		}
		return k.reference(label)
	case tokenKeys:
		if t, ok := key.(*hsm.Key); ok {
			return t.URI()
		}
	}
	return ""
}

// make generates a key under a label that is free, once that is announced: what is found there later is this one.
func (k *ceremonyKeys) make(ctx context.Context, keys keyring, label string, strong bool) (contextSigner, string, error) {
	intended, err := k.records.intended(label)
	if err != nil {
		return nil, "", err
	}
	if !intended {
		if err := unused(ctx, keys, label); err != nil {
			return nil, "", err
		}
		if err := k.records.intend(label); err != nil {
			return nil, "", err
		}
	}
	key, uri, err := keys.generate(ctx, label, strong)
	if err != nil {
		return nil, "", err
	}
	return key, uri, k.record(label, uri, key)
}

func (k *ceremonyKeys) record(label, uri string, key crypto.Signer) error {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	return k.records.put(recordKey+label+".json", madeKey{URI: uri, SPKI: spki})
}

// proves has a key that was found sign something: the device shows that its public half belongs to it.
func proves(ctx context.Context, key contextSigner) error {
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		return fmt.Errorf("the key found is %T, not ECDSA", key.Public())
	}
	var digest []byte
	hash := crypto.SHA256
	if public.Curve.Params().BitSize > 256 {
		d := sha512.Sum384([]byte("signet/init"))
		digest, hash = d[:], crypto.SHA384
	} else {
		d := sha256.Sum256([]byte("signet/init"))
		digest = d[:]
	}
	sig, err := key.SignContext(ctx, digest, hash)
	if err == nil && !ecdsa.VerifyASN1(public, digest, sig) {
		err = errors.New("its signature does not verify")
	}
	if err != nil {
		return fmt.Errorf("the key found: %w", err)
	}
	return nil
}

// bindTPM makes the attestation key and the counter, and proves that they live in the TPM of the endorsement key.
func (k *ceremonyKeys) bindTPM(ctx context.Context) (b quote.Binding, ak *quote.AK, err error) {
	known, err := k.records.get(recordTPM, &b)
	if err != nil {
		return b, nil, err
	}
	if !known {
		if err := k.placeTPM(ctx); err != nil {
			return b, nil, err
		}
	}
	if ak, err = k.tpm.LoadAK(ctx); err != nil {
		return b, nil, err
	}
	counter, err := k.tpm.LoadCounter(ctx)
	if err != nil {
		return b, nil, err
	}
	if known {
		if !bytes.Equal(b.AKName, ak.Name()) || !bytes.Equal(b.NVName, counter.Name()) {
			err = errors.New("tpm: not the attestation key and counter that this ceremony made")
		}
		return b, ak, err
	}
	if b, err = k.tpm.Activate(ctx); err != nil {
		return b, nil, err
	}
	return b, ak, k.records.put(recordTPM, b)
}

// placeTPM makes what is not there. What was announced and is there is this ceremony's: the attestation key derives from the TPM's
// seed, and both are held to their templates when they are loaded.
func (k *ceremonyKeys) placeTPM(ctx context.Context) error {
	for _, p := range k.places() {
		intended, err := k.records.intended(p.label)
		if err == nil && !intended {
			if err = p.free(ctx); err == nil {
				err = k.records.intend(p.label)
			}
		}
		if err != nil {
			return err
		}
		if err := p.make(ctx); err != nil && (!intended || !errors.Is(err, tpm.ErrExists)) {
			return fmt.Errorf("%s: %w", p.label, err)
		}
	}
	return nil
}

// describe is what would be made, and where, in lines: what custodians agree to.
func (i *initiation) describe(ctx context.Context, k *ceremonyKeys) ([]string, error) {
	lines := i.plan.Describe()
	for _, p := range i.plan.Keys() {
		where, err := whereOf(ctx, k.ring(p.Role), p.Role == ceremony.RoleRoot)
		if err != nil {
			return nil, fmt.Errorf("key %s: %w", p.Label, err)
		}
		lines = append(lines, fmt.Sprintf("key: %s in %s", p.Label, where))
	}
	ek, err := k.tpm.EK(ctx)
	if err != nil {
		return nil, err
	}
	digest := sha256.Sum256(ek.Public)
	lines = append(lines, fmt.Sprintf("TPM: endorsement key SHA-256 %s, PCRs %s", hex.EncodeToString(digest[:]), i.TPM.PCRs))
	policy, err := defaultPolicy(ctx)
	if err != nil {
		return nil, err
	}
	lines = append(lines, "policy: "+policy)
	if i.set.Threshold() > 0 {
		lines = append(lines, fmt.Sprintf("custodians: %d of %d", i.set.Threshold(), len(i.set.Custodians())))
	}
	for _, c := range i.set.Custodians() {
		lines = append(lines, fmt.Sprintf("custodian: %s %s", c.Name, c.Fingerprint()))
	}
	return lines, nil
}

// whereOf names the device, and refuses one that cannot make such keys.
func whereOf(ctx context.Context, keys keyring, strong bool) (string, error) {
	t, ok := keys.(tokenKeys)
	if !ok {
		return "the TPM", nil
	}
	info, err := t.Info(ctx)
	if err != nil {
		return "", err
	}
	want := hsm.P256
	if strong {
		want = hsm.P384
	}
	if !slices.Contains(info.Algorithms, want) {
		return "", fmt.Errorf("%w: the module offers no mechanism for %v", hsm.ErrUnsupported, want)
	}
	return fmt.Sprintf("token %q, serial %q", t.label, info.Serial), nil
}
