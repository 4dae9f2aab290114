package appliance

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/signet-pki/signet/audit"
	"github.com/signet-pki/signet/audit/record"
	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/internal/durable"
	"github.com/signet-pki/signet/policy/opa"
	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// Init holds the first ceremony: it makes the keys in their devices, certifies them, binds the attestation key to the
// TPM, writes the certificates below Dir and begins the log with what it made. It refuses to touch anything that
// exists: outputs are checked before the first key is made.
func Init(ctx context.Context, c Config, log *slog.Logger) error {
	c.Ceremony.TrustDomain, c.Ceremony.Origin = c.TrustDomain, c.Origin
	plan, err := ceremony.ParsePlan(c.Ceremony)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if err := c.checkFresh(plan); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	keys, err := c.openCeremony(ctx, log)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	err = keys.hold(ctx, c, plan)
	return errors.Join(err, keys.Close())
}

// checkFresh refuses a directory in which an appliance exists.
func (c *Config) checkFresh(plan ceremony.Plan) error {
	for _, p := range []string{
		c.logDir(), c.indexKey(), c.keysDir(), filepath.Join(c.pkiDir(), bindingFile), filepath.Join(c.pkiDir(), ekFile), filepath.Join(c.pkiDir(), heldFile),
	} {
		if _, err := os.Lstat(p); err == nil {
			return fmt.Errorf("%s exists; a ceremony never overwrites", p)
		}
	}
	if err := os.MkdirAll(c.pkiDir(), 0o700); err != nil {
		return err
	}
	return plan.CheckOutputs(c.pkiDir())
}

// The files of a ceremony besides the certificates.
const (
	bindingFile = "ak-binding.json"
	ekFile      = "ek.pem"
)

// ceremonyKeys are the devices of a ceremony; it generates keys where they belong.
type ceremonyKeys struct {
	root, issuing, audit keyring
	tpm                  *tpm.Device
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
	}
	return k, nil
}

// Close closes the devices.
func (k *ceremonyKeys) Close() error { return closeAll(k.tpm, k.audit, k.issuing, k.root) }

// Generate makes the key of a role in its device: the root apart from what serves every day.
func (k *ceremonyKeys) Generate(ctx context.Context, role ceremony.Role, label string) (crypto.Signer, string, error) {
	keys, strong := k.issuing, false
	switch role {
	case ceremony.RoleRoot:
		keys, strong = k.root, true
	case ceremony.RoleAudit:
		keys = k.audit
	case ceremony.RoleAgentCA, ceremony.RoleServiceCA, ceremony.RoleJWT:
	}
	key, uri, err := keys.generate(ctx, label, strong)
	if err != nil {
		return nil, "", err
	}
	if role == ceremony.RoleAudit {
		k.auditKey = key
	}
	return key, uri, nil
}

// hold runs the ceremony and keeps its results.
func (k *ceremonyKeys) hold(ctx context.Context, c Config, plan ceremony.Plan) error {
	binding, ak, err := k.bindTPM(ctx)
	if err != nil {
		return err
	}
	if c.Tokens.inTPM() {
		if err := ensureSRK(ctx, k.tpm); err != nil {
			return err
		}
	}
	now := time.Now()
	result, err := ceremony.Run(ctx, plan, k, ak.Public(), now)
	if err != nil {
		return err
	}
	if err := result.Write(c.pkiDir()); err != nil {
		return err
	}
	if err := c.writeBinding(binding); err != nil {
		return err
	}
	if err := c.writeHeld(ctx, k.tpm, k.root, k.issuing, k.audit); err != nil {
		return err
	}
	indexKey := make([]byte, 32)
	if _, err := rand.Read(indexKey); err != nil {
		return err
	}
	if err := durable.Create(c.indexKey(), indexKey, 0o600); err != nil {
		return err
	}
	return k.beginLog(ctx, c, result, binding, indexKey, now)
}

// bindTPM makes the attestation key and the counter, and proves that they live in the TPM of the endorsement key.
func (k *ceremonyKeys) bindTPM(ctx context.Context) (quote.Binding, *quote.AK, error) {
	if err := k.tpm.CreateAK(ctx); err != nil {
		return quote.Binding{}, nil, fmt.Errorf("attestation key: %w", err)
	}
	if err := k.tpm.CreateCounter(ctx); err != nil {
		return quote.Binding{}, nil, fmt.Errorf("counter: %w", err)
	}
	ak, err := k.tpm.LoadAK(ctx)
	if err != nil {
		return quote.Binding{}, nil, err
	}
	if _, err := k.tpm.LoadCounter(ctx); err != nil {
		return quote.Binding{}, nil, err
	}
	b, err := k.tpm.Activate(ctx)
	return b, ak, err
}

func (c *Config) writeBinding(b quote.Binding) error {
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return err
	}
	if err := durable.Create(filepath.Join(c.pkiDir(), bindingFile), append(text, '\n'), 0o644); err != nil {
		return err
	}
	if b.EKCertificate == "" {
		return nil
	}
	return durable.Create(filepath.Join(c.pkiDir(), ekFile), []byte(b.EKCertificate), 0o644)
}

// beginLog writes leaf 0, which pins every key that later entries are checked with, and the first operator.
func (k *ceremonyKeys) beginLog(ctx context.Context, c Config, r ceremony.Result, b quote.Binding, indexKey []byte, now time.Time) error {
	first, err := c.leafZero(ctx, r, b, now)
	if err != nil {
		return err
	}
	operator, err := delegation.FirstOperator(r.Operator.Leaf, r.ServiceCAs[0].Leaf, now)
	if err != nil {
		return err
	}
	cfg := c.auditConfig(k.auditKey, quoter{k.tpm}, indexKey, time.Now, slog.New(slog.DiscardHandler))
	return audit.Create(ctx, cfg, []record.Entry{first, operator})
}

func (c *Config) leafZero(ctx context.Context, r ceremony.Result, b quote.Binding, now time.Time) (record.Entry, error) {
	engine, err := opa.New(ctx, opa.Options{})
	if err != nil {
		return record.Entry{}, err
	}
	body, err := json.Marshal(record.Ceremony{
		Origin: c.Origin, TrustDomain: c.TrustDomain, Root: b64(r.Root.DER), AuditKey: b64(r.Audit.Leaf.RawSubjectPublicKeyInfo),
		JWTKey:   b64(r.JWT.Leaf.RawSubjectPublicKeyInfo),
		AKPublic: b64(b.AKPublic), AKName: hex.EncodeToString(b.AKName), NVPublic: b64(b.NVPublic), NVName: hex.EncodeToString(b.NVName),
		NVIndex: uint32(b.NVIndex), EKCertificate: b64(pemDER(b.EKCertificate)), PCRs: c.TPM.PCRs,
		AgentCAs: ders(r.AgentCAs), ServiceCAs: ders(r.ServiceCAs), PolicyDigest: engine.Digest(),
	})
	if err != nil {
		return record.Entry{}, err
	}
	e, err := record.New(record.Envelope{Type: record.TypeCeremony, Time: now, Body: body}, nil, [32]byte{})
	e.Mutations = []record.Mutation{delegation.KnownPolicy(engine.Digest())}
	return e, err
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func pemDER(text string) []byte {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil
	}
	return block.Bytes
}

func ders(certs []ceremony.Certificate) []string {
	out := make([]string, len(certs))
	for i, c := range certs {
		out[i] = b64(c.DER)
	}
	return out
}

// readCertificates reads one PEM file.
func readCertificates(path string) ([]*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, cert)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no certificate", path)
	}
	return out, nil
}
