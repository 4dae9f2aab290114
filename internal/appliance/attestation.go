package appliance

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/signet-pki/signet/delegation"
	"github.com/signet-pki/signet/delegation/chain"
	"github.com/signet-pki/signet/delegation/workload"
	"github.com/signet-pki/signet/tpm"
	"github.com/signet-pki/signet/tpm/quote"
)

// Attestation is what orchestrators may be attested against, beside join tokens and other CAs' certificates.
type Attestation struct {
	// Issuers are the platforms whose tokens attest workloads (oidc_jwt), such as Kubernetes clusters.
	Issuers []WorkloadIssuer `yaml:"issuers"`
	// EKRootsFile holds the certificates of the makers of TPMs, PEM: roots, and the intermediate CAs below them. Without it
	// nobody attests by TPM (tpm_devid).
	EKRootsFile string `yaml:"ek_roots_file"`
}

// WorkloadIssuer is one issuer of workloads' tokens. Nothing is ever fetched from it.
type WorkloadIssuer struct {
	// Name is what registrations call it. Clusters often share one issuer URL: their names tell them apart.
	Name string `yaml:"name"`
	// Issuer is the claim iss, exactly.
	Issuer string `yaml:"issuer"`
	// Audience is the claim aud, exactly and alone (default: public_url).
	Audience string `yaml:"audience"`
	// KeysFile holds its keys: a JWK set, as `kubectl get --raw /openid/v1/jwks` prints it, or PEM public keys.
	KeysFile string `yaml:"keys_file"`
	// Algorithms is what tokens may be signed with, of RS256, PS256, ES256, ES384 and EdDSA (default: whatever fits a key).
	Algorithms []string `yaml:"algorithms"`
	// MaxTokenLife is the longest life of a token (default 1h, at most 24h).
	MaxTokenLife time.Duration `yaml:"max_token_life"`
	// Skew is how far clocks may differ (default 30s, at most 5m).
	Skew time.Duration `yaml:"skew"`
}

// maxEKRoots bounds the certificates of makers.
const maxEKRoots = 64

// newWorkloads reads the issuers' keys.
func (c *Config) newWorkloads() (map[string]*workload.Issuer, error) {
	out := make(map[string]*workload.Issuer, len(c.Attestation.Issuers))
	for n, w := range c.Attestation.Issuers {
		field := fmt.Sprintf("attestation.issuers[%d]", n)
		keys, err := os.ReadFile(c.path(w.KeysFile))
		if err != nil {
			return nil, fmt.Errorf("%s.keys_file: %w", field, err)
		}
		i, err := workload.NewIssuer(workload.Config{
			Name: w.Name, URL: w.Issuer, Audience: w.Audience, Keys: keys, Algorithms: w.Algorithms, MaxLife: w.MaxTokenLife, Skew: w.Skew,
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", field, err)
		}
		out[w.Name] = i
	}
	return out, nil
}

func (a *Attestation) defaults(publicURL string) {
	for n := range a.Issuers {
		orElse(&a.Issuers[n].Audience, publicURL)
		orElse(&a.Issuers[n].MaxTokenLife, time.Hour)
		orElse(&a.Issuers[n].Skew, 30*time.Second)
	}
}

// check leaves the keys and all that a token is held against to newWorkloads.
func (a *Attestation) check(p *problems) {
	seen := map[string]bool{}
	for n, w := range a.Issuers {
		field := fmt.Sprintf("attestation.issuers[%d].", n)
		p.unless(w.Name != "" && !seen[w.Name], field+"name", "missing, or another issuer's")
		p.unless(w.Issuer != "", field+"issuer", "missing")
		p.unless(w.KeysFile != "", field+"keys_file", "missing")
		seen[w.Name] = true
	}
}

// newTPMs gives what verifies orchestrators' TPMs; nil without makers to believe.
func (c *Config) newTPMs(now func() time.Time) (delegation.TPM, error) {
	if c.Attestation.EKRootsFile == "" {
		return nil, nil
	}
	roots, intermediates, err := c.readMakers("attestation.ek_roots_file", c.Attestation.EKRootsFile)
	if err != nil {
		return nil, err
	}
	return makers{roots: roots, intermediates: intermediates, now: now}, nil
}

// readMakers reads the certificates of the makers of TPMs: those that signed themselves are roots.
func (c *Config) readMakers(field, file string) (roots, intermediates *x509.CertPool, err error) {
	data, err := os.ReadFile(c.path(file))
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", field, err)
	}
	certs, err := chain.ParsePEM(data, maxEKRoots)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", field, err)
	}
	roots, intermediates = x509.NewCertPool(), x509.NewCertPool()
	n := 0
	for _, cert := range certs {
		if cert.CheckSignatureFrom(cert) == nil {
			roots.AddCert(cert)
			n++
		} else {
			intermediates.AddCert(cert)
		}
	}
	if n == 0 {
		return nil, nil, fmt.Errorf("%s: no self-signed certificate in it", field)
	}
	return roots, intermediates, nil
}

