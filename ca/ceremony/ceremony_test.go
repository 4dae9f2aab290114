package ceremony_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/signet-pki/signet/ca/ceremony"
	"github.com/signet-pki/signet/ca/lint"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// softKeys makes keys in memory; what a test sets, it does wrong.
type softKeys struct {
	rootCurve elliptic.Curve
	made      []string
	failAt    string
	wrap      func(label string, key crypto.Signer) crypto.Signer
}

func (k *softKeys) Generate(_ context.Context, role ceremony.Role, label string) (crypto.Signer, string, error) {
	if label == k.failAt {
		return nil, "", errors.New("token is gone")
	}
	curve := elliptic.P256()
	if role == ceremony.RoleRoot && k.rootCurve != nil {
		curve = k.rootCurve
	}
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		return nil, "", err
	}
	k.made = append(k.made, label)
	if k.wrap != nil {
		return k.wrap(label, key), "soft:" + label, nil
	}
	return key, "soft:" + label, nil
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func publicPEM(t *testing.T, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func config(t *testing.T) ceremony.Config {
	t.Helper()
	return ceremony.Config{
		TrustDomain: "hospital.example", Origin: "hospital.example/signet-1",
		Root:     ceremony.RootConfig{CommonName: "Hospital Signet Root", Organization: "Hospital", ValidityDays: 7300},
		AgentCAs: ceremony.SeriesConfig{Count: 3, ValidityDays: 365, OverlapDays: 30},
		ServiceCAs: ceremony.ServiceCAsConfig{
			SeriesConfig: ceremony.SeriesConfig{Count: 2, ValidityDays: 730, OverlapDays: 60},
			DNS:          []string{"signet.example", "localhost"}, IPs: []string{"127.0.0.0/8", "::1"},
		},
		Operator: ceremony.OperatorConfig{Name: "first", PublicKey: publicPEM(t, newKey(t).Public()), ValidityDays: 30},
	}
}

func mustPlan(t *testing.T, cfg ceremony.Config) ceremony.Plan {
	t.Helper()
	plan, err := ceremony.ParsePlan(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func hold(t *testing.T, cfg ceremony.Config, keys *softKeys) ceremony.Result {
	t.Helper()
	result, err := ceremony.Run(t.Context(), mustPlan(t, cfg), keys, newKey(t).Public(), start)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func TestCeremonyMakesEverything(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P384(), elliptic.P256()} {
		keys := &softKeys{rootCurve: curve}
		r := hold(t, config(t), keys)
		want := []string{"root", "agent-ca-1", "agent-ca-2", "agent-ca-3", "service-ca-1", "service-ca-2", "audit", "jwt"}
		if !slices.Equal(keys.made, want) {
			t.Errorf("keys made: %v", keys.made)
		}
		if len(r.AgentCAs) != 3 || len(r.ServiceCAs) != 2 || r.AgentCAs[1].KeyURI != "soft:agent-ca-2" {
			t.Errorf("result: %+v", r)
		}
		if r.Operator.Leaf.URIs[0].String() != "spiffe://hospital.example/operator/first" || r.Operator.Leaf.Subject.CommonName != "first" {
			t.Errorf("operator: %v", r.Operator.Leaf.URIs)
		}
		if r.Audit.Leaf.Subject.CommonName != "hospital.example/signet-1" {
			t.Errorf("audit: %v", r.Audit.Leaf.Subject)
		}
		if r.JWT.Leaf.Subject.CommonName != "hospital.example" || r.JWT.KeyURI != "soft:jwt" {
			t.Errorf("jwt: %v %s", r.JWT.Leaf.Subject, r.JWT.KeyURI)
		}
		// 8 keys and 10 certificates.
		if len(r.Transcript) != 18 {
			t.Errorf("transcript of %d steps", len(r.Transcript))
		}
		for _, s := range r.Transcript {
			if s.Act == ceremony.ActCertify && (len(s.CertificateHash) != 64 || len(s.Serial) != 32 || s.Issuer == "") {
				t.Errorf("step %+v", s)
			}
		}
	}
}

func TestEachCAOverlapsTheOneBeforeAndEndsBeforeTheRoot(t *testing.T) {
	r := hold(t, config(t), &softKeys{})
	for _, series := range []struct {
		cas     []ceremony.Certificate
		overlap time.Duration
	}{{r.AgentCAs, 30 * 24 * time.Hour}, {r.ServiceCAs, 60 * 24 * time.Hour}} {
		for n, c := range series.cas {
			if c.Leaf.NotAfter.After(r.Root.Leaf.NotAfter) {
				t.Errorf("%s outlives the root", c.Name)
			}
			if n == 0 {
				if c.Leaf.NotBefore.After(start) {
					t.Errorf("%s is not valid at the ceremony", c.Name)
				}
				continue
			}
			if got := series.cas[n-1].Leaf.NotAfter.Sub(c.Leaf.NotBefore); got != series.overlap {
				t.Errorf("%s overlaps by %s, want %s", c.Name, got, series.overlap)
			}
		}
	}
}

func TestAllProblemsAreReportedAtOnce(t *testing.T) {
	_, err := ceremony.ParsePlan(ceremony.Config{
		TrustDomain: "Hospital", Origin: "a b",
		Root:     ceremony.RootConfig{CommonName: strings.Repeat("x", 65), Organization: "a\x00", ValidityDays: 10},
		AgentCAs: ceremony.SeriesConfig{Count: 65, ValidityDays: 5, OverlapDays: 5},
		ServiceCAs: ceremony.ServiceCAsConfig{
			SeriesConfig: ceremony.SeriesConfig{Count: 2, ValidityDays: 9, OverlapDays: 1},
			DNS:          []string{"ok.example", "*.example"}, IPs: []string{"10.0.0.1/8", "::ffff:1.2.3.4", "x"},
		},
		Operator: ceremony.OperatorConfig{Name: "a.b", CSR: "x", PublicKey: "y", CRLURL: "ftp://a"},
	})
	var bad *ceremony.ConfigError
	if !errors.As(err, &bad) {
		t.Fatalf("error %v", err)
	}
	for _, path := range []string{
		"trust_domain", "origin", "root.common_name", "root.organization", "agent_cas.count", "agent_cas.overlap_days", "service_cas",
		"service_cas.dns[1]", "service_cas.ips[0]", "service_cas.ips[1]", "service_cas.ips[2]",
		"operator", "operator.name", "operator.validity_days", "operator.crl_url",
	} {
		if !slices.ContainsFunc(bad.Problems, func(p string) bool { return strings.HasPrefix(p, path+": ") }) {
			t.Errorf("no problem reported for %s in:\n%v", path, err)
		}
	}
	if _, err := ceremony.Run(t.Context(), ceremony.Plan{}, &softKeys{}, newKey(t).Public(), start); err == nil {
		t.Error("an empty plan runs")
	}
}

func TestOperatorsCSR(t *testing.T) {
	key := newKey(t)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "intruder"}, DNSNames: []string{"evil.example"},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(t)
	cfg.Operator.PublicKey = ""
	cfg.Operator.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	leaf := hold(t, cfg, &softKeys{}).Operator.Leaf
	if !key.PublicKey.Equal(leaf.PublicKey) || leaf.Subject.CommonName != "first" || len(leaf.DNSNames) != 0 {
		t.Errorf("operator certificate took names from the CSR: %v %v", leaf.Subject, leaf.DNSNames)
	}

	der[len(der)-1] ^= 1
	cfg.Operator.CSR = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	if _, err := ceremony.ParsePlan(cfg); err == nil || !strings.Contains(err.Error(), "operator.csr: proof of possession") {
		t.Errorf("bad signature: %v", err)
	}
}

// corrupt flips a bit of each signature.
type corrupt struct{ crypto.Signer }

func (c corrupt) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	sig, err := c.Signer.Sign(r, digest, opts)
	if err == nil {
		sig[len(sig)-1] ^= 1
	}
	return sig, err
}

func TestRunRefuses(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	same := newKey(t)
	for name, c := range map[string]struct {
		keys *softKeys
		ak   crypto.PublicKey
		want string
	}{
		"P-384 attestation key": {keys: &softKeys{}, ak: p384.Public(), want: "attestation key is not P-256"},
		"no attestation key":    {keys: &softKeys{}, want: "attestation key is not P-256"},
		"P-521 root":            {keys: &softKeys{rootCurve: elliptic.P521()}, ak: same.Public(), want: "root: the certificate breaks its profile"},
		"token gone":            {keys: &softKeys{failAt: "service-ca-1"}, ak: same.Public(), want: "keys already made: soft:root soft:agent-ca-1"},
		"corrupt root": {ak: same.Public(), want: "root: sign", keys: &softKeys{wrap: func(_ string, k crypto.Signer) crypto.Signer {
			return corrupt{k}
		}}},
		"P-384 agent CA": {ak: same.Public(), want: "agent-ca-1: the key is not P-256", keys: &softKeys{wrap: func(l string, k crypto.Signer) crypto.Signer {
			if l == "agent-ca-1" {
				return p384
			}
			return k
		}}},
		"a key twice": {ak: same.Public(), want: "audit: the key is that of agent-ca-1", keys: &softKeys{wrap: func(l string, k crypto.Signer) crypto.Signer {
			if l == "agent-ca-1" || l == "audit" {
				return newSame(same)
			}
			return k
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ceremony.Run(t.Context(), mustPlan(t, config(t)), c.keys, c.ak, start)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ceremony.Run(ctx, mustPlan(t, config(t)), &softKeys{}, same.Public(), start); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func newSame(k *ecdsa.PrivateKey) crypto.Signer { return k }

// The audit and attestation certificates are not for TLS, and no TLS stack may take them so.
func TestStatementKeysAreNoPeers(t *testing.T) {
	r := hold(t, config(t), &softKeys{})
	roots := x509.NewCertPool()
	roots.AddCert(r.Root.Leaf)
	for _, c := range []ceremony.Certificate{r.Audit, r.AttestationKey} {
		for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
			if _, err := c.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: start, KeyUsages: []x509.ExtKeyUsage{use}}); err == nil {
				t.Errorf("%s verifies for TLS", c.Name)
			}
		}
	}
}

func TestServiceCAWithoutSubtreesExcludesAllHosts(t *testing.T) {
	cfg := config(t)
	cfg.ServiceCAs.DNS, cfg.ServiceCAs.IPs = nil, nil
	c := hold(t, cfg, &softKeys{}).ServiceCAs[0].Leaf
	if !slices.Equal(c.ExcludedDNSDomains, []string{""}) || len(c.ExcludedIPRanges) != 2 || !slices.Equal(c.PermittedURIDomains, []string{"hospital.example"}) {
		t.Errorf("constraints: %v %v %v", c.ExcludedDNSDomains, c.ExcludedIPRanges, c.PermittedURIDomains)
	}
}

const exampleYAML = `
trust_domain: hospital.example
origin: hospital.example/signet-1
root: {common_name: Hospital Signet Root, organization: Hospital, validity_days: 7300}
agent_cas: {count: 4, validity_days: 365, overlap_days: 30}
service_cas:
  count: 4
  validity_days: 730
  overlap_days: 60
  dns: [signet.hospital.example]
  ips: [10.20.0.0/16, "::1"]
operator:
  name: first
  validity_days: 30
  public_key: |
`

func TestConfigIsYAML(t *testing.T) {
	key := publicPEM(t, newKey(t).Public())
	text := exampleYAML + "    " + strings.ReplaceAll(strings.TrimSpace(key), "\n", "\n    ") + "\n"
	var cfg ceremony.Config
	if err := yaml.UnmarshalWithOptions([]byte(text), &cfg, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	plan := mustPlan(t, cfg)
	if plan.TrustDomain() != "hospital.example" || plan.Origin() != "hospital.example/signet-1" || len(plan.Outputs()) != 14 {
		t.Errorf("plan: %v", plan.Outputs())
	}
	if err := yaml.UnmarshalWithOptions([]byte(text+"extra: 1\n"), &cfg, yaml.Strict()); err == nil {
		t.Error("an unknown key is accepted")
	}
}

// Changing one field of a made certificate must be seen by lint: the ceremony relies on it.
func TestMadeCertificatesAreLinted(t *testing.T) {
	r := hold(t, config(t), &softKeys{})
	if found := lint.Run(r.AgentCAs[0].Leaf, lint.Expect{Kind: lint.ServiceCA, TrustDomain: "hospital.example", Issuer: r.Root.Leaf}); len(found) == 0 {
		t.Error("an agent CA passes for a service CA")
	}
}