// makers verifies what TPMs show, by the certificates of those who make them.
type makers struct {
	roots, intermediates *x509.CertPool
	now                  func() time.Time
}

var _ delegation.TPM = makers{}

// maxEKCertificate bounds an endorsement key's certificate, in bytes.
const maxEKCertificate = 8 << 10

// Challenge checks the endorsement and the attestation key, and encrypts the secret to both.
func (m makers) Challenge(e delegation.Endorsement, secret []byte) (delegation.TPMCredential, error) {
	if len(e.EKCertificate) == 0 || len(e.EKCertificate) > maxEKCertificate {
		return delegation.TPMCredential{}, refuseTPM(delegation.Invalid, "ek_malformed", "ek_certificate", "a DER certificate of at most 8 KiB")
	}
	cert, err := x509.ParseCertificate(e.EKCertificate)
	if err != nil {
		return delegation.TPMCredential{}, refuseTPM(delegation.Invalid, "ek_malformed", "ek_certificate", "not a DER certificate")
	}
	ek, err := quote.ParseEK(e.EKPublic)
	if err != nil {
		return delegation.TPMCredential{}, refuseTPM(delegation.Invalid, "ek_malformed", "ek_public", "not the public area of an endorsement key")
	}
	_, err = quote.VerifyEK(cert, e.EKPublic, quote.EKRoots{Roots: m.roots, Intermediates: m.intermediates, At: m.now()})
	if err != nil {
		return delegation.TPMCredential{}, refuseTPM(delegation.Unauthenticated, "ek_untrusted", "ek_certificate", "no configured maker certifies this endorsement key")
	}
	ak, err := quote.ParseAK(e.AKPublic)
	if err != nil {
		return delegation.TPMCredential{}, refuseTPM(delegation.Unauthenticated, "ak_unsuitable", "ak_public", "not a restricted P-256 signing key that can never leave its TPM")
	}
	spki, err := x509.MarshalPKIXPublicKey(ek)
	if err != nil {
		return delegation.TPMCredential{}, fmt.Errorf("endorsement key: %w", err)
	}
	blob, encrypted, err := tpm.MakeCredential(e.EKPublic, ak.Name(), secret)
	if err != nil {
		return delegation.TPMCredential{}, err
	}
	return delegation.TPMCredential{Blob: blob, Secret: encrypted, EKKey: sha256.Sum256(spki), AKName: ak.Name()}, nil
}

// Certified checks that the attestation key certified the key.
func (m makers) Certified(akPublic []byte, c delegation.Certification, qualifying []byte) ([]byte, error) {
	ak, err := quote.ParseAK(akPublic)
	if err != nil {
		return nil, err // it was checked before it was sealed
	}
	key, err := ak.VerifyCertify(quote.Statement{Attest: c.Attest, Signature: c.Signature}, qualifying, c.Public)
	if err != nil {
		return nil, refuseTPM(delegation.Unauthenticated, certifyCode(err), "certify_info", "the TPM did not certify this key for this challenge")
	}
	return x509.MarshalPKIXPublicKey(key)
}

// certifyCode tells a bad key from a bad statement about it.
func certifyCode(err error) string {
	for _, statement := range []error{quote.ErrMalformed, quote.ErrMagic, quote.ErrType, quote.ErrQualifying, quote.ErrSignature, quote.ErrName} {
		if errors.Is(err, statement) {
			return "certification_invalid"
		}
	}
	return "tpm_key_unsuitable"
}

func refuseTPM(kind delegation.Kind, code, field, detail string) error {
	return &delegation.Error{Kind: kind, Code: code, Field: field, Detail: detail}
}
